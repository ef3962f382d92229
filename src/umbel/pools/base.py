"""The ports `Pool` and `Runner`: how jobs reach user code, and the shapes that cross."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from umbel.exceptions import CeleryError

__all__ = [
    "ChildInfo",
    "Finished",
    "Interrupt",
    "Job",
    "Lost",
    "Pool",
    "PoolBroken",
    "Receipt",
    "Runner",
    "Started",
]


class Job(msgspec.Struct, frozen=True, gc=False):
    """One thing to run."""

    tag: int  # chosen by the caller, unique while in the pool
    payload: Any  # what `Runner.perform` takes; the pool only carries it
    announce: bool = False  # report `Started` when it begins; only then may a job be interrupted `SOFT` with certainty


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
    """The job will never report: its process is gone, or it ended without a report."""

    tag: int
    pid: int  # 0 = it had not been given to a process
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


class PoolBroken(CeleryError):
    """Say that the pool cannot run jobs: its processes do not start, or die one after the other."""


class Runner(Protocol):
    """What a pool runs jobs with. Made in the parent, inherited by the children through fork."""

    payload_type: Any  # for msgspec.msgpack between processes
    report_type: Any

    def enter(self, child: ChildInfo) -> None:
        """Get ready, in the process that will run jobs, before the first one.

        What it raises ends the process: `Pool.start` raises `PoolBroken` with the traceback; a later
        replacement that cannot start is logged and tried again, less and less often.
        """

    def perform(self, payload: Any) -> Any:
        """Run one job here and now and return its report.

        May raise MemoryError and SystemExit, which lose the job and end its process once its other jobs are
        done, and an interrupt (SoftTimeLimitExceeded, Terminated) that struck outside of user code, which
        loses the job (`Lost.interrupted`). Anything else is a bug of the runner: it loses the job.
        """

    async def aperform(self, payload: Any) -> Any:
        """Run one job on the running event loop without blocking it; as `perform` else.

        What it runs in the loop's default executor (``asyncio.to_thread``) is interrupted there.
        """

    def leave(self, exitcode: int) -> None:
        """Clean up; the process ends after this."""


class Pool(Protocol):
    """Where jobs run. Used by one thread, except that `solo` runs its jobs in the thread that calls `run`.

    Jobs submitted beyond the free slots wait inside the pool and start in order, save that a few short ones
    (a few milliseconds of work) may be dealt to each busy process ahead of time. A slot that is busy for
    long never holds back a job that another slot could run.

    A job whose process dies is `Lost`. Alone in its process, it is at fault. Of several jobs that ran in a
    shared process which died by itself none can be told apart: all are at fault, and the evidence says so.
    """

    slots: int  # jobs that run at once now

    def start(self) -> None:
        """Return when the first child is ready to take jobs. Call before any thread or connection exists.

        Raises:
            PoolBroken: the first child cannot start; the message holds its traceback.
        """

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take *jobs*; each gets exactly one `Finished` or `Lost` later, unless withdrawn."""

    def collect(self) -> list[Receipt]:
        """Return what has happened since the last call, without waiting.

        Raises:
            PoolBroken: more than a hundred children died in a row and no job was finished meanwhile.
        """

    def fileno(self) -> int:
        """Return a descriptor that is readable when `collect` might bring something."""

    def next_timer(self) -> float | None:
        """Return seconds until `collect` should be called even without news; None = no need."""

    def withdraw(self, limit: int) -> list[int]:
        """Take back up to *limit* jobs that have certainly not begun, youngest first; return their tags."""

    def interrupt(self, tag: int, how: Interrupt, *, signal: int | None = None) -> None:
        """Interrupt one job; harmless if it has ended. *signal* replaces the default where processes are killed.

        A job that has not begun is `Lost` at once by CANCEL and KILL (``at_fault=False, interrupted=True``);
        SOFT leaves it alone.
        """

    def resize(self, slots: int) -> None:
        """Grow or shrink to *slots*; busy slots beyond that end with their job. `solo` stays at one."""

    def recycle(self) -> None:
        """Replace all processes, each once the jobs it runs have ended. `solo` has none to replace."""

    def info(self) -> dict[str, Any]:
        """Return facts for people: kind, slots, pids, how many children have been replaced and why.

        *jobs* maps the tags of what runs now, as far as can be told from outside, to the pid it runs in.
        """

    def stop(self, deadline: float) -> None:
        """End all children; jobs still running after *deadline* seconds are killed and reported `Lost`.

        Jobs that have not begun are `Lost` as well, all with ``at_fault=False, interrupted=True``. The
        receipts are there for one more `collect`. May be called twice, and before `start`.
        """
