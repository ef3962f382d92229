"""Decide what happens to a delivery now: run it, hold it, or end it."""

from __future__ import annotations

from typing import Final

import msgspec

from umbel.brokers.base import Delivery
from umbel.worker.orders import Why

__all__ = ["RUN", "Decision", "Hold", "Policy", "RunNow", "admit"]


class Policy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the core must know of a task: how its deliveries are acknowledged and limited."""

    acks_late: bool = True  # acknowledge when the outcome is stored; False = before it runs
    acks_on_failure: bool = True  # late: a failed task is done; False = it is a dead letter
    acks_on_timeout: bool = True  # late: a task past its hard limit is done; False = a counted attempt
    retry_lost: bool = True  # late: a task whose process died runs again, counted; False = it has failed
    soft_limit: float | None = None  # seconds; a message's own limit wins
    hard_limit: float | None = None
    interval: float = 0.0  # seconds between two starts in this worker (`rate_limit`); 0 = as they come
    global_interval: float = 0.0  # seconds between two starts in all workers (`global_rate_limit`)
    announce: bool = False  # report when it begins (`track_started`, events)


class RunNow(msgspec.Struct, frozen=True):
    """It may run as soon as a slot is free."""


class Hold(msgspec.Struct, frozen=True, gc=False):
    """It may run in so many seconds; only for brokers that do not hold delayed messages themselves."""

    seconds: float


RUN: Final = RunNow()

Decision = RunNow | Hold | Why


def admit(delivery: Delivery, policy: Policy | None, *, crash_limit: int, wall: float) -> Decision:
    """Return what to do with *delivery*; *wall* is unix seconds, *crash_limit* 0 means none.

    *policy* is None when no task of that name is registered. The order of the questions is the order of
    certainty: what cannot be read, cannot be known; what may never run is not asked whether it is due.
    """
    if delivery.invalid is not None:
        return Why.INVALID
    if delivery.revoked:
        return Why.REVOKED
    if policy is None:
        return Why.UNKNOWN
    if delivery.expired:
        return Why.EXPIRED
    if delivery.crashes >= crash_limit > 0:
        return Why.CRASHED
    eta = delivery.message.eta
    if eta is not None and (seconds := eta.timestamp() - wall) > 0:
        return Hold(seconds)
    return RUN
