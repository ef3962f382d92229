"""Read off a task what the core must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from umbel._time import parse_rate
from umbel.worker.admit import Policy
from umbel.worker.request import request_class

__all__ = ["policies", "policy_of"]


def policy_of(task: Any, conf: Any, *, soft_limit: float | None, hard_limit: float | None, announce: bool) -> Policy:
    """Return the policy of *task*; *soft_limit* and *hard_limit* are the worker's own defaults, in seconds."""
    either = _first(getattr(task, "acks_on_failure_or_timeout", None), conf.task_acks_on_failure_or_timeout, True)
    # A task that wants a lost run to count as a retry of its own has failed here: that is what follows from it.
    retries_by_message = _first(getattr(task, "retry_on_worker_lost", None), conf.task_retry_on_worker_lost)
    return Policy(
        acks_late=bool(_first(task.acks_late, conf.task_acks_late)),
        acks_on_failure=bool(_first(getattr(task, "acks_on_failure", None), conf.task_acks_on_failure, either)),
        acks_on_timeout=bool(_first(getattr(task, "acks_on_timeout", None), conf.task_acks_on_timeout, either)),
        retry_lost=bool(_first(task.reject_on_worker_lost, conf.task_reject_on_worker_lost, not retries_by_message)),
        soft_limit=_first(task.soft_time_limit, soft_limit),
        hard_limit=_first(task.time_limit, hard_limit),
        interval=_interval(_first(task.rate_limit, conf.task_default_rate_limit), conf),
        global_interval=_interval(getattr(task, "global_rate_limit", None), conf),
        announce=announce
        or bool(_first(task.track_started, conf.task_track_started))
        or request_class(task) is not None,
    )


def policies(
    tasks: Mapping[str, Any], conf: Any, *, soft_limit: float | None, hard_limit: float | None, announce: bool = False
) -> Callable[[str], Policy | None]:
    """Return a look-up of policies by task name, each made once; None for a name that is not registered."""
    known: dict[str, Policy | None] = {}

    def find(name: str) -> Policy | None:
        try:
            return known[name]
        except KeyError:
            task = tasks.get(name)
            if task is None:
                return None  # not remembered: foreign names must not fill our memory
            policy = policy_of(task, conf, soft_limit=soft_limit, hard_limit=hard_limit, announce=announce)
            known[name] = policy
            return policy

    return find


def _interval(rate_limit: Any, conf: Any) -> float:
    if conf.worker_disable_rate_limits:
        return 0.0
    rate = parse_rate(rate_limit)
    return 1 / rate if rate > 0 else 0.0


def _first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)
