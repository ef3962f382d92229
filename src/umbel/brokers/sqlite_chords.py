"""Count the parts of chords in the SQLite file, each function inside a transaction of its caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from umbel.wire.chord import HELD, ChordPart, ChordSize, ReadyChord

__all__ = ["HAS_READY", "close_chord", "count_parts", "expire_chords", "open_chords", "take_ready"]

HAS_READY: Final = "SELECT EXISTS (SELECT 1 FROM chords WHERE body IS NOT NULL AND until <= ?)"
"""Is a ready chord left to nobody at the moment given?"""

_LAST: Final = 1 << 62  # the place of parts that have none

_FIND: Final = "SELECT id, size, counted FROM chords WHERE group_id = ? AND body IS NULL AND ifnull(until > ?, 1)"


def open_chords(connection: sqlite3.Connection, sizes: Iterable[ChordSize], now: float) -> None:
    """Do as `ChordCounter.open_chords`."""
    execute = connection.execute
    for size in sizes:
        until = None if size.expires is None else now + size.expires
        if size.added is None:
            execute("DELETE FROM chords WHERE group_id = ? AND body IS NULL AND until <= ?", (size.group, now))
            sql = "INSERT OR IGNORE INTO chords (group_id, size, until) VALUES (?, ?, ?)"
            execute(sql, (size.group, size.size, until))
        elif row := execute(_FIND, (size.group, now)).fetchone():
            joins = "INSERT OR IGNORE INTO chord_parts (chord, place, id) VALUES (?, -1, ?)"
            if execute(joins, (row[0], size.added)).rowcount:
                execute("UPDATE chords SET size = size + 1, until = ? WHERE id = ?", (until, row[0]))


def count_parts(connection: sqlite3.Connection, parts: Iterable[ChordPart], now: float) -> list[ReadyChord]:
    """Do as `ChordCounter.count_parts`."""
    execute = connection.execute
    chords: dict[str, list[ChordPart]] = {}
    for part in parts:
        chords.setdefault(part.group, []).append(part)
    ready: list[ReadyChord] = []
    for group, some in chords.items():
        row = execute(_FIND, (group, now)).fetchone()
        if row is None:
            continue
        number, size, counted = row
        counted += connection.executemany(
            "INSERT OR IGNORE INTO chord_parts (chord, place, id, payload) VALUES (?, ?, ?, ?)",
            [(number, _LAST if each.index is None else each.index, each.id, each.payload) for each in some],
        ).rowcount
        last = some[-1]
        if counted < size:
            until = None if last.expires is None else now + last.expires
            execute("UPDATE chords SET counted = ?, until = ? WHERE id = ?", (counted, until, number))
        else:
            execute("UPDATE chords SET body = ?, until = ? WHERE id = ?", (last.body, now + HELD, number))
            ready.append(_ready(connection, number, group, last.body))
    return ready


def take_ready(connection: sqlite3.Connection, limit: int, now: float) -> list[ReadyChord]:
    """Do as `ChordCounter.ready_chords`."""
    execute = connection.execute
    found = "SELECT id, group_id, body FROM chords WHERE body IS NOT NULL AND until <= ? ORDER BY until LIMIT ?"
    rows = execute(found, (now, limit)).fetchall() if limit > 0 else []
    for number, _, _ in rows:
        execute("UPDATE chords SET until = ? WHERE id = ?", (now + HELD, number))
    return [_ready(connection, *row) for row in rows]


def close_chord(connection: sqlite3.Connection, group: str) -> bool:
    """Forget a ready chord; tell whether it was there."""
    return connection.execute("DELETE FROM chords WHERE group_id = ? AND body IS NOT NULL", (group,)).rowcount > 0


def expire_chords(connection: sqlite3.Connection, now: float) -> int:
    """Forget the unfinished counts that have expired; return how many."""
    return connection.execute("DELETE FROM chords WHERE body IS NULL AND until <= ?", (now,)).rowcount


def _ready(connection: sqlite3.Connection, number: int, group: str, body: bytes) -> ReadyChord:
    sql = "SELECT payload FROM chord_parts WHERE chord = ? AND place >= 0 ORDER BY place, id"
    return ReadyChord(group=group, parts=tuple(row[0] for row in connection.execute(sql, (number,))), body=body)
