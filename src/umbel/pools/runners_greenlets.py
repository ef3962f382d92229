"""Run the slots of a child as greenlets, of gevent or of eventlet.

Only the child is monkey-patched, before it begins to work; modules that it inherited through fork are patched in place.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from umbel import current, signals
from umbel.exceptions import MissingExtra
from umbel.pools.base import ChildInfo, Runner
from umbel.pools.child import Desk, strike_of
from umbel.pools.frames import NOW, Began, Grow, Strike, Work

__all__ = ["GREEN", "GreenRunner", "load", "serve_greenlets"]

T = TypeVar("T")


class _Semaphore(Protocol):
    def acquire(self) -> Any:
        """Wait until it can be taken."""

    def release(self) -> Any:
        """Give it back."""


class _Library(Protocol):
    """What a library of greenlets does for us; making one patches this process."""

    def spawn(self, function: Callable[..., object], *args: Any) -> Any:
        """Begin a greenlet soon and return it."""

    def throw(self, greenlet: Any, exception: type[BaseException]) -> None:
        """Raise *exception* where a greenlet waits."""

    def wait_read(self, fileno: int) -> None:
        """Wait until the descriptor is readable; other greenlets run meanwhile."""

    def semaphore(self, value: int) -> _Semaphore:
        """Return a semaphore of greenlets."""

    def in_thread(self, function: Callable[[], T]) -> T:
        """Run *function* in a real thread; other greenlets run meanwhile."""


class _Gevent:
    """gevent."""

    def __init__(self) -> None:
        import gevent
        import gevent.lock
        import gevent.monkey

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of modules imported before: that is meant, and patched in place
            gevent.monkey.patch_all()
        self._gevent = gevent
        self.spawn = gevent.spawn
        self.semaphore = gevent.lock.Semaphore

    def throw(self, greenlet: Any, exception: type[BaseException]) -> None:
        greenlet.kill(exception, block=False)

    def wait_read(self, fileno: int) -> None:
        self._gevent.get_hub().wait(self._gevent.get_hub().loop.io(fileno, 1))

    def in_thread(self, function: Callable[[], T]) -> T:
        return self._gevent.get_hub().threadpool.apply(function)  # type: ignore[no-any-return]  # of a library


class _Eventlet:
    """eventlet."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says of itself that it is old
            import eventlet
            import eventlet.hubs
            import eventlet.semaphore
            import eventlet.tpool

            eventlet.monkey_patch()
        self._eventlet = eventlet
        self.spawn = eventlet.spawn
        self.throw = eventlet.kill
        self.semaphore = eventlet.semaphore.Semaphore
        self.in_thread = eventlet.tpool.execute

    def wait_read(self, fileno: int) -> None:
        self._eventlet.hubs.trampoline(fileno, read=True)


GREEN: Final[dict[str, Callable[[], _Library]]] = {"gevent": _Gevent, "eventlet": _Eventlet}


