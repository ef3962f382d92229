"""One periodic task: what is sent, when it was sent last, and when again."""

# ruff: noqa: A003, FBT001, FBT002, PLR0917 - Celery's names and signatures
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import total_ordering
from typing import Any, Self

from umbel import current
from umbel.schedules import maybe_schedule

__all__ = ["BeatLazyFunc", "ScheduleEntry", "evaluated"]


class BeatLazyFunc:
    """An argument of an entry that is worked out when the task is sent: ``func(*args, **kwargs)``."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._args = args
        self._kwargs = kwargs

    def __call__(self) -> Any:
        return self.delay()

    def delay(self) -> Any:
        """Return what the function says now."""
        return self._func(*self._args, **self._kwargs)


@total_ordering
class ScheduleEntry:
    """An entry of the schedule; beat never changes one, but takes its `next`."""

    name: str | None = None
    task: str | None = None
    schedule: Any = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    last_run_at: Any = None  # aware
    total_run_count = 0
    misfire: str | None = None  # what becomes of instants that were missed; None = as the setting says

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        relative: bool = False,
        app: Any = None,
        misfire: str | None = None,
    ) -> None:
        """Take *last_run_at* as now when it is not known: a new entry first runs an interval later."""
        self.app = app
        self.name = name
        self.task = task
        self.args = args or ()
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0
        self.misfire = misfire

    def default_now(self) -> datetime:
        """Return the current moment."""
        if self.schedule is not None:
            return self.schedule.now()  # type: ignore[no-any-return]  # a user's schedule may be anything
        return (self.app or current.get_current_app()).now()  # type: ignore[no-any-return]  # an app's

    _default_now = default_now

    def next(self, last_run_at: datetime | None = None) -> Self:
        """Return the entry after it was sent: counted, and last sent now."""
        fields = {**dict(self), "last_run_at": last_run_at or self.default_now()}
        return type(self)(**{**fields, "total_run_count": self.total_run_count + 1})

    __next__ = _next_instance = next

    def update(self, other: ScheduleEntry) -> None:
        """Take over what people write of *other*; when it was sent last stays."""
        self.task, self.schedule, self.args = other.task, other.schedule, other.args
        self.kwargs, self.options, self.misfire = other.kwargs, other.options, other.misfire

    def is_due(self) -> tuple[bool, float]:
        """Return whether it is to be sent now, and the seconds until that is to be asked again."""
        return self.schedule.is_due(self.last_run_at)  # type: ignore[no-any-return]  # a user's schedule may be anything

    def editable_fields_equal(self, other: ScheduleEntry) -> bool:
        """Return whether people wrote the same."""
        return all(
            getattr(self, name) == getattr(other, name) for name in ("task", "args", "kwargs", "options", "schedule")
        )

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __eq__(self, other: object) -> bool:
        return self.editable_fields_equal(other) if isinstance(other, ScheduleEntry) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return id(self) < id(other) if isinstance(other, ScheduleEntry) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can be updated

    def __repr__(self) -> str:
        given = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"<{type(self).__name__}: {self.name} {self.task}({', '.join(given)}) {self.schedule}>"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.name, self.task, self.last_run_at, self.total_run_count)
        return type(self), (*fields, self.schedule, self.args, self.kwargs, self.options)


def evaluated(entry: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of *entry*, the lazy ones worked out."""
    args = [value() if isinstance(value, BeatLazyFunc) else value for value in entry.args or ()]
    pairs = (entry.kwargs or {}).items()
    return args, {key: value() if isinstance(value, BeatLazyFunc) else value for key, value in pairs}
