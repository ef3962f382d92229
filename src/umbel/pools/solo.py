"""Run jobs one after the other in the thread that calls `run`, for a loop in another thread."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final

from umbel.exceptions import SoftTimeLimitExceeded, Terminated
from umbel.pools.base import ChildInfo, Finished, Interrupt, Job, Lost, PoolBroken, Receipt, Runner, Started
from umbel.pools.interrupts import Slot
from umbel.pools.strikes import INTERRUPTS

__all__ = ["SoloPool"]

_GRACE: Final = 0.5  # seconds that a job which `stop` cancels may take to end


class SoloPool:
    """One slot, in this process: nothing is isolated, and nothing can be killed.

    `start` and `run` are called by the thread that runs the jobs, everything else by the loop's thread. While
    there are jobs neither waits for the other: only a sleeper is woken, once for a batch.
    """

    def __init__(self, runner: Runner) -> None:
        self.slots = 1
        self._runner = runner
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()  # None = no more will come
        self._receipts: deque[Receipt] = deque()
        self._outstanding: dict[int, None] = {}  # tags without a receipt, oldest first; the loop's thread only
        self._final: list[Receipt] | None = None  # set by `stop`: what is left to collect
        self._slot = Slot()
        self._is_told = False  # a byte is in the pipe
        self._read_end, self._write_end = -1, -1
        self._is_running = False
        self._ended = threading.Event()  # `run` has returned

    # -- for the thread that runs the jobs

    def start(self) -> None:
        if self._read_end >= 0 or self._final is not None:
            return
        try:
            self._runner.enter(ChildInfo(index=0, slots=1))
        except Exception as exc:
            raise PoolBroken(f"the solo pool cannot start: {exc!r}") from exc
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def run(self) -> None:
        """Run jobs until `stop` is called, from another thread."""
        self._is_running = True
        pid, clock, perform = os.getpid(), time.perf_counter, self._runner.perform
        slot, get, receipts = self._slot, self._jobs.get, self._receipts
        run = slot.run
        receipt: Receipt
        try:
            while (job := get()) is not None:
                tag = slot.coming = job.tag
                if job.announce:
                    receipts.append(Started(tag, pid))
                    self._tell()
                began = clock()
                try:
                    report = run(tag, perform, job.payload)
                except BaseException as exc:  # noqa: BLE001 - each job is accounted for, whatever ended it
                    receipt = _lost(tag, pid, exc)
                else:
                    receipt = Finished(tag, report, pid, clock() - began)
                receipts.append(receipt)
                slot.coming = None
                if not self._is_told:
                    self._tell()
        finally:
            self._runner.leave(0)
            self._ended.set()

    def _tell(self) -> None:
        self._is_told = True
        os.write(self._write_end, b"\0")

    # -- for the loop's thread

    def submit(self, jobs: Sequence[Job]) -> None:
        if self._final is not None:
            self._final += [_not_begun(job.tag, "the pool has been stopped") for job in jobs]
            return
        put = self._jobs.put
        for job in jobs:
            self._outstanding[job.tag] = None
            put(job)

    def collect(self) -> list[Receipt]:
        if self._final is not None:
            receipts, self._final = self._final, []
            return receipts
        if self._is_told:
            try:
                os.read(self._read_end, 64)
                self._is_told = False  # before looking: what comes after the look tells again
            except BlockingIOError:
                pass  # we came between the word and its byte, which will call us again
        popleft, outstanding = self._receipts.popleft, self._outstanding
        receipts = [popleft() for _ in range(len(self._receipts))]
        for receipt in receipts:
            if type(receipt) is not Started:
                del outstanding[receipt.tag]
        return receipts

    def fileno(self) -> int:
        return self._read_end

    def next_timer(self) -> float | None:
        return 0.0 if self._final else None

    def withdraw(self, limit: int) -> list[int]:
        waiting = self._take_waiting()
        kept = max(0, len(waiting) - limit)
        for job in waiting[:kept]:
            self._jobs.put(job)
        tags = [job.tag for job in reversed(waiting[kept:])]
        for tag in tags:
            del self._outstanding[tag]
        return tags

    def interrupt(self, tag: int, how: Interrupt, *, signal: int | None = None) -> None:
        if how is Interrupt.SOFT:
            self._strike(tag, SoftTimeLimitExceeded)
            return
        for job in self._take_waiting():
            if job.tag == tag:
                self._receipts.append(_not_begun(tag, "it was cancelled before it began"))
                self._tell()
            else:
                self._jobs.put(job)
        self._strike(tag, Terminated)

    def resize(self, slots: int) -> None:
        """Change nothing: there is one thread."""

    def recycle(self) -> None:
        """Change nothing: the process is the worker itself."""

    def info(self) -> dict[str, Any]:
        return {
            "kind": "solo",
            "slots": 1,
            "processes": [os.getpid()],
            "running": int(self._slot.tag is not None),
            "waiting": self._jobs.qsize(),
            "jobs": {} if (tag := self._slot.tag) is None else {tag: os.getpid()},
            "max_jobs_per_child": None,
            "max_memory_per_child": None,
            "replaced": {},
            "soft": "raised inside the job when it runs Python code",
            "kill": "not possible: it is the worker itself; raised inside the job when it runs Python code",
        }

    def stop(self, deadline: float) -> None:
        if self._final is not None:
            return
        dropped = self._take_waiting()
        self._jobs.put(None)
        ended = not self._is_running or self._ended.wait(deadline)
        if not ended:
            running = self._slot.coming
            if running is not None:
                self._strike(running, Terminated)
            ended = self._ended.wait(_GRACE)
        receipts = self.collect()
        for job in dropped:
            del self._outstanding[job.tag]
            receipts.append(_not_begun(job.tag, "the pool was stopped before it began"))
        for tag in self._outstanding:
            # Whatever it comes to is not reported any more.
            receipts.append(
                Lost(
                    tag=tag,
                    pid=os.getpid(),
                    evidence=f"still ran {deadline:g} s after the pool was stopped, and a solo pool cannot kill it",
                    at_fault=False,
                    interrupted=True,
                )
            )
        self._outstanding.clear()
        self._final = receipts
        if ended and self._read_end >= 0:  # a job that still runs has the pipe
            os.close(self._read_end)
            os.close(self._write_end)
            self._read_end = self._write_end = -1

    def _strike(self, tag: int, exception: type[BaseException]) -> None:
        slot = self._slot
        while slot.coming == tag and not slot.strike(tag, exception):
            time.sleep(0.0002)  # it has been taken and does not run yet, or it has just ended

    def _take_waiting(self) -> list[Job]:
        waiting: list[Job] = []
        try:
            while (job := self._jobs.get_nowait()) is not None:
                waiting.append(job)
        except Empty:
            pass
        return waiting


def _lost(tag: int, pid: int, exc: BaseException) -> Lost:
    interrupted = isinstance(exc, INTERRUPTS)
    evidence = f"{type(exc).__name__} struck outside of user code" if interrupted else f"raised {exc!r} in the worker"
    return Lost(tag=tag, pid=pid, evidence=evidence, at_fault=True, interrupted=interrupted)


def _not_begun(tag: int, evidence: str) -> Lost:
    return Lost(tag=tag, pid=0, evidence=evidence, at_fault=False, interrupted=True)
