"""Run jobs one after the other in the thread that calls `run`, which leads the worker's loop while it has none."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias

from umbel.exceptions import SoftTimeLimitExceeded, Terminated
from umbel.pools.base import ChildInfo, Finished, Interrupt, Job, Lost, PoolBroken, Receipt, Runner, Started
from umbel.pools.interrupts import Slot
from umbel.pools.strikes import INTERRUPTS

__all__ = ["Lead", "SoloPool"]

_GRACE: Final = 0.5  # seconds that a job which `stop` cancels may take to end
_SOON: Final = 0.005  # seconds; jobs that take longer leave the loop to the second thread
_QUIET: Final = 40  # such whiles without a job until that one sleeps

_LEAD: Final = Job(0, None)  # no job: lead the loop again

Lead: TypeAlias = Callable[[Callable[[], bool]], bool]
"""What leads the loop until it is over, and returns True; or until its argument says so, and returns False."""


class SoloPool:
    """One slot, in this process: nothing is isolated, and nothing can be killed.

    `start` and `run` are called by the thread that runs the jobs, everything else by whoever leads the loop. That is
    the same thread, as long as the jobs it has leave it the time: handing a job to another thread and its receipt back
    costs more than most jobs (benchmark round trip: 0.13 ms of 0.68). When it is away for longer, a second thread leads
    until all jobs are done; neither waits for the other then.
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
        self._is_running = False  # `run` was called, and its thread is not leading
        self._ended = threading.Event()  # `run` has returned
        self._baton = threading.Lock()  # whose it is leads the loop
        self._absences = 0  # how often that one has left the loop to run jobs
        self._call = threading.Event()  # for the second thread: look whether you are needed
        self._dozes = False  # it does not look by itself
        self._failure: BaseException | None = None  # what ended it

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

    def run(self, lead: Lead | None = None) -> None:
        """Run jobs until `stop` is called, and meanwhile *lead* the loop in turn with a second thread.

        Without *lead* another thread leads all the time. Raises what *lead* raises.
        """
        self._is_running = True
        self._baton.acquire()
        second = None
        if lead is not None:
            second = threading.Thread(target=self._relieve, args=(lead,), name="umbel-loop", daemon=True)
            second.start()
            self._jobs.put(_LEAD)
            self._baton.release()
        try:
            self._work(lead)
        finally:
            self._runner.leave(0)
            self._ended.set()
            self._call.set()
        if second is not None:
            second.join()
        if self._failure is not None:
            raise self._failure

    def _work(self, lead: Lead | None) -> None:
        pid, clock, perform = os.getpid(), time.perf_counter, self._runner.perform
        slot, jobs, get, receipts, baton = self._slot, self._jobs, self._jobs.get, self._receipts, self._baton
        run = slot.run
        receipt: Receipt
        while (job := get()) is not None:
            if job is not _LEAD:
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
                if baton.locked():  # who takes it after this sees the receipt
                    if not self._is_told:
                        self._tell()
                    continue
                if not jobs.empty():
                    continue
            if lead is not None and baton.acquire(blocking=False):
                self._is_running = False
                if lead(self._has_jobs):
                    return  # with the baton: nobody is to lead again
                self._absences += 1
                self._is_running = True
                baton.release()
                if self._dozes:
                    self._call.set()

    def _has_jobs(self) -> bool:
        return self._final is None and not self._jobs.empty()

    # -- for the second thread

    def _relieve(self, lead: Lead) -> None:
        try:
            while self._is_needed():
                if self._baton.acquire(blocking=False):
                    if lead(self._is_idle):
                        return
                    self._baton.release()
                    self._jobs.put(_LEAD)
        except BaseException as exc:  # noqa: BLE001 - it is raised again, in the thread that called `run`
            self._failure = exc
        finally:
            self.stop(0.0)

    def _is_needed(self) -> bool:
        """Wait until the thread that runs jobs has been away for a while, and return True; or until it has ended."""
        quiet = 0
        while not self._ended.is_set():
            absences = self._absences
            if quiet < _QUIET:
                self._call.wait(_SOON)
            else:
                self._dozes, quiet = True, 0
                if not self._is_running and not self._ended.is_set():
                    self._call.wait()
                self._dozes = False
            self._call.clear()
            if self._absences != absences:
                quiet = 0
            elif self._is_running:
                return True
            else:
                quiet += 1
        return False

    def _is_idle(self) -> bool:
        return self._final is None and not self._outstanding

    def _tell(self) -> None:
        self._is_told = True
        os.write(self._write_end, b"\0")

    # -- for whoever leads the loop

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
                if job is not _LEAD:  # we lead, so that the word is stale
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
