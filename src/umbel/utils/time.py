"""Offer under Celery's name what reads and shows times, for schedulers and tasks that import it from there."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from umbel._time import LOCAL, aware, backoff, humanize_seconds, parse_rate, timezone_of

__all__ = [
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "rate",
    "timezone",
    "to_utc",
]

rate = parse_rate


def get_exponential_backoff_interval(
    factor: float,
    retries: int,
    maximum: float,
    full_jitter: bool = False,  # noqa: FBT001, FBT002 - Celery's signature
) -> float:
    """Return the seconds before retry number *retries*: *factor* doubled each time; see `backoff`."""
    return backoff(factor, retries, maximum, random if full_jitter else None)


def maybe_timedelta(delta: float | timedelta | None) -> timedelta | None:
    """Return a number of seconds as a timedelta; everything else as it is."""
    return timedelta(seconds=delta) if isinstance(delta, (int, float)) else delta


def maybe_iso8601(dt: datetime | str | None) -> datetime | None:
    """Return the time that ISO 8601 text names, naive when it has no offset; everything else as it is."""
    return datetime.fromisoformat(dt) if isinstance(dt, str) else dt


def is_naive(dt: datetime) -> bool:
    """Return whether *dt* has no zone."""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """Return the same time of day in *tz*, whatever zone *dt* had."""
    return dt.replace(tzinfo=tz)


def maybe_make_aware(
    dt: datetime,
    tz: tzinfo | None = None,
    naive_as_utc: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
) -> datetime:
    """Return an aware *dt* as it is; a naive one means UTC (or *tz*, without *naive_as_utc*) and is shown in *tz*."""
    if not is_naive(dt):
        return dt
    return aware(dt, UTC if naive_as_utc else tz or UTC).astimezone(tz or UTC)


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """Return *dt* shown in *tz*; a naive one is taken to be there already."""
    return make_aware(dt, tz) if is_naive(dt) else dt.astimezone(tz)


def to_utc(dt: datetime) -> datetime:
    """Return *dt*, which means UTC when naive, with that zone."""
    return localize(dt, UTC)


class _Zones:
    """The zones that are always there, and the others by name."""

    utc: Final = UTC
    local: Final = LOCAL

    def get_timezone(self, zone: str | tzinfo) -> tzinfo:
        """Return the zone called *zone*; a zone is returned as it is."""
        return timezone_of(zone)

    def tz_or_local(self, tz: str | tzinfo | None = None) -> tzinfo:
        """Return the zone *tz*, or the system's."""
        return timezone_of(tz, utc=False)


timezone: Final = _Zones()