def load(kind: str) -> None:
    """Import a library, without patching anything: where children are forked from, so that none of them has to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _MODULES[kind]:
            importlib.import_module(name)


_MODULES: Final = {
    "gevent": ("gevent", "gevent.lock", "gevent.monkey", "gevent.threadpool"),
    "eventlet": ("eventlet", "eventlet.hubs", "eventlet.semaphore", "eventlet.tpool"),
}


class GreenRunner:
    """A runner whose process is patched before anything else happens there."""

    def __init__(self, runner: Runner, kind: str) -> None:
        """Take the *runner* that does the work; *kind* is a name of `GREEN`.

        Raises:
            MissingExtra: the library is not installed.
        """
        if importlib.util.find_spec(kind) is None:
            raise MissingExtra(f"the pool {kind!r}", kind)
        self.payload_type = runner.payload_type
        self.report_type = runner.report_type
        self.kind = kind
        self.green: _Library | None = None
        self.perform = runner.perform
        self.aperform = runner.aperform
        self.leave = runner.leave
        self._runner = runner

    def enter(self, child: ChildInfo) -> None:
        self.green = GREEN[self.kind]()
        current.run_coroutines_by(self.green.in_thread)
        self._runner.enter(child)


def serve_greenlets(desk: Desk) -> None:
    """Run each job in a greenlet of its own."""
    runner: Any = desk.runner  # a GreenRunner: this is how `kinds` makes such a pool
    service = _Service(desk, runner)
    if runner.kind != "eventlet":
        service.run()
        return
    signals.eventlet_pool_started.send(sender=runner)
    service.run()
    signals.eventlet_pool_preshutdown.send(sender=runner)
    signals.eventlet_pool_postshutdown.send(sender=runner)


class _Running:
    """A job that has been taken."""

    __slots__ = ("began", "greenlet")

    def __init__(self) -> None:
        self.greenlet: Any = None
        self.began = False  # before that, what is raised in its greenlet would be lost


class _Service:
    """Takes jobs while there are free slots, and strikes those that are to be interrupted."""

    def __init__(self, desk: Desk, runner: GreenRunner) -> None:
        assert runner.green is not None, "a child enters before it serves"
        self._desk = desk
        self._runner = runner
        self._library = runner.green
        self._jobs: dict[int, _Running] = {}
        self._slots = desk.info.slots
        self._free = self._library.semaphore(self._slots)
        self._ended = self._library.semaphore(0)

    def run(self) -> None:
        """Return when there are no more jobs to come, and none runs."""
        self._library.spawn(self._guard, self._fetch)
        self._library.spawn(self._guard, self._obey)
        self._ended.acquire()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ConnectionError:
            self._ended.release()  # the parent is gone

    def _fetch(self) -> None:
        desk = self._desk
        while True:
            self._free.acquire()
            if desk.leaving or desk.closed or not (work := self._next()):
                break
            job = self._jobs[work.tag] = _Running()
            job.greenlet = self._library.spawn(self._perform, job, work)
        desk.closed = True
        self._end_if_idle()

    def _next(self) -> Work[Any] | None:
        """Return the next job; None = no more will be taken."""
        desk = self._desk
        while not (desk.leaving or desk.closed):
            try:
                work = desk.take(NOW)
            except BlockingIOError:
                self._library.wait_read(desk.jobs.fileno())
                continue
            if work is not None:
                return work
            if not desk.closed:  # one slot is to end: that which was free for it
                self._slots -= 1
                if not self._slots:
                    return None
                self._free.acquire()
        return None

    def _obey(self) -> None:
        """Read the control socket."""
        while True:
            try:
                order = self._desk.next_order(NOW)
            except BlockingIOError:
                self._library.wait_read(self._desk.control.fileno())
                continue
            match order:
                case Strike():
                    self._strike(*strike_of(order))
                case Grow():
                    self._slots += order.by
                    for _ in range(order.by):
                        self._free.release()
                case _:  # the parent is gone
                    self._ended.release()
                    return

    def _strike(self, tag: int, exception: type[BaseException]) -> None:
        job = self._jobs.get(tag)
        if job is None:
            return
        if job.began:
            self._library.throw(job.greenlet, exception)
        else:
            self._desk.miss(tag, exception)

    def _perform(self, job: _Running, work: Work[Any]) -> None:
        try:
            self._perform_guarded(job, work)
        except ConnectionError:
            self._ended.release()

    def _perform_guarded(self, job: _Running, work: Work[Any]) -> None:
        desk, tag = self._desk, work.tag
        if work.announce:
            desk.say(Began(tag))
        if signals.eventlet_pool_apply.receivers and self._runner.kind == "eventlet":
            signals.eventlet_pool_apply.send(
                sender=self._runner, target=self._runner.perform, args=(work.payload,), kwargs={}
            )
        began = time.perf_counter()
        try:
            job.began = True
            report = self._runner.perform(work.payload)
        except BaseException as exc:  # noqa: BLE001 - each job is accounted for, whatever ended it
            del self._jobs[tag]
            desk.hand_in_failure(tag, exc)
        else:
            del self._jobs[tag]
            desk.hand_in(tag, time.perf_counter() - began, report)
        self._free.release()
        if desk.closed or desk.leaving:
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._jobs:
            self._ended.release()
