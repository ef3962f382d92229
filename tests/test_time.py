"""What people write about time becomes aware datetimes and seconds."""

import copy
import itertools
import pickle
import random
import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel._time import (
    LOCAL,
    as_moment,
    as_seconds,
    aware,
    backoff,
    humanize_seconds,
    now,
    parse_iso,
    parse_rate,
    pauses,
    timezone_of,
)
from umbel.exceptions import ImproperlyConfigured

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def berlin(monkeypatch):
    """Let the system live in Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.row("PRT-057", "API-139")
def test_a_time_without_zone_means_utc():
    assert parse_iso("2026-06-01T12:00:00") == NOON
    assert parse_iso("2026-06-01T12:00:00Z") == NOON
    assert parse_iso("2026-06-01T14:00:00+02:00") == NOON
    assert aware(datetime(2026, 6, 1, 12)) == NOON
    assert now().tzinfo is UTC


@pytest.mark.row("API-041", "API-138", "API-140")
@pytest.mark.parametrize(
    "value", [60, 60.0, timedelta(minutes=1), "2026-06-01T12:01:00", datetime(2026, 6, 1, 12, 1, tzinfo=UTC)]
)
def test_a_moment_may_be_given_in_many_ways(value):
    assert as_moment(value, now=NOON) == NOON + timedelta(minutes=1)


def test_what_is_no_moment_is_refused():
    with pytest.raises(ValueError, match="beyond the calendar"):
        as_moment(1e15, now=NOON)
    with pytest.raises(ValueError, match="tomorrow"):
        as_moment("tomorrow", now=NOON)
    with pytest.raises(TypeError, match="ISO 8601"):
        as_moment([], now=NOON)


def test_a_duration_is_seconds():
    assert as_seconds(timedelta(minutes=1)) == 60.0
    assert as_seconds(5) == 5
    assert as_seconds(None) is None


@pytest.mark.row("API-089", "API-573")
@pytest.mark.parametrize(
    ("rate", "per_second"),
    [("10/m", 1 / 6), ("1/h", 1 / 3600), ("5/s", 5.0), ("5", 5.0), (2.5, 2.5), (3, 3.0), ("0/m", 0.0), ("", 0.0)],
)
def test_a_rate_is_starts_per_second(rate, per_second):
    assert parse_rate(rate) == pytest.approx(per_second)


@pytest.mark.row("API-089")
def test_no_rate_is_no_limit_and_a_wrong_one_is_refused():
    assert parse_rate(None) == parse_rate(0) == 0.0
    with pytest.raises(KeyError, match="d"):
        parse_rate("10/d")
    with pytest.raises(ValueError, match="ten"):
        parse_rate("ten/m")


@pytest.mark.row("API-117", "API-118", "API-574")
def test_backoff_doubles_up_to_its_maximum():
    assert [backoff(1, retries, 600) for retries in (0, 1, 2, 9, 10, 5000)] == [1, 2, 4, 512, 600, 600]
    assert backoff(0.5, 1, 600) == 1.0
    assert backoff(1.5, 5000, 600) == 600
    assert backoff(-1, 2, 600) == 0


@pytest.mark.row("API-119", "API-574")
@given(st.integers(0, 20), st.integers(1, 100), st.integers(0, 2**32))
def test_jitter_is_a_whole_number_from_zero_to_the_delay(retries, factor, seed):
    delay = backoff(factor, retries, 600, random.Random(seed))

    assert delay == int(delay)
    assert 0 <= delay <= backoff(factor, retries, 600)


@pytest.mark.row("API-119")
def test_jitter_reaches_both_ends():
    dice = random.Random(1)

    assert {backoff(3, 0, 600, dice) for _ in range(100)} == {0, 1, 2, 3}


@pytest.mark.row("CFG-021")
def test_pauses_grow_by_a_step_up_to_a_maximum():
    assert list(pauses(0, 0.4, 1, count=4)) == pytest.approx([0, 0.4, 0.8, 1])
    assert list(itertools.islice(pauses(2, 2, 5), 4)) == [2, 4, 5, 5]


@pytest.mark.row("API-575")
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "now"),
        (-3, "now"),
        (1, "in 1.00 second"),
        (59, "in 59.00 seconds"),
        (90, "in 1.50 minutes"),
        (3600, "in 1.00 hour"),
        (172805, "in 2.00 days"),
    ],
)
def test_durations_are_told_in_the_largest_unit(seconds, text):
    assert humanize_seconds(seconds, prefix="in ") == text
    assert humanize_seconds(0.5, microseconds=True) == "0.50 seconds"


@pytest.mark.row("CFG-014", "CFG-015", "CFG-279", "API-066")
def test_the_zone_of_the_settings():
    assert timezone_of(None, utc=True) is UTC
    assert timezone_of(None, utc=False) is LOCAL
    assert timezone_of("utc") is UTC
    assert timezone_of("Europe/Berlin") is BERLIN
    assert timezone_of(BERLIN) is BERLIN
    for nonsense in ("Europe/Berlim", "../etc/passwd", "Europe"):
        with pytest.raises(ImproperlyConfigured, match="IANA"):
            timezone_of(nonsense)


@pytest.mark.usefixtures("berlin")
class TestLocal:
    @pytest.mark.parametrize(
        "moment",
        [
            datetime(2026, 1, 1, 12, tzinfo=UTC),
            datetime(2026, 7, 1, 12, tzinfo=UTC),
            datetime(2026, 3, 29, 0, 59, tzinfo=UTC),
            datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
            datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
            datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
        ],
    )
    def test_it_follows_the_system_through_daylight_saving(self, moment):
        local, berlin = moment.astimezone(LOCAL), moment.astimezone(BERLIN)

        assert local.replace(tzinfo=None) == berlin.replace(tzinfo=None)
        assert (local.utcoffset(), local.dst(), local.tzname()) == (berlin.utcoffset(), berlin.dst(), berlin.tzname())
        assert local.astimezone(UTC) == moment

    def test_there_is_one_of_it(self):
        assert pickle.loads(pickle.dumps(LOCAL)) is LOCAL
        assert copy.deepcopy(LOCAL) is LOCAL
        assert "local" in repr(LOCAL)

    def test_it_meets_other_zones(self):
        assert datetime(2026, 6, 1, 14, tzinfo=LOCAL) == NOON
        assert datetime(2026, 6, 1, 14, tzinfo=LOCAL).astimezone(timezone.utc).hour == 12  # noqa: UP017 - the other spelling
