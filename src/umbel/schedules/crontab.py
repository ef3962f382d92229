"""Run when the clock of a place shows what five fields say."""

# ruff: noqa: N801, PLR0917 - Celery's name and signature
from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, tzinfo
from typing import Any, Self, get_args

from umbel._time import aware
from umbel.schedules.base import BaseSchedule, Clock, schedstate
from umbel.schedules.due import due_instants
from umbel.schedules.fields import Fields, expand
from umbel.schedules.local_times import Dst, next_instant

__all__ = ["Cronspec", "crontab"]

Cronspec = int | str | Iterable[int]
"""One field: a number, a text such as ``*/15`` or ``mon-fri``, or several numbers."""


class crontab(BaseSchedule):
    """The minutes that match all five fields, in the app's time zone or in *tz*.

    Day of month *and* day of week must match. *dst* says what becomes of local times that are missing or come twice
    when a clock is changed; see `umbel.schedules.local_times.Dst`.
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        nowfun: Clock | None = None,
        app: Any = None,
        *,
        tz: str | tzinfo | None = None,
        dst: Dst = "first",
    ) -> None:
        """Read the fields.

        Raises:
            ParseException: a field is incomplete.
            ValueError: a value is outside its field, no such day exists in those months, or *dst* is unknown.
            TypeError: a field is neither a number, a text, nor several numbers.
            ImproperlyConfigured: no zone is called *tz*.
        """
        super().__init__(nowfun, app)
        self._orig_minute = _kept(minute)
        self._orig_hour = _kept(hour)
        self._orig_day_of_week = _kept(day_of_week)
        self._orig_day_of_month = _kept(day_of_month)
        self._orig_month_of_year = _kept(month_of_year)
        self.minute = expand(self._orig_minute, "minute", 60)
        self.hour = expand(self._orig_hour, "hour", 24)
        self.day_of_week = expand(self._orig_day_of_week, "day_of_week", 7)
        self.day_of_month = expand(self._orig_day_of_month, "day_of_month", 31, 1)
        self.month_of_year = expand(self._orig_month_of_year, "month_of_year", 12, 1)
        if dst not in get_args(Dst):
            raise ValueError(f"dst={dst!r}: it is one of {', '.join(get_args(Dst))}")
        self.dst: Dst = dst
        if tz is not None:
            self.tz = tz
        self._given_tz = tz
        self._fields = Fields(self.minute, self.hour, self.day_of_month, self.month_of_year, self.day_of_week)
        if self._fields.never:
            raise ValueError(f"day_of_month={day_of_month!r} never occurs in month_of_year={month_of_year!r}")

    @classmethod
    def from_string(cls, crontab: str, **options: Any) -> Self:
        """Return the schedule of a line with five fields: minute, hour, day of month, month, day of week.

        Raises:
            ValueError: there are not five.
        """
        fields = crontab.split()
        if len(fields) != 5:
            raise ValueError(
                f"{crontab!r} has {len(fields)} fields; a crontab has five: minute hour day_of_month month day_of_week"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year, **options)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first instant behind *moment*; None = the calendar ends before."""
        return next_instant(self._fields, aware(moment), self.tz, self.dst)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        following = self.next_after(last_run_at)
        return timedelta.max if following is None else following - self.now()

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether it is to run now, and the seconds until its next instant.

        What is later than the setting ``beat_cron_starting_deadline`` is not due any more.
        """
        now = self.now()
        found = due_instants(self, aware(last_run_at), now, limit=1)
        deadline = self.app.conf.beat_cron_starting_deadline
        due = bool(found) and (deadline is None or (now - found[0]).total_seconds() <= deadline)
        following = self.next_after(now if found else last_run_at)
        return schedstate(due, float("inf") if following is None else (following - now).total_seconds())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, crontab):
            return self._said() == other._said()
        return NotImplemented

    __hash__ = None

    def _said(self) -> tuple[Any, ...]:
        fields = (self.month_of_year, self.day_of_month, self.day_of_week, self.hour, self.minute)
        return *fields, str(self._given_tz or ""), self.dst

    def __repr__(self) -> str:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_month,
            self._orig_month_of_year,
            self._orig_day_of_week,
        )
        zone = f" {self._given_tz}" if self._given_tz else ""
        dst = f" dst={self.dst}" if self.dst != "first" else ""
        return f"<crontab: {' '.join(map(str, fields))} (m/h/dM/MY/d){zone}{dst}>"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_week,
            self._orig_day_of_month,
            self._orig_month_of_year,
        )
        options = {
            key: value for key, value in (("tz", self._given_tz), ("dst", self.dst)) if value not in {None, "first"}
        }
        return type(self), fields, options

    def __setstate__(self, options: dict[str, Any]) -> None:
        self.__init__(*self.__reduce__()[1], **options)  # type: ignore[misc]  # how it was made, with the rest


def _kept(spec: Any) -> Any:
    """Return *spec* in a form that can be read more than once."""
    return spec if isinstance(spec, (int, str)) or not isinstance(spec, Iterable) else list(spec)
