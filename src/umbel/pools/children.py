"""Give jobs to child processes, take them back where they wait too long, and account for each."""

from __future__ import annotations

import logging
import math
import selectors
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from umbel.pools.base import (
    ChildInfo,
    Finished,
    Interrupt,
    Job,
    Lost,
    PoolBroken,
    Receipt,
    Runner,
    Started,
)
from umbel.pools.child import Desk, Serve, live
from umbel.pools.frames import (
    SLOT_ENDS,
    Began,
    Broken,
    Done,
    Grow,
    Leaving,
    Missed,
    Ready,
    Strike,
    Unfit,
    Work,
    receive,
    report_decoder,
    send,
)
from umbel.pools.interrupts import SOFT_SIGNAL
from umbel.pools.process import Child, OutOfMemory, State, Waiting
from umbel.pools.zygote import Exited, Failed, Forked, Order, Seed, Zygote, describe_exit, open_descriptors

__all__ = ["ChildrenPool"]

_AHEAD: Final = 64  # jobs dealt to one child beyond its free slots at the most
_AHEAD_SECONDS: Final = 0.004  # what they may take together, going by the jobs of late
_STUCK: Final = 0.010  # seconds without a report after which jobs dealt ahead are taken back
_ZYGOTE: Final = -1  # stands among the indexes of children that are to be started again
_FORKS: Final = 16  # forks asked for at one time
_DEATHS: Final = 100  # children that may die in a row
_BACKOFF: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between attempts to start a child that cannot
_LEAVE: Final = 10.0  # seconds a child may take to end once its jobs have ended
_STOP_LEAVE: Final = 1.0  # the same when the pool stops and its deadline is nearer than that
_REAP: Final = 2.0  # seconds until a killed process is gone, unless the kernel holds it
_DEAF: Final = 10.0  # seconds until the zygote has told of that, unless it hangs

_encode: Final = msgspec.msgpack.Encoder().encode
_logger: Final = logging.getLogger("celery.pool")


