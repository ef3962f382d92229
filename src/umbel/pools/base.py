"""The ports `Pool` and `Runner`: how jobs reach user code, and the shapes that cross."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

__all__ = ["ChildInfo", "Finished", "Interrupt", "Job", "Lost", "Pool", "Receipt", "Runner", "Started"]


class Job(msgspec.Struct, frozen=True, gc=False):
    """One thing to run."""

    tag: int  # chosen by the caller, unique while in the pool
    payload: Any  # what `Runner.perform` takes; the pool only carries it
    announce: bool = False  # report `Started` when it begins


class Started(msgspec.Struct, frozen=True, gc=False):
    """The job began to run (asked for with `announce`)."""

    tag: int
    pid: int  # the process it runs in


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The job ran to its end; *report* is what `Runner.perform` returned."""

    tag: int
    report: Any
    pid: int
    runtime: float  # seconds in `Runner.perform`


class Lost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The job will never report: its process is gone."""

    tag: int
    pid: int
    evidence: str  # one line for people: "child 4711 was killed by SIGKILL after 3.2 s"
    at_fault: bool  # False: it had not begun, or another job in the same process was to blame
    interrupted: bool = False  # we ended it ourselves, by `Pool.interrupt` or `Pool.stop`
    exitcode: int | None = None  # negative = the signal; None = unknown


Receipt = Started | Finished | Lost


class Interrupt(Enum):
    """How hard to interrupt a running job."""

    SOFT = "soft"  # raise SoftTimeLimitExceeded inside the job
    CANCEL = "cancel"  # raise Terminated inside the job where the pool shares processes; else as KILL
    KILL = "kill"  # end it at once: kill its process, or recycle the shared one after a short grace


class ChildInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who a runner is, told to it when its process starts."""

    index: int  # 0-based place in the pool, reused by a replacement
    slots: int  # how many jobs it will run at once


class Runner(Protocol):
    """What a pool runs jobs with. Made in the parent, inherited by the children through fork."""

    payload_type: Any  # for msgspec.msgpack between processes
    report_type: Any

    def enter(self, child: ChildInfo) -> None:
        """Get ready, in the process that will run jobs, before the first one."""

    def perform(self, payload: Any) -> Any:
        """Run one job here and now and return its report; raises nothing but MemoryError and SystemExit."""

    async def aperform(self, payload: Any) -> Any:
        """Run one job on the running event loop without blocking it; as `perform` else."""

    def leave(self, exitcode: int) -> None:
        """Clean up; the process ends after this."""


class Pool(Protocol):
    """Where jobs run. Used by one thread, except that `solo` runs its jobs in the thread that calls `run`.

    Jobs submitted beyond the free slots wait inside the pool and start in order; a slot that is busy
    for long never holds back a job that another slot could run.
    """

    slots: int  # jobs that run at once now

    def start(self) -> None:
        """Return when the first child is ready to take jobs. Call before any thread or connection exists."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take *jobs*; each gets exactly one `Finished` or `Lost` later, unless withdrawn."""

    def collect(self) -> list[Receipt]:
        """Return what has happened since the last call, without waiting."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `collect` might bring something."""

    def next_timer(self) -> float | None:
        """Return seconds until `collect` should be called even without news; None = no need."""

    def withdraw(self, limit: int) -> list[int]:
        """Take back up to *limit* jobs that have certainly not begun, youngest first; return their tags."""

    def interrupt(self, tag: int, how: Interrupt, *, signal: int | None = None) -> None:
        """Interrupt one job; harmless if it has ended. *signal* replaces the default where processes are killed."""

    def resize(self, slots: int) -> None:
        """Grow or shrink to *slots*; busy slots beyond that end with their job."""

    def info(self) -> dict[str, Any]:
        """Return facts for people: kind, slots, pids, how many children have been replaced and why."""

    def stop(self, deadline: float) -> None:
        """End all children; jobs still running after *deadline* seconds are killed and reported `Lost`.

        May be called twice.
        """
