"""Keep results in the SQLite file, beside the messages, and remove them when they have expired."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from umbel.brokers.sqlite_chords import expire_chords
from umbel.brokers.wakeup import RESULTS, Board
from umbel.states import SUCCESS
from umbel.wire.record import Record

__all__ = ["Sweeper", "ring_results", "store_records"]

_STORE: Final = f"""
    INSERT INTO results (id, until, state, payload) VALUES (?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET until = excluded.until, state = excluded.state, payload = excluded.payload
    WHERE results.state <> '{SUCCESS}' OR results.until <= ?
"""  # noqa: S608 - a constant of ours

_NAMED: Final = 200  # ids in a datagram
_BITE: Final = 1000  # rows looked at in one go
_MANY: Final = 500  # records stored that make the next bite urgent


def store_records(connection: sqlite3.Connection, records: Iterable[Record], now: float) -> None:
    """Keep *records*; nothing replaces a SUCCESS that has not expired."""
    connection.executemany(
        _STORE,
        [
            (each.id, None if each.expires is None else now + each.expires, each.state, each.payload, now)
            for each in records
        ],
    )


def ring_results(board: Board, ids: Sequence[str]) -> None:
    """Wake who waits for the results of these tasks. An empty datagram says: look yourself."""
    if ids:
        board.ring(RESULTS, ids, lambda: msgspec.msgpack.encode(ids) if len(ids) <= _NAMED else b"")


class Sweeper:
    """Walks over the results round and round, and deletes what has expired, a bite at a time.

    There is no index by expiry, which would cost every record more than this walk does. It looks at twice as many rows
    as were stored meanwhile, so what has expired is never more than half of what has not.
    """

    def __init__(self) -> None:
        self._stored = 0
        self._place = ""

    def count(self, records: int) -> None:
        """Take note that so many records were stored."""
        self._stored += records

    @property
    def is_urgent(self) -> bool:
        """Whether so much was stored that the next bite should not wait."""
        return self._stored >= _MANY

    @property
    def is_around(self) -> bool:
        """Whether the last bite came to the end."""
        return not self._place

    def sweep(self, connection: sqlite3.Connection, now: float) -> int:
        """Look at the next rows, and delete those that have expired; return how many."""
        rows = max(_BITE, 2 * self._stored)
        self._stored = 0
        execute = connection.execute
        begin = self._place
        last = execute("SELECT id FROM results WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?", (begin, rows)).fetchone()
        self._place = "" if last is None else last[0]
        if last is None:  # the end; start again next time
            execute("DELETE FROM groups WHERE until <= ?", (now,))
            expire_chords(connection, now)
            return execute("DELETE FROM results WHERE id > ? AND until <= ?", (begin, now)).rowcount
        return execute("DELETE FROM results WHERE id > ? AND id <= ? AND until <= ?", (begin, last[0], now)).rowcount
