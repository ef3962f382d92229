"""What a worker's core wants done: the orders that its shell carries out."""

from __future__ import annotations

from enum import Enum

import msgspec

from umbel.brokers.base import Delivery, Lease, Settlement
from umbel.execution.outcome import Outcome
from umbel.pools.base import Interrupt, Job

__all__ = [
    "Acknowledge",
    "Cancelled",
    "Conclude",
    "Consume",
    "Ending",
    "Halt",
    "InterruptJob",
    "Order",
    "Recycle",
    "Renew",
    "Reserve",
    "Resize",
    "Run",
    "Settle",
    "Tell",
    "Why",
    "Withdraw",
]


class Why(Enum):
    """Why a delivery ends without an outcome from user code."""

    INVALID = "invalid"  # no task message
    UNKNOWN = "unknown-task"
    REVOKED = "revoked"
    EXPIRED = "expired"
    CRASHED = "crashed"  # `task_crash_limit` reached
    CANCELLED = "cancelled"  # a cold stop ended it, and it was acknowledged before: it does not run again
    LOST = "worker-lost"  # its process died, and it may not run again
    TIMEOUT = "time-limit"  # hard limit
    TERMINATED = "terminated"  # revoked while it ran


class Run(msgspec.Struct, frozen=True, gc=False):
    """Give these to the pool."""

    jobs: list[Job]


class Acknowledge(msgspec.Struct, frozen=True, gc=False):
    """Remove these messages now, before the orders that follow (early acknowledgement)."""

    settlements: list[Settlement]


class Ending(msgspec.Struct, frozen=True, gc=False):
    """A delivery has come to an end here; for whoever counts and tells."""

    delivery: Delivery
    outcome: Outcome
    runtime: float | None = None  # seconds; None = no user code reported
    why: Why | None = None  # why no user code reported


class Settle(msgspec.Struct, frozen=True, gc=False):
    """Settle these with the next exchange, and tell of the endings."""

    settlements: list[Settlement]
    endings: list[Ending] = []


class Conclude(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Work out the outcome of a delivery that no user code will report, and come back with `Concluded`."""

    tag: int
    delivery: Delivery
    why: Why
    evidence: str  # one line for people


class Tell(msgspec.Struct, frozen=True, gc=False):
    """The task has begun: store STARTED if it wants that, and tell whoever listens."""

    delivery: Delivery
    pid: int


class Cancelled(msgspec.Struct, frozen=True, gc=False):
    """The task was ended here before its time, to run again elsewhere if it may; tell whoever listens."""

    delivery: Delivery


class Renew(msgspec.Struct, frozen=True, gc=False):
    """Hold these leases for longer."""

    leases: list[Lease]


class InterruptJob(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Interrupt a running job."""

    tag: int
    how: Interrupt
    signal: int | None = None


class Withdraw(msgspec.Struct, frozen=True, gc=False):
    """Take jobs that have not begun back from the pool, at most so many."""

    limit: int


class Reserve(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Reserve a start for each of these in the line that all workers share, and come back with `Reserved`."""

    task: str  # the line's name
    interval: float  # seconds between two starts
    tags: list[int]


class Resize(msgspec.Struct, frozen=True, gc=False):
    """Have the pool grow or shrink to so many slots, and come back with `Resized`."""

    slots: int


class Recycle(msgspec.Struct, frozen=True):
    """Replace the pool's processes, each when the jobs it runs have ended."""


class Consume(msgspec.Struct, frozen=True):
    """Tell the broker which queues are wanted now."""


class Halt(msgspec.Struct, frozen=True, gc=False):
    """End the pool now; what runs is killed and will be reported `Lost`."""


Order = (
    Run
    | Acknowledge
    | Settle
    | Conclude
    | Tell
    | Cancelled
    | Renew
    | Reserve
    | InterruptJob
    | Withdraw
    | Resize
    | Recycle
    | Consume
    | Halt
)
