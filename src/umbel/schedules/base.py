"""Schedules: what they have in common, and the one that runs every so often."""

# ruff: noqa: N801, FBT001, FBT002 - Celery's names and signatures
from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from umbel import current
from umbel._time import aware, humanize_seconds, timezone_of

__all__ = ["BaseSchedule", "Clock", "maybe_schedule", "schedstate", "schedule"]

Clock = Callable[[], datetime]
"""Returns the current moment; a naive one means UTC."""


class schedstate(NamedTuple):
    """Whether a schedule is due, and when to ask again."""

    is_due: bool
    next: float  # seconds


class BaseSchedule:
    """What schedules are made of; a class of yours says `remaining_estimate` and `is_due`."""

    def __init__(self, nowfun: Clock | None = None, app: Any = None) -> None:
        self.nowfun = nowfun
        self._app = app
        self._tz: tzinfo | None = None

    @property
    def app(self) -> Any:
        """The app whose time zone and clock it uses: its own, or the current one."""
        return self._app if self._app is not None else current.get_current_app()

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def tz(self) -> tzinfo:
        """The time zone it is meant in: its own, or the app's."""
        return self._tz if self._tz is not None else self.app.timezone

    @tz.setter
    def tz(self, tz: str | tzinfo | None) -> None:
        self._tz = None if tz is None else timezone_of(tz)

    @property
    def utc_enabled(self) -> bool:
        """What the setting ``enable_utc`` says."""
        return bool(self.app.conf.enable_utc)

    def now(self) -> datetime:
        """Return the current moment."""
        return aware((self.nowfun or self.app.now)())

    def to_local(self, moment: datetime) -> datetime:
        """Return *moment* in the schedule's time zone."""
        return aware(moment).astimezone(self.tz)

    def maybe_make_aware(self, moment: datetime, naive_as_utc: bool = True) -> datetime:
        """Return *moment*; a naive one is taken to be UTC, or else local."""
        return aware(moment, UTC if naive_as_utc else self.tz)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return how long it is until the run that follows the one at *last_run_at*; negative when that is late."""
        raise NotImplementedError(f"{type(self).__name__} has to say remaining_estimate(last_run_at)")

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Return whether it is to run now, and the seconds until it is to be asked again."""
        raise NotImplementedError(f"{type(self).__name__} has to say is_due(last_run_at)")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return other.nowfun == self.nowfun
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal ones may differ in what subclasses add

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_app": None}


class schedule(BaseSchedule):
    """Every so many seconds.

    With *relative* it runs at round times: an interval of days at midnight, of hours at the full hour, of minutes at
    the full minute.
    """

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Clock | None = None,
        app: Any = None,
    ) -> None:
        super().__init__(nowfun, app)
        self.run_every = _interval(run_every)
        self.relative = relative

    @property
    def seconds(self) -> float:
        """The interval."""
        return max(self.run_every.total_seconds(), 0.0)

    @property
    def human_seconds(self) -> str:
        """The interval for people."""
        return humanize_seconds(self.seconds)

    def next_after(self, moment: datetime) -> datetime:
        """Return the instant that follows a run at *moment*."""
        moment = aware(moment)
        following = moment + max(self.run_every, timedelta(microseconds=1))
        if not self.relative:
            return following
        local = following.astimezone(self.tz)
        every = self.run_every
        kept = 0 if every.days else 1 if every.seconds >= 3600 else 2 if every.seconds >= 60 else 3
        names = ("hour", "minute", "second")[kept:]
        rounded = local.replace(**dict.fromkeys(names, 0), microsecond=0)  # type: ignore[arg-type]  # ints by name
        return rounded if rounded > moment else following

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        return self.next_after(last_run_at) - self.now()

    def is_due(self, last_run_at: datetime) -> schedstate:
        remaining = self.remaining_estimate(last_run_at).total_seconds()
        return schedstate(True, self.seconds) if remaining <= 0 else schedstate(False, remaining)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every and bool(self.relative) == bool(other.relative)
        return self.run_every == other

    __hash__ = None

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative, self.nowfun)


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """Return the schedule that *s* is: seconds and timedeltas become one, others stay and learn their *app*."""
    if isinstance(s, (int, float, timedelta)):
        return schedule(s, relative, app=app)
    if app is not None and isinstance(s, BaseSchedule):
        s.app = app
    return s


def _interval(value: float | timedelta | None) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, (int, float)):
        return timedelta(seconds=value)
    raise TypeError(f"an interval is a number of seconds or a timedelta, not {value!r}")
