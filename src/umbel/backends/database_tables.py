"""Open a SQL database, and have in it Celery's tables of results beside our own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from umbel._repr import mask_url
from umbel.exceptions import BackendError, ImproperlyConfigured, MissingExtra

__all__ = ["ADDED", "Database", "DatabaseOptions", "chunks"]

_T = TypeVar("_T")

ADDED: Final = -2
"""The place of a row that says which task joined a chord; all others are parts."""

_TRIES: Final = 4  # of one transaction
_PAUSE: Final = 0.05  # seconds before the second; doubled for each
_CHUNK: Final = 400  # values in one statement; SQLite of old allows 999


class DatabaseOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings `database_…` say."""

    engine: Mapping[str, Any] = {}  # for create_engine
    short_lived: bool = False  # a new connection for each transaction
    schemas: Mapping[str, str] = {}  # of the tables `task` and `group`
    names: Mapping[str, str] = {}  # of the tables `task` and `group`
    early: bool = False  # create tables at once, not when they are needed
    on_engine: Callable[[Any], object] | None = None
    expires: float | None = None  # seconds after which what Celery stored is deleted; None = never


class Database:
    """One connection to a database, made when it is needed, and the tables there."""

    def __init__(self, url: str, options: DatabaseOptions) -> None:
        """Take SQLAlchemy's *url*.

        Raises:
            MissingExtra: SQLAlchemy is not installed.
            ImproperlyConfigured: the URL makes no sense, or its driver is not installed.
        """
        self.sa = _alchemy()
        self.url = url
        self._engine = _open(self.sa, url, options)
        self.dialect: str = "mysql" if self._engine.dialect.name == "mariadb" else self._engine.dialect.name
        self.metadata, self.task, self.group, self.chord, self.part = _tables(self.sa, options)
        self._is_ready = False
        self._pid = os.getpid()
        if options.early:
            try:
                self.run(lambda _: None)
            except BackendError:
                pass  # the database may come up later than we do; whoever needs it is told

    def run(self, work: Callable[[Any], _T]) -> _T:
        """Return what *work* makes of a connection inside one transaction, which may be tried more than once.

        Raises:
            BackendError: nothing of it was stored.
        """
        if self._pid != os.getpid():  # the connections are our parent's: not even closed here
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        errors = self.sa.exc
        for attempt in range(_TRIES):
            try:
                if not self._is_ready:
                    self._prepare()
                with self._engine.begin() as connection:
                    return work(connection)
            except errors.DataError as exc:  # a value that does not fit: it never will
                raise BackendError(self._text(exc)) from exc
            except (errors.DBAPIError, errors.TimeoutError) as exc:  # lost, dead-locked, busy, or tables dropped
                self._is_ready = False
                if attempt == _TRIES - 1:
                    raise BackendError(self._text(exc)) from exc
                time.sleep(_PAUSE * 2**attempt)
        raise AssertionError

    def close(self) -> None:
        """Close what is open."""
        self._engine.dispose(close=self._pid == os.getpid())

    def upsert(self, table: Any, key: str, *, guard: Callable[[Any], Any] | None = None) -> Any:
        """Return the statement that inserts a row, or replaces the one of the same *key* where *guard* holds.

        For MySQL a guard must not depend on columns before the last. None: this database has no such statement.
        """
        names = [column.name for column in table.columns if column.name not in {"id", key}]
        match self.dialect:
            case "postgresql" | "sqlite":
                insert = self._dialect_module().insert(table)
                return insert.on_conflict_do_update(
                    index_elements=[table.c[key]],
                    set_={name: insert.excluded[name] for name in names},
                    where=None if guard is None else guard(table),
                )
            case "mysql":
                insert = self._dialect_module().insert(table)
                new = [(name, insert.inserted[name]) for name in names]
                if guard is not None:
                    new = [(name, self.sa.case((guard(table), value), else_=table.c[name])) for name, value in new]
                return insert.on_duplicate_key_update(new)
            case _:
                return None

    def _dialect_module(self) -> Any:
        if self.dialect == "postgresql":
            from sqlalchemy.dialects import postgresql as found
        elif self.dialect == "sqlite":
            from sqlalchemy.dialects import sqlite as found
        else:
            from sqlalchemy.dialects import mysql as found
        return found

    def _prepare(self) -> None:
        """Create what is missing: tables, and columns of tables that Celery made."""
        sa = self.sa
        try:
            with self._engine.begin() as connection:  # the common case, in the fewest round trips
                for table in self.metadata.tables.values():
                    connection.execute(sa.select(table).where(sa.false()))
        except sa.exc.DBAPIError:
            pass
        else:
            self._is_ready = True
            return
        with self._engine.begin() as connection:
            self.metadata.create_all(connection)
            inspector = sa.inspect(connection)
            for table in (self.task, self.group):
                there = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
                where = self._engine.dialect.identifier_preparer.format_table(table)
                for column in table.columns:
                    if column.name not in there:
                        what = sa.schema.CreateColumn(column).compile(dialect=self._engine.dialect)
                        connection.execute(sa.text(f"ALTER TABLE {where} ADD COLUMN {what}"))
        self._is_ready = True

    def _text(self, exc: Any) -> str:
        cause = str(getattr(exc, "orig", None) or exc).strip()
        return f"the result database {mask_url(self.url)} did not do its work: {cause}"


