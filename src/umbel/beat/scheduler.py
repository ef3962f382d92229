"""Send what is due: the scheduler whose pieces a class of yours may replace."""

# ruff: noqa: FBT001, FBT002, N803, PLR0917 - Celery's signatures
from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, ClassVar, Final, NamedTuple

from umbel.beat.entry import ScheduleEntry, evaluated
from umbel.schedules import crontab

__all__ = ["DEFAULT_MAX_INTERVAL", "Scheduler", "SchedulingError", "event_t"]

DEFAULT_MAX_INTERVAL: Final = 300  # seconds
_EARLY: Final = 0.01  # seconds that a sleep is shortened, so that a tick is not late

_logger: Final = logging.getLogger("celery.beat")


class SchedulingError(Exception):
    """A task that was due could not be sent."""


class event_t(NamedTuple):  # noqa: N801 - Celery's name
    """An entry in the heap."""

    time: float  # when it is to be looked at, on the clock of `Scheduler._when`
    priority: int
    entry: Any


class Scheduler:
    """Keeps entries in memory and sends those that are due."""

    Entry: Any = ScheduleEntry
    schedule: Any  # entries by name
    max_interval: float = DEFAULT_MAX_INTERVAL  # longest sleep, in seconds
    sync_every: float = 3 * 60  # seconds between two writes of what changed
    sync_every_tasks: int | None = None  # tasks sent between two writes
    logger: ClassVar[logging.Logger] = _logger

    def __init__(
        self,
        app: Any,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.data = {} if schedule is None else schedule
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.Producer = Producer
        self._heap: list[event_t] | None = None
        self.old_schedulers: Any = None
        self._last_sync: float | None = None
        self._tasks_since_sync = 0
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        if not lazy:
            self.setup_schedule()

    # -- what a class of yours may replace

    def setup_schedule(self) -> None:
        """Fill the schedule, when beat starts."""
        self.install_default_entries(self.data)
        self.merge_inplace(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Mapping[str, Any]) -> None:
        """Add the entries that every app has, unless they are in *data*."""
        name = "celery.backend_cleanup"
        if name not in data and needs_cleanup(self.app):
            self.update_from_dict({name: cleanup_entry(self.app)})

    def get_schedule(self) -> Any:
        """Return the entries by name."""
        return self.data

    def set_schedule(self, schedule: Any) -> None:
        """Replace the entries."""
        self.data = schedule

    schedule = property(lambda self: self.get_schedule(), lambda self, schedule: self.set_schedule(schedule))

    def sync(self) -> None:
        """Write down what has changed."""

    def close(self) -> None:
        """Write it down for the last time."""
        self.sync()

    @property
    def info(self) -> str:
        """What the banner says of where entries are kept."""
        return ""

    # -- ticks

    def tick(self) -> float:
        """Send at most one entry that is due; return the seconds to sleep until the next tick."""
        schedule = self.schedule
        if not self._heap or not self.schedules_equal(self.old_schedulers, schedule):
            self.old_schedulers = copy.copy(schedule)
            self.populate_heap()
        heap = self._heap
        if not heap:
            return self.max_interval
        event = heap[0]
        is_due, seconds = self.is_due(event.entry)
        if not is_due:
            return min(self.adjust(seconds), self.max_interval)
        if heappop(heap) is not event:
            return 0.0  # somebody else has changed the heap
        following = self.reserve(event.entry)
        self.apply_entry(event.entry, producer=self.producer)
        heappush(heap, event_t(self._when(following, seconds), event.priority, following))
        return 0.0

    def populate_heap(self) -> None:
        """Order all entries by when they are to be looked at."""
        heap = []
        for entry in self.schedule.values():
            is_due, seconds = self.is_due(entry)
            heap.append(event_t(self._when(entry, 0.0 if is_due else seconds), 5, entry))
        heapify(heap)
        self._heap = heap

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Return whether no entry came, went or was edited."""
        if old_schedules is None or new_schedules is None:
            return old_schedules is new_schedules
        if old_schedules.keys() != new_schedules.keys():
            return False
        return all(old_schedules[name] == entry for name, entry in new_schedules.items())

    def is_due(self, entry: Any) -> tuple[bool, float]:
        """Return whether *entry* is to be sent now, and when to ask again; a broken one is asked again much later."""
        try:
            return entry.is_due()  # type: ignore[no-any-return]  # a user's entry may be anything
        except Exception:
            _logger.exception("entry %r cannot say whether it is due; it is asked again later", entry)
            return False, self.max_interval

    def reserve(self, entry: Any) -> Any:
        """Count that *entry* is being sent, and return what takes its place."""
        following = self.schedule[entry.name] = next(entry)
        return following

    def adjust(self, n: float, drift: float = -_EARLY) -> float:
        """Return *n* seconds made a little shorter."""
        return n + drift if n and n > 0 else n

    def _when(self, entry: Any, next_time_to_run: float, mktime: Callable[..., float] | None = None) -> float:
        return time.time() + (self.adjust(next_time_to_run) or 0.0)

    # -- sending

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send *entry*, and log if that fails."""
        _logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception:
            _logger.exception("Message Error: %s was not sent; it is sent the next time it is due", entry.name)
        else:
            if result is not None and hasattr(result, "id"):
                _logger.debug("%s sent. id->%s", entry.task, result.id)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Send the task of *entry*; with *advance* the entry counts it.

        Raises:
            SchedulingError: it could not be sent.
        """
        entry = self.reserve(entry) if advance else entry
        try:
            args, keywords = evaluated(entry)
            options = beat_options(entry)
            task = self.app.tasks.get(entry.task)
            if task is not None:
                return task.apply_async(args, keywords, **options)
            return self.send_task(entry.task, args, keywords, **options)
        except Exception as exc:
            raise SchedulingError(f"the due task {entry.name!r} ({entry.task}) was not sent: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a task that this process does not know."""
        return self.app.send_task(*args, **kwargs)

    @property
    def connection(self) -> Any:
        """The app's connection for sending."""
        return self.app

    @property
    def producer(self) -> Any:
        """What sends; the app has its own."""
        return None

    # -- keeping

    def should_sync(self) -> bool:
        """Return whether it is time to write down what has changed."""
        return bool(
            self._last_sync is None
            or time.monotonic() - self._last_sync > self.sync_every
            or (self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks)
        )

    def _do_sync(self) -> None:
        try:
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def add(self, **kwargs: Any) -> Any:
        """Add an entry made of these fields; return it."""
        entry = self.Entry(app=self.app, **kwargs)
        self.schedule[entry.name] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        return self.Entry(**{**entry, "name": name, "app": self.app})

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add entries, or replace those of the same names."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in dict_.items()})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Have the entries that *b* has, and no others; those there already keep when they ran."""
        schedule = self.schedule
        for name in schedule.keys() - b.keys():
            if name != "celery.backend_cleanup" or not needs_cleanup(self.app):
                schedule.pop(name)
        for name, fields in b.items():
            entry = self._maybe_entry(name, fields)
            if name in schedule:
                known = schedule[name]
                known.update(entry)
                schedule[name] = known  # a shelf only sees what is put into it
            else:
                schedule[name] = entry


def needs_cleanup(app: Any) -> bool:
    """Return whether old results must be deleted by a task."""
    if not app.conf.result_expires or app.backend_url() is None:
        return False
    return not app.backend.supports_autoexpire


def cleanup_entry(app: Any) -> dict[str, Any]:
    """Return the entry of that task: at four in the morning."""
    return {
        "task": "celery.backend_cleanup",
        "schedule": crontab("0", "4", "*", app=app),
        "options": {"expires": 12 * 3600},
    }


def beat_options(entry: Any) -> dict[str, Any]:
    """Return the options of *entry* with the header by which its tasks are known as beat's."""
    options = dict(entry.options or {})
    options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
    return options
