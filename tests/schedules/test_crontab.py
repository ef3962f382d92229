import pickle
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from umbel import Umbel
from umbel.schedules import ParseException, crontab, crontab_parser, schedstate
from umbel.schedules.due import due_instants

BERLIN = ZoneInfo("Europe/Berlin")


def at(text, tz=UTC):
    return datetime.fromisoformat(text).replace(tzinfo=tz)


def runs(plan, begin, count):
    found = []
    for _ in range(count):
        begin = plan.next_after(begin)
        found.append(begin)
    return found


def local(plan, begin, count):
    return [f"{each:%d %H:%M} {each.tzname()}" for each in runs(plan, begin, count)]


@pytest.mark.row("API-346", "API-347", "API-348", "API-349", "API-350", "API-351")
@pytest.mark.parametrize(
    ("field", "spec", "values"),
    [
        ("minute", 5, {5}),
        ("minute", "*/15", {0, 15, 30, 45}),
        ("minute", "0-30/10", {0, 10, 20, 30}),
        ("minute", "1, 2,50-52", {1, 2, 50, 51, 52}),
        ("minute", "*/100", {0}),
        ("minute", [1, 2], {1, 2}),
        ("minute", {59}, {59}),
        ("minute", (each for each in (3, 4)), {3, 4}),
        ("hour", "22-2", {22, 23, 0, 1, 2}),
        ("hour", "22-2/3", {22, 1}),
        ("day_of_week", "fri-mon", {5, 6, 0, 1}),
        ("day_of_week", "Sunday,WED", {0, 3}),
        ("day_of_week", "*/2", {0, 2, 4, 6}),
        ("day_of_month", "*/10", {1, 11, 21, 31}),
        ("day_of_month", "28-3", {28, 29, 30, 31, 1, 2, 3}),
        ("month_of_year", "january-mar", {1, 2, 3}),
        ("month_of_year", "*/5", {1, 6, 11}),
    ],
)
def test_a_field_means_what_it_means_in_celery(field, spec, values):
    assert getattr(crontab(**{field: spec}), field) == values


@pytest.mark.row("API-346", "API-347", "API-352", "API-353", "API-354")
@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"minute": None}, TypeError, r"minute is an int, a str or several ints, not None"),
        ({"minute": 1.5}, TypeError, r"not 1\.5 of type float"),
        ({"minute": ["1"]}, TypeError, r"'1' is no int"),
        ({"minute": ""}, ParseException, r"minute='': empty part"),
        ({"minute": "1,,2"}, ParseException, r"empty part"),
        ({"minute": "*/"}, ParseException, r"empty step"),
        ({"minute": "-1"}, ParseException, r"negative"),
        ({"minute": -1}, ValueError, r"-1 is outside 0-59"),
        ({"minute": "60"}, ValueError, r"60 is outside 0-59"),
        ({"minute": 61}, ValueError, r"61 is outside 0-59"),
        ({"minute": []}, ValueError, r"names no value"),
        ({"minute": "*/0"}, ValueError, r"a number above 0"),
        ({"minute": "*/x"}, ValueError, r"a number above 0"),
        ({"minute": "mon"}, ValueError, r"neither a number nor a name"),
        ({"minute": "1-2-3"}, ValueError, r"no value, no range"),
        ({"hour": "5/2"}, ValueError, r"a step needs \* or a range"),
        ({"day_of_week": 7}, ValueError, r"7 is outside 0-6"),
        ({"day_of_week": "jan"}, ValueError, r"'jan' is neither"),
        ({"day_of_month": "0"}, ValueError, r"0 is outside 1-31"),
        ({"day_of_month": 30, "month_of_year": 2}, ValueError, r"day_of_month=30 never occurs in month_of_year=2"),
        ({"day_of_month": "31", "month_of_year": "4,6"}, ValueError, r"never occurs"),
        ({"dst": "twice"}, ValueError, r"one of first, skip, both"),
    ],
)
def test_a_wrong_field_is_refused_with_its_name_and_value(fields, error, said):
    with pytest.raises(error, match=said):
        crontab(**fields)


