"""What can happen to a worker: the facts that go into its core."""

from __future__ import annotations

from enum import Enum

import msgspec

from umbel.brokers.base import Delivery, Lease
from umbel.execution.outcome import Outcome
from umbel.pools.base import Receipt
from umbel.worker.admit import Policy

__all__ = [
    "Adjusted",
    "Arrived",
    "Autoscaled",
    "Concluded",
    "Fact",
    "LeasesLost",
    "Manner",
    "QueuesChanged",
    "Recycled",
    "Reported",
    "Reserved",
    "Resized",
    "Revoked",
    "Scaled",
    "Stopped",
    "Terminated",
    "Ticked",
    "Withdrawn",
]


class Manner(Enum):
    """How a worker stops."""

    WARM = "warm"  # claims no more, lets what runs end
    SOFT = "soft"  # as warm for `soft_shutdown` seconds, then cold
    COLD = "cold"  # ends what runs now and gives it back


class Arrived(msgspec.Struct, frozen=True, gc=False):
    """The broker gave us these."""

    deliveries: tuple[Delivery, ...]
    wall: float  # unix seconds, to place an eta on the monotonic clock


class Reported(msgspec.Struct, frozen=True, gc=False):
    """The pool says what became of jobs."""

    receipts: list[Receipt]


class Concluded(msgspec.Struct, frozen=True, gc=False):
    """What a `Conclude` order came to."""

    tag: int
    outcome: Outcome


class Withdrawn(msgspec.Struct, frozen=True, gc=False):
    """The pool gave these jobs back; they have not begun."""

    tags: list[int]


class LeasesLost(msgspec.Struct, frozen=True, gc=False):
    """The broker says that these deliveries are ours no longer."""

    leases: tuple[Lease, ...]


class Ticked(msgspec.Struct, frozen=True, gc=False):
    """Time has passed."""


class Stopped(msgspec.Struct, frozen=True, gc=False):
    """Somebody wants the worker to stop."""

    manner: Manner
    soft_shutdown: float = 0.0  # seconds, for `Manner.SOFT`


class Reserved(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a `Reserve` order came to: these may start one after the other."""

    tags: list[int]
    first: float  # seconds until the first may start
    interval: float  # seconds between two of them


class Resized(msgspec.Struct, frozen=True, gc=False):
    """The pool has so many slots now."""

    slots: int


class Revoked(msgspec.Struct, frozen=True, gc=False):
    """Somebody forbade these ids; what runs of them goes on, what has not begun does not begin."""

    ids: frozenset[str]


class Terminated(msgspec.Struct, frozen=True, gc=False):
    """Somebody forbade these ids; what runs of them is to end as well."""

    ids: frozenset[str]
    signal: int | None = None  # OS signal to end a process with; None = the pool's own way


class Scaled(msgspec.Struct, frozen=True, gc=False):
    """Somebody wants the pool to have so many slots."""

    slots: int


class Autoscaled(msgspec.Struct, frozen=True, gc=False):
    """The pool is to grow with its load and to shrink after a rest, within these bounds; *most* 0 = no longer."""

    most: int
    least: int


class Adjusted(msgspec.Struct, frozen=True, gc=False):
    """A task's limits or ways are others from now on; what has begun keeps its own."""

    task: str
    policy: Policy


class QueuesChanged(msgspec.Struct, frozen=True):
    """Somebody changed which queues this worker consumes."""


class Recycled(msgspec.Struct, frozen=True):
    """Somebody wants new child processes."""


Fact = (
    Arrived
    | Reported
    | Concluded
    | Withdrawn
    | LeasesLost
    | Ticked
    | Stopped
    | Reserved
    | Resized
    | Revoked
    | Terminated
    | Scaled
    | Autoscaled
    | Adjusted
    | QueuesChanged
    | Recycled
)
