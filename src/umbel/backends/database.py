"""Keep outcomes in Celery's tables of a SQL database, so that its clients read them too."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from umbel.backends import database_chords
from umbel.backends.base import BackendFeatures
from umbel.backends.database_tables import Database, DatabaseOptions, chunks
from umbel.states import SUCCESS
from umbel.wire.chord import ChordPart, ChordSize, ReadyChord
from umbel.wire.record import Record
from umbel.wire.result import Columns

__all__ = ["DatabaseBackend", "DatabaseOptions"]

_T = TypeVar("_T")

_POLL: Final = (0.01, 0.3)  # seconds between two looks for a change: at first, at last
_GROWTH: Final = 1.3

_decode: Final = msgspec.msgpack.Decoder(Columns).decode
_PLAIN: Final = tuple(name for name in Columns.__struct_fields__ if name != "date_done")


class DatabaseBackend:
    """A connection to the results in a SQL database: the ports `Backend` and `ChordCounter`.

    The payloads of its records are `wire.result.Columns`.
    """

    features = BackendFeatures(push=False, expires=False, groups=True, chords=True)

    def __init__(self, url: str, options: DatabaseOptions, *, clock: Callable[[], float] = time.time) -> None:
        """Take SQLAlchemy's *url*, and the time from *clock*; raises as `Database`."""
        self._database: Database | None = Database(url, options)
        self._expires = options.expires
        self._clock = clock

    def store(self, records: Sequence[Record]) -> None:
        now = self._clock()
        rows = [
            {
                "task_id": record.id,
                "umbel_until": None if record.expires is None else now + record.expires,
                "umbel_mark": secrets.randbits(62),
                **_row(_decode(record.payload)),
            }
            for record in sorted(records, key=lambda record: record.id)  # two that store the same do not dead-lock
        ]
        self._run(_store, rows, now)

    def fetch(self, ids: Collection[str]) -> dict[str, bytes]:
        return self._run(_fetch, list(ids), self._clock())

    def forget(self, ids: Iterable[str]) -> None:
        def delete(database: Database, connection: Any, names: Sequence[str]) -> None:
            for some in chunks(names):
                connection.execute(database.task.delete().where(database.task.c.task_id.in_(some)))

        self._run(delete, sorted(ids))

    def watch(self, ids: Collection[str]) -> DatabaseWatch:
        names = sorted(ids)
        return DatabaseWatch(lambda: self._run(_marks, names))

    def save_group(self, group_id: str, payload: bytes, *, expires: float | None = None) -> None:
        now = self._clock()
        row = {
            "taskset_id": group_id,
            "result": payload,
            "date_done": _moment(now),
            "umbel_until": None if expires is None else now + expires,
            "umbel_mark": None,
        }
        self._run(_save_group, row)

    def fetch_group(self, group_id: str) -> bytes | None:
        def fetch(database: Database, connection: Any, now: float) -> bytes | None:
            group = database.group.c
            wanted = database.sa.select(group.result).where(
                group.taskset_id == group_id, _is_alive(database, group, now)
            )
            found = connection.execute(wanted).scalar()
            return None if found is None else bytes(found)

        return self._run(fetch, self._clock())

    def forget_group(self, group_id: str) -> None:
        def delete(database: Database, connection: Any) -> None:
            connection.execute(database.group.delete().where(database.group.c.taskset_id == group_id))

        self._run(delete)

    def cleanup(self) -> int:
        def clean(database: Database, connection: Any, now: float) -> int:
            sa, gone = database.sa, 0
            for table in (database.task, database.group):
                over = table.c.umbel_until <= now
                if self._expires is not None:
                    before = _moment(now - self._expires)
                    over = sa.or_(over, sa.and_(table.c.umbel_until.is_(None), table.c.date_done < before))
                gone += connection.execute(table.delete().where(over)).rowcount
            return gone + database_chords.expire_chords(database, connection, now)

        return self._run(clean, self._clock())

    def open_chords(self, sizes: Sequence[ChordSize]) -> None:
        self._run(database_chords.open_chords, sizes, self._clock())

    def count_parts(self, parts: Sequence[ChordPart]) -> tuple[ReadyChord, ...]:
        return self._run(database_chords.count_parts, parts, self._clock())

    def ready_chords(self, limit: int) -> tuple[ReadyChord, ...]:
        return self._run(database_chords.ready_chords, limit, self._clock())

    def close_chords(self, groups: Iterable[str]) -> frozenset[str]:
        return self._run(database_chords.close_chords, list(groups))

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _run(self, work: Callable[..., _T], *parts: Any) -> _T:
        """Return what *work* makes of the database, a connection and *parts*, in one transaction."""
        database = self._database
        if database is None:
            raise RuntimeError("this database backend is closed: open another one")
        return database.run(lambda connection: partial(work, database, connection)(*parts))


