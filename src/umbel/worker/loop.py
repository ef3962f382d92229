"""Carry out the core's orders: the one thread that talks to broker, store and pool."""

from __future__ import annotations

import logging
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, assert_never

from umbel.brokers.base import Broker, Claim, Delivery, Heir, Lease, Release, Settlement
from umbel.brokers.ledger import ledger_of
from umbel.exceptions import BackendError, OperationalError
from umbel.execution.outcome import Outcome
from umbel.pools.base import Interrupt, Pool
from umbel.wire.chord import ReadyChord
from umbel.wire.record import Record
from umbel.worker.core import WorkerState, is_over, next_timer, room, step
from umbel.worker.facts import (
    Arrived,
    Concluded,
    Fact,
    LeasesLost,
    Manner,
    Reported,
    Reserved,
    Resized,
    Ticked,
    Withdrawn,
)
from umbel.worker.orders import (
    Acknowledge,
    Cancelled,
    Conclude,
    Consume,
    Ending,
    Halt,
    InterruptJob,
    Order,
    Recycle,
    Renew,
    Reserve,
    Resize,
    Run,
    Settle,
    Tell,
    Why,
    Withdraw,
)
from umbel.worker.settle import Settler

__all__ = ["Connection", "Loop", "Tasks"]

_logger: Final = logging.getLogger("celery.worker.loop")

T = TypeVar("T")

_LOOK: Final = 5.0  # seconds: an idle worker asks the broker that often even if nothing woke it
_SWEPT: Final = 10  # forgotten chords taken at such a look
_LOOK_ALERT: Final = 0.5  # the same, once wake-ups were found missing
_MISSED: Final = 3  # unwoken finds in a row until we say so
_FAREWELL: Final = 10.0  # seconds that a worker which has stopped waits for a broker that is away
_BRISK: Final = 0.001  # seconds: tasks that take less are waited for before anything else is done
_BACKOFF: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)  # seconds between attempts to get the broker back


class Tasks(Protocol):
    """What the loop must know of tasks; made by `worker/worker.py` from the application."""

    def conclude(self, delivery: Delivery, why: Why, evidence: str) -> Outcome:
        """Work out the outcome of a delivery that no user code will report."""

    def begun(self, delivery: Delivery, pid: int) -> Record | None:
        """Return the STARTED record to store, or None."""

    def fire(self, ready: ReadyChord) -> Settlement:
        """Work out what a complete chord comes to."""

    def received(self, deliveries: tuple[Delivery, ...]) -> tuple[Delivery, ...]:
        """Tell logs and listeners that these arrived; return them, marked where they are forbidden by their stamps."""

    def ended(self, endings: Sequence[Ending]) -> None:
        """Count these, and tell those who watch."""

    def cancelled(self, delivery: Delivery) -> None:
        """Tell those who watch that this one was ended here and runs again elsewhere."""

    def warned(self, delivery: Delivery) -> None:
        """Tell those who watch that this one has reached its soft time limit."""

    def dropped(self, count: int, *, crashes: int) -> None:
        """Count so many lost leases, and so many crashes that will be tried again; some deliveries were given back."""

    def news(self) -> Settlement | None:
        """Return what monitors are to be told with the next exchange, once; None = nothing."""

    def news_due(self) -> float | None:
        """Return when, in monotonic seconds, there are news that should wait for other business no longer."""


@dataclass(slots=True)
class Connection:
    """The broker as it is now, and how to get it anew."""

    broker: Broker
    settler: Settler
    reopen: Callable[[], tuple[Broker, Settler]]  # declares and consumes again; raises BrokerUnavailable
    subscribe: Callable[[Broker], None]  # declares and consumes what is wanted now; as `reopen` does

    def renew(self) -> None:
        """Close what there is and open it again."""
        predecessor = self.broker
        self.close()
        self.broker, self.settler = self.reopen()
        if isinstance(self.broker, Heir):
            self.broker.inherit(predecessor)

    def close(self) -> None:
        """Close both ends."""
        self.settler.close()
        self.broker.close()


