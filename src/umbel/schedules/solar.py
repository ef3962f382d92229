"""Run when the sun rises, sets, stands highest, or is so far below the horizon."""

# ruff: noqa: N801 - Celery's name
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from umbel._time import aware
from umbel.exceptions import MissingExtra
from umbel.schedules.base import BaseSchedule, Clock, schedstate

__all__ = ["solar"]

# event: the search of ephem, the angle of the horizon, whether the sun's centre counts
_EVENTS: Final = {
    "dawn_astronomical": ("next_rising", "-18", True),
    "dawn_nautical": ("next_rising", "-12", True),
    "dawn_civil": ("next_rising", "-6", True),
    "sunrise": ("next_rising", "-0:34", False),
    "solar_noon": ("next_transit", "0", False),
    "sunset": ("next_setting", "-0:34", False),
    "dusk_civil": ("next_setting", "-6", True),
    "dusk_nautical": ("next_setting", "-12", True),
    "dusk_astronomical": ("next_setting", "-18", True),
}
_DAYS: Final = 366  # beyond the polar circles an event may be months away


class solar(BaseSchedule):
    """The instants of one *event* of the sun at a latitude and longitude, in degrees north and east."""

    def __init__(self, event: str, lat: float, lon: float, nowfun: Clock | None = None, app: Any = None) -> None:
        """Check the place.

        Raises:
            ValueError: no such event or place exists.
            MissingExtra: the package ephem is missing.
        """
        super().__init__(nowfun, app)
        if event not in _EVENTS:
            raise ValueError(f"solar event {event!r} is unknown; choose one of {', '.join(sorted(_EVENTS))}")
        if not -90 <= lat <= 90:
            raise ValueError(f"latitude {lat!r} is outside -90 to 90 degrees")
        if not -180 <= lon <= 180:
            raise ValueError(f"longitude {lon!r} is outside -180 to 180 degrees")
        self.event = event
        self.lat = lat
        self.lon = lon
        self._ephem = _ephem()

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first instant of the event behind *moment*; None = there is none within a year."""
        search, horizon, use_center = _EVENTS[self.event]
        observer = self._ephem.Observer()
        observer.lat, observer.lon, observer.elevation = str(self.lat), str(self.lon), 0
        observer.horizon, observer.pressure = horizon, 0
        start = aware(moment).astimezone(UTC)
        options = {} if search == "next_transit" else {"use_center": use_center}
        for days in range(_DAYS + 1):
            begin = (start + timedelta(days=days)).replace(tzinfo=None)
            try:
                found = getattr(observer, search)(self._ephem.Sun(), start=begin, **options)
            except self._ephem.CircumpolarError:
                continue
            instant: datetime = found.datetime().replace(tzinfo=UTC)
            if instant > start:
                return instant.astimezone(self.tz)
        return None

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        following = self.next_after(last_run_at)
        return timedelta.max if following is None else following - self.now()

    def is_due(self, last_run_at: datetime) -> schedstate:
        remaining = self.remaining_estimate(last_run_at).total_seconds()
        if remaining > 0:
            return schedstate(False, remaining)
        return schedstate(True, max(0.0, self.remaining_estimate(self.now()).total_seconds()))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, solar):
            return (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)
        return NotImplemented

    __hash__ = None

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event, self.lat, self.lon)


def _ephem() -> Any:
    try:
        import ephem
    except ImportError:
        raise MissingExtra("a solar schedule", "solar") from None
    return ephem
