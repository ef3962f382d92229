"""Turn what people write about time into aware datetimes and seconds.

Points in time are aware datetimes (a naive one means UTC), durations are float seconds. The clock, the random source
and the time zone come in as arguments.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Final, Protocol

from umbel._later import Later
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    import zoneinfo
else:
    zoneinfo = Later("zoneinfo")

__all__ = [
    "LOCAL",
    "Dice",
    "as_moment",
    "as_seconds",
    "aware",
    "backoff",
    "humanize_seconds",
    "now",
    "parse_iso",
    "parse_rate",
    "pauses",
    "timezone_of",
]

_RATE_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATIONS: Final = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


# -- Points in time ----------------------------------------------------------------------------------------------------


def now(tz: tzinfo = UTC) -> datetime:
    """Return the current moment, aware."""
    return datetime.now(tz)


def aware(moment: datetime, tz: tzinfo = UTC) -> datetime:
    """Return *moment* as it is when aware; a naive one is taken to be in *tz*."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=tz)


def parse_iso(text: str, tz: tzinfo = UTC) -> datetime:
    """Return the moment that an ISO 8601 *text* names; without an offset it is in *tz*.

    Raises:
        ValueError: the text is not ISO 8601.
    """
    return aware(datetime.fromisoformat(text), tz)


def as_moment(value: float | timedelta | datetime | str, *, now: datetime, tz: tzinfo = UTC) -> datetime:
    """Return the moment a caller means: seconds or a timedelta from *now*, a datetime, or ISO 8601 text.

    Raises:
        ValueError: text that is not ISO 8601, or a moment that no calendar has.
        TypeError: none of these.
    """
    if isinstance(value, datetime):
        return aware(value, tz)
    if isinstance(value, str):
        return parse_iso(value, tz)
    if not isinstance(value, (int, float, timedelta)):
        raise TypeError(f"expected seconds, a timedelta, a datetime or ISO 8601 text, not {value!r}")
    try:
        return now + (value if isinstance(value, timedelta) else timedelta(seconds=value))
    except OverflowError:
        raise ValueError(f"{value!r} from now is beyond the calendar") from None


# -- Durations ---------------------------------------------------------------------------------------------------------


def as_seconds(value: float | timedelta | None) -> float | None:
    """Return a duration as seconds; None stays None."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def parse_rate(rate: str | float | None) -> float:
    """Return starts per second from ``10/s``, ``10/m``, ``10/h`` or a number; 0.0 means no limit.

    Raises:
        KeyError: the unit is none of these.
        ValueError: the amount is not a number.
    """
    if not rate:
        return 0.0
    if not isinstance(rate, str):
        return float(rate)
    amount, _, unit = rate.partition("/")
    return (float(amount) / _RATE_UNITS[unit or "s"]) or 0.0


class Dice(Protocol):
    """The part of `random.Random` that jitter needs."""

    def randint(self, a: int, b: int, /) -> int:
        """Return a random integer from *a* to *b*, both included."""


def backoff(factor: float, retries: int, maximum: float, dice: Dice | None = None) -> float:
    """Return the seconds to wait before retry number *retries* (0 = the first): *factor* doubled each time.

    At most *maximum*, never negative. With *dice* (jitter) it is a random whole number from 0 to that, which keeps
    many tasks that failed together from coming back together.
    """
    try:
        delay = min(maximum, factor * 2**retries)
    except OverflowError:  # thousands of retries with a float factor
        delay = maximum
    delay = max(0, delay)
    return delay if dice is None else dice.randint(0, int(delay))


def pauses(start: float, step: float, maximum: float, count: int | None = None) -> Iterator[float]:
    """Yield *count* (None = endless) pauses between attempts in seconds: *start*, then *step* more, up to *maximum*."""
    pause = start
    while count is None or count > 0:
        yield min(pause, maximum)
        pause += step
        count = None if count is None else count - 1


def humanize_seconds(
    seconds: float, prefix: str = "", sep: str = "", now: str = "now", *, microseconds: bool = False
) -> str:
    """Return a duration for people, as in ``1.50 minutes``; nothing ahead is *now*."""
    if seconds >= 1:
        unit, size = next(each for each in _DURATIONS if seconds >= each[1])
        amount = f"{seconds / size:.2f}"
        return f"{prefix}{sep}{amount} {unit}{'' if amount == '1.00' else 's'}"
    if microseconds and seconds > 0:
        return f"{prefix}{sep}{seconds:.2f} seconds"
    return now


# -- Time zones --------------------------------------------------------------------------------------------------------


class _LocalZone(tzinfo):
    """The system's zone, whose offset follows daylight saving time."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(seconds=self._at(moment).tm_gmtoff)

    def dst(self, moment: datetime | None) -> timedelta:
        at = self._at(moment)
        return timedelta(seconds=at.tm_gmtoff + time.timezone) if at.tm_isdst > 0 else timedelta(0)

    def tzname(self, moment: datetime | None) -> str:
        return self._at(moment).tm_zone

    def fromutc(self, moment: datetime) -> datetime:
        utc = moment.replace(tzinfo=UTC)
        local = utc.astimezone(timezone(timedelta(seconds=time.localtime(utc.timestamp()).tm_gmtoff)))
        # The second of two equal wall-clock times is marked, or its offset would be that of the first.
        first = local.replace(tzinfo=self, fold=0)
        return first if first.utcoffset() == local.utcoffset() else first.replace(fold=1)

    def _at(self, moment: datetime | None) -> time.struct_time:
        return time.localtime(None if moment is None else moment.replace(tzinfo=None).timestamp())

    def __repr__(self) -> str:
        return "<local time zone>"

    def __reduce__(self) -> str:
        return "LOCAL"


LOCAL: Final = _LocalZone()


def timezone_of(name: str | tzinfo | None, *, utc: bool = True) -> tzinfo:
    """Return the zone that the settings ``timezone`` (*name*) and ``enable_utc`` (*utc*) mean.

    Raises:
        ImproperlyConfigured: no zone of this name is known.
    """
    if name is None:
        return UTC if utc else LOCAL
    if isinstance(name, tzinfo):
        return name
    if name.upper() == "UTC":
        return UTC
    if name == "local":
        return LOCAL
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ImproperlyConfigured(
            f"the 'timezone' setting is {name!r}, which is no zone this system knows. "
            f"Use an IANA name such as 'Europe/Berlin'; on systems without zone data: pip install tzdata"
        ) from None
