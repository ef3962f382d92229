"""Send each instant of each entry once, however many beats run, and whichever of them dies.

Every beat works out the same instants from the same book, and tries to publish each under a key made of the entry
and the instant. The broker accepts a key once, in the write that publishes and that notes when the entry ran last. So
there is no leader to elect, and nothing to clean up after a beat that died.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from heapq import heappop, heappush
from typing import Any, Final

import msgspec

from umbel import signals
from umbel._names import uuid
from umbel.beat.book import Book, Entry, Run, utc
from umbel.beat.entry import evaluated
from umbel.beat.misfire import check_misfire, instants_to_send
from umbel.beat.scheduler import DEFAULT_MAX_INTERVAL, beat_options
from umbel.brokers.base import Broker
from umbel.brokers.ledger import Ledger, ledger_of
from umbel.exceptions import OperationalError
from umbel.schedules import crontab, schedule, solar

__all__ = ["SharedScheduler"]

_logger: Final = logging.getLogger("celery.beat")

_READ: Final = 5.0  # seconds between two looks into the book
_SOON: Final = 0.5  # seconds until we look again for what another beat has just written
_BEGINS: Final = 60.0  # seconds within which beats that start together must have read the book
_RETRY: Final = 1.0  # seconds until what could not be published is tried again
_KEPT: Final = (3600.0, 7 * 86400.0)  # seconds a key is remembered, at least and at most
_LEAST: Final = 0.001  # seconds between two looks at an entry
_STEP: Final = 1.0  # seconds: a clock that goes back further was set
_WRONG: Final = 60.0  # seconds that the clocks of two machines may differ before we say so
_INSTANTS: Final = (schedule.is_due, crontab.is_due, solar.is_due)


class SharedScheduler:
    """The scheduler for brokers with a ledger; in the place of `Scheduler`, whose pieces it does not need."""

    def __init__(
        self,
        app: Any,
        *,
        max_interval: float | None = None,
        clock: Callable[[], float] = time.time,
        broker: Callable[[], Broker] | None = None,
        **options: Any,
    ) -> None:
        """Take the time from *clock*, a callable that returns unix seconds, and connections from *broker*."""
        self.app = app
        self.max_interval: float = max_interval or app.conf.beat_max_loop_interval or DEFAULT_MAX_INTERVAL
        self._clock = clock
        self._open = broker or (lambda: app.open_broker(write=True))
        self._broker: Broker | None = None
        self._book = Book(app, self._lend)
        self._entries: dict[str, Entry] = {}
        self._last: dict[str, datetime] = {}  # the instant of each entry that is over
        self._skipped: dict[str, datetime] = {}  # the newest instant of an entry that we let pass unsent
        self._asked_again: dict[str, float] = {}  # when a schedule that knows no instants wants to be asked
        # By unix seconds. Of entries that are due together each beat begins with others, and finds the rest done.
        self._heap: list[tuple[float, int, str]] = []
        self._salt = os.urandom(8)
        self._read_at = float("-inf")  # unix seconds
        self._newest = float("-inf")  # unix seconds: the latest time seen
        self._down = False
        self._told: set[str] = set()  # entries that wait for the future
        check_misfire(app.conf.beat_misfire)
        self._book.from_settings()  # what makes no sense is told now, and not at each tick

    @property
    def schedule(self) -> dict[str, Entry]:
        """The entries by name."""
        return self._entries

    @property
    def info(self) -> str:
        """What the banner says of where entries are kept."""
        return "    . ledger -> in the broker, shared by all beats"

    def tick(self) -> float:
        """Send all that is due; return the seconds to sleep until the next tick."""
        now = self._clock()
        try:
            if now < self._newest - _STEP:
                _logger.warning(
                    "the clock went back by %.0f s: what was sent for later instants is not sent again, "
                    "so entries wait until the clock has passed them",
                    self._newest - now,
                )
                self._newest = now
            self._newest = max(self._newest, now)
            if not 0 <= now - self._read_at < _READ:
                self._read(now)
            while self._heap and self._heap[0][0] <= now:
                _, _, name = self._heap[0]
                entry = self._entries[name]
                self._send_due(entry, now)
                heappop(self._heap)
                heappush(self._heap, self._place(name, max(self._next(entry, now), now + _LEAST)))
        except OperationalError as exc:
            self._drop()
            if not self._down:
                self._down = True
                _logger.error("the broker cannot be reached: %s. What is due waits, and beat tries again.", exc)
            return min(_RETRY, self.max_interval)
        if self._down:
            self._down = False
            _logger.warning("the broker is back")
        ahead = self._heap[0][0] - self._clock() if self._heap else self.max_interval
        return max(0.0, min(ahead, self.max_interval, _READ))

    # -- the book

    def _read(self, now: float) -> None:
        """Learn what people decided, and what other beats sent."""
        entries: dict[str, Entry] = {}
        last: dict[str, datetime] = {}
        missing = False
        for name, entry in self._book.entries().items():
            if entry.paused:
                continue
            run = entry.run or self._begin(name, now)
            if run is None:
                missing = True
                continue
            self._check_future(name, run, now)
            entries[name] = entry
            last[name] = max(run.last, self._skipped.get(name, run.last))
        self._entries, self._last = entries, last
        self._skipped = {name: instant for name, instant in self._skipped.items() if name in entries}
        self._asked_again = {name: at for name, at in self._asked_again.items() if name in entries}
        self._heap = sorted(self._place(name, self._next(entry, now)) for name, entry in entries.items())
        self._read_at = now - _READ + _SOON if missing else now

    def _check_future(self, name: str, run: Run, now: float) -> None:
        ahead = run.last.timestamp() - now
        if ahead > _WRONG and name not in self._told:
            self._told.add(name)
            _logger.warning(
                "entry %s was sent for %s, which is %.0f s ahead of this clock; it waits until then. If it was another "
                "clock that was wrong: umbel schedule pause %s, then umbel schedule resume %s.",
                name, run.last, ahead, name, name,
            )  # fmt: skip
        elif ahead <= 0:
            self._told.discard(name)

    def _begin(self, name: str, now: float) -> Run | None:
        """Let the entry begin now; None = another beat was faster, and the book says so by now."""
        run = Run(last=_moment(now))
        with self._lend() as broker:
            note = self._book.run_note(name, run)
            accepted = _ledger(broker).publish_once(self._book.key(name, "begins"), (), expires=_BEGINS, note=note)
        return run if accepted else None

    def _next(self, entry: Entry, now: float) -> float:
        """Return the unix second at which *entry* is to be looked at."""
        try:
            if type(entry.schedule).is_due in _INSTANTS:
                following = entry.schedule.next_after(self._last[entry.name])
                return float("inf") if following is None else following.timestamp()
            asked = self._asked_again.get(entry.name)
            if asked is not None and asked > now:
                return asked
            due, seconds = entry.schedule.is_due(self._last[entry.name])
            return now if due else now + max(0.0, min(seconds, self.max_interval))
        except Exception:
            _logger.exception("entry %r cannot say when it is due; it is asked again later", entry.name)
            self._asked_again[entry.name] = now + self.max_interval
            return now + self.max_interval

    def _place(self, name: str, moment: float) -> tuple[float, int, str]:
        return moment, hash((self._salt, name)), name

    # -- sending

    def _send_due(self, entry: Entry, now: float) -> None:
        moment, last = _moment(now), self._last[entry.name]
        if type(entry.schedule).is_due not in _INSTANTS:
            self._send_asking(entry, moment)
            return
        conf = self.app.conf
        deadline = conf.beat_cron_starting_deadline if isinstance(entry.schedule, crontab) else None
        policy = entry.misfire or conf.beat_misfire
        instants, newest = instants_to_send(entry.schedule, last, moment, policy=policy, deadline=deadline)
        for instant in instants:
            self._send(entry, utc(instant), instant)
        if newest is not None:
            if newest not in instants:
                _logger.warning("entry %s: the instant %s was missed and is not made up for", entry.name, newest)
                self._skipped[entry.name] = newest
            self._last[entry.name] = max(newest, last)

    def _send_asking(self, entry: Entry, moment: datetime) -> None:
        """Send an entry whose schedule only knows whether it is due: once after each run."""
        last = self._last[entry.name]
        due, seconds = entry.schedule.is_due(last)
        if due:
            accepted = self._send(entry, f"after {utc(last)}", moment)
            run = None if accepted else self._book.get(entry.name).run
            self._last[entry.name] = run.last if run else moment
        self._asked_again[entry.name] = moment.timestamp() + max(0.0, min(seconds, self.max_interval))

    def _send(self, entry: Entry, what: str, instant: datetime) -> bool:
        """Publish the task for *instant* unless another beat has; return whether we did."""
        args, kwargs = evaluated(entry)
        options = {**beat_options(entry), "task_id": uuid()}
        publisher = self.app.amqp.publisher
        try:
            task = self.app.tasks.get(entry.task)
            publication = publisher.prepare(entry.task, args, kwargs, options, task=task)
        except Exception:
            # It is the entry that is wrong: trying again would not help, and the others must go on.
            _logger.exception("entry %s cannot be sent", entry.name)
            return False
        known = self._entries[entry.name].run
        run = Run(last=instant, count=(known.count if known else 0) + 1)
        self.app.sender.declare([publication], publisher.needs)
        with self._lend() as broker:
            accepted = _ledger(broker).publish_once(
                self._book.key(entry.name, what),
                [publication],
                expires=self._kept(entry, instant),
                note=self._book.run_note(entry.name, run),
            )
        self._entries[entry.name] = msgspec.structs.replace(self._entries[entry.name], run=run)
        if accepted:
            _logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
            if signals.after_task_publish.receivers or signals.task_sent.receivers:
                publisher.tell_published([publication])
        return accepted

    def _kept(self, entry: Entry, instant: datetime) -> float:
        """Return how long the key of *instant* is remembered: long enough for any beat that comes late with it."""
        following = getattr(entry.schedule, "next_after", lambda _: None)(instant)
        interval = 0.0 if following is None else (following - instant).total_seconds()
        return min(max(_KEPT[0], 3 * interval), _KEPT[1])

    # -- the broker

    @contextmanager
    def _lend(self) -> Iterator[Broker]:
        if self._broker is None:
            self._broker = self._open()
        yield self._broker

    def _drop(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.close()

    def should_sync(self) -> bool:
        """Return False: what happened is in the book already."""
        return False

    def sync(self) -> None:
        """Do nothing, for the same reason."""

    def close(self) -> None:
        """Close the connection."""
        self._drop()


def _ledger(broker: Broker) -> Ledger:
    ledger = ledger_of(broker)
    assert ledger is not None  # who chose this scheduler has looked
    return ledger


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
