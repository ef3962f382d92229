"""Place the minutes of a local calendar on the line of instants, where a clock that is changed misses some, or has two.

Where a zone puts its clock forward, local times are *missing*; where it puts it back, they come *twice*.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Literal

from umbel.schedules.fields import Fields

__all__ = ["Dst", "next_instant"]

Dst = Literal["first", "skip", "both"]
"""What becomes of local times that are missing or come twice.

first   missing: at the next minute that exists; twice: the first time
skip    missing: not at all; twice: the first time
both    missing: at the next minute that exists; twice: both times
"""

_MINUTE: Final = timedelta(minutes=1)
_SECOND: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(hours=26)  # no zone has ever changed its clock by more than a day


def next_instant(fields: Fields, after: datetime, tz: tzinfo, dst: Dst) -> datetime | None:
    """Return the first instant behind *after* (aware) at which the clock of *tz* shows a minute of *fields*.

    What runs in every hour of the day follows the time that really passes: missing hours have no runs to make up for,
    and hours that come twice have their runs twice, whatever *dst* is.
    """
    real = len(fields.hours) == 24
    local = after.astimezone(tz)
    begin = local.replace(tzinfo=None, second=0, microsecond=0, fold=0) + _MINUTE
    if tz is UTC:
        found = fields.first_from(begin)
        return None if found is None else found.replace(tzinfo=UTC)
    if real or dst == "both":  # a second time of what is past may still come
        put_back = _offset(local, tz) - _offset(after + _LONGEST, tz)
        begin -= max(timedelta(0), put_back)
    best: datetime | None = None
    minute = fields.first_from(begin)
    while minute is not None:
        instants = _instants(minute, tz, "skip" if real else dst, twice=real or dst == "both")
        coming = [each for each in instants if each > after]
        if coming:
            best = min(coming[0], best or coming[0])
        # The first times follow each other as the minutes do, so nothing earlier comes any more.
        if best is not None and instants and instants[0] >= best:
            break
        if best is not None and not (real or dst == "both"):
            break
        minute = fields.first_from(minute + _MINUTE)
    return None if best is None else best.astimezone(tz)


def _instants(minute: datetime, tz: tzinfo, dst: Dst, *, twice: bool) -> list[datetime]:
    """Return when the clock of *tz* shows *minute*, in order."""
    first = minute.replace(tzinfo=tz)
    second = minute.replace(tzinfo=tz, fold=1)
    before, behind = first.utcoffset(), second.utcoffset()
    assert before is not None
    assert behind is not None
    utc = minute.replace(tzinfo=UTC)
    if before == behind:
        return [utc - before]
    if before > behind:
        return [utc - before, utc - behind] if twice else [utc - before]
    return [] if dst == "skip" else [_change(utc - behind, utc - before, tz)]


def _change(low: datetime, high: datetime, tz: tzinfo) -> datetime:
    """Return the first full minute of *tz* behind the change of its clock between these two."""
    old = _offset(low, tz)
    while high - low > _SECOND:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        low, high = (middle, high) if _offset(middle, tz) == old else (low, middle)
    local = high.astimezone(tz)
    return high + timedelta(seconds=-local.second % 60)


def _offset(moment: datetime, tz: tzinfo) -> timedelta:
    offset = moment.astimezone(tz).utcoffset()
    assert offset is not None
    return offset