def test_the_parser_stands_alone():
    assert crontab_parser(60).parse("*/30") == {0, 30}
    assert crontab_parser(31, 1).parse("30-2") == {30, 31, 1, 2}
    with pytest.raises(crontab_parser.ParseException):
        crontab_parser(60).parse("")


@pytest.mark.row("API-345")
def test_a_line_of_five_fields_has_the_order_of_cron():
    assert crontab.from_string("5 4 3 2 mon") == crontab(
        minute=5, hour=4, day_of_month=3, month_of_year=2, day_of_week="mon"
    )
    assert crontab.from_string("0 8 * * *", tz="Asia/Tokyo").tz == ZoneInfo("Asia/Tokyo")
    for line in ("0 8 * *", "* * * * * *", "", "@daily"):
        with pytest.raises(ValueError, match="a crontab has five"):
            crontab.from_string(line)


@pytest.mark.row("API-355")
def test_day_of_month_and_day_of_week_must_both_match():
    friday_13 = crontab(minute=0, hour=0, day_of_month=13, day_of_week="fri", tz="UTC")

    assert runs(friday_13, at("2026-01-01"), 2) == [at("2026-02-13"), at("2026-03-13")]


def test_rare_days_are_found():
    leap_monday = crontab(0, 0, day_of_month=29, month_of_year=2, day_of_week="mon", tz="UTC")

    assert runs(leap_monday, at("2026-01-01"), 2) == [at("2044-02-29"), at("2072-02-29")]
    assert crontab(0, 0, tz="UTC").next_after(at("9999-12-31T12:00")) is None


@pytest.mark.row("API-344")
def test_it_is_evaluated_in_the_apps_time_zone_with_full_minutes():
    app = Umbel("zones", timezone="Asia/Tokyo", set_as_current=False)
    plan = crontab(minute=30, hour=9, app=app)

    assert plan.next_after(at("2026-05-01T00:29:59")) == at("2026-05-01T00:30")
    assert plan.next_after(at("2026-05-01T00:30:00")) == at("2026-05-02T00:30")


SUMMER = at("2026-03-28T12:00")  # Berlin goes from 02:00 to 03:00 on the 29th
WINTER = at("2026-10-24T12:00")  # and from 03:00 back to 02:00 on the 25th of October


@pytest.mark.row("API-356")
@pytest.mark.parametrize(
    ("dst", "missing", "twice"),
    [
        ("first", ["29 03:00 CEST", "30 02:30 CEST"], ["25 02:30 CEST", "26 02:30 CET"]),
        ("skip", ["30 02:30 CEST", "31 02:30 CEST"], ["25 02:30 CEST", "26 02:30 CET"]),
        ("both", ["29 03:00 CEST", "30 02:30 CEST"], ["25 02:30 CEST", "25 02:30 CET"]),
    ],
)
def test_missing_and_double_times_run_as_the_policy_says(dst, missing, twice):
    plan = crontab(minute=30, hour=2, tz=BERLIN, dst=dst)

    assert local(plan, SUMMER, 2) == missing
    assert local(plan, WINTER, 2) == twice


@pytest.mark.row("API-356")
@pytest.mark.parametrize("dst", ["first", "skip", "both"])
def test_what_runs_every_hour_follows_the_time_that_passes(dst):
    plan = crontab(minute=30, tz=BERLIN, dst=dst)

    assert [each.astimezone(UTC).hour for each in runs(plan, SUMMER, 24)] == [*range(12, 24), *range(12)]
    assert [each.astimezone(UTC).hour for each in runs(plan, WINTER, 24)] == [*range(12, 24), *range(12)]