class DatabaseWatch:
    """A caller's wait for some tasks, which looks again and again."""

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        """Have *look* return something for each known task that is another with every change."""
        self._look = look
        self._seen = look()

    def wait(self, timeout: float | None) -> set[str]:
        until = None if timeout is None else time.monotonic() + timeout
        pause, slowest = _POLL
        while True:
            found = self._look()
            if changed := {name for name in found if found[name] != self._seen.get(name)}:
                self._seen = found
                return changed
            left = pause if until is None else min(pause, until - time.monotonic())
            if left <= 0:
                return set()
            time.sleep(left)
            pause = min(pause * _GROWTH, slowest)

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        pass


def _store(database: Database, connection: Any, rows: Sequence[dict[str, Any]], now: float) -> None:
    if not rows:
        return
    sa, task = database.sa, database.task
    keys = sorted({row["task_id"] for row in rows})
    if database.dialect == "mysql":  # whose guard sees no time
        for some in chunks(keys):
            connection.execute(task.delete().where(task.c.task_id.in_(some), task.c.umbel_until <= now))
        statement = database.upsert(task, "task_id", guard=lambda it: it.c.status != SUCCESS)
    else:
        statement = database.upsert(
            task, "task_id", guard=lambda it: sa.or_(it.c.status != SUCCESS, it.c.umbel_until <= now)
        )
    if statement is not None:
        connection.execute(statement, rows)
        return
    for row in rows:
        free = sa.or_(task.c.status != SUCCESS, task.c.umbel_until <= now)
        if not connection.execute(task.update().where(task.c.task_id == row["task_id"], free), row).rowcount:
            known = sa.select(task.c.task_id).where(task.c.task_id == row["task_id"])
            if connection.execute(known).first() is None:
                connection.execute(task.insert(), row)  # who does so at the same time fails, and tries again


def _fetch(database: Database, connection: Any, ids: Sequence[str], now: float) -> dict[str, bytes]:
    task, found = database.task.c, {}
    for some in chunks(ids):
        wanted = database.sa.select(*(task[name] for name in ("task_id", "date_done", *_PLAIN)))
        alive = _is_alive(database, task, now)
        for row in connection.execute(wanted.where(task.task_id.in_(some), alive)).mappings():
            fields: dict[str, Any] = {
                name: bytes(row[name]) if isinstance(row[name], memoryview) else row[name] for name in _PLAIN
            }
            done = row["date_done"]
            seconds = None if done is None else done.replace(tzinfo=UTC).timestamp()
            found[row["task_id"]] = msgspec.msgpack.encode(Columns(date_done=seconds, **fields))
    return found


def _marks(database: Database, connection: Any, ids: Sequence[str]) -> dict[str, Any]:
    """Return what changes when these tasks do; Celery leaves no mark of ours."""
    task, found = database.task.c, {}
    size = database.sa.func.length(task.result)
    for some in chunks(ids):
        wanted = database.sa.select(task.task_id, task.umbel_mark, task.status, task.date_done, size)
        for name, *marks in connection.execute(wanted.where(task.task_id.in_(some))):
            found[name] = marks
    return found


def _save_group(database: Database, connection: Any, row: dict[str, Any]) -> None:
    group = database.group
    statement = database.upsert(group, "taskset_id")
    if statement is None:
        connection.execute(group.delete().where(group.c.taskset_id == row["taskset_id"]))
        statement = group.insert()
    connection.execute(statement, row)


def _row(columns: Columns) -> dict[str, Any]:
    fields = {name: getattr(columns, name) for name in _PLAIN}
    if columns.traceback is not None:
        fields["traceback"] = columns.traceback.replace("\x00", "\\x00")  # which PostgreSQL keeps in no text
    return {**fields, "date_done": None if columns.date_done is None else _moment(columns.date_done)}


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)  # Celery's columns: UTC without saying so


def _is_alive(database: Database, columns: Any, now: float) -> Any:
    return database.sa.or_(columns.umbel_until.is_(None), columns.umbel_until > now)
