"""Name the states of a task, with the order in which they win over each other.

A state is one of these texts or any text of the user's own (custom states rank between FAILURE and REVOKED). When
monitoring messages arrive out of order, the state of higher precedence stays.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ALL_STATES",
    "EXCEPTION_STATES",
    "FAILURE",
    "IGNORED",
    "NONE_PRECEDENCE",
    "PENDING",
    "PRECEDENCE",
    "PRECEDENCE_LOOKUP",
    "PROPAGATE_STATES",
    "QUEUED",
    "READY_STATES",
    "RECEIVED",
    "REJECTED",
    "RETRY",
    "REVOKED",
    "STARTED",
    "SUCCESS",
    "UNREADY_STATES",
    "precedence",
    "state",
]

PENDING: Final = "PENDING"  # waiting, or unknown: nothing is stored for it
QUEUED: Final = "QUEUED"  # sent; stored only with task_track_queued, and a custom state to Celery
RECEIVED: Final = "RECEIVED"  # a worker holds the message (only in events)
STARTED: Final = "STARTED"  # running; stored only with task_track_started
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
RETRY: Final = "RETRY"  # will run again; its result is the reason
REVOKED: Final = "REVOKED"  # will never run
REJECTED: Final = "REJECTED"  # the worker refused the message (only in events)
IGNORED: Final = "IGNORED"  # the task asked that its state be left alone

READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED})  # will not change any more
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES: Final = frozenset({RETRY, FAILURE, REVOKED})  # the result is an exception
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED})  # get() raises it
ALL_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

PRECEDENCE: Final[list[str | None]] = [  # highest first; None stands for every custom state
    SUCCESS,
    FAILURE,
    None,
    REVOKED,
    STARTED,
    RECEIVED,
    REJECTED,
    RETRY,
    PENDING,
]
PRECEDENCE_LOOKUP: Final = {name: rank for rank, name in enumerate(PRECEDENCE)}
NONE_PRECEDENCE: Final = PRECEDENCE_LOOKUP[None]


def precedence(name: str | None) -> int:
    """Return the rank of state *name*: 0 is the highest, and a custom name has its own fixed rank."""
    return PRECEDENCE_LOOKUP.get(name, NONE_PRECEDENCE)


class state(str):  # noqa: N801 - Celery's name
    """Compare states by precedence: ``state("PENDING") < state("SUCCESS")``. Equality stays that of text."""

    __slots__ = ()

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)