class ChildrenPool:
    """A pool of child processes: of one slot each, or of many."""

    def __init__(
        self,
        kind: str,
        serve: Serve,
        runner: Runner,
        *,
        slots: int,
        processes: int | None,
        max_jobs_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        on_init: Callable[[], None] | None = None,
        on_fork: Callable[[], None] | None = None,
        grace: float = 0.5,
        start_timeout: float = 60.0,
        title: str | None = None,
    ) -> None:
        """Make a pool; see `make_pool` for what the arguments mean. *processes* None = one per slot."""
        self.slots = slots
        self._kind = kind
        self._serve = serve
        self._runner = runner
        self._processes = processes
        self._max_jobs = max_jobs_per_child or math.inf
        self._max_memory = max_memory_per_child
        self._grace = grace
        self._start_timeout = start_timeout
        self._seed = Seed(live=self._live, on_init=on_init, on_fork=on_fork, title=title)

        self._zygote: Zygote | None = None
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._selector.close()  # `start` opens one, after the fork
        self._decode = report_decoder(runner.report_type).decode

        self._waiting: deque[Waiting] = deque()
        self._numbered = 0
        self._receipts: list[Receipt] = []
        self._children: dict[int, Child] = {}  # by serial; the leaving ones too
        self._ready: list[Child] = []
        self._leaving: list[Child] = []
        self._seats: dict[int, int] = {}  # index: slots that its child has, or is to have
        self._to_fork: deque[int] = deque()  # indexes
        self._retry_at: dict[int, float] = {}  # index: monotonic, when to try again
        self._forking = 0
        self._serials = 0
        self._tend_at = math.inf  # monotonic: when `_tend` has something to do
        self._pace = math.inf  # seconds a job takes of late; infinite = none has ended yet
        self._ahead = 0.0  # jobs per slot that may be dealt ahead at that pace
        self._deaths = 0
        self._failures = 0  # children in a row that could not start
        self._told = ""  # the last traceback that was logged
        self._replaced: Counter[str] = Counter()
        self._broken = ""  # why we give up
        self._oom = OutOfMemory()
        self._is_stopping = False

    # -- the port

    def start(self) -> None:
        if self._zygote is not None:
            return
        if self._seed.keep is None:
            self._seed = replace(self._seed, keep=open_descriptors())
        self._is_stopping = False
        self._failures = self._deaths = 0
        self._told = self._broken = ""
        self._seats = dict(enumerate(self._layout(self.slots)))
        self._zygote = Zygote(self._seed)
        self._selector = selectors.DefaultSelector()
        self._populate()
        try:
            while not self._ready:
                self._selector.select(self.next_timer())
                self._receipts = self.collect()
                if self._failures:
                    raise PoolBroken(f"the first child of the {self._kind} pool cannot start: {self._told}")
        except BaseException:
            self.stop(0.0)
            raise

    def submit(self, jobs: Sequence[Job]) -> None:
        if self._is_stopping:
            self._receipts += [_not_begun(job, "the pool has been stopped") for job in jobs]
            return
        number, is_first = self._numbered, not self._waiting
        self._waiting.extend(enumerate(jobs, number))
        self._numbered = number + len(jobs)
        if is_first:  # else there is no room
            self._deal(time.monotonic())

    def collect(self) -> list[Receipt]:
        if self._broken and not self._receipts:
            raise PoolBroken(self._broken)
        if self._zygote is not None:
            now = time.monotonic()
            news = self._selector.select(0)
            for key, events in news:
                child = key.data
                if child is None:
                    self._hear(now)
                    continue
                if child.serial not in self._children:
                    continue
                if events & selectors.EVENT_WRITE:
                    child.blocked = False
                    self._selector.modify(child.jobs, selectors.EVENT_READ, child)
                    self._end_slots(child, 0)
                if events & selectors.EVENT_READ:
                    self._read(child, now)
            if now >= self._tend_at:
                self._tend(now)
                self._deal(now)
            elif news:
                self._deal(now)
        receipts, self._receipts = self._receipts, []
        return receipts

    def fileno(self) -> int:
        return -1 if self._zygote is None else self._selector.fileno()  # type: ignore[attr-defined]  # epoll and kqueue have it

    def next_timer(self) -> float | None:
        if self._receipts or self._broken:
            return 0.0
        return None if self._tend_at == math.inf else max(0.0, self._tend_at - time.monotonic())

    def withdraw(self, limit: int) -> list[int]:
        if limit > len(self._waiting):
            for child in list(self._children.values()):
                self._take_back(child)
        tags = [self._waiting.pop()[1].tag for _ in range(min(limit, len(self._waiting)))]
        self._deal(time.monotonic())
        return tags

    def interrupt(self, tag: int, how: Interrupt, *, signal: int | None = None) -> None:
        child = next((child for child in self._children.values() if tag in child.inflight), None)
        if signal == SOFT_SIGNAL:
            how = Interrupt.SOFT  # what sending it by hand means
        if how is Interrupt.SOFT:
            if child is not None:
                self._strike(child, tag, cancel=False)
            return
        if child is not None:
            self._take_back(child)
        for entry in self._waiting:
            if entry[1].tag == tag:
                self._waiting.remove(entry)
                self._receipts.append(_not_begun(entry[1], "it was cancelled before it began"))
                break
        else:
            if child is not None:
                self._read(child, time.monotonic())
                if tag in child.inflight:
                    self._end(child, tag, how, signal)
        self._deal(time.monotonic())

    def resize(self, slots: int) -> None:
        self.slots = slots
        if self._zygote is None or self._is_stopping:
            return
        layout = self._layout(slots)
        present = {child.index: child for child in self._children.values() if child.state is not State.LEAVING}
        # Idle ones go first, and of those the last.
        order = sorted(self._seats, key=lambda index: (index in present and bool(present[index].inflight), -index))
        for index in order[: max(0, len(self._seats) - len(layout))]:
            del self._seats[index]
            self._retry_at.pop(index, None)
            if index in self._to_fork:
                self._to_fork.remove(index)
            if index in present:
                self._retire(present[index], "resized")
        free = (index for index in range(len(layout)) if index not in self._seats)
        for index in [next(free) for _ in range(len(layout) - len(self._seats))]:
            self._seats[index] = 0
            self._to_fork.append(index)
        for index, wanted in zip(sorted(self._seats), layout, strict=True):
            self._seats[index] = wanted
            if index in present:
                self._resize_child(present[index], wanted)
        self._fork_more()
        self._deal(time.monotonic())

    def recycle(self) -> None:
        if self._zygote is None or self._is_stopping:
            return
        for child in list(self._children.values()):
            self._retire(child, "recycled")
        self._deal(time.monotonic())

    def info(self) -> dict[str, Any]:
        return {
            "kind": self._kind,
            "slots": self.slots,
            "processes": [child.pid for child in self._children.values() if child.pid],
            "zygote": self._zygote.pid if self._zygote is not None else None,
            "running": sum(min(len(child.inflight), child.slots) for child in self._children.values()),
            "waiting": len(self._waiting),
            "jobs": {
                tag: child.pid for child in self._children.values() for tag in list(child.inflight)[: child.slots]
            },
            "max_jobs_per_child": None if self._max_jobs == math.inf else self._max_jobs,
            "max_memory_per_child": self._max_memory,
            "replaced": dict(self._replaced),
            "soft": "raised inside the job" if self._is_private else "raised inside the job when it runs Python code",
            "kill": "kills the process" if self._is_private else f"recycles the process after {self._grace:g} s",
        }

    def stop(self, deadline: float) -> None:
        zygote = self._zygote
        if zygote is None:
            self._is_stopping = True
            self._drop_waiting()
            return
        now = time.monotonic()
        until = now + deadline
        self._is_stopping = True
        self._to_fork.clear()
        self._retry_at.clear()
        receipts = self.collect() if not self._broken else []
        for child in list(self._children.values()):
            if child.state is State.STARTING:
                self._kill(child, "the pool stopped", now)
                continue
            self._take_back(child)
            self._retire(child, "stopped")
            # Who has no job may leave in peace; who has one may finish until the deadline.
            kill_at = until if child.inflight else max(until, now + _STOP_LEAVE)
            self._kill_later(child, min(kill_at, child.kill_at) if child.victims else kill_at)
        self._drop_waiting()
        self._broken = ""
        while self._children and time.monotonic() < max(until, now + _STOP_LEAVE) + _STOP_LEAVE + _REAP:
            receipts += self.collect()
            if self._children:
                self._selector.select(self.next_timer())
        if self._children:  # the zygote does not tell of their ends
            zygote.kill()
            self._end_all("the pool stopped")
        zygote.close()
        self._selector.close()
        self._zygote = None
        self._tend_at = math.inf
        self._receipts = receipts + self._receipts

    # -- jobs

    def _deal(self, now: float) -> None:
        """Give waiting jobs to the free slots, and then some short ones ahead.

        Whatever makes room ends here, so while jobs wait there is none.
        """
        if not self._waiting or self._is_stopping:
            return
        takers = [child for child in self._ready if not (child.blocked or child.victims)]
        if self._leaving:
            self._deal_to([(child, child.slots - self._held(child)) for child in takers], now)
            takers = [child for child in takers if child.state is State.READY and not self._held(child)]
        else:
            self._deal_to([(child, child.slots) for child in takers if len(child.inflight) < child.slots], now)
        if self._waiting and self._ahead * self.slots >= 1:
            ahead = self._ahead
            self._deal_to([(child, child.slots + min(_AHEAD, int(child.slots * ahead))) for child in takers], now)

    def _deal_to(self, limits: list[tuple[Child, int]], now: float) -> None:
        """Give jobs to each child in turn, until it has as many as its limit says."""
        rooms = [
            (child, limit - len(child.inflight))
            for child, limit in limits
            if limit > len(child.inflight) and not child.blocked and child.state is State.READY
        ]
        while rooms and self._waiting:
            left = []
            for child, room in rooms:
                if not self._waiting:
                    return
                if self._send(child, now) and room > 1:
                    left.append((child, room - 1))
            rooms = left

    def _send(self, child: Child, now: float) -> bool:
        """Send the first waiting job to *child*; False = it takes no more for now."""
        while True:
            entry = self._waiting[0]
            job = entry[1]
            try:
                send(child.jobs, _encode(Work(job.tag, job.announce, job.payload)))
                break
            except BlockingIOError:
                self._block(child)
                return False
            except Exception as exc:  # noqa: BLE001 - whatever a payload holds, the job must be accounted for
                self._waiting.popleft()
                self._receipts.append(Lost(tag=job.tag, pid=0, evidence=f"it cannot be sent: {exc!r}", at_fault=True))
                if not self._waiting:
                    return False
        self._waiting.popleft()
        inflight = child.inflight
        if not inflight:
            child.since = now
        inflight[job.tag] = entry
        child.sent += 1
        if len(inflight) > child.slots and child.look_at == math.inf:
            child.look_at = now + _STUCK
            self._tend_at = min(self._tend_at, child.look_at)
        if child.sent >= self._max_jobs:
            self._retire(child, "max jobs", take_back=False)
            return False
        return True

    def _held(self, child: Child) -> int:
        """Return how many slots of *child* are not free yet, because its leaving predecessor uses them."""
        return sum(len(other.inflight) for other in self._leaving if other.index == child.index)

    def _take_back(self, child: Child) -> None:
        """Let the jobs wait here again that were sent to *child* and have not begun."""
        taken, ends = child.take_back()
        self._end_slots(child, ends)
        if taken:
            self._waiting = deque(sorted((*taken, *self._waiting), key=_number))

    def _end_slots(self, child: Child, more: int) -> None:
        """Have as many slots of *child* end as were to, and *more*."""
        child.ends += more
        while child.ends and not child.blocked and child.state is not State.LEAVING:
            try:
                send(child.jobs, SLOT_ENDS)
                child.ends -= 1
            except BlockingIOError:
                self._block(child)

    def _block(self, child: Child) -> None:
        child.blocked = True
        self._selector.modify(child.jobs, selectors.EVENT_READ | selectors.EVENT_WRITE, child)

    def _drop_waiting(self) -> None:
        self._receipts += [_not_begun(job, "the pool was stopped before it began") for _, job in self._waiting]
        self._waiting.clear()

    # -- what children say

    def _read(self, child: Child, now: float) -> None:
        """Take the reports of *child*."""
        decode, inflight, receipts, pid = self._decode, child.inflight, self._receipts, child.pid
        ended, took, heard = 0, 0.0, False
        try:
            while frame := receive(child.jobs):
                heard = True
                report = decode(frame)
                if type(report) is Done:
                    if inflight.pop(report.tag, None) is not None:
                        receipts.append(Finished(report.tag, report.report, pid, report.runtime))
                        ended += 1
                        took += report.runtime
                else:
                    self._note(child, report, now)
        except BlockingIOError:
            pass
        if not heard:
            return
        if ended:
            mean = took / ended
            self._pace = mean if self._pace == math.inf else self._pace + (mean - self._pace) * min(1.0, ended / 16)
            self._ahead = _AHEAD_SECONDS / max(self._pace, 1e-6)
            self._deaths = 0
        child.since = now
        child.look_at = now + _STUCK if len(inflight) > child.slots else math.inf
        self._tend_at = min(self._tend_at, child.look_at)
        if child.victims and not child.victims & inflight.keys():
            child.victims.clear()
            if not child.is_killed:
                child.died_of = ""
                child.kill_at = math.inf
        if not inflight and child.state is State.LEAVING:
            self._kill_later(child, now + (_STOP_LEAVE if self._is_stopping else _LEAVE))

    def _note(self, child: Child, report: Began | Broken | Leaving | Missed | Ready | Unfit, now: float) -> None:
        match report:
            case Began():
                self._receipts.append(Started(report.tag, child.pid))
            case Broken():
                if child.inflight.pop(report.tag, None) is not None:
                    self._receipts.append(
                        Lost(
                            tag=report.tag,
                            pid=child.pid,
                            evidence=report.evidence,
                            at_fault=True,
                            interrupted=report.interrupted,
                        )
                    )
            case Ready():
                child.kill_at = math.inf
                self._tend_at = now  # what was due when it did not start is due no longer: find what is
                self._failures = 0
                if child.state is State.STARTING and not child.is_killed:
                    child.state = State.READY
                    self._ready.append(child)
            case Leaving():
                self._retire(child, report.reason)
            case Missed():
                if report.tag in child.inflight:
                    self._strike(child, report.tag, cancel=report.cancel)
            case Unfit():
                child.traceback = report.traceback

    # -- lives of children

    def _layout(self, slots: int) -> list[int]:
        """Return the slots of each child."""
        if self._processes is None:
            return [1] * slots
        processes = max(1, min(self._processes, slots))
        return [slots // processes + (i < slots % processes) for i in range(processes)]

    @property
    def _is_private(self) -> bool:
        return self._processes is None

    def _populate(self) -> None:
        """Have the zygote fork all children."""
        assert self._zygote is not None
        self._selector.register(self._zygote, selectors.EVENT_READ, None)
        self._forking = 0
        self._to_fork = deque(self._seats)
        self._fork_more()

    def _live(self, order: Order, jobs: socket.socket, control: socket.socket) -> int:
        """Be a child."""
        desk = Desk(
            jobs=jobs,
            control=control,
            runner=self._runner,
            info=ChildInfo(index=order.index, slots=order.slots),
            max_memory=self._max_memory,
        )
        return live(desk, self._serve)

    def _fork_more(self) -> None:
        while self._to_fork and self._forking < _FORKS and self._zygote is not None and _ZYGOTE not in self._retry_at:
            index = self._to_fork.popleft()
            try:
                child = Child(serial=self._serials + 1, index=index, slots=self._seats[index])
            except OSError as exc:
                self._fail(f"no sockets for a child: {exc}")
                self._try_later(index, time.monotonic())
                return
            self._serials += 1
            self._kill_later(child, time.monotonic() + self._start_timeout)
            with child.their_control as control:
                self._zygote.fork(Order(child.serial, index, child.slots), child.theirs, control)
            self._forking += 1
            self._children[child.serial] = child
            self._selector.register(child.jobs, selectors.EVENT_READ, child)

    def _hear(self, now: float) -> None:
        """Listen to the zygote."""
        zygote = self._zygote
        if zygote is None:
            return
        answers = zygote.answers()
        if answers is None:
            self._lose_zygote(zygote, now)
            return
        for answer in answers:
            match answer:
                case Forked():
                    self._forking -= 1
                    child = self._children[answer.serial]
                    child.meet(answer.pid)
                    if child.is_killed:  # before it was there
                        child.send_signal(signal.SIGKILL)
                case Exited():
                    child = self._children[answer.serial]
                    self._replace(child, self._bury(child, answer.exitcode, now), now)
                case Failed(serial=0):
                    self._fail(f"the zygote cannot start: {answer.evidence}")
                case Failed():
                    self._forking -= 1
                    child = self._children[answer.serial]
                    child.traceback = answer.evidence
                    self._replace(child, self._bury(child, None, now), now)
                case _:
                    pass
        self._fork_more()

    def _retire(self, child: Child, reason: str, *, take_back: bool = True) -> None:
        """Let *child* end with the jobs that it runs, and replace it at once."""
        if child.state is State.LEAVING:
            return
        if child in self._ready:
            self._ready.remove(child)
        child.state = State.LEAVING
        self._leaving.append(child)
        if take_back:
            self._take_back(child)
        child.jobs.shutdown(socket.SHUT_WR)
        if not child.inflight:
            self._kill_later(child, time.monotonic() + _LEAVE)
        if not self._is_stopping and child.index in self._seats:
            self._replaced[reason] += 1
            self._to_fork.append(child.index)
            self._fork_more()

    def _resize_child(self, child: Child, slots: int) -> None:
        if slots > child.slots:
            self._order(child, Grow(slots - child.slots))
        elif slots < child.slots:
            self._take_back(child)
            self._end_slots(child, child.slots - slots)
        child.slots = slots

    # -- ends of children

    def _strike(self, child: Child, tag: int, *, cancel: bool) -> None:
        self._order(child, Strike(tag, cancel))
        if self._is_private:
            child.send_signal(SOFT_SIGNAL)

    def _order(self, child: Child, order: Strike | Grow) -> None:
        try:
            send(child.control, _encode(order))
        except OSError as exc:
            _logger.debug("child %d does not listen any more: %s", child.pid, exc)

    def _end(self, child: Child, tag: int, how: Interrupt, number: int | None) -> None:
        """End one job that runs in *child*, by CANCEL or KILL.

        All jobs that wait in its socket have been taken back and all its reports read, so a child of one
        slot runs this job or none: nobody else is hit.
        """
        if self._is_private:
            child.victims.add(tag)
            child.died_of = "its job was to be ended"
            if number is None or number == signal.SIGKILL:
                self._kill(child, child.died_of, time.monotonic())
            else:
                child.send_signal(number)
            return
        self._strike(child, tag, cancel=True)
        if how is Interrupt.KILL:
            if not child.victims:
                self._kill_later(child, time.monotonic() + self._grace)
            child.victims.add(tag)

    def _kill_later(self, child: Child, at: float) -> None:
        child.kill_at = at
        self._tend_at = min(self._tend_at, at)

    def _kill(self, child: Child, why: str, now: float) -> None:
        self._take_back(child)
        child.died_of = why
        child.is_killed = True
        child.send_signal(signal.SIGKILL)
        self._kill_later(child, now + _DEAF)

    def _tend(self, now: float) -> None:
        """Do what is due."""
        due = math.inf
        for child in list(self._children.values()):
            if child.look_at <= now:
                self._take_back(child)
                self._pace, self._ahead = max(self._pace, _STUCK), 0.0
            if child.kill_at <= now:
                self._overdue(child, now)
            due = min(due, child.look_at, child.kill_at)
        for index, at in list(self._retry_at.items()):
            if at > now:
                due = min(due, at)
                continue
            del self._retry_at[index]
            if index == _ZYGOTE:
                due = now  # look again: there will be children then
                try:
                    self._zygote = Zygote(self._seed)
                except OSError as exc:
                    self._fail(f"cannot fork a zygote: {exc}")
                    self._try_later(_ZYGOTE, now)
                else:
                    self._populate()
            else:
                self._to_fork.append(index)
        self._tend_at = due
        self._fork_more()

    def _overdue(self, child: Child, now: float) -> None:
        if child.is_killed:
            if child.is_gone() and self._zygote is not None:
                _logger.error("zygote %d does not answer and is killed: does `on_fork` hang?", self._zygote.pid)
                self._zygote.kill()
            child.kill_at = now + _DEAF  # else the kernel does not let go of it yet
        elif self._is_stopping:
            self._kill(child, "the pool stopped", now)
        elif child.victims:
            self._kill(child, "one of its jobs was to be ended and did not", now)
        elif child.state is State.STARTING:
            child.traceback = f"it did not start within {self._start_timeout:g} s"
            self._kill(child, "it did not start in time", now)
        else:
            _logger.warning("child %d is killed: it did not end within %g s after its last job", child.pid, _LEAVE)
            self._kill(child, "it did not end", now)

    def _bury(self, child: Child, exitcode: int | None, now: float) -> str:
        """Account for the jobs of a child that has ended, forget it, and return how it ended."""
        since = child.since
        self._read(child, now)
        self._take_back(child)
        how = "is gone" if exitcode is None else describe_exit(exitcode)
        if child.died_of:
            how += f", as {child.died_of}"
        elif exitcode == -signal.SIGKILL:
            how += " (not by us)" if not self._oom.has_struck() else " (by the kernel: out of memory)"
        running = child.inflight
        if not child.died_of and (running or child.state is not State.LEAVING):
            self._count_death(how)
            if running:
                _logger.error("child %d %s while it ran %d job(s)", child.pid, how, len(running))
        evidence = f"child {child.pid} {how}"
        if self._is_private:
            evidence += f" after {now - since:.1f} s"
        elif len(running) > 1 and not child.died_of:
            evidence += f"; {len(running)} jobs ran in it, and which one is to blame is unknown"
        for tag in running:
            self._receipts.append(
                Lost(
                    tag=tag,
                    pid=child.pid,
                    evidence=evidence,
                    at_fault=tag in child.victims if child.died_of else True,
                    interrupted=tag in child.victims or (self._is_stopping and bool(child.died_of)),
                    exitcode=exitcode,
                )
            )
        running.clear()
        self._selector.unregister(child.jobs)
        del self._children[child.serial]
        if child.state is State.READY:
            self._ready.remove(child)
        elif child.state is State.LEAVING:
            self._leaving.remove(child)
        child.close()
        return how

    def _replace(self, child: Child, how: str, now: float) -> None:
        """Put a new child in the place of one that has ended; later, if that one could not start."""
        if self._is_stopping:
            return
        if child.state is State.LEAVING or child.index not in self._seats:
            return  # replaced already, or not to be replaced
        self._replaced[child.died_of or how] += 1
        if child.state is State.READY:
            self._to_fork.append(child.index)
            return
        self._fail(child.traceback or f"a child {how} while it started")
        self._try_later(child.index, now)

    def _lose_zygote(self, zygote: Zygote, now: float) -> None:
        """Go on with a new one; nothing is left of the children of the old one."""
        self._selector.unregister(zygote)
        if not self._failures:
            _logger.error("zygote %d has died; a new one is forked, and all children", zygote.pid)
            self._count_death("was lost with its zygote")
        self._replaced["the zygote died"] += len(self._children)
        self._end_all("its zygote died")
        zygote.close()
        self._to_fork.clear()
        self._retry_at.clear()
        if not self._is_stopping:
            self._try_later(_ZYGOTE, now)

    def _end_all(self, why: str) -> None:
        """Kill all children and wait for their ends without the zygote's help."""
        for child in self._children.values():
            child.died_of = why
            child.is_killed = True
            child.send_signal(signal.SIGKILL)
        until = time.monotonic() + _REAP
        for child in list(self._children.values()):
            while not child.is_gone() and time.monotonic() < until:
                time.sleep(0.001)
            self._bury(child, None, time.monotonic())

    def _fail(self, evidence: str) -> None:
        """Say once why processes do not start."""
        self._failures += 1
        if evidence != self._told:
            self._told = evidence
            _logger.error("the %s pool cannot start a process, and tries again later: %s", self._kind, evidence)

    def _try_later(self, index: int, now: float) -> None:
        wait = _BACKOFF[min(self._failures, len(_BACKOFF)) - 1] if self._failures else 0.0
        self._retry_at[index] = now + wait
        self._tend_at = min(self._tend_at, now + wait)

    def _count_death(self, how: str) -> None:
        self._deaths += 1
        if self._deaths > _DEATHS:
            self._broken = (
                f"{self._deaths} children of the {self._kind} pool died in a row and no job was finished; the last "
                f"one {how}. See the log for the others; too little memory, or a broken extension module?"
            )


def _number(entry: Waiting) -> int:
    return entry[0]


def _not_begun(job: Job, evidence: str) -> Lost:
    return Lost(tag=job.tag, pid=0, evidence=evidence, at_fault=False, interrupted=True)
