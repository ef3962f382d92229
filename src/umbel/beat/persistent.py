"""Remember in a file beside beat when each entry ran last, as Celery does."""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import pickle
import shelve
from typing import Any, ClassVar, Final

from umbel._names import symbol_by_name
from umbel.app.version import __version__
from umbel.beat.scheduler import Scheduler
from umbel.exceptions import ImproperlyConfigured

__all__ = ["PersistentScheduler"]

_logger: Final = logging.getLogger("celery.beat")
_BUSY: Final = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


class _Unpickler(pickle.Unpickler):
    """Reads what Celery's beat wrote, too: its classes are found here."""

    def find_class(self, module: str, name: str) -> Any:
        return symbol_by_name(f"{module}:{name}") if module.startswith("celery.") else super().find_class(module, name)


class _Shelf(shelve.DbfilenameShelf[Any]):
    def __getitem__(self: Any, key: str) -> Any:
        if key not in self.cache:
            self.cache[key] = _Unpickler(io.BytesIO(self.dict[key.encode()])).load()
        return self.cache[key]


class PersistentScheduler(Scheduler):
    """Keeps entries in a shelf: a dbm file whose name may get a suffix. One beat at a time may use it."""

    known_suffixes: ClassVar[tuple[str, ...]] = ("", ".db", ".dat", ".bak", ".dir")
    _store: Any = None
    _lock: int | None = None  # descriptor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename = kwargs.get("schedule_filename")
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        self._lock = self._watch_for_others()
        self._store = self._open_healthy()
        entries = self._store.setdefault("entries", {})
        self._check_clock()
        if "__version__" not in self._store:
            entries.clear()  # written by something that we do not know
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self._store.update(
            {"__version__": __version__, "tz": str(self.app.timezone), "utc_enabled": self.app.conf.enable_utc}
        )
        self.sync()
        _logger.debug("Current schedule:\n%s", "\n".join(map(repr, entries.values())))

    def _watch_for_others(self) -> int | None:
        """Warn if another beat of this machine uses the file; hold a lock by which others see us."""
        path = f"{self.schedule_filename or 'celerybeat-schedule'}.lock"
        try:
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError:
            return None  # the folder is not ours to write; opening the file will tell
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(lock, 20).decode().strip() or "unknown"
            os.close(lock)
            _logger.warning(
                "another beat (process %s) uses the schedule file %s: every task is sent by both. Stop one of them.",
                pid, self.schedule_filename,
            )  # fmt: skip
            return None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        return lock

    def _open(self) -> Any:
        return _Shelf(self.schedule_filename or "celerybeat-schedule", writeback=True)

    def _open_healthy(self) -> Any:
        """Open the shelf and read it; one that cannot be read is made anew."""
        store = None
        try:
            store = self._open()
            entries = store.get("entries", {})
            if not isinstance(entries, dict):
                raise TypeError(f"its entries are {type(entries).__name__}, not a dict")
            return store
        except Exception as exc:
            if getattr(exc, "errno", None) in _BUSY:
                raise ImproperlyConfigured(
                    f"the schedule file {self.schedule_filename!r} is in use: another beat runs here. With a broker "
                    f"that keeps no ledger there must be only one: stop it, or give this one its own --schedule."
                ) from exc
            _logger.error("the schedule file %r cannot be read and is made anew: %r", self.schedule_filename, exc)
            if store is not None:
                store.dict.close()  # not store.close(): that would write
            self._remove_db()
            return self._open()

    def _remove_db(self) -> None:
        for suffix in self.known_suffixes:
            try:
                os.remove(f"{self.schedule_filename}{suffix}")  # noqa: PTH107 - a name that may get a suffix
            except FileNotFoundError:
                pass

    def _check_clock(self) -> None:
        """Forget when entries ran if moments meant something else then."""
        now = {"tz": str(self.app.timezone), "utc_enabled": self.app.conf.enable_utc}
        for key, value in now.items():
            stored = self._store.get(key)
            if stored is not None and stored != value:
                _logger.warning("Reset: %s changed from %r to %r; entries begin anew", key, stored, value)
                self._store["entries"].clear()

    def get_schedule(self) -> Any:
        return self._store["entries"]

    def set_schedule(self, schedule: Any) -> None:
        self._store["entries"] = schedule

    schedule = property(get_schedule, set_schedule)

    def sync(self) -> None:
        if self._store is not None:
            self._store.sync()

    def close(self) -> None:
        if self._store is not None:
            self.sync()
            self._store.close()
            self._store = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def info(self) -> str:
        return f"    . db -> {self.schedule_filename}"