class Loop:
    """Runs a worker until it is over.

    Used by one thread at a time; `post` may be called from any thread and from OS signal handlers.
    """

    def __init__(self, *, connection: Connection, pool: Pool, state: WorkerState, tasks: Tasks, owner: str) -> None:
        self.state = state
        self._connection = connection
        self._pool = pool
        self._tasks = tasks
        self._owner = owner
        self._inbox: deque[Fact] = deque()
        self._questions: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._has_ended = False
        self._unsettled: list[Settlement] = []
        self._unreserved: list[Reserve] = []  # while the broker is away
        self._warned: set[str] = set()  # tasks whose limit cannot be kept
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._selector.register(pool.fileno(), selectors.EVENT_READ)
        self._listening: int | None = None  # the broker's descriptor, while it is in the selector
        self._hungry = True  # the broker may have more for us
        self._look_at = 0.0  # monotonic: when to ask without having been woken
        self._sweep_at = 0.0  # monotonic: when to look for chords that somebody completed and did not fire
        self._missed = 0
        self._down_since: float | None = None
        self._attempts = 0
        self._retry_at = 0.0
        self._give_up_at: float | None = None  # monotonic: when to stop waiting for a broker that is away

    def post(self, fact: Fact) -> None:
        """Let the loop learn *fact* at its next turn, which comes at once."""
        self._inbox.append(fact)
        self._wake()

    def ask(self, question: Callable[[], T], *, timeout: float = 5.0) -> T:
        """Return what *question* returns in the loop's own thread, between two turns, where nothing changes meanwhile.

        Raises:
            TimeoutError: the loop is busy or has ended; or whatever the *question* raises.
        """
        answer: Future[T] = Future()
        self._questions.append((question, answer))
        self._wake()
        if self._has_ended:
            self._refuse_questions()
        return answer.result(timeout)

    def _refuse_questions(self) -> None:
        while self._questions:
            _, answer = self._questions.popleft()
            answer.set_exception(TimeoutError("the worker has stopped"))

    @property
    def idle_because(self) -> str | None:
        """Why no tasks are taken; None = they are."""
        if self._down_since is not None:
            return "the broker is away"
        return "it is stopping" if self.state.stopping is not None else None

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except (BlockingIOError, OSError):
            pass  # full means that it will wake anyway; closed that it has ended

    def run(self) -> None:
        """Work until the core says that it is over and all is settled."""
        try:
            self.lead(_never)
        finally:
            self.close()

    def lead(self, until: Callable[[], bool]) -> bool:
        """Work until it is over, and return True; or until *until* says so after a turn, and return False."""
        is_over = self._is_over()
        while not is_over:
            self._turn()
            is_over = self._is_over()
            if not is_over:
                if until():
                    return False
                self._wait()
        return True

    def close(self) -> None:
        """Let go of what it waits with, after the last turn."""
        self._has_ended = True
        self._refuse_questions()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _turn(self) -> None:
        receipts = self._pool.collect()
        now = time.monotonic()
        if receipts:
            self._do(step(self.state, Reported(receipts), now=now))
        while self._inbox:
            self._do(step(self.state, self._inbox.popleft(), now=now))
        due = next_timer(self.state)
        if due is not None and due <= now:
            self._do(step(self.state, Ticked(), now=now))
        while self._questions:
            _answer(*self._questions.popleft())
        self._exchange(now)

    def _is_over(self) -> bool:
        if not is_over(self.state):
            return False
        if not self._unsettled:
            return True
        if self._down_since is None:
            return False
        # Nothing is left to do but to tell a broker that is away.
        now = time.monotonic()
        if self._give_up_at is None:
            self._give_up_at = now + (_FAREWELL if self.state.stopping is not Manner.COLD else 0.0)
        if now < self._give_up_at:
            return False
        _logger.error(
            "stopped while the broker was away: what became of %d task(s) could not be stored; they will run again",
            sum(1 for one in self._unsettled if one.lease is not None),
        )
        self._unsettled = []
        return True

    # -- orders

    def _do(self, orders: Iterable[Order]) -> None:
        for order in orders:
            match order:
                case Settle():
                    self._unsettled += order.settlements
                    if order.endings:
                        self._tasks.ended(order.endings)
                    if len(order.endings) < len(order.settlements):
                        self._count_crashes(order.settlements)
                case Run():
                    self._pool.submit(order.jobs)
                case Conclude():
                    outcome = self._tasks.conclude(order.delivery, order.why, order.evidence)
                    self._do(step(self.state, Concluded(order.tag, outcome), now=time.monotonic()))
                case Acknowledge():
                    self._acknowledge(order.settlements)
                case Tell():
                    record = self._tasks.begun(order.delivery, order.pid)
                    if record is not None:
                        self._unsettled.append(Settlement(lease=None, records=(record,)))
                case Cancelled():
                    self._tasks.cancelled(order.delivery)
                case Renew():
                    self._renew(order.leases)
                case Reserve():
                    self._reserve(order)
                case InterruptJob():
                    if order.how is Interrupt.SOFT and (held := self.state.held.get(order.tag)) is not None:
                        self._tasks.warned(held.delivery)
                    self._pool.interrupt(order.tag, order.how, signal=order.signal)
                case Withdraw():
                    tags = self._pool.withdraw(order.limit)
                    if tags:
                        self._do(step(self.state, Withdrawn(tags), now=time.monotonic()))
                case Resize():
                    self._pool.resize(order.slots)
                    self._do(step(self.state, Resized(self._pool.slots), now=time.monotonic()))
                case Recycle():
                    self._pool.recycle()
                case Consume():
                    self._subscribe()
                case Halt():
                    self._pool.stop(0.0)
                case _:
                    assert_never(order)

    # -- the broker

    def _exchange(self, now: float) -> None:
        """Settle what has ended and claim what there is room for, in one call."""
        if self._down_since is not None and not self._is_back(now):
            return
        while self._unreserved and self._down_since is None:
            self._reserve(self._unreserved.pop())
        if self._down_since is not None:
            return
        wanted = room(self.state)
        look = wanted > 0 and now >= self._look_at
        claim = None
        follows = any(one.follow_ups for one in self._unsettled)  # most likely for us: benchmark "chain of 200", twice
        if wanted > 0 and (self._hungry or look or follows):
            claim = Claim(limit=wanted, lease=self.state.rules.lease, owner=self._owner)
        claims = claim is not None
        sweeps = self._connection.settler.counts and (look or now >= self._sweep_at)
        if sweeps:
            lease = self.state.rules.lease
            claim = Claim(limit=wanted if claims else 0, lease=lease, owner=self._owner, chords=_SWEPT)
        due = self._tasks.news_due()
        # They travel along, and where more work waits by the page: each message costs as much as several tasks.
        if due is not None and (now >= due or (not self._hungry and (claim is not None or self._unsettled))):
            news = self._tasks.news()
            if news is not None:
                self._unsettled.append(news)
        if claim is None and not self._unsettled:
            return
        settlements = self._unsettled
        try:
            turn = self._connection.settler.exchange(settlements, claim)
        except (OperationalError, BackendError) as exc:
            self._lose(exc, now)
            return
        self._unsettled = []
        if turn.refused:
            self._report_refused(settlements, turn.refused)
        if sweeps:
            self._sweep_at = now + _LOOK if len(turn.ready) < _SWEPT else now  # there may be more
        if claims and claim is not None:
            self._look_at = now + (_LOOK if self._missed < _MISSED else _LOOK_ALERT)
            if look and not self._hungry and not follows:
                self._count_missed(len(turn.deliveries))
            self._hungry = len(turn.deliveries) >= claim.limit
        if turn.deliveries:
            deliveries = self._tasks.received(turn.deliveries)
            self._do(step(self.state, Arrived(deliveries, time.time()), now=time.monotonic()))
        if turn.ready:
            self._fire(turn.ready, now)

    def _fire(self, ready: Sequence[ReadyChord], now: float) -> None:
        """Send the bodies of complete chords now; who dies before leaves them to whoever looks next."""
        while ready:
            try:
                self._unsettled += [self._tasks.fire(each) for each in ready]
                turn = self._connection.settler.exchange(self._unsettled, None)
            except (OperationalError, BackendError) as exc:
                self._lose(exc, now)
                return
            self._unsettled = []
            self._hungry = True
            ready = turn.ready  # those around them

    def _subscribe(self) -> None:
        if self._down_since is not None:
            return  # it happens when the broker is back
        self._stop_listening()
        try:
            self._connection.subscribe(self._connection.broker)
        except OperationalError as exc:
            self._lose(exc, time.monotonic())
        self._hungry = True

    def _acknowledge(self, settlements: list[Settlement]) -> None:
        # These run once this returns, so it must hold now: a task that is acknowledged before it runs
        # may be lost, but never runs twice.
        while True:
            now = time.monotonic()
            if self._down_since is None or self._is_back(now):
                try:
                    self._connection.settler.exchange(settlements, None)
                except (OperationalError, BackendError) as exc:
                    self._lose(exc, now)
                else:
                    return
            time.sleep(max(0.01, self._retry_at - now))

    def _renew(self, leases: list[Lease]) -> None:
        if self._down_since is not None:
            return
        try:
            lost = self._connection.broker.renew(leases, self.state.rules.lease)
        except OperationalError as exc:
            self._lose(exc, time.monotonic())
            return
        if lost:
            _logger.warning(
                "%d deliveries are no longer ours: their leases of %g s ran out before we renewed them. "
                "Another worker has them; what they come to here is dropped. Is this machine overloaded?",
                len(lost),
                self.state.rules.lease,
            )
            self._tasks.dropped(len(lost), crashes=0)
            self._do(step(self.state, LeasesLost(lost), now=time.monotonic()))

    def _reserve(self, order: Reserve) -> None:
        ledger = ledger_of(self._connection.broker)
        first, interval = 0.0, 0.0
        if ledger is not None:
            try:
                first, interval = ledger.reserve(f"rate:{order.task}", order.interval, len(order.tags)), order.interval
            except OperationalError as exc:
                self._unreserved.append(order)
                self._lose(exc, time.monotonic())
                return
        elif order.task not in self._warned:
            self._warned.add(order.task)
            _logger.warning(
                "the global_rate_limit of %s is not kept: this broker has no ledger that all workers share. "
                "Use rate_limit, which each worker keeps, or sqlite:// or redis://.",
                order.task,
            )
        reserved = Reserved(tags=order.tags, first=first, interval=interval)
        self._do(step(self.state, reserved, now=time.monotonic()))

    def _count_crashes(self, settlements: list[Settlement]) -> None:
        crashes = sum(1 for one in settlements if type(one.verdict) is Release and one.verdict.counted)
        self._tasks.dropped(0, crashes=crashes)

    def _report_refused(self, settlements: list[Settlement], refused: Sequence[Lease]) -> None:
        gone = set(refused)
        for settlement in settlements:
            if settlement.lease in gone:
                _logger.warning(
                    "outcome of %s dropped: our lease had run out, and another worker holds the task now",
                    f"task {settlement.records[0].id}" if settlement.records else f"delivery {settlement.lease}",
                )

    def _count_missed(self, found: int) -> None:
        if not found:
            self._missed = 0 if self._missed < _MISSED else self._missed
            return
        self._missed += 1
        if self._missed == _MISSED:
            _logger.warning(
                "work was waiting %d times in a row and nothing woke this worker: the broker's wake-ups do "
                "not arrive. From now on it looks every %g s by itself.",
                _MISSED,
                _LOOK_ALERT,
            )

    # -- outages: one line when it begins, one when it ends

    def _lose(self, exc: Exception, now: float) -> None:
        if self._down_since is None:
            self._down_since = now
            self._attempts = 0
            _logger.error("broker lost: %s. Running tasks go on; trying to get it back.", exc)
        self._retry_at = now + _BACKOFF[min(self._attempts, len(_BACKOFF) - 1)]
        self._attempts += 1

    def _is_back(self, now: float) -> bool:
        if now < self._retry_at:
            return False
        self._stop_listening()
        try:
            self._connection.renew()
        except (OperationalError, BackendError) as exc:
            self._lose(exc, now)
            return False
        since = self._down_since
        self._down_since = None
        self._hungry = True
        _logger.warning("broker is back after %.1f s", 0.0 if since is None else now - since)
        return True

    # -- waiting

    def _wait(self) -> None:
        now = time.monotonic()
        wants = self._down_since is None and room(self.state) > 0
        if (wants and self._hungry) or (self._unsettled and self._down_since is None):
            return  # what ended without running is settled at once as well
        if self.state.submitted and (self.state.pace or 1.0) < _BRISK and self._select(_BRISK):
            # What runs has ended in a moment, and the broker was asked nothing meanwhile
            # (benchmark round trip: 0.1 ms of 0.7).
            return
        moments = [next_timer(self.state), self._tasks.news_due() if self._down_since is None else None]
        pool_timer = self._pool.next_timer()
        if pool_timer is not None:
            moments.append(now + pool_timer)
        if self._down_since is not None:
            moments.append(self._retry_at)
            moments.append(self._give_up_at)
        elif self._connection.settler.counts:
            moments.append(self._sweep_at)
        if wants:
            self._listen(now)
            moments.append(self._look_at)
            broker_timer = self._broker_timer(now)
            if self._down_since is not None:
                return  # lost just now; the next turn sees to it
            if broker_timer is not None:
                moments.append(broker_timer)
        else:
            self._stop_listening()
        until = min((moment for moment in moments if moment is not None), default=None)
        self._select(None if until is None else max(0.0, until - now))
        if wants and broker_timer is not None and time.monotonic() >= broker_timer:
            self._hungry = True

    def _select(self, timeout: float | None) -> bool:
        """Wait for news from pool, broker and whoever posts; return whether there are any."""
        news = self._selector.select(timeout)
        for key, _ in news:
            if key.fd == self._listening:
                self._hungry = True
            elif key.fd == self._wake_read:
                os.read(self._wake_read, 4096)
        return bool(news)

    def _broker_timer(self, now: float) -> float | None:
        if self._down_since is not None:
            return None
        try:
            seconds = self._connection.broker.next_due()
        except OperationalError as exc:
            self._lose(exc, now)
            return None
        return None if seconds is None else now + seconds

    def _listen(self, now: float) -> None:
        try:
            fileno = self._connection.broker.fileno()
        except OperationalError as exc:
            self._lose(exc, now)
            return
        if self._listening != fileno:
            self._stop_listening()
            self._selector.register(fileno, selectors.EVENT_READ)
            self._listening = fileno

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._selector.unregister(self._listening)
            self._listening = None


def _never() -> bool:
    return False


def _answer(question: Callable[[], Any], answer: Future[Any]) -> None:
    try:
        answer.set_result(question())
    except Exception as exc:  # noqa: BLE001 - it is raised again, where it was asked
        answer.set_exception(exc)
