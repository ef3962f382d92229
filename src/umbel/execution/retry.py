"""Send a running task again: with which arguments, when, and how often."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from umbel._later import Later
from umbel._time import backoff, parse_iso
from umbel.canvas.signature import Signature
from umbel.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
from umbel.execution.plan import Autoretry
from umbel.execution.request import Request

if TYPE_CHECKING:
    import random
else:
    random = Later("random")

__all__ = ["retry", "retry_by_itself", "signature_from_request"]


def signature_from_request(
    task: Any,
    request: Request,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    queue: Any = None,
    **options: Any,
) -> Signature:
    """Return the call of *request* once more, under the same id and with the same follow-ups.

    It goes where it came from unless *queue* or other routing *options* say otherwise (PRT-059).
    """
    args = request.args if args is None else args
    kwargs = request.kwargs if kwargs is None else kwargs
    same = request.as_execution_options()
    info = request.delivery_info or {}
    if info.get("priority") is not None:
        same["priority"] = info["priority"]
    if queue is not None:
        same["queue"] = queue
    elif info.get("exchange"):
        same["exchange"], same["routing_key"] = info["exchange"], info.get("routing_key")
    elif info.get("routing_key"):
        same["queue"] = info["routing_key"]
    return Signature(task.name, args, kwargs, {**same, **options}, app=task.app)


def retry(
    task: Any,
    request: Request,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    exc: BaseException | None = None,
    throw: bool = True,
    eta: datetime | str | None = None,
    countdown: float | None = None,
    max_retries: int | None = None,
    **options: Any,
) -> Retry:
    """Have *task* run again with one retry more, and raise `Retry`, or return it without *throw*.

    The message goes out when this run's outcome is settled, in the same write, so that no crash leaves it sent twice
    or not at all. *countdown* is seconds; neither it nor *eta* given means the task's `default_retry_delay`.
    *max_retries* replaces the task's own for this run, also where it retries by itself.

    Raises:
        Retry: as said.
        BaseException: *exc*, when the task was called as a function or has no retry left.
        MaxRetriesExceededError: no retry is left, and there is no *exc*.
        Reject: the message cannot be made (say, its arguments cannot be encoded).
    """
    if max_retries is not None:
        request.max_retries = max_retries
    limit = task.max_retries if request.max_retries is None else request.max_retries
    if request.called_directly:
        raise exc or Retry("Task can be retried", None)
    args, kwargs = _arguments(task, request, args, kwargs)
    retries = (request.retries or 0) + 1
    if limit is not None and retries > limit:
        hidden = getattr(task, "hidden", None)  # see `umbel.Secret`
        shown = (args, kwargs) if hidden is None else hidden.mask(args, kwargs)
        raise exc or MaxRetriesExceededError(
            f"Can't retry {task.name}[{request.id}] args:{shown[0]!r} kwargs:{shown[1]!r}",
            task_args=args,
            task_kwargs=kwargs,
        )
    if not eta and countdown is None:
        countdown = task.default_retry_delay
    when = {"eta": eta} if countdown is None else {"countdown": countdown}
    told = Retry(exc=exc, when=_moment(eta) or countdown, is_eager=request.is_eager)
    signature = signature_from_request(task, request, args, kwargs, retries=retries, **when, **options)
    if request.is_eager:
        told.sig = signature  # `Task.apply` runs it at once
    else:
        try:
            publication = task.app.prepare(task.name, args, kwargs, {**signature.options, "parent_id": request.id})
        except Exception as unsent:
            raise Reject(unsent, requeue=False) from unsent
        request.outbox.append(publication)
        request.children.append(((request.id, None), None))
    if throw:
        raise told
    return told


def retry_by_itself(task: Any, request: Request, rule: Autoretry, exc: BaseException) -> BaseException:
    """Return what ends this run instead of *exc*: a `Retry` where *rule* wants one, else *exc* itself."""
    if not isinstance(exc, rule.exceptions) or isinstance(exc, (*rule.but_not, Retry, Ignore, Reject)):
        return exc
    options = dict(rule.options)
    if rule.backoff:
        options["countdown"] = backoff(
            rule.backoff, request.retries or 0, rule.backoff_max, random if rule.jitter else None
        )
    if request.max_retries is not None:
        options["max_retries"] = request.max_retries
    try:
        return retry(task, request, exc=exc, throw=False, **options)
    except Exception as instead:  # noqa: BLE001 - exhausted: the exception itself, or the Reject of an unsent retry
        return instead


def _arguments(
    task: Any, request: Request, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the arguments of the next run. What is given replaces what was, and no parameter is given twice (API-166).

    Source: observed of Celery 5.7. *args* alone drop the named arguments they now give by position; *kwargs* alone
    replace the named ones, and those that were positional in place.
    """
    if args is None and kwargs is None:
        return request.args, request.kwargs
    names = _positional_names(task.run)
    if kwargs is None:
        given = set(names[: len(args or ())])
        return args or (), {name: value for name, value in (request.kwargs or {}).items() if name not in given}
    if args is None:
        place = {name: i for i, name in enumerate(names[: len(request.args or ())])}
        args = [kwargs.get(name, value) for name, value in _named(names, request.args or ())]
        return args, {name: value for name, value in kwargs.items() if name not in place}
    return args, kwargs


def _named(names: Sequence[str], args: Sequence[Any]) -> list[tuple[str, Any]]:
    """Pair *args* with the names of their parameters; those that ``*args`` takes have the name ''."""
    return [(names[i] if i < len(names) else "", value) for i, value in enumerate(args)]


def _positional_names(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in: nothing is known of it
        return []
    return [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]


def _moment(eta: datetime | str | None) -> datetime | None:
    return parse_iso(eta) if isinstance(eta, str) else eta
