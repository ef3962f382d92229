"""Send periodic tasks when they are due."""

from umbel.beat.book import Book
from umbel.beat.entry import BeatLazyFunc, ScheduleEntry
from umbel.beat.persistent import PersistentScheduler
from umbel.beat.scheduler import DEFAULT_MAX_INTERVAL, Scheduler, SchedulingError, event_t
from umbel.beat.service import EmbeddedService, Service
from umbel.beat.shared import SharedScheduler

__all__ = [
    "DEFAULT_MAX_INTERVAL",
    "BeatLazyFunc",
    "Book",
    "EmbeddedService",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
    "SharedScheduler",
    "event_t",
]
