"""Next runs agree with two independent libraries, over all zones and the years 2000 to 2040."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from croniter import croniter
from cronsim import CronSim

from umbel.schedules import crontab

ZONES = sorted(available_timezones() - {"localtime", "posixrules", "Factory"})
STEPS = 12


def field(dice, low, high, *, star=0.0, step=True):
    kind = dice.random()
    if kind < star:
        return "*"
    if kind < 0.5:
        return f"{dice.randint(low, high)}"
    if kind < 0.75:
        first = dice.randint(low, high - 1)
        every = f"/{dice.randint(2, 7)}" if step and dice.random() < 0.4 else ""
        return f"{first}-{dice.randint(first + 1, high)}{every}"
    return ",".join(map(str, sorted({dice.randint(low, high) for _ in range(3)})))


def line(dice, minute, hour):
    days = ("*", field(dice, 0, 6, star=0.5)) if dice.random() < 0.7 else (field(dice, 1, 28), "*")
    return f"{minute} {hour} {days[0]} {field(dice, 1, 12, star=0.7)} {days[1]}"


def before_a_change(dice, zone):
    """Return a moment shortly before the zone changes its clock, or any moment if it does not in that year."""
    day = datetime(dice.randint(2000, 2040), dice.randint(1, 12), dice.randint(1, 28), 12, tzinfo=UTC)
    offset = day.astimezone(zone).utcoffset()
    for _ in range(200):
        following = day + timedelta(days=1)
        if following.astimezone(zone).utcoffset() != offset:
            return day - timedelta(minutes=dice.randint(0, 1000))
        day = following
    return day


def assert_same(text, zone, begin, following):
    plan = crontab.from_string(text, tz=zone)
    moment = begin
    for _ in range(STEPS):
        moment, expected = plan.next_after(moment), next(following, None)
        if expected is None:  # they look ahead for a few years only
            return
        assert moment.astimezone(UTC) == expected.astimezone(UTC), f"{text!r} in {zone} after {begin}"


def test_times_of_a_day_run_as_debian_s_cron_runs_them():
    dice = random.Random(6)
    for _ in range(1000):
        zone = ZoneInfo(dice.choice(ZONES))
        begin = before_a_change(dice, zone)
        hour = field(dice, 0, 4) if dice.random() < 0.7 else field(dice, 0, 23)
        if len(crontab(hour=hour).hour) == 24:
            continue  # `0-23` is every hour for us
        text = line(dice, field(dice, 0, 59), hour)
        assert_same(text, zone, begin, CronSim(text, begin.astimezone(zone)))


def test_what_runs_every_hour_runs_as_debian_s_cron_runs_it():
    dice = random.Random(7)
    for _ in range(400):
        zone = ZoneInfo(dice.choice(ZONES))
        begin = before_a_change(dice, zone)
        text = f"{field(dice, 0, 59, star=0.2)} * * * *"
        assert_same(text, zone, begin, CronSim(text, begin.astimezone(zone)))


def test_without_clock_changes_croniter_agrees():
    dice = random.Random(8)
    for _ in range(300):
        begin = datetime(dice.randint(2000, 2040), dice.randint(1, 12), dice.randint(1, 28), tzinfo=UTC)
        text = line(dice, field(dice, 0, 59, star=0.2), field(dice, 0, 23, star=0.3))
        assert_same(text, UTC, begin, croniter(text, begin, ret_type=datetime))


def test_day_of_month_and_day_of_week_together_agree_with_croniter():
    dice = random.Random(9)
    for _ in range(100):
        begin = datetime(dice.randint(2000, 2030), dice.randint(1, 12), dice.randint(1, 28), tzinfo=UTC)
        text = f"{dice.randint(0, 59)} {dice.randint(0, 23)} {field(dice, 1, 28)} * {field(dice, 0, 6)}"
        assert_same(text, UTC, begin, croniter(text, begin, ret_type=datetime, day_or=False))


def by_looking_at_every_minute(plan, zone, begin, days):
    """Return when *plan* runs, found by walking through the minutes that really pass."""
    found = set()
    minute = begin.replace(second=0, microsecond=0)
    before = minute.astimezone(zone).replace(tzinfo=None)
    for _ in range(days * 1440):
        minute += timedelta(minutes=1)
        local = minute.astimezone(zone)
        shown = local.replace(tzinfo=None, fold=0)
        every_hour = len(plan.hour) == 24
        if matches(plan, shown) and (local.fold == 0 or plan.dst == "both" or every_hour):
            found.add(minute)
        missing = before + timedelta(minutes=1)
        while missing < shown:  # a leap of the clock
            if matches(plan, missing) and plan.dst != "skip" and not every_hour:
                found.add(minute)
            missing += timedelta(minutes=1)
        before = shown
    return sorted(found)


def matches(plan, shown):
    return shown.minute in plan.minute and shown.hour in plan.hour and shown.isoweekday() % 7 in plan.day_of_week


def test_every_policy_does_what_looking_at_every_minute_finds():
    dice = random.Random(11)
    for _ in range(80):
        zone = ZoneInfo(dice.choice(ZONES))
        begin = before_a_change(dice, zone)
        hour = field(dice, 0, 3) if dice.random() < 0.8 else field(dice, 0, 23, star=0.5)
        plan = crontab(
            field(dice, 0, 59, star=0.1),
            hour,
            field(dice, 0, 6, star=0.8),
            tz=zone,
            dst=dice.choice(["first", "skip", "both"]),
        )
        expected = by_looking_at_every_minute(plan, zone, begin, days=2)
        found, moment = [], begin
        while (moment := plan.next_after(moment)) <= begin + timedelta(days=2):
            found.append(moment.astimezone(UTC))
        assert found[: len(expected)] == expected[: len(found)], f"{plan} after {begin}"
        assert abs(len(found) - len(expected)) <= 1  # the last minute may be cut off


def test_the_next_run_is_behind_the_moment_and_nothing_lies_between():
    dice = random.Random(10)
    for _ in range(400):
        zone = ZoneInfo(dice.choice(ZONES))
        plan = crontab(
            field(dice, 0, 59, star=0.3),
            field(dice, 0, 23, star=0.3),
            tz=zone,
            dst=dice.choice(["first", "skip", "both"]),
        )
        begin = before_a_change(dice, zone)
        following = plan.next_after(begin)
        assert following > begin
        between = begin + (following - begin) * dice.random()
        if between < following:
            assert plan.next_after(between) == following
