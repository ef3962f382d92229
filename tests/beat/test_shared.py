import logging
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from umbel.beat import BeatLazyFunc, SharedScheduler
from umbel.exceptions import BrokerUnavailable, ImproperlyConfigured
from umbel.schedules import BaseSchedule, crontab, schedstate


def entry(schedule, task="t", **fields):
    return {"task": task, "schedule": schedule, **fields}


def test_each_instant_is_sent_once_by_whichever_beat_comes_first(make):
    beats = make(beat_schedule={"a": entry(10), "b": entry(7, "u")})
    crowd = [beats.start() for _ in range(5)]
    for beat in crowd:
        beat.tick()

    beats.run(crowd, 70)

    sent = beats.sent()
    assert (sent.count("t"), sent.count("u")) == (7, 10)
    assert beats.book.get("a").run.count == 7


def test_a_beat_that_starts_later_follows_the_instants_of_the_others(make):
    beats = make(beat_schedule={"a": entry(10)})
    first = beats.start()
    first.tick()
    beats.run([first], 13)
    second = beats.start()
    second.tick()

    beats.run([first, second], 30)

    assert beats.sent() == ["t"] * 4


@pytest.mark.row("API-368")
def test_a_new_entry_first_runs_one_interval_later(make):
    beats = make(beat_schedule={"a": entry(10)})
    beat = beats.start()
    assert beat.tick() == pytest.approx(5.0)
    beats.run([beat], 9)
    assert beats.sent() == []
    beats.run([beat], 1)
    assert beats.sent() == ["t"]


@pytest.mark.row("API-373", "PRT-023", "API-375", "API-366", "CFG-211")
def test_what_is_sent_has_the_entrys_arguments_options_and_beats_header(make):
    fields = {"args": (1, BeatLazyFunc(lambda x: x + 1, 2)), "kwargs": {"k": "v"}}
    options = {"priority": 3, "headers": {"mine": 1}, "expires": 60, "queue": "celery"}
    beats = make(beat_schedule={"a": entry(10, **fields, options=options)})
    beat = beats.start()
    beat.tick()
    beats.clock.advance(10)
    beat.tick()

    from umbel.brokers.base import Claim

    (delivery,) = beats.broker.settle((), Claim(limit=5, lease=9, owner="t")).deliveries
    message = delivery.message
    assert message.body.startswith(b'[[1, 3], {"k": "v"}')
    assert (message.priority, message.headers) == (3, {"mine": 1, "celery_beat_task": True})
    assert message.expires is not None


@pytest.mark.parametrize(
    ("misfire", "count"), [("skip", 0), ("run_once", 1), ("catch_up(3)", 3), ("catch_up(100)", 60), (None, 1)]
)
def test_what_was_missed_is_made_up_for_as_the_policy_says(make, caplog, misfire, count):
    beats = make(beat_schedule={"a": entry(crontab(minute=0), misfire=misfire)})
    beats.start().tick()
    beats.clock.advance(60 * 3600 + 600)  # nobody ran for sixty hours, and it is ten past now

    beat = beats.start()
    beat.tick()
    assert beats.sent() == ["t"] * count
    beat.tick()
    assert beats.sent() == []
    beats.run([beat], 3600, step=60)
    assert beats.sent() == ["t"]
    assert ("is not made up for" in caplog.text) is (count == 0)


def test_an_instant_that_has_just_come_is_sent_under_every_policy(make):
    beats = make(beat_schedule={"a": entry(10, misfire="skip")})
    beat = beats.start()
    beat.tick()
    beats.run([beat], 60, step=3)
    assert len(beats.sent()) == 6


@pytest.mark.row("API-357", "CFG-216")
def test_a_crontab_that_is_too_late_is_skipped(make):
    beats = make(beat_schedule={"a": entry(crontab(minute=0)), "b": entry(3600, "u")}, beat_cron_starting_deadline=300)
    beats.start().tick()
    beats.clock.advance(3600 + 600)
    beats.start().tick()
    assert beats.sent() == ["u"]


def test_the_misfire_policy_is_checked_when_beat_starts(make):
    with pytest.raises(ImproperlyConfigured, match=r"misfire='catch_up': it is 'skip', 'run_once' or 'catch_up\(n\)'"):
        make(beat_misfire="catch_up").start()


@pytest.mark.parametrize("schedule", [10, crontab(minute="*/2")], ids=["interval", "crontab"])
def test_a_clock_that_goes_back_an_hour_sends_no_instant_twice(make, caplog, schedule):
    beats = make(beat_schedule={"a": entry(schedule)})
    crowd = [beats.start(), beats.start()]
    for beat in crowd:
        beat.tick()
    beats.run(crowd, 1800, step=5)
    before = len(beats.sent())

    beats.clock._now -= 3600
    for beat in [*crowd, beats.start()]:
        beat.tick()
    beats.run([*crowd, beats.start()], 3600, step=5)
    assert beats.sent() == []
    assert "the clock went back by 3600 s" in caplog.text

    beats.run(crowd, 1800, step=5)
    assert len(beats.sent()) == before


def test_what_a_wrong_clock_left_in_the_future_is_told_and_can_be_put_right(make, caplog):
    beats = make(beat_schedule={"a": entry(10)})
    beat = beats.start()
    beat.tick()
    beats.clock.advance(86400 * 365)
    beat.tick()
    assert beats.sent() == ["t"]
    beats.clock._now -= 86400 * 365

    beat = beats.start()
    beats.run([beat], 60)
    assert beats.sent() == []
    assert caplog.text.count("umbel schedule pause a, then umbel schedule resume a") == 1
    beats.book.pause("a")
    beats.book.resume("a")
    beats.run([beat], 60)
    assert len(beats.sent()) in {5, 6}


