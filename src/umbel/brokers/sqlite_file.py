"""Open the SQLite file of a queue, run transactions in it, and say in plain words what went wrong."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from umbel._names import did_you_mean
from umbel.brokers.sqlite_schema import APPLICATION_ID, MIGRATIONS, VERSION
from umbel.brokers.wakeup import Board
from umbel.exceptions import (
    BrokerFull,
    BrokerLocked,
    BrokerUnavailable,
    BrokerUnusable,
    ImproperlyConfigured,
    OperationalError,
)

__all__ = ["Database", "Location", "parse"]

_logger: Final = logging.getLogger("celery.brokers.sqlite")

_P = ParamSpec("_P")
_T = TypeVar("_T")

_OLDEST: Final = (3, 35, 0)  # RETURNING
_PATIENCE_STEP: Final = 10  # ms that SQLite itself waits for a lock; it sleeps longer and longer, so keep it short
_LOOK: Final = 1.0  # seconds between two looks whether the file is still in its place
_SMALL: Final = 4 << 20  # bytes: a disk with less is called full
_CHECKPOINT: Final = 1000  # pages: the write-ahead log goes into the file when it is so long
_LOG_LIMIT: Final = 8 << 20  # bytes that the log keeps on disk when it is empty
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.s3fs"})


class Location(msgspec.Struct, frozen=True):
    """Where a queue's file is and how it is written."""

    path: Path  # absolute
    durability: Literal["normal", "full"] = "normal"  # full: a commit survives a power cut, at a tenth of the speed
    busy_timeout: float = 5.0  # seconds to wait for the lock of another process, where the call says nothing else


_OPTIONS: Final = ("busy_timeout", "durability")


