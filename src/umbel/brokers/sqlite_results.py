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

__all__ = ["Sweeper", "read_news", "ring_results", "store_records"]

_STORE: Final = f"""
    INSERT INTO results (id, until, state, payload) VALUES (?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET until = excluded.until, state = excluded.state, payload = excluded.payload
    WHERE results.state <> '{SUCCESS}' OR results.until <= ?
"""  # noqa: S608 - a constant of ours

_NAMED: Final = 200  # records in a datagram
_SMALL: Final = 200  # bytes: a payload that travels along, so that all of them fit
_BITE: Final = 1000  # rows looked at in one go
_MANY: Final = 500  # records stored that make the next bite urgent

_encode: Final = msgspec.msgpack.Encoder().encode


def store_records(connection: sqlite3.Connection, records: Iterable[Record], now: float) -> None:
    """Keep *records*; nothing replaces a SUCCESS that has not expired."""
    connection.executemany(
        _STORE,
        [
            (each.id, None if each.expires is None else now + each.expires, each.state, each.payload, now)
            for each in records
        ],
    )


def ring_results(board: Board, records: Sequence[Record]) -> None:
    """Wake who waits for these, which have been stored. The datagram brings what is small and final along.

    So that a caller need not read the file for it (benchmark round trip: 0.03 ms). An empty one says: look yourself.
    """
    if not records:
        return

    def news() -> bytes:
        if len(records) > _NAMED:
            return b""
        return _encode({each.id: each.payload if _may_travel(each) else None for each in records})

    board.ring(RESULTS, [each.id for each in records], news)


def _may_travel(record: Record) -> bool:
    return record.state == SUCCESS and len(record.payload) <= _SMALL


read_news: Final = msgspec.msgpack.Decoder(dict[str, bytes | None]).decode
"""What such a datagram says: the payloads of what may have changed, None = read it."""


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