def chunks(values: Sequence[_T]) -> list[Sequence[_T]]:
    """Return *values* in pieces that fit into one statement."""
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]


def _alchemy() -> Any:
    try:
        import sqlalchemy
    except ImportError:
        raise MissingExtra("the database result store", "sqlalchemy") from None
    return sqlalchemy


def _open(sa: Any, url: str, options: DatabaseOptions) -> Any:
    said = dict(options.engine)
    try:
        parsed = sa.engine.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in {None, "", ":memory:"}:
                raise ImproperlyConfigured(
                    "a SQLite database in memory is seen by one connection only; name a file "
                    "(db+sqlite:///results.db), or use cache+memory:// for results that need not outlive the process."
                )
            said["connect_args"] = {"timeout": 30.0, **said.get("connect_args", {})}
        if parsed.get_backend_name() in {"mysql", "mariadb"}:
            said.setdefault("isolation_level", "READ COMMITTED")  # no locks on gaps, and counts that are up to date
        if options.short_lived:
            said = {"poolclass": sa.pool.NullPool} | {
                key: value for key, value in said.items() if not key.startswith("pool")
            }
        engine = sa.create_engine(parsed, **said)
    except ModuleNotFoundError as exc:
        raise ImproperlyConfigured(
            f"the driver of {mask_url(url)} is not installed: run: pip install {exc.name}"
        ) from None
    except (sa.exc.ArgumentError, TypeError) as exc:
        raise ImproperlyConfigured(f"cannot use the result database {mask_url(url)}: {exc}") from exc
    if options.on_engine is not None:
        options.on_engine(engine)
    return engine


def _tables(sa: Any, options: DatabaseOptions) -> tuple[Any, ...]:
    """Return Celery's two tables (PRT-175 to 177), each with columns of ours, and ours for chords.

    Where we create them, texts keep every character and compare exactly, and blobs hold more than MySQL's 64 KiB.
    """
    from sqlalchemy.dialects import mysql

    theirs = ("mysql", "mariadb")
    exact = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
    metadata = sa.MetaData()

    def text(length: int) -> Any:
        return sa.String(length).with_variant(mysql.VARCHAR(length, **exact), *theirs)

    blob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *theirs)
    long = sa.Text().with_variant(mysql.LONGTEXT(**exact), *theirs)
    moment = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), *theirs)
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    names = {"task": "celery_taskmeta", "group": "celery_tasksetmeta", **options.names}

    def key(sequence: str) -> Any:
        return sa.Column("id", number, sa.Sequence(sequence), primary_key=True, autoincrement=True)

    def ours() -> list[Any]:
        return [
            sa.Column("umbel_until", sa.Double()),  # unix seconds; NULL = see `DatabaseOptions.expires`
            sa.Column("umbel_mark", sa.BigInteger()),  # another one with every store
        ]

    task = sa.Table(
        names["task"],
        metadata,
        key("task_id_sequence"),
        sa.Column("task_id", text(255), unique=True),
        sa.Column("result", blob),
        sa.Column("date_done", moment, index=True),
        sa.Column("traceback", long),
        sa.Column("children", blob),
        sa.Column("name", text(255)),
        sa.Column("args", blob),
        sa.Column("kwargs", blob),
        sa.Column("worker", text(255)),
        sa.Column("retries", sa.Integer()),
        sa.Column("queue", text(255)),
        sa.Column("stamps", blob),
        *ours(),
        sa.Column("status", text(50)),  # last: see `Database.upsert`
        schema=options.schemas.get("task"),
        sqlite_autoincrement=True,
    )
    group = sa.Table(
        names["group"],
        metadata,
        key("taskset_id_sequence"),
        sa.Column("taskset_id", text(255), unique=True),
        sa.Column("result", blob),
        sa.Column("date_done", moment, index=True),
        *ours(),
        schema=options.schemas.get("group"),
        sqlite_autoincrement=True,
    )
    chord = sa.Table(
        "umbel_chord",
        metadata,
        sa.Column("group_id", text(255), primary_key=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("until", sa.Double()),  # unix seconds; unfinished: it expires; ready: it is left to somebody
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.Column("body", blob),
        schema=options.schemas.get("group"),
    )
    part = sa.Table(
        "umbel_chord_part",
        metadata,
        sa.Column("group_id", text(255), primary_key=True),
        sa.Column("task_id", text(255), primary_key=True),
        sa.Column("place", sa.BigInteger(), primary_key=True, autoincrement=False),  # among the results; or `ADDED`
        sa.Column("payload", blob),
        schema=options.schemas.get("group"),
    )
    return metadata, task, group, chord, part