def parse(url: str, base: Path) -> Location:
    """Return the place that a URL names: ``sqlite:///relative.db`` (to *base*) or ``sqlite:////absolute.db``.

    Options: ``?durability=full`` and ``?busy_timeout=10`` (seconds).

    Raises:
        ImproperlyConfigured: anything else.
    """
    parts = urlsplit(url)
    name = unquote(parts.path).removeprefix("/")
    if parts.scheme not in {"sqlite", "db+sqlite"}:
        raise ImproperlyConfigured(f"{url!r} is no SQLite URL; write sqlite:///name.db or sqlite:////absolute/name.db.")
    if parts.netloc:
        raise ImproperlyConfigured(
            f"{url!r} has {parts.netloc!r} where a server would stand, but SQLite has none; "
            f"write three slashes for a relative path (sqlite:///{parts.netloc}{parts.path}), four for an absolute one."
        )
    if not name or name == ":memory:" or name.endswith("/"):
        raise ImproperlyConfigured(
            f"{url!r} names no file; write sqlite:///name.db, or memory:// for a queue that is never written down."
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for option in options:
        if option not in _OPTIONS:
            raise ImproperlyConfigured(f"{url!r}: there is no option {option!r}{did_you_mean(option, _OPTIONS)}")
    durability = options.get("durability", "normal").lower()
    if durability not in {"normal", "full"}:
        raise ImproperlyConfigured(f"{url!r}: durability is 'normal' or 'full', not {durability!r}.")
    try:
        busy_timeout = float(options.get("busy_timeout", Location.__struct_defaults__[-1]))
        if not 0 <= busy_timeout < float("inf"):
            raise ValueError(busy_timeout)
    except ValueError:
        raise ImproperlyConfigured(
            f"{url!r}: busy_timeout is a number of seconds, not {options['busy_timeout']!r}."
        ) from None
    return Location(
        path=Path(os.path.abspath(base / name)),  # noqa: PTH100 - resolve() would follow a link that may change
        durability="full" if durability == "full" else "normal",
        busy_timeout=busy_timeout,
    )


class Database:
    """A connection to the file, used by one thread; opened when it is needed, and opened anew after a fork.

    Errors of SQLite leave it as `OperationalError` of ours, always with the transaction undone.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._inode = (0, 0)
        self._look_at = 0.0  # monotonic
        self._board: Board | None = None
        self._board_failed = False
        self._lock = threading.RLock()  # held while SQLite works, so that a fork can wait for it
        _forks.know(self)

    # -- transactions

    def write(self, work: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what ``work(connection, …)`` returns, run in one write transaction; all or nothing is stored."""
        return self.write_within(self.location.busy_timeout, work, *args, **kwargs)

    def write_within(
        self,
        patience: float,
        work: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Do as `write`, waiting at most *patience* seconds for other writers.

        Raises:
            BrokerLocked: they did not let us in.
        """
        with self._lock:
            try:
                connection = self._ready(patience)
                # The connection's own context manager is written in C: no signal comes between it and the rollback.
                with connection:
                    self._patiently(connection, "BEGIN IMMEDIATE", (), patience)
                    return work(connection, *args, **kwargs)
            except sqlite3.Error as exc:
                raise self._explain(exc, patience) from exc

    def read(self, work: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what ``work(connection, …)`` returns, run on one unchanging view of the file."""
        patience = self.location.busy_timeout
        with self._lock:
            try:
                connection = self._ready(patience)
                with connection:
                    connection.execute("BEGIN")
                    self._patiently(connection, "SELECT version FROM plan", (), patience)
                    return work(connection, *args, **kwargs)
            except sqlite3.Error as exc:
                raise self._explain(exc, patience) from exc

    def run(self, sql: str, parameters: Sequence[Any] = (), *, patience: float | None = None) -> sqlite3.Cursor:
        """Execute one statement that is its own transaction; a writing one must not return rows."""
        patience = self.location.busy_timeout if patience is None else patience
        with self._lock:
            try:
                return self._patiently(self._ready(patience), sql, parameters, patience)
            except sqlite3.Error as exc:
                raise self._explain(exc, patience) from exc

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of one reading statement."""
        patience = self.location.busy_timeout
        with self._lock:
            try:
                return self._patiently(self._ready(patience), sql, parameters, patience).fetchall()
            except sqlite3.Error as exc:
                raise self._explain(exc, patience) from exc

    def open(self) -> None:
        """Connect now, if that has not been done: creates the file, or says why that cannot be."""
        with self._lock:
            try:
                self._ready(self.location.busy_timeout)
            except sqlite3.Error as exc:
                raise self._explain(exc, self.location.busy_timeout) from exc

    def close(self) -> None:
        """Close the connection; any later call opens another."""
        with self._lock:
            self._let_go()
            if self._board is not None:
                self._board.close()
                self._board = None

    # -- waking

    @property
    def board(self) -> Board | None:
        """Who waits at this file; None where nobody can be woken."""
        if self._board is None and not self._board_failed:
            folder = self.location.path.with_name(self.location.path.name + "-wake")
            try:
                self._board = Board(folder)
            except OSError as exc:
                self._board_failed = True
                _logger.warning(
                    "cannot use the folder %s (%s): who waits at this queue looks for news ten times a second instead "
                    "of being woken. Let its users write there, or remove what bears that name.",
                    folder,
                    exc,
                )
        return self._board

    # -- connections

    def _ready(self, patience: float) -> sqlite3.Connection:
        connection = self._connection
        if connection is not None:
            if self._pid != os.getpid():
                # A fork without Python's hooks (uwsgi). Never touch nor free the parent's connection: closing it here
                # could drop locks the parent believes in.
                _forks.abandon(connection)
                connection = self._connection = None
            elif connection.in_transaction:
                raise RuntimeError(
                    f"{self.location.path}: a call came in the middle of another one, from a signal handler or a "
                    f"second thread. Give each thread its own connection, and let signal handlers only take notes."
                )
            elif time.monotonic() >= self._look_at:
                connection = self._look(connection)
        return connection or self._connect(patience)

    def _look(self, connection: sqlite3.Connection) -> sqlite3.Connection | None:
        """Return *connection*, or None if another file lies in its place: who would write there is never read."""
        self._look_at = time.monotonic() + _LOOK
        if self._board is not None and not self._board.is_current():
            self._board.close()
            self._board = None
        if _inode(self.location.path) == self._inode:
            return connection
        _logger.warning("%s was removed or replaced while we used it; opening what is there now.", self.location.path)
        self._let_go()
        return None

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._pid == os.getpid():
                connection.close()
            else:
                _forks.abandon(connection)

    def _connect(self, patience: float) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise ImproperlyConfigured(
                f"umbel's SQLite queue needs SQLite {'.'.join(map(str, _OLDEST[:2]))}, but this Python has "
                f"{sqlite3.sqlite_version}. Use a newer Python, or name another broker in 'broker_url'."
            )
        path = self.location.path
        connection = sqlite3.connect(
            path,
            timeout=_PATIENCE_STEP / 1000,
            isolation_level=None,
            check_same_thread=False,  # one thread at a time is our promise; another may close
            cached_statements=256,
        )
        try:
            self._prepare(connection, patience)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._pid = os.getpid()
        self._inode = _inode(path)
        self._look_at = time.monotonic() + _LOOK
        return connection

    def _prepare(self, connection: sqlite3.Connection, patience: float) -> None:
        path = self.location.path

        def execute(sql: str) -> Any:
            row = self._patiently(connection, sql, (), patience).fetchone()
            return row and row[0]

        with connection:
            connection.execute("BEGIN")  # one view for all questions: another process may be creating the tables
            version = self._check_owner(execute)
        if execute("PRAGMA journal_mode") != "wal":
            # Not persistent until it succeeds, so whoever comes first does it.
            mode = execute("PRAGMA journal_mode = WAL")
            if mode != "wal":
                raise BrokerUnusable(
                    f"{path}: SQLite cannot share this file between processes here (journal mode {mode!r})."
                    f"{_network_hint(path)} Put the queue on a local disk."
                )
        execute(f"PRAGMA synchronous = {self.location.durability}")
        execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
        execute("PRAGMA secure_delete = OFF")  # Debian's default doubles what is written for large messages
        if version < VERSION:
            with connection:
                self._patiently(connection, "BEGIN IMMEDIATE", (), patience)
                for number in range(self._check_owner(execute), VERSION):  # another may have done it meanwhile
                    for statement in MIGRATIONS[number].split(";\n"):
                        connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            if version == 0 and (hint := _network_hint(path)):
                _logger.warning("%s:%s It is safe only while all its users are on one machine.", path, hint)

    def _check_owner(self, execute: Callable[[str], Any]) -> int:
        """Return the version of the tables in the file, 0 = it is empty.

        Raises:
            BrokerUnusable: it belongs to another program, or to a newer umbel.
        """
        path = self.location.path
        tables = execute("SELECT count(*) FROM sqlite_schema")
        owner, version = execute("PRAGMA application_id"), execute("PRAGMA user_version")
        if owner == APPLICATION_ID:
            if version > VERSION:
                raise BrokerUnusable(
                    f"{path} was written by a newer umbel (format {version}, this one knows {VERSION}). "
                    f"Upgrade umbel here, or name another file."
                )
            return int(version)
        if owner or version or tables:
            raise BrokerUnusable(
                f"{path} is the SQLite database of another program, and umbel will not touch it. "
                f"Name another file in 'broker_url', such as sqlite:///queue.db."
            )
        return 0

    @staticmethod
    def _patiently(
        connection: sqlite3.Connection, sql: str, parameters: Sequence[Any], patience: float
    ) -> sqlite3.Cursor:
        try:
            return connection.execute(sql, parameters)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        until = time.monotonic() + patience
        while True:
            try:
                return connection.execute(sql, parameters)
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                    raise
                # Changing the journal mode does not wait by itself.
                time.sleep(0.0005)

    # -- errors

    def _explain(self, exc: sqlite3.Error, patience: float) -> OperationalError | sqlite3.Error:
        """Return an error that says what to do, or *exc* itself if it is a mistake of ours."""
        path = self.location.path
        code = getattr(exc, "sqlite_errorcode", 0) or 0
        name = getattr(exc, "sqlite_errorname", "") or type(exc).__name__
        match code & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return BrokerLocked(
                    f"{path} is locked: {_writer(path)} did not let us write within {patience:g} s. Nothing was "
                    f"stored. Is it stopped, or does a tool keep a transaction open?"
                )
            case sqlite3.SQLITE_FULL:
                return BrokerFull(f"no room for {path}: {_room(path)}. Nothing was stored; make room and try again.")
            case sqlite3.SQLITE_READONLY:
                return BrokerUnusable(
                    f"{path} cannot be written ({_why_not(path)}). Let {_user()} write the file and its folder."
                )
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
                return BrokerUnusable(f"cannot open {path}: {_why_not(path)}.")
            case sqlite3.SQLITE_NOTADB:
                return BrokerUnusable(f"{path} is not a SQLite database. Name another file, or move this one away.")
            case sqlite3.SQLITE_CORRUPT:
                return BrokerUnusable(
                    f"{path} is damaged ({exc}). Stop all workers, keep a copy with its -wal file, and save what can "
                    f"be read with: sqlite3 {path.name} .recover"
                )
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_PROTOCOL | sqlite3.SQLITE_NOLFS:
                if _free_bytes(path) < _SMALL:
                    return BrokerFull(f"no room for {path}: {_room(path)}. Nothing was stored.")
                return BrokerUnavailable(
                    f"{path} cannot be read or written now: {exc} ({name}).{_network_hint(path)} Nothing was stored."
                )
            case sqlite3.SQLITE_TOOBIG:
                return BrokerFull(f"a message is larger than SQLite keeps (1 GB): {exc}. Store a reference instead.")
            case sqlite3.SQLITE_NOMEM:
                return BrokerUnavailable(f"no memory to use {path}. Nothing was stored.")
            case sqlite3.SQLITE_ERROR if "no such table" in str(exc):
                return BrokerUnusable(
                    f"{path} lacks tables of umbel ({exc}): somebody dropped them. Name another file."
                )
            case _:
                return exc


class _Forks:
    """Closes the connections of this process around a fork.

    SQLite's bookkeeping of file locks is one for a process: a child that inherits it believes to hold locks which the
    kernel never gave it, and could write to a log that somebody else has deleted. Hence the one thing here that all
    connections of a process share.
    """

    def __init__(self) -> None:
        self._databases: weakref.WeakSet[Database] = weakref.WeakSet()
        self._held: list[Database] = []
        self._abandoned: list[sqlite3.Connection] = []
        self._is_hooked = False

    def know(self, database: Database) -> None:
        self._databases.add(database)
        if not self._is_hooked:
            self._is_hooked = True
            os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._after)

    def abandon(self, connection: sqlite3.Connection) -> None:
        """Keep *connection* for ever, so that it is never closed."""
        self._abandoned.append(connection)

    def _before(self) -> None:
        for database in list(self._databases):
            # A call of another thread ends within milliseconds; our own cannot be in one, unless in a signal handler.
            if database._lock.acquire(timeout=2.0):
                self._held.append(database)
                connection = database._connection
                if connection is not None and not connection.in_transaction:
                    database._let_go()

    def _after(self) -> None:
        while self._held:
            self._held.pop()._lock.release()


_forks: Final = _Forks()


def _inode(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - no Path in a frequent check
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


# -- what to tell people; none of these may raise


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return 1 << 62


def _room(path: Path) -> str:
    free = _free_bytes(path)
    return f"its file system has {free:,} bytes left" if free < _SMALL else "a quota or a limit is reached"


def _why_not(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}; create it"
    if path.is_dir():
        return "that is a folder; name a file in it"
    for place in (path, folder):
        if place.exists() and not os.access(place, os.R_OK | os.W_OK):
            return f"no permission for {_user()} to write {place}"
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists() and not os.access(beside, os.W_OK):
            return f"no permission for {_user()} to write {beside}; all users of a queue must share a group"
    return "it, or its file system, is read-only"


def _user() -> str:
    return f"user {os.environ.get('USER') or os.geteuid()}"


def _network_hint(path: Path) -> str:
    kind = _file_system(path)
    if kind not in _NETWORK:
        return ""
    return f" It lies on a network file system ({kind}), whose locks SQLite cannot rely on."


def _file_system(path: Path) -> str:
    """Return the kind of file system *path* lies on, or ""."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    above = {str(path), *map(str, path.parents)}
    found = [(len(mount), kind) for _, mount, kind, *_ in mounts if mount.replace("\\040", " ") in above]
    return max(found, default=(0, ""))[1]


def _writer(path: Path) -> str:
    """Name the process that holds the write lock, as Linux knows it.

    Read from /proc/locks: asking by fcntl needs an own descriptor, and closing that would drop SQLite's locks.
    """
    try:
        inode = path.with_name(path.name + "-shm").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # 1: POSIX ADVISORY WRITE 4242 08:01:1234 120 120
            is_ours = fields[1] == "POSIX" and fields[3] == "WRITE" and fields[5].rpartition(":")[2] == str(inode)
            if is_ours and int(fields[6]) <= 120 <= int(fields[7]):  # byte of WAL_WRITE_LOCK
                return f"process {fields[4]}{_command(fields[4])}"
    except (OSError, ValueError, IndexError):
        pass
    return "another process"


def _command(pid: str) -> str:
    try:
        words: Iterable[bytes] = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return " (" + " ".join(word.decode("utf-8", "replace") for word in words)[:80].strip() + ")"
