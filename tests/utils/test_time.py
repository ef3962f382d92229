"""Celery's names for times."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from umbel.utils import time as times

BERLIN = ZoneInfo("Europe/Berlin")
NAIVE = datetime(2026, 6, 1, 12)
NOON = NAIVE.replace(tzinfo=UTC)

pytestmark = pytest.mark.row("API-573", "API-574", "API-575")


def test_a_number_becomes_a_timedelta():
    assert times.maybe_timedelta(2.5) == timedelta(seconds=2.5)
    assert times.maybe_timedelta(timedelta(1)) == timedelta(1)
    assert times.maybe_timedelta(None) is None


def test_text_becomes_a_time():
    assert times.maybe_iso8601("2026-06-01T12:00:00") == NAIVE
    assert times.maybe_iso8601("2026-06-01T12:00:00Z") == NOON
    assert times.maybe_iso8601(None) is None


def test_times_get_zones():
    assert times.is_naive(NAIVE)
    assert not times.is_naive(NOON)
    assert times.maybe_make_aware(NAIVE) == NOON
    assert str(times.maybe_make_aware(NAIVE, BERLIN)) == "2026-06-01 14:00:00+02:00"
    assert str(times.maybe_make_aware(NAIVE, BERLIN, naive_as_utc=False)) == "2026-06-01 12:00:00+02:00"
    assert times.maybe_make_aware(NOON, BERLIN) is NOON
    assert str(times.make_aware(NOON, BERLIN)) == "2026-06-01 12:00:00+02:00"
    assert str(times.localize(NOON, BERLIN)) == "2026-06-01 14:00:00+02:00"
    assert str(times.localize(NAIVE, BERLIN)) == "2026-06-01 12:00:00+02:00"
    assert times.to_utc(NAIVE) == NOON


def test_zones_are_found_by_name():
    assert times.timezone.utc is UTC
    assert times.timezone.get_timezone("Europe/Berlin") is BERLIN
    assert times.timezone.tz_or_local() is times.timezone.local


def test_rates_backoff_and_durations():
    assert times.rate("60/m") == 1.0
    assert times.get_exponential_backoff_interval(2, 3, 600) == 16
    assert 0 <= times.get_exponential_backoff_interval(2, 3, 600, full_jitter=True) <= 16
    assert times.humanize_seconds(60, prefix="in ") == "in 1.00 minute"
