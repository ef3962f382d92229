"""Run the slots of a child as coroutines on one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeAlias

from umbel.pools.child import Desk, strike_of
from umbel.pools.frames import NOW, Began, Grow, Strike, Work
from umbel.pools.interrupts import Slot
from umbel.pools.strikes import strikeable

__all__ = ["serve_asyncio"]

_AGAIN: Final = 0.002  # seconds until a strike is tried again that fell between the job and its thread
_THREADS: Final = 32  # at least so many may work for the jobs


def serve_asyncio(desk: Desk) -> None:
    """Run jobs as tasks of one event loop, which also obeys the control socket."""
    with asyncio.Runner() as runner:
        runner.run(_serve(desk))


async def _serve(desk: Desk) -> None:
    loop = asyncio.get_running_loop()
    service = _Service(desk, loop)
    loop.add_reader(desk.control, service.obey)
    service.fetch()
    await service.ended


class _Running:
    """A job that has been taken."""

    __slots__ = ("began", "ended", "exception", "slots", "tag", "task")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.task: asyncio.Task[None] | None = None
        self.began = False
        self.ended = False
        self.slots: set[Slot] = set()  # threads that work for it now
        self.exception: type[BaseException] | None = None  # to be raised where it awaits

    def strike(self, exc: BaseException) -> BaseException:
        """Return what is to be raised where it awaits instead of *exc*: the CancelledError that wakes it for this."""
        if self.exception is None or self.task is None or not isinstance(exc, asyncio.CancelledError):
            return exc
        struck, self.exception = self.exception(), None
        self.task.uncancel()
        return struck


_Strike: TypeAlias = Callable[[int, type[BaseException]], None]
_running: Final[ContextVar[_Running | None]] = ContextVar("umbel_pool_job", default=None)


class _Service:
    """Takes jobs while there are free slots, and strikes those that are to be interrupted."""

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self._desk = desk
        self._loop = loop
        self._jobs: dict[int, _Running] = {}
        self._slots = 0
        self._listening = False
        self._threads: _Threads | None = None
        self._grow(desk.info.slots)

    def fetch(self) -> None:
        """Begin jobs until no slot is free, or none is there: then wait for the socket."""
        desk = self._desk
        while len(self._jobs) < self._slots and not (desk.closed or desk.leaving):
            try:
                work = desk.take(NOW)
            except BlockingIOError:
                self._listen()
                return
            if work is not None:
                job = self._jobs[work.tag] = _Running(work.tag)
                job.task = self._loop.create_task(self._perform(job, work))
            elif not desk.closed:
                self._slots -= 1
        if self._listening:
            self._loop.remove_reader(desk.jobs)
            self._listening = False
        if not self._jobs and (desk.closed or desk.leaving or not self._slots):
            self._end()

    def obey(self) -> None:
        """Read the control socket."""
        try:
            while True:
                match self._desk.next_order(NOW):
                    case Strike() as order:
                        self.strike(*strike_of(order))
                    case Grow() as order:
                        self._grow(order.by)
                        self.fetch()
                    case _:  # the parent is gone
                        self._end()
                        return
        except BlockingIOError:
            return

    def strike(self, tag: int, exception: type[BaseException]) -> None:
        """Raise *exception* in the job: in the thread that works for it, or else where it awaits."""
        job = self._jobs.get(tag)
        if job is None or job.task is None:
            return
        if job.slots or not job.began:
            hits = [slot.strike(tag, exception) for slot in list(job.slots)]
            if not any(hits):
                self._loop.call_later(_AGAIN, self.strike, tag, exception)
            return
        job.exception = exception
        job.task.cancel()

    async def _perform(self, job: _Running, work: Work[Any]) -> None:
        desk, tag = self._desk, work.tag
        _running.set(job)
        job.began = True
        if work.announce:
            desk.say(Began(tag))
        began = time.perf_counter()
        try:
            report = await strikeable(desk.runner.aperform(work.payload), job.strike)
        except BaseException as exc:  # noqa: BLE001 - each job is accounted for, whatever ended it
            desk.hand_in_failure(tag, exc)
        else:
            desk.hand_in(tag, time.perf_counter() - began, report)
        job.ended = True
        del self._jobs[tag]
        if not self._listening or desk.leaving:
            self.fetch()

    def _grow(self, by: int) -> None:
        self._slots += by
        if self._threads is not None:
            self._threads.shutdown()
        self._threads = _Threads(max(_THREADS, self._slots), self._strike_from_thread)
        self._loop.set_default_executor(self._threads)

    def _strike_from_thread(self, tag: int, exception: type[BaseException]) -> None:
        self._loop.call_soon_threadsafe(self.strike, tag, exception)

    def _listen(self) -> None:
        if not self._listening:
            self._loop.add_reader(self._desk.jobs, self.fetch)
            self._listening = True

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Threads(ThreadPoolExecutor):
    """The default executor of the loop: its threads can be struck while they work for a job."""

    def __init__(self, limit: int, strike: _Strike) -> None:
        super().__init__(max_workers=limit, thread_name_prefix="slot")
        self._strike = strike
        self._of_thread = threading.local()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        job = _running.get()
        if job is None:
            return super().submit(fn, *args, **kwargs)
        return super().submit(self._work, job, partial(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - its form
        # Never wait: a thread that could not be struck may hang, and the process ends without it.
        super().shutdown(wait=False, cancel_futures=cancel_futures)

    def _work(self, job: _Running, call: Callable[[], Any]) -> Any:
        if job.ended:
            raise CancelledError  # it was interrupted while this waited for a thread
        slot: Slot | None = getattr(self._of_thread, "slot", None)
        if slot is None:
            slot = self._of_thread.slot = Slot()
        job.slots.add(slot)
        try:
            return slot.run(job.tag, _call, call)
        finally:
            job.slots.discard(slot)
            if slot.missed is not None:
                missed, slot.missed = slot.missed, None
                self._strike(job.tag, missed)


def _call(call: Callable[[], Any]) -> Any:
    return call()
