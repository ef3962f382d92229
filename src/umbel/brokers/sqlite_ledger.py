"""Keep the ledger in the SQLite file, in transactions of the caller: keys accepted once, notes, reserved starts."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from umbel.brokers.ledger import Note

__all__ = ["accept", "forget", "read_notes", "reserve", "write_notes"]

_WRITE = "INSERT OR REPLACE INTO notes (book, name, text) VALUES (?, ?, ?)"


def accept(connection: sqlite3.Connection, key: str, until: float, note: Note | None, now: float) -> bool:
    """Take *key* until that unix second and write *note*, unless it is taken; return whether it was not."""
    taken = """
        INSERT INTO accepted (key, until) VALUES (?, ?)
        ON CONFLICT (key) DO UPDATE SET until = excluded.until WHERE until <= ?
    """
    if not connection.execute(taken, (key, until, now)).rowcount:
        return False
    if note is not None:
        connection.execute(_WRITE, (note.book, note.name, note.text))
    return True


def write_notes(connection: sqlite3.Connection, book: str, entries: Mapping[str, bytes | None]) -> None:
    """Do as `Ledger.note`."""
    gone = [(book, name) for name, text in entries.items() if text is None]
    connection.executemany("DELETE FROM notes WHERE book = ? AND name = ?", gone)
    connection.executemany(_WRITE, [(book, name, text) for name, text in entries.items() if text is not None])


def read_notes(connection: sqlite3.Connection, book: str) -> dict[str, bytes]:
    """Do as `Ledger.notes`."""
    return dict(connection.execute("SELECT name, text FROM notes WHERE book = ?", (book,)))


def reserve(connection: sqlite3.Connection, name: str, interval: float, count: int, now: float) -> float:
    """Do as `Ledger.reserve`."""
    row = connection.execute("SELECT start FROM lines WHERE name = ?", (name,)).fetchone()
    first: float = now if row is None else max(now, row[0])
    connection.execute("INSERT OR REPLACE INTO lines (name, start) VALUES (?, ?)", (name, first + interval * count))
    return first - now


def forget(connection: sqlite3.Connection, now: float) -> None:
    """Remove keys whose time is over, and lines that begin now anyway."""
    connection.execute("DELETE FROM accepted WHERE until <= ?", (now,))
    connection.execute("DELETE FROM lines WHERE start <= ?", (now,))
