"""Keep outcomes in the SQLite file of the queue, and wake who waits for them."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from umbel.backends.base import BackendFeatures
from umbel.brokers.sqlite_chords import HAS_READY, close_chord, count_parts, open_chords, take_ready
from umbel.brokers.sqlite_file import Database, Location
from umbel.brokers.sqlite_results import Sweeper, read_news, ring_results, store_records
from umbel.brokers.wakeup import RESULTS, Bell, interest
from umbel.exceptions import BackendError, OperationalError
from umbel.wire.chord import ChordPart, ChordSize, ReadyChord
from umbel.wire.record import Record

__all__ = ["SqliteBackend"]

_TIDY: Final = 5.0  # seconds between two looks for expired records when little is stored
_TIDY_PATIENCE: Final = 0.05  # seconds to wait for other writers for what could as well be done later
_CHUNK: Final = 500  # ids in one statement
_POLL: Final = 0.02  # seconds between two looks where nobody can wake us


class SqliteBackend:
    """A connection to the results in a SQLite file: the port `Backend`."""

    features = BackendFeatures(push=True, expires=True, groups=True, chords=True)

    def __init__(self, location: Location, *, clock: Callable[[], float] = time.time) -> None:
        """Take the time from *clock*, a callable that returns unix seconds. The file is opened when it is needed."""
        self._database = Database(location)
        self._clock = clock
        self._closed = False
        self._sweeper = Sweeper()
        self._tidied = clock()
        self._spare: list[Bell] = []  # of waits that ended; a program mostly waits for one task after the other
        self._told: dict[str, bytes] = {}  # what a watch was woken with, until it is fetched
        self._pid = os.getpid()

    def store(self, records: Sequence[Record]) -> None:
        now = self._clock()
        with self._use() as database:
            if not records:
                return
            database.write(store_records, records, now)
            self._sweeper.count(len(records))
            if database.board is not None:
                ring_results(database.board, records)
            if self._sweeper.is_urgent or not 0 <= now - self._tidied < _TIDY:
                self._tidy(now)

    def fetch(self, ids: Collection[str]) -> dict[str, bytes]:
        told = self._told
        found = {task_id: told.pop(task_id) for task_id in ids if task_id in told} if told else {}
        wanted = [task_id for task_id in ids if task_id not in found]
        with self._use() as database:
            for start in range(0, len(wanted), _CHUNK):
                some = wanted[start : start + _CHUNK]
                marks = ", ".join("?" * len(some))
                sql = f"SELECT id, payload FROM results WHERE id IN ({marks}) AND ifnull(until > ?, 1)"  # noqa: S608
                found.update(database.rows(sql, (*some, self._clock())))
        return found

    def forget(self, ids: Iterable[str]) -> None:
        gone = [(task_id,) for task_id in ids]
        with self._use() as database:
            database.write(lambda connection: connection.executemany("DELETE FROM results WHERE id = ?", gone))

    def watch(self, ids: Collection[str]) -> SqliteWatch:
        with self._use() as database:
            return SqliteWatch(database, frozenset(ids), self._spare, self._told)

    def save_group(self, group_id: str, payload: bytes, *, expires: float | None = None) -> None:
        until = None if expires is None else self._clock() + expires
        with self._use() as database:
            database.run(
                "INSERT OR REPLACE INTO groups (id, until, payload) VALUES (?, ?, ?)", (group_id, until, payload)
            )

    def fetch_group(self, group_id: str) -> bytes | None:
        sql = "SELECT payload FROM groups WHERE id = ? AND ifnull(until > ?, 1)"
        with self._use() as database:
            rows = database.rows(sql, (group_id, self._clock()))
        return rows[0][0] if rows else None

    def forget_group(self, group_id: str) -> None:
        with self._use() as database:
            database.run("DELETE FROM groups WHERE id = ?", (group_id,))

    def cleanup(self) -> int:
        now = self._clock()
        gone = 0
        with self._use() as database:
            sweeper = Sweeper()
            while True:  # in bites, so that others may write meanwhile
                gone += database.write(sweeper.sweep, now)
                if sweeper.is_around:
                    return gone

    def open_chords(self, sizes: Sequence[ChordSize]) -> None:
        with self._use() as database:
            database.write(open_chords, sizes, self._clock())

    def count_parts(self, parts: Sequence[ChordPart]) -> tuple[ReadyChord, ...]:
        with self._use() as database:
            return tuple(database.write(count_parts, parts, self._clock()))

    def ready_chords(self, limit: int) -> tuple[ReadyChord, ...]:
        with self._use() as database:
            now = self._clock()
            if not database.rows(HAS_READY, (now,))[0][0]:
                return ()
            return tuple(database.write(take_ready, limit, now))

    def close_chords(self, groups: Iterable[str]) -> frozenset[str]:
        def close(connection: sqlite3.Connection) -> frozenset[str]:
            return frozenset(group for group in groups if close_chord(connection, group))

        with self._use() as database:
            return database.write(close)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for bell in self._spare:
            bell.close()
        self._spare.clear()
        self._database.close()

    @contextmanager
    def _use(self) -> Iterator[Database]:
        if self._closed:
            raise RuntimeError("this SQLite backend is closed: open another one")
        if self._pid != os.getpid():  # forked: the bells are our parent's
            self._pid = os.getpid()
            while self._spare:
                self._spare.pop().close()
        try:
            yield self._database
        except OperationalError as exc:
            raise BackendError(str(exc)) from exc

    def _tidy(self, now: float) -> None:
        self._tidied = now
        try:
            self._database.write_within(_TIDY_PATIENCE, self._sweeper.sweep, now)
        except OperationalError:
            pass  # the next time is soon enough


class SqliteWatch:
    """A caller's wait for some tasks."""

    def __init__(self, database: Database, ids: frozenset[str], spare: list[Bell], told: dict[str, bytes]) -> None:
        """Wait for *ids*, put what else wakes us into *told*, and leave the bell to *spare*."""
        self._database = database
        self._ids = ids
        self._spare = spare
        self._told = told
        self._pid = os.getpid()
        self._bell: Bell | None = spare.pop() if spare else Bell(database.board, RESULTS)
        self._bell.drain()
        self._bell.arm(interest(ids))
        self._version = self._look() if self._bell.deaf else 0

    def wait(self, timeout: float | None) -> set[str]:
        bell = self._bell
        if bell is None:
            return set()
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            changed = self._poll() if bell.deaf else self._changed(bell)
            if changed:
                return changed
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return set()
            if bell.deaf:
                left = _POLL if left is None else min(left, _POLL)
            bell.wait(left)

    def fileno(self) -> int | None:
        bell = self._bell
        if bell is None:
            raise RuntimeError("this watch is closed: watch again")
        return None if bell.deaf else bell.fileno()

    def close(self) -> None:
        bell, self._bell = self._bell, None
        self._told.clear()  # it may be forgotten meanwhile
        if bell is None:
            return
        if bell.deaf or self._pid != os.getpid() or len(self._spare) >= 1:
            bell.close()
        else:
            bell.arm(0)
            self._spare.append(bell)

    def _changed(self, bell: Bell) -> set[str]:
        datagrams, lost = bell.drain()
        news: dict[str, bytes | None] = {}
        for datagram in datagrams:
            if not datagram:
                lost = True
            else:
                news.update(read_news(datagram))
        changed = news.keys() & self._ids
        self._told.update({task_id: payload for task_id in changed if (payload := news[task_id]) is not None})
        return set(self._ids) if lost else changed

    def _poll(self) -> set[str]:
        version = self._look()
        if version == self._version:
            return set()
        self._version = version
        return set(self._ids)

    def _look(self) -> int:
        """Return a number that another one follows when anybody else has written."""
        return int(self._database.rows("PRAGMA data_version")[0][0])