def test_a_clock_that_goes_forward_an_hour_sends_what_was_passed_over_once(make):
    beats = make(beat_schedule={"a": entry(10), "b": entry(crontab(minute="*/2"), "u")})
    crowd = [beats.start(), beats.start()]
    for beat in crowd:
        beat.tick()
    beats.run(crowd, 600, step=5)
    beats.sent()

    beats.clock.advance(3600)
    for beat in crowd:
        beat.tick()
    assert sorted(beats.sent()) == ["t", "u"]
    beats.run(crowd, 600, step=5)
    assert sorted(beats.sent()) == ["t"] * 60 + ["u"] * 5


@pytest.mark.parametrize(
    ("zone", "day"),
    [("Europe/Berlin", "2026-10-25"), ("America/New_York", "2026-03-08"), ("Australia/Lord_Howe", "2026-04-05")],
)
def test_where_clocks_are_changed_every_day_has_one_run(make, zone, day):
    beats = make(beat_schedule={"a": entry(crontab(minute=15, hour=2))}, timezone=zone)
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) - timedelta(days=2)
    beats.clock._now = begin.timestamp()
    crowd = [beats.start(), beats.start()]
    for beat in crowd:
        beat.tick()

    for _ in range(5):
        beats.run(crowd, 86400, step=300)
        assert beats.sent() == ["t"]


def test_a_beat_that_dies_between_two_tries_loses_nothing(make):
    beats = make(beat_schedule={str(i): entry(10, f"t{i}") for i in range(20)})
    beats.start().tick()
    beats.clock.advance(10)
    dying = beats.start()
    real, left = dying._send, [7]

    def send(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args)

    dying._send = send
    with pytest.raises(KeyboardInterrupt):
        dying.tick()
    beats.start().tick()

    assert sorted(beats.sent()) == sorted(f"t{i}" for i in range(20))


def test_a_broker_that_is_away_is_tried_again_and_nothing_is_forgotten(make, caplog):
    beats = make(beat_schedule={"a": entry(10)})
    broken = [False]

    def connect():
        if broken[0]:
            raise BrokerUnavailable("gone")
        return beats.app.open_broker()

    beat = SharedScheduler(beats.app, clock=beats.clock, broker=connect)
    beat.tick()
    broken[0] = True
    beat._drop()
    beats.clock.advance(10)
    assert beat.tick() == 1.0
    beats.clock.advance(1)
    beat.tick()
    broken[0] = False
    beats.clock.advance(1)
    beat.tick()

    assert beats.sent() == ["t"]
    lines = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2
    assert "gone" in lines[0]
    assert lines[1] == "the broker is back"


def test_an_entry_that_cannot_be_sent_does_not_stop_the_others(make, caplog):
    beats = make(beat_schedule={"a": entry(10, args=(object(),)), "b": entry(10, "u")})
    beat = beats.start()
    beat.tick()
    beats.run([beat], 20)

    assert beats.sent() == ["u", "u"]
    assert "entry a cannot be sent" in caplog.text


class Thirds(BaseSchedule):
    """Due every three seconds, and knows no instants."""

    def is_due(self, last_run_at):
        remaining = 3 - (self.now() - last_run_at).total_seconds()
        return schedstate(remaining <= 0, 3.0 if remaining <= 0 else remaining)


class Broken(BaseSchedule):
    def is_due(self, last_run_at):
        raise LookupError("on purpose")


@pytest.mark.row("API-365", "API-379")
def test_schedules_of_ones_own_are_asked_and_each_answer_is_sent_once(make, caplog):
    beats = make(beat_schedule={"a": entry(Thirds()), "b": entry(Broken(), "u")})
    crowd = [beats.start() for _ in range(3)]
    for beat in crowd:
        beat.tick()
    beats.run(crowd, 30)

    assert beats.sent() == ["t"] * 10
    assert "entry 'b' cannot say when it is due" in caplog.text


@pytest.mark.row("API-378")
def test_what_changes_in_the_book_is_seen_within_seconds(make):
    beats = make(beat_schedule={"a": entry(10)})
    beat = beats.start()
    beat.tick()
    beats.book.add("b", "u", 2)
    beats.run([beat], 6)
    assert beats.sent() == ["u"] * 2 or beats.sent() == ["u"]
    beats.book.pause("b")
    beats.run([beat], 6)
    beats.sent()
    beats.run([beat], 20)
    assert set(beats.sent()) == {"t"}
    beats.book.resume("b")
    beats.run([beat], 20)
    assert beats.sent().count("u") in {8, 9, 10}
    beats.book.remove("b")
    beats.run([beat], 6)
    beats.sent()
    beats.run([beat], 20)
    assert set(beats.sent()) == {"t"}


def test_the_keys_of_instants_have_their_entry_and_moment_in_utc(make):
    beats = make(beat_schedule={"a": entry(crontab(minute=30, hour=9))}, timezone="Asia/Tokyo")
    beat = beats.start()
    beat.tick()
    beats.run([beat], 86400, step=600)

    store = beats.app.memory.at("memory://")
    assert "schedule:beats:a:2026-01-01T00:30:00+00:00" in store.accepted
    assert datetime(2026, 1, 1, 0, 30, tzinfo=UTC) == beats.book.get("a").run.last
