from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from umbel import Umbel
from umbel.beat import Book
from umbel.beat.book import plan_of, plan_to_json
from umbel.brokers.memory import MemoryBroker
from umbel.exceptions import ImproperlyConfigured
from umbel.schedules import BaseSchedule, crontab, schedule, solar


@pytest.mark.parametrize(
    "plan",
    [
        schedule(10),
        schedule(timedelta(days=1), relative=True),
        crontab(),
        crontab("*/5", [1, 2], "mon, fri", "1-7", "jan"),
        crontab(0, 8, tz="Europe/Berlin", dst="both"),
        solar("sunset", 52.5, 13.4),
    ],
    ids=repr,
)
def test_schedules_are_stored_as_json_and_come_back(plan):
    assert plan_of(plan_to_json(plan)) == plan


def test_a_schedule_of_somebody_else_cannot_be_stored(make):
    with pytest.raises(TypeError, match="cannot be stored: give seconds"):
        make().book.add("a", "t", BaseSchedule())


def test_entries_are_those_of_the_settings_and_those_added_since(make):
    beats = make(beat_schedule={"a": {"task": "t", "schedule": 10, "args": (1,), "options": {"queue": "q"}}})
    beats.book.add("b", "u", crontab(0), [1], {"k": 2}, options={"priority": 3}, misfire="skip")

    a, b = beats.book.entries().values()
    assert (a.name, a.task, a.args, a.options, a.from_settings, a.run) == ("a", "t", (1,), {"queue": "q"}, True, None)
    assert (b.name, b.task, b.args, b.kwargs, b.options) == ("b", "u", [1], {"k": 2}, {"priority": 3})
    assert (b.schedule, b.misfire, b.paused, b.from_settings, b.run.count) == (crontab(0), "skip", False, False, 0)


def test_adding_again_changes_the_entry_and_keeps_its_past(make):
    beats = make()
    beats.book.add("b", "u", 10)
    beat = beats.start()
    beat.tick()
    beats.run([beat], 10)
    beats.book.add("b", "u", 20)

    assert beats.book.get("b").schedule == schedule(20)
    assert beats.book.get("b").run.count == 1


def test_pauses_hold_for_entries_of_both_kinds_and_survive_everybody(make):
    beats = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    beats.book.add("b", "u", 10)
    for name in "ab":
        beats.book.pause(name)
        beats.book.pause(name)
    assert [entry.paused for entry in Book(beats.app).entries().values()] == [True, True]

    beat = beats.start()
    beat.tick()
    beats.run([beat], 100)
    assert beats.sent() == []
    for name in "ab":
        beats.book.resume(name)
        beats.book.resume(name)
    beats.run([beat], 6)
    assert beats.sent() == []  # what was missed during the pause is not made up for
    beats.run([beat], 4)
    assert sorted(beats.sent()) == ["t", "u"]


def test_run_sends_at_once_and_leaves_the_schedule_alone(make):
    beats = make(beat_schedule={"a": {"task": "t", "schedule": 10, "args": (1,)}})
    beats.book.pause("a")

    result = beats.book.run("a")

    assert beats.sent() == ["t"]
    assert result.id
    assert beats.book.get("a").run is None


def test_what_stands_in_the_settings_is_changed_there(make):
    book = make(beat_schedule={"a": {"task": "t", "schedule": 10}}).book
    with pytest.raises(ImproperlyConfigured, match="'a' stands in the settings: change it there, or pause it"):
        book.add("a", "t", 5)
    with pytest.raises(ImproperlyConfigured, match="remove it there, or pause it"):
        book.remove("a")
    with pytest.raises(KeyError, match="no periodic task is called 'aa'"):
        book.pause("aa")
    with pytest.raises(ImproperlyConfigured, match="misfire='often'"):
        book.add("b", "t", 5, misfire="often")


def test_coming_instants_of_an_interval_follow_its_last_one(make):
    beats = make(beat_schedule={"a": {"task": "t", "schedule": 10}, "c": {"task": "t", "schedule": crontab(0)}})
    beats.start().tick()
    now = datetime(2026, 1, 1, 0, 0, 13, tzinfo=UTC)

    assert [each.second for each in beats.book.get("a").coming(now, 3)] == [20, 30, 40]
    assert [each.hour for each in beats.book.get("c").coming(now, 2)] == [1, 2]
    beats.book.pause("a")
    assert beats.book.get("a").coming(now, 3) == []


def test_the_settings_win_over_an_entry_that_was_added_before_under_the_same_name(make):
    beats = make()
    beats.book.add("a", "old", 5)
    beats.book.pause("a")
    beats.app.conf.beat_schedule = {"a": {"task": "new", "schedule": 10}}

    entry = beats.book.get("a")
    assert (entry.task, entry.schedule, entry.from_settings, entry.paused) == ("new", schedule(10), True, True)
    beats.book.resume("a")
    assert not beats.book.get("a").paused


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"task": "t"}, "'a' has no schedule"),
        ({}, "has no task and no schedule"),
        ({"task": "t", "schedule": "0 8 * * *"}, r"has the schedule '0 8 \* \* \*', which is none: .*from_string"),
        ({"task": "t", "schedule": 5, "misfire": "often"}, "misfire='often'"),
    ],
)
def test_an_entry_that_makes_no_sense_is_told_when_beat_starts(make, entry, said):
    beats = make(beat_schedule={"a": entry})
    with pytest.raises(ImproperlyConfigured, match=said):
        beats.start()


class WithoutLedger(MemoryBroker):
    features = msgspec.structs.replace(MemoryBroker.features, ledger=False)


def test_without_a_ledger_entries_can_be_seen_and_not_changed():
    app = Umbel("plain", broker="memory://", beat_schedule={"a": {"task": "t", "schedule": 10}}, set_as_current=False)
    app.open_broker = lambda write=False: WithoutLedger(app.memory.at("memory://"))
    with app:
        assert list(Book(app).entries()) == ["a"]
        with pytest.raises(ImproperlyConfigured, match="the broker memory:// keeps no ledger, so periodic tasks"):
            Book(app).pause("a")
