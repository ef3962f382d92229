"""Hold what the parent knows of one child process, and both ends of its sockets."""

from __future__ import annotations

import math
import os
import select
import signal
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias

from umbel.pools.base import Job
from umbel.pools.frames import NOW, pair, receive, tag_decoder

__all__ = ["Child", "OutOfMemory", "State", "Waiting"]

_decode: Final = tag_decoder().decode

Waiting: TypeAlias = tuple[int, Job]
"""A job and its number in the order of submission."""


class State(Enum):
    """Where a child stands in its life."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"  # takes no more jobs


class Child:
    """One child process, as far as the parent knows."""

    __slots__ = (
        "blocked",
        "control",
        "died_of",
        "ends",
        "index",
        "inflight",
        "is_killed",
        "jobs",
        "kill_at",
        "look_at",
        "pid",
        "pidfd",
        "sent",
        "serial",
        "since",
        "slots",
        "state",
        "their_control",
        "theirs",
        "traceback",
        "victims",
    )

    def __init__(self, *, serial: int, index: int, slots: int) -> None:
        self.serial = serial
        self.index = index
        self.slots = slots
        self.state = State.STARTING
        self.pid = 0  # not forked yet
        self.pidfd = -1  # names the process even when its number is given to another
        self.jobs, self.theirs = pair()  # ours, and the end that the child reads: to take back what it has not
        self.control, self.their_control = pair()
        self.jobs.setblocking(False)
        self.control.setblocking(False)
        self.inflight: dict[int, Waiting] = {}  # sent, not reported; by tag, in the order they were sent
        self.sent = 0  # jobs it has been given in its life
        self.since = 0.0  # monotonic: last report, or first job after a rest
        self.look_at = math.inf  # monotonic: when jobs dealt ahead are taken back
        self.kill_at = math.inf  # monotonic: when it is killed unless it has started, ended, or its victims have
        self.blocked = False  # its socket is full
        self.ends = 0  # `SLOT_ENDS` still to be sent
        self.victims: set[int] = set()  # jobs that we want to end, with the process if need be
        self.died_of = ""  # why we end it
        self.is_killed = False
        self.traceback = ""  # why it could not start

    def meet(self, pid: int) -> None:
        """Learn the number of the process."""
        self.pid = pid
        if hasattr(os, "pidfd_open"):
            try:
                self.pidfd = os.pidfd_open(pid)
            except OSError:
                pass  # an old kernel; or it has ended already

    def take_back(self) -> tuple[list[Waiting], int]:
        """Return the jobs that were sent and have not begun, and the number of `SLOT_ENDS` among them."""
        taken: list[Waiting] = []
        ends = 0
        try:
            while frame := receive(self.theirs, NOW):
                work = _decode(frame)
                if work is None:
                    ends += 1
                elif (entry := self.inflight.pop(work.tag, None)) is not None:
                    taken.append(entry)
        except BlockingIOError:
            pass
        self.sent -= len(taken)
        self.look_at = math.inf
        return taken, ends

    def send_signal(self, number: int) -> None:
        """Send an OS signal; nothing happens if the process has ended."""
        try:
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, number)
            elif self.pid:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it has just ended; the zygote will tell

    def is_gone(self) -> bool:
        """Say whether the process has ended, without the zygote."""
        if self.pidfd >= 0:
            poll = select.poll()  # select() knows no descriptors beyond 1023
            poll.register(self.pidfd, select.POLLIN)
            return bool(poll.poll(0))
        if not self.pid:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def close(self) -> None:
        """Give back what belongs to a child that has ended."""
        self.jobs.close()
        self.theirs.close()
        self.control.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)


class OutOfMemory:
    """What the kernel says of processes that it has killed for want of memory."""

    def __init__(self) -> None:
        self._seen = _oom_kills()

    def has_struck(self) -> bool:
        """Return whether it has killed any since this was last asked."""
        seen, self._seen = self._seen, _oom_kills()
        return self._seen > seen


def _oom_kills() -> int:
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
