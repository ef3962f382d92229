"""Raise an exception inside a running job, and nowhere else: neither in the next job nor in the pool's own code."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from umbel.pools.strikes import INTERRUPTS

__all__ = ["SOFT_SIGNAL", "SignalledSlot", "Slot"]

SOFT_SIGNAL: Final = signal.SIGUSR1

_set_async_exc: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)

_STRIKING: Final = 1
_STRUCK: Final = 2


class _Calm(BaseException):
    """Nothing: it arrives, and is forgotten."""


class Slot:
    """A thread that runs one job at a time, and into which another thread may raise an exception meanwhile.

    The exception arrives when the thread next runs Python code: a call that blocks in C ends first.
    Jobs are run by one thread, strikes come from one other thread.
    """

    __slots__ = ("_struck", "_thread", "coming", "missed", "tag")

    def __init__(self) -> None:
        self.coming: int | None = None  # the job that has been taken, from before it is announced until it is reported
        self.tag: int | None = None  # the job that runs now: struck only between these two moments
        self.missed: type[BaseException] | None = None  # came when the job had just ended; cleared by whoever cares
        self._thread: int = 0
        self._struck: int = 0

    def run(self, tag: int, call: Callable[[Any], Any], argument: Any) -> Any:
        """Return ``call(argument)``, or raise what it raises or what was struck into it.

        Between the end of *call* and the line that clears the tag the interpreter looks for neither
        signals nor exceptions (it does so on entering a function, on jumping back, and after calls into C).
        """
        if not self._thread:
            self._thread = threading.get_ident()
        try:
            self.tag = tag
            return call(argument)
        finally:
            self.tag = None
            while self._struck:
                try:
                    self._calm()
                except INTERRUPTS as exc:
                    self.missed = type(exc)  # too late for the job: here it does no harm

    def strike(self, tag: int, exception: type[BaseException]) -> bool:
        """Raise *exception* inside the job if it is the one that runs, and say so. Call from another thread."""
        # Announced before looking at the tag, as `run` clears the tag before looking here: one of both
        # sees the other, so that `run` never goes on to the next job with an exception on its way.
        self._struck = _STRIKING
        hit = self.tag == tag
        if hit:
            _set_async_exc(self._thread, exception)
        self._struck = _STRUCK
        return hit

    def _calm(self) -> None:
        while self._struck == _STRIKING:
            time.sleep(0.0002)
        try:
            for _ in range(2):
                pass  # jumping back lets an exception that is on its way arrive here
            # What has not is replaced. By one that arrives: after one that is only taken back the interpreter looks for
            # it for ever, and 3.11 does nothing else once somebody traces.
            _set_async_exc(self._thread, _Calm)
            for _ in range(2):
                pass
        except _Calm:
            pass
        self._struck = 0


class SignalledSlot:
    """The main thread of a process as a slot, interrupted by `SOFT_SIGNAL`, also in system calls.

    A signal says nothing of whom it means; *wanted* returns what does: the tags and exceptions that were sent
    before it. *miss* is told of those that came when the job had been taken, but did not run.
    """

    __slots__ = ("_miss", "_wanted", "coming", "tag")

    def __init__(
        self,
        wanted: Callable[[], list[tuple[int, type[BaseException]]]],
        miss: Callable[[int, type[BaseException]], None],
    ) -> None:
        self.coming: int | None = None
        self.tag: int | None = None
        self._wanted = wanted
        self._miss = miss
        signal.signal(SOFT_SIGNAL, self._on_signal)

    def run(self, tag: int, call: Callable[[Any], Any], argument: Any) -> Any:
        """Return ``call(argument)``, or raise what it raises or what was struck into it."""
        try:
            self.tag = tag
            return call(argument)
        finally:
            self.tag = None

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        for tag, exception in self._wanted():
            if self.tag == tag and frame is not None and frame.f_code is not _RUN:
                self.tag = None  # once only
                raise exception
            if self.coming == tag:
                self._miss(tag, exception)


_RUN: Final = SignalledSlot.run.__code__
