"""Run jobs in a child process: take one from the socket, perform it, hand its report back."""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from umbel.exceptions import SoftTimeLimitExceeded, Terminated
from umbel.pools.base import ChildInfo, Runner
from umbel.pools.frames import (
    NOW,
    Began,
    Broken,
    Done,
    Leaving,
    Missed,
    Ready,
    Strike,
    Unfit,
    Work,
    control_decoder,
    receive,
    send,
    tag_decoder,
    work_decoder,
)
from umbel.pools.interrupts import SignalledSlot, Slot

__all__ = ["Desk", "Serve", "live", "serve_one", "serve_slot", "strike_of"]

_UNFIT: Final = 75  # exit status of a child that could not start (EX_TEMPFAIL)
_BUG: Final = 70  # exit status when our own code failed (EX_SOFTWARE)

_encode: Final = msgspec.msgpack.Encoder().encode
_logger: Final = logging.getLogger("celery.pool")


class Desk:
    """Where a child's slots fetch their jobs and leave their reports; safe for threads."""

    def __init__(
        self,
        *,
        jobs: socket.socket,
        control: socket.socket,
        runner: Runner,
        info: ChildInfo,
        max_memory: int | None,  # KiB resident; None = no limit
    ) -> None:
        self.runner = runner
        self.info = info
        self.jobs = jobs
        self.control = control
        self.closed = False  # no more jobs come: the parent said so
        self.leaving = False  # no more jobs are taken: we said so
        self.exitcode = 0
        self._decode = work_decoder(runner.payload_type).decode
        self._decode_tag = tag_decoder().decode
        self._decode_control = control_decoder().decode
        self._memory = None if max_memory is None else _Memory(max_memory)

    def take(self, flags: int = 0) -> Work[Any] | None:
        """Return the next job; None = this slot takes no more.

        Raises:
            BlockingIOError: *flags* say not to wait, and nothing is there.
        """
        while True:
            frame = receive(self.jobs, flags)
            if not frame:
                self.closed = True
                return None
            try:
                return self._decode(frame)  # type: ignore[no-any-return]  # Decoder[Any]
            except msgspec.MsgspecError as exc:
                self._refuse(frame, exc)

    def say(self, report: Done[Any] | Began | Broken | Leaving | Missed | Ready | Unfit) -> None:
        """Tell the parent; waits while it is behind."""
        send(self.jobs, _encode(report))

    def hand_in(self, tag: int, runtime: float, report: Any) -> None:
        """Report that the job *tag* has ended, and leave if it made us too big."""
        try:
            frame = _encode(Done(tag, runtime, report))
        except Exception as exc:  # noqa: BLE001 - whatever a report holds, the job must be accounted for
            self.say(Broken(tag, f"its report cannot be encoded: {exc!r}", interrupted=False))
        else:
            send(self.jobs, frame)
        if self._memory is not None and not self.leaving and self._memory.is_too_much():
            self.leave("max memory")

    def hand_in_failure(self, tag: int, exc: BaseException) -> None:
        """Report that the job *tag* has ended by *exc*, and leave if that means the process is to end."""
        match exc:
            case SoftTimeLimitExceeded() | Terminated():
                self.say(Broken(tag, f"{type(exc).__name__} struck outside of user code", interrupted=True))
            case SystemExit():
                code = exc.code
                self.exitcode = code if isinstance(code, int) else 0 if code is None else 1
                self.say(Broken(tag, f"raised SystemExit({code!r}) in child {os.getpid()}", interrupted=False))
                self.leave("SystemExit")
            case MemoryError():
                self.exitcode = 1
                self.say(Broken(tag, f"ran out of memory in child {os.getpid()}", interrupted=False))
                self.leave("MemoryError")
            case _:
                _logger.error("the runner raised %r, which loses the job; it should report instead", exc, exc_info=exc)
                self.say(Broken(tag, f"the runner raised {exc!r}", interrupted=False))

    def leave(self, reason: str) -> None:
        """Take no more jobs; those that run go on."""
        self.leaving = True
        self.say(Leaving(reason))

    def miss(self, tag: int, exception: type[BaseException]) -> None:
        """Say that a strike found its job taken, but not running."""
        self.say(Missed(tag, exception is Terminated))

    def next_order(self, flags: int = 0) -> Any:
        """Return the next `Strike` or `Grow` from the parent; None = there will be none.

        Raises:
            BlockingIOError: *flags* say not to wait, and nothing is there.
        """
        frame = receive(self.control, flags)
        return self._decode_control(frame) if frame else None

    def _refuse(self, frame: bytes, exc: Exception) -> None:
        work = self._decode_tag(frame)
        if work is not None:
            self.say(Broken(work.tag, f"its payload cannot be decoded: {exc}", interrupted=False))


Serve: TypeAlias = Callable[[Desk], None]
"""How a kind of child runs its slots: returns when the desk is closed or leaving and all jobs have ended."""


def live(desk: Desk, serve: Serve) -> int:
    """Be a child from its first job to its last; return the exit status."""
    try:
        desk.runner.enter(desk.info)
    except BaseException:  # noqa: BLE001 - user code of all sorts; the parent tells it
        desk.say(Unfit(traceback.format_exc()))
        return _UNFIT
    desk.exitcode = _BUG
    try:
        desk.say(Ready())
        desk.exitcode = 0
        serve(desk)
    except ConnectionError:
        desk.exitcode = 0  # the parent is gone
    finally:
        desk.runner.leave(desk.exitcode)
    return desk.exitcode


def serve_one(desk: Desk) -> None:
    """Run one job at a time in the main thread, which signals can interrupt."""

    def wanted() -> list[tuple[int, type[BaseException]]]:
        strikes = []
        try:
            while (order := desk.next_order(NOW)) is not None:
                strikes.append(strike_of(order))
        except BlockingIOError:
            pass
        return strikes

    serve_slot(desk, SignalledSlot(wanted, desk.miss))


def serve_slot(desk: Desk, slot: Slot | SignalledSlot) -> None:
    """Run one job after the other until this slot ends."""
    perform = desk.runner.perform
    clock = time.perf_counter
    while not desk.leaving:
        work = desk.take()
        if work is None:
            return
        tag = slot.coming = work.tag
        if work.announce:
            desk.say(Began(tag))
        began = clock()
        try:
            report = slot.run(tag, perform, work.payload)
        except BaseException as exc:  # noqa: BLE001 - each job is accounted for, whatever ended it
            desk.hand_in_failure(tag, exc)
        else:
            desk.hand_in(tag, clock() - began, report)
        slot.coming = None
        del work


def strike_of(order: Strike) -> tuple[int, type[BaseException]]:
    """Return whom the order means and what to raise there."""
    return order.tag, Terminated if order.cancel else SoftTimeLimitExceeded


class _Memory:
    """The resident memory of this process against a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit  # KiB
        self._page = resource.getpagesize() // 1024  # KiB
        try:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not Linux
            self._statm = -1

    def is_too_much(self) -> bool:
        return self._resident() > self._limit

    def _resident(self) -> int:
        if self._statm >= 0:
            return int(os.pread(self._statm, 128, 0).split()[1]) * self._page
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most it ever was: the best to be had
        return peak // 1024 if sys.platform == "darwin" else peak
