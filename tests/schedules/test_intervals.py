import pickle
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from umbel import Umbel
from umbel.schedules import BaseSchedule, maybe_schedule, schedstate, schedule
from umbel.schedules.due import due_instants

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)


def ago(seconds):
    return NOW - timedelta(seconds=seconds)


@pytest.mark.row("API-341", "API-343")
def test_an_interval_is_due_when_it_has_passed():
    every_10 = schedule(10, nowfun=lambda: NOW)

    assert every_10.is_due(ago(5)) == (False, 5.0)
    assert every_10.is_due(ago(10)) == schedstate(True, 10.0)
    assert every_10.is_due(ago(1000)) == (True, 10.0)
    assert every_10.remaining_estimate(ago(13)) == timedelta(seconds=-3)
    assert schedule(timedelta(minutes=1)).seconds == 60


@pytest.mark.row("API-342")
@pytest.mark.parametrize(
    ("interval", "last", "expected"),
    [
        (timedelta(days=1), datetime(2026, 1, 1, 5, 0, 25), datetime(2026, 1, 2)),
        (timedelta(hours=2), datetime(2026, 1, 1, 11, 20, 25), datetime(2026, 1, 1, 13)),
        (timedelta(seconds=90), datetime(2026, 1, 1, 12, 0, 25), datetime(2026, 1, 1, 12, 1)),
        (timedelta(seconds=10), datetime(2026, 1, 1, 12, 0, 25, 5), datetime(2026, 1, 1, 12, 0, 35)),
    ],
)
def test_a_relative_interval_runs_at_round_times(interval, last, expected):
    plan = schedule(interval, relative=True, app=Umbel("relative", set_as_current=False))

    assert plan.next_after(last) == expected.replace(tzinfo=UTC)


def test_round_times_are_those_of_the_apps_zone():
    app = Umbel("relative", timezone="Asia/Kolkata", set_as_current=False)
    plan = schedule(timedelta(days=1), relative=True, app=app)

    assert plan.next_after(NOW) == datetime(2026, 1, 2, tzinfo=ZoneInfo("Asia/Kolkata"))


@pytest.mark.row("API-362", "API-363", "API-364")
def test_numbers_become_schedules():
    plan = maybe_schedule(10)

    assert plan == schedule(10) == schedule(timedelta(seconds=10))
    assert plan == timedelta(seconds=10)
    assert plan != schedule(11)
    assert plan != schedule(10, relative=True)
    assert maybe_schedule(timedelta(days=1), relative=True).relative
    assert maybe_schedule(plan) is plan
    assert repr(plan) == "<freq: 10.00 seconds>"
    assert repr(schedule(7200)) == "<freq: 2.00 hours>"
    assert pickle.loads(pickle.dumps(schedule(10, relative=True))) == schedule(10, relative=True)
    app = Umbel("own", set_as_current=False)
    assert maybe_schedule(plan, app=app).app is app
    with pytest.raises(TypeError, match="a number of seconds or a timedelta, not None"):
        schedule()


@pytest.mark.row("API-365")
def test_a_schedule_of_ones_own_says_when_it_is_due():
    class Never(BaseSchedule):
        def is_due(self, last_run_at):
            return schedstate(False, 60.0)

    assert Never().is_due(NOW).next == 60.0
    assert Never(nowfun=lambda: datetime(2026, 1, 1)).now() == datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(NotImplementedError, match="Never has to say remaining_estimate"):
        Never().remaining_estimate(NOW)


def test_due_instants_of_an_interval_are_counted_and_not_walked():
    every_second = schedule(1)

    assert due_instants(every_second, ago(10**9), NOW, limit=2) == [ago(1), ago(0)]
    assert due_instants(every_second, ago(0.5), NOW, limit=2) == []
    assert due_instants(every_second, ago(-100), NOW, limit=2) == []
    assert due_instants(every_second, ago(2.5), NOW, limit=9) == [ago(1.5), ago(0.5)]
