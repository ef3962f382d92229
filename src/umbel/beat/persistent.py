"""Remember in a file beside beat when each entry ran last, as Celery does."""

from __future__ import annotations

import errno
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename = kwargs.get("schedule_filename")
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
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

    @property
    def info(self) -> str:
        return f"    . db -> {self.schedule_filename}"
