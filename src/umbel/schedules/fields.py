"""Read the fields of a crontab, and find the minutes of the calendar that match them."""

# ruff: noqa: N801 - Celery's names
from __future__ import annotations

import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

__all__ = ["Fields", "ParseException", "crontab_parser", "expand"]

_DAYS: Final = {name: i for i, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_MONTHS: Final = {
    name: i
    for i, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_PART: Final = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\w*))?")
_LONGEST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_YEARS: Final = 45  # the 29th of February falls on each day of the week within so many years, also around 2100


class ParseException(Exception):
    """A field of a crontab cannot be read."""


class crontab_parser:
    """Reads one field: numbers or names, ranges that may wrap around, steps, and lists of those."""

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        """Read values from *min_* on, *max_* of them."""
        self.min_ = min_
        self.max_ = max_

    def parse(self, spec: str) -> set[int]:
        """Return the values that *spec* means.

        Raises:
            ParseException: a part is empty or negative.
            ValueError: a part is outside the field, or no value, range or step.
        """
        return {value for part in spec.split(",") for value in self._part(part.strip())}

    def _part(self, part: str) -> list[int]:
        if not part:
            raise ParseException("empty part: write *, a value, a range or a list of them without gaps")
        if part.startswith("-"):
            raise ParseException(f"negative numbers are not supported: {part!r}")
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is no value, no range a-b and no step such as */n or a-b/n")
        if found["step"] == "":
            raise ParseException(f"empty step: {part!r}")
        if found["step"] is not None and found["all"] is None and found["last"] is None:
            raise ValueError(f"{part!r}: a step needs * or a range before it, as in {part.partition('/')[0]}-…")
        values = self._range(found["first"], found["last"]) if found["all"] is None else self._all()
        if found["step"] is None:
            return values
        if not found["step"].isdigit() or int(found["step"]) == 0:
            raise ValueError(f"{part!r}: a step is a number above 0")
        return values[:: int(found["step"])]

    def _all(self) -> list[int]:
        return list(range(self.min_, self.min_ + self.max_))

    def _range(self, first: str, last: str | None) -> list[int]:
        begin = self._value(first)
        if last is None:
            return [begin]
        end = self._value(last)
        if begin <= end:
            return list(range(begin, end + 1))
        return [*range(begin, self.min_ + self.max_), *range(self.min_, end + 1)]

    def _value(self, text: str) -> int:
        if text.isdigit():
            value = int(text)
        else:
            named = {"sun": _DAYS, "jan": _MONTHS}.get(
                "sun" if self.max_ == 7 else "jan" if self.max_ == 12 else "", {}
            )
            found = named.get(text[:3].lower())
            if found is None:
                raise ValueError(f"{text!r} is neither a number nor a name of this field")
            value = found
        if not self.min_ <= value < self.min_ + self.max_:
            raise ValueError(f"{value} is outside {self.min_}-{self.min_ + self.max_ - 1}")
        return value


def expand(spec: Any, name: str, max_: int, min_: int = 0) -> set[int]:
    """Return the values that *spec*, a number, a text or several numbers, means for the field *name*.

    Raises:
        TypeError: it is none of these.
        ValueError: a value is outside the field.
        ParseException: the text is incomplete.
    """
    if isinstance(spec, int):
        values = {spec}
    elif isinstance(spec, str):
        try:
            return crontab_parser(max_, min_).parse(spec)
        except (ParseException, ValueError) as exc:
            raise type(exc)(f"{name}={spec!r}: {exc}") from None
    elif isinstance(spec, Iterable):
        values = set(spec)
    else:
        raise TypeError(f"{name} is an int, a str or several ints, not {spec!r} of type {type(spec).__name__}")
    if not values:
        raise ValueError(f"{name}={spec!r} names no value, so it would never run")
    for value in values:
        if not isinstance(value, int):
            raise TypeError(f"{name}={spec!r}: {value!r} is no int")
        if not min_ <= value < min_ + max_:
            raise ValueError(f"{name}={spec!r}: {value} is outside {min_}-{min_ + max_ - 1}")
    return values


class Fields:
    """The minutes of a calendar without time zones that match all five fields."""

    __slots__ = ("days", "hours", "minutes", "months", "weekdays")

    def __init__(
        self, minute: set[int], hour: set[int], day_of_month: set[int], month: set[int], weekday: set[int]
    ) -> None:
        self.minutes = sorted(minute)
        self.hours = sorted(hour)
        self.days = sorted(day_of_month)
        self.months = sorted(month)
        self.weekdays = weekday  # 0 is Sunday

    @property
    def never(self) -> bool:
        """Whether none of the months has any of the days."""
        return min(self.days) > max(_LONGEST[month - 1] for month in self.months)

    def first_from(self, moment: datetime) -> datetime | None:
        """Return the first match at or after *moment*, which is naive and a full minute; None = the calendar ends."""
        year, month, day = moment.year, moment.month, moment.day
        if month in self.months and day in self.days and moment.isoweekday() % 7 in self.weekdays:
            i = bisect_left(self.hours, moment.hour)
            if i < len(self.hours) and self.hours[i] == moment.hour:
                j = bisect_left(self.minutes, moment.minute)
                if j < len(self.minutes):
                    return moment.replace(minute=self.minutes[j])
                i += 1
            if i < len(self.hours):
                return moment.replace(hour=self.hours[i], minute=self.minutes[0])
        begin = day + 1
        for _ in range(_YEARS):
            for here in self.months:
                if here < month:
                    continue
                length = monthrange(year, here)[1]
                for number in self.days[bisect_left(self.days, begin if here == month else 1) :]:
                    if number > length:
                        break
                    found = datetime(year, here, number, self.hours[0], self.minutes[0])  # noqa: DTZ001 - naive
                    if found.isoweekday() % 7 in self.weekdays:
                        return found
            year, month, begin = year + 1, 1, 1
            if year > 9999:
                return None
        return None
