"""Count the parts of chords in tables of a SQL database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from umbel.backends.database_tables import ADDED, Database
from umbel.wire.chord import HELD, ChordPart, ChordSize, ReadyChord

__all__ = ["close_chords", "count_parts", "expire_chords", "open_chords", "ready_chords"]

_LAST: Final = 2**62  # the place of parts without index


def open_chords(database: Database, connection: Any, sizes: Sequence[ChordSize], now: float) -> None:
    """As `ChordCounter.open_chords`."""
    chord, part = database.chord.c, database.part.c
    for size in sorted(sizes, key=lambda each: each.group):
        until = None if size.expires is None else now + size.expires
        here = chord.group_id == size.group
        row = _lock(database, connection, size.group)
        if row is not None and _is_over(row, now):
            _drop(database, connection, size.group)
            row = None
        if row is None:
            if size.added is not None:
                continue
            # Who opens it at the same time fails here, and tries again.
            values = {"group_id": size.group, "size": size.size, "until": until, "ready": False}
            connection.execute(database.chord.insert(), values)
        elif not row.ready:
            connection.execute(database.chord.update().where(here), {"until": until})
        if size.added is not None and (row is None or not row.ready):
            joined = {"group_id": size.group, "task_id": size.added, "place": ADDED}
            known = database.sa.select(part.place).where(
                part.group_id == size.group, part.task_id == size.added, part.place == ADDED
            )
            if connection.execute(known).first() is None:
                connection.execute(database.part.insert(), joined)


def count_parts(database: Database, connection: Any, parts: Sequence[ChordPart], now: float) -> tuple[ReadyChord, ...]:
    """As `ChordCounter.count_parts`."""
    ready = (
        _count(database, connection, group, [each for each in parts if each.group == group], now)
        for group in sorted({each.group for each in parts})  # everybody locks in one order
    )
    return tuple(each for each in ready if each is not None)


def ready_chords(database: Database, connection: Any, limit: int, now: float) -> tuple[ReadyChord, ...]:
    """As `ChordCounter.ready_chords`."""
    sa, chord = database.sa, database.chord.c
    free = sa.and_(chord.ready.is_(sa.true()), chord.until <= now)
    found = connection.execute(sa.select(chord.group_id, chord.body).where(free).limit(limit)).all()
    mine = []
    for group, body in sorted(found):
        claim = database.chord.update().where(free, chord.group_id == group)
        if connection.execute(claim, {"until": now + HELD}).rowcount:
            mine.append(ReadyChord(group=group, parts=_payloads(database, connection, group), body=bytes(body)))
    return tuple(mine)


def close_chords(database: Database, connection: Any, groups: Iterable[str]) -> frozenset[str]:
    """As `ChordCounter.close_chords`."""
    sa, chord = database.sa, database.chord.c
    closed = set()
    for group in sorted(groups):
        gone = database.chord.delete().where(chord.group_id == group, chord.ready.is_(sa.true()))
        if connection.execute(gone).rowcount:
            connection.execute(database.part.delete().where(database.part.c.group_id == group))
            closed.add(group)
    return frozenset(closed)


def expire_chords(database: Database, connection: Any, now: float) -> int:
    """Forget the unfinished counts that have expired; return how many."""
    sa, chord = database.sa, database.chord.c
    over = sa.and_(chord.ready.is_(sa.false()), chord.until <= now)
    groups = connection.execute(sa.select(chord.group_id).where(over)).scalars().all()
    for group in sorted(groups):
        if (row := _lock(database, connection, group)) is not None and _is_over(row, now):
            _drop(database, connection, group)
    return len(groups)


def _count(
    database: Database, connection: Any, group: str, parts: Sequence[ChordPart], now: float
) -> ReadyChord | None:
    sa, part = database.sa, database.part.c
    row = _lock(database, connection, group)
    if row is None or row.ready or _is_over(row, now):
        return None
    rows = connection.execute(sa.select(part.task_id, part.place).where(part.group_id == group)).all()
    known = {(task_id, place) for task_id, place in rows}
    joined = sum(place == ADDED for _, place in known)
    missing = row.size + joined - (len(known) - joined)
    fresh: dict[tuple[str, int], ChordPart] = {}
    for each in parts:
        key = (each.id, _LAST if each.index is None else each.index)
        if key not in known and len(fresh) < max(missing, 1):
            fresh.setdefault(key, each)
    if fresh:
        connection.execute(
            database.part.insert(),
            [
                {"group_id": group, "task_id": task_id, "place": place, "payload": each.payload}
                for (task_id, place), each in fresh.items()
            ],
        )
    last = list(fresh.values())[-1] if fresh else parts[-1]
    here = database.chord.update().where(database.chord.c.group_id == group)
    if len(fresh) < missing:
        connection.execute(here, {"until": None if last.expires is None else now + last.expires})
        return None
    connection.execute(here, {"ready": True, "until": now + HELD, "body": last.body})
    return ReadyChord(group=group, parts=_payloads(database, connection, group), body=last.body)


def _lock(database: Database, connection: Any, group: str) -> Any:
    """Keep everybody else from this chord until the transaction ends; return its row, or None."""
    chord = database.chord.c
    touch = database.chord.update().where(chord.group_id == group).values(size=chord.size)
    if not connection.execute(touch).rowcount:
        return None
    return connection.execute(
        database.sa.select(chord.size, chord.until, chord.ready).where(chord.group_id == group)
    ).one()


def _is_over(row: Any, now: float) -> bool:
    return not row.ready and row.until is not None and row.until <= now


def _drop(database: Database, connection: Any, group: str) -> None:
    for table in (database.part, database.chord):
        connection.execute(table.delete().where(table.c.group_id == group))


def _payloads(database: Database, connection: Any, group: str) -> tuple[bytes, ...]:
    part = database.part.c
    found = database.sa.select(part.payload).where(part.group_id == group, part.place != ADDED)
    rows = connection.execute(found.order_by(part.place, part.task_id)).scalars()
    return tuple(bytes(each) for each in rows)