@pytest.mark.parametrize(
    ("zone", "begin", "expected"),
    [
        ("America/New_York", "2026-03-08T00:00", ["08 03:00 EDT", "09 02:15 EDT"]),
        ("America/New_York", "2026-11-01T00:00", ["01 02:15 EST", "02 02:15 EST"]),
        ("Australia/Lord_Howe", "2026-10-03T12:00", ["04 02:30 +11", "05 02:15 +11"]),  # by half an hour
        ("Australia/Lord_Howe", "2026-04-04T12:00", ["05 02:15 +1030", "06 02:15 +1030"]),
        ("Africa/Casablanca", "2026-02-15T00:00", ["15 02:15 +01", "16 02:15 +00"]),  # back for Ramadan
        ("Pacific/Apia", "2011-12-29T00:00", ["29 02:15 -10", "31 00:00 +14"]),  # no 30th of December
    ],
)
def test_zones_change_their_clocks_in_many_ways(zone, begin, expected):
    plan = crontab(minute=15, hour=2, tz=zone)

    assert local(plan, at(begin, ZoneInfo(zone)), 2) == expected


def test_several_missing_times_run_once_together():
    assert local(crontab("0,20,40", "2,3", tz=BERLIN), SUMMER, 3) == ["29 03:00 CEST", "29 03:20 CEST", "29 03:40 CEST"]


@pytest.mark.row("API-341", "API-357")
def test_it_is_due_when_an_instant_has_passed_since_the_last_run():
    now = at("2026-01-01T12:00:30")
    app = Umbel("due", set_as_current=False)
    plan = crontab(minute="*/15", nowfun=lambda: now, app=app)

    assert plan.is_due(at("2026-01-01T11:50")) == schedstate(True, 870.0)
    assert plan.is_due(at("2026-01-01T12:00")) == (False, 870.0)
    assert plan.is_due(datetime(2026, 1, 1, 12)) == (False, 870.0)  # naive is UTC
    assert plan.remaining_estimate(at("2026-01-01T12:00")) == timedelta(seconds=870)
    assert plan.remaining_estimate(at("2026-01-01T11:40")) == timedelta(seconds=-930)

    app.conf.beat_cron_starting_deadline = 20
    assert plan.is_due(at("2026-01-01T11:50")) == (False, 870.0)
    app.conf.beat_cron_starting_deadline = 40
    assert plan.is_due(at("2026-01-01T11:50")) == (True, 870.0)


@pytest.mark.row("API-363")
def test_equal_means_the_same_minutes_of_the_same_zone():
    assert crontab("*/15") == crontab("0,15,30,45") == crontab([0, 15, 30, 45])
    assert crontab() != crontab(0)
    assert crontab() != "* * * * *"
    assert crontab(tz="UTC") != crontab(tz="Asia/Tokyo")
    assert crontab(dst="both") != crontab()


@pytest.mark.row("API-364")
def test_its_repr_has_the_order_of_cron():
    assert repr(crontab("*/15", "8-10", "mon-fri")) == "<crontab: */15 8-10 * * mon-fri (m/h/dM/MY/d)>"
    assert repr(crontab(0, tz="Asia/Tokyo", dst="skip")) == "<crontab: 0 * * * * (m/h/dM/MY/d) Asia/Tokyo dst=skip>"


@pytest.mark.parametrize(
    "plan", [crontab(), crontab(5, [1, 2], "mon"), crontab(0, tz="Asia/Tokyo", dst="both"), crontab(0, tz=BERLIN)]
)
def test_it_survives_pickling(plan):
    again = pickle.loads(pickle.dumps(plan))

    assert again == plan
    assert repr(again) == repr(plan)
    assert (again.dst, again._given_tz) == (plan.dst, plan._given_tz)


def test_the_newest_due_instants_are_found_however_long_nobody_looked():
    daily = crontab(0, 0, tz="UTC")
    begin, end = at("2020-01-01"), at("2026-01-05T12:00")

    assert due_instants(daily, begin, end, limit=2) == [at("2026-01-04"), at("2026-01-05")]
    assert due_instants(daily, at("2026-01-05"), end, limit=5) == []
    assert due_instants(daily, at("2026-01-03T12:00"), end, limit=5) == [at("2026-01-04"), at("2026-01-05")]
    assert due_instants(daily, at("2027-01-01"), end, limit=5) == []
    yearly = crontab(0, 0, day_of_month=1, month_of_year=1, tz="UTC")
    assert len(due_instants(yearly, begin, end, limit=100)) == 6
