import os
import pickle
import shelve
from datetime import UTC, datetime, timedelta

import pytest

from umbel import Umbel
from umbel.beat import (
    BeatLazyFunc,
    PersistentScheduler,
    ScheduleEntry,
    Scheduler,
    SchedulingError,
)
from umbel.exceptions import ImproperlyConfigured
from umbel.schedules import crontab, schedule

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def app():
    with Umbel("plain", broker="memory://", set_as_current=False) as app:

        @app.task(name="t")
        def t(*args, **kwargs):
            pass

        yield app


def sent(app):
    with app.lend_broker() as broker:
        return sum(size.ready for size in broker.sizes().values())


def entry(app, seconds=10, ago=0.0, **fields):
    last = app.now() - timedelta(seconds=ago)
    return {"task": "t", "schedule": schedule(seconds), "last_run_at": last, **fields}


@pytest.mark.row("API-366", "API-367", "API-368", "API-369")
def test_an_entry_is_a_value_that_is_replaced_when_it_was_sent(app):
    one = ScheduleEntry("a", "t", NOW, 3, 10, (1,), {"k": 2}, {"queue": "q"}, app=app)

    following = next(one)
    assert (following.name, following.task, following.total_run_count) == ("a", "t", 4)
    assert following.last_run_at > NOW
    assert one.next(NOW + timedelta(1)).last_run_at == NOW + timedelta(1)
    assert following == one
    assert ScheduleEntry("a", "t", NOW, 3, 11, app=app) != one
    assert abs(ScheduleEntry("n", "t", schedule=10, app=app).last_run_at - app.now()) < timedelta(minutes=1)
    assert one.is_due().is_due
    assert repr(one) == "<ScheduleEntry: a t(1, k=2) <freq: 10.00 seconds>>"
    assert dict(one)["total_run_count"] == 3
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert (again.last_run_at, again.total_run_count) == (NOW, 3)
    assert sorted([one, following]) in ([one, following], [following, one])


@pytest.mark.row("API-371", "API-372", "API-373")
def test_a_tick_sends_one_entry_that_is_due(app):
    scheduler = Scheduler(app, {"a": ScheduleEntry(name="a", app=app, **entry(app, ago=60))}, lazy=True)

    assert scheduler.tick() == 0.0
    assert sent(app) == 1
    assert 5 < scheduler.tick() < 10
    assert scheduler.schedule["a"].total_run_count == 1


@pytest.mark.row("API-370", "CFG-215", "CFG-214")
def test_defaults(app):
    assert (Scheduler(app).max_interval, Scheduler(app).sync_every, Scheduler(app).tick()) == (300, 180, 300)
    app.conf.beat_max_loop_interval = 7
    app.conf.beat_sync_every = 2
    assert (Scheduler(app).max_interval, Scheduler(app, max_interval=3).max_interval) == (7, 3)
    assert Scheduler(app).sync_every_tasks == 2


@pytest.mark.row("API-374", "API-385")
def test_what_cannot_be_sent_is_logged_and_the_others_go_on(app, caplog):
    fields = {"a": entry(app, ago=60, args=(object(),)), "b": entry(app, ago=50)}
    app.conf.beat_schedule = fields
    scheduler = Scheduler(app)
    while scheduler.tick() == 0.0:
        pass

    assert sent(app) == 1
    assert "Message Error: a was not sent" in caplog.text
    assert scheduler.schedule["a"].total_run_count == 1  # advanced all the same
    with pytest.raises(SchedulingError, match=r"the due task 'a' \(t\) was not sent"):
        scheduler.apply_async(scheduler.schedule["a"])


@pytest.mark.row("API-375")
def test_lazy_arguments_are_worked_out_when_the_task_is_sent(app):
    scheduler = Scheduler(app, lazy=True)
    lazy = BeatLazyFunc(lambda x, y: x + y, 1, y=2)
    assert lazy() == lazy.delay() == 3

    scheduler.apply_entry(ScheduleEntry("a", "t", args=(lazy,), kwargs={"k": lazy}, schedule=10, app=app))

    assert sent(app) == 1


@pytest.mark.row("API-376", "API-377")
def test_entries_are_merged_and_keep_when_they_ran(app):
    app.conf.beat_schedule = {"a": entry(app, ago=3), "b": entry(app)}
    scheduler = Scheduler(app)
    scheduler.schedule["a"].total_run_count = 9
    scheduler.merge_inplace({"a": {"task": "t", "schedule": 99}, "c": ScheduleEntry("c", "t", schedule=1)})

    assert list(scheduler.schedule) == ["a", "c"]
    assert (scheduler.schedule["a"].schedule, scheduler.schedule["a"].total_run_count) == (schedule(99), 9)
    assert scheduler.add(name="d", task="t", schedule=5) is scheduler.schedule["d"]
    scheduler.update_from_dict({"e": {"task": "t", "schedule": 5}})
    assert scheduler.schedule["e"].app is app


@pytest.mark.row("API-378")
def test_a_schedule_that_changes_is_read_anew(app):
    scheduler = Scheduler(app)
    assert scheduler.tick() == 300
    scheduler.add(name="a", **entry(app, ago=60))
    assert scheduler.tick() == 0.0
    assert sent(app) == 1


@pytest.mark.row("API-379")
def test_a_broken_entry_is_logged_and_asked_again_later(app, caplog):
    class Broken(ScheduleEntry):
        def is_due(self):
            raise LookupError("on purpose")

    scheduler = Scheduler(app, {"a": Broken("a", "t", schedule=10, app=app)}, lazy=True)
    assert scheduler.tick() == pytest.approx(300, abs=1)
    assert "cannot say whether it is due" in caplog.text


@pytest.mark.row("API-382", "TB-152")
def test_old_results_are_deleted_at_four_where_the_store_does_not_do_it(app, tmp_path):
    assert "celery.backend_cleanup" not in Scheduler(app).schedule
    app = Umbel("proj", broker="memory://", backend=f"db+sqlite:///{tmp_path / 'results.db'}", set_as_current=False)
    cleanup = Scheduler(app).schedule["celery.backend_cleanup"]
    assert (cleanup.task, cleanup.schedule, cleanup.options) == (
        "celery.backend_cleanup", crontab(0, 4), {"expires": 43200}
    )  # fmt: skip
    app.conf.result_expires = None
    assert "celery.backend_cleanup" not in Scheduler(app).schedule


def test_a_scheduler_over_a_table_needs_only_celery_s_hooks(app):
    """django-celery-beat's shape: entries of its own class, read anew when a row changes."""
    rows = {"a": {"every": 10, "count": 0, "last": app.now() - timedelta(seconds=60)}}

    class Row(ScheduleEntry):
        def __init__(self, name, app):
            self.name, self.app, self.task = name, app, "t"
            self.args, self.kwargs, self.options = (), {}, {}
            self.schedule = schedule(rows[name]["every"], app=app)
            self.last_run_at, self.total_run_count = rows[name]["last"], rows[name]["count"]

        def __next__(self):
            rows[self.name]["last"] = self.app.now()
            rows[self.name]["count"] += 1
            return type(self)(self.name, self.app)

    class Table(Scheduler):
        Entry = Row
        changed = True
        synced = 0

        def setup_schedule(self):
            self.install_default_entries(self.schedule)

        @property
        def schedule(self):
            if self.changed:
                self.changed = False
                self.entries = {name: Row(name, self.app) for name in rows}
                self._heap = []
            return self.entries

        def sync(self):
            self.synced += 1

    scheduler = Table(app=app, schedule_filename="ignored", max_interval=5)
    assert scheduler.tick() == 0.0
    assert (rows["a"]["count"], sent(app), scheduler.synced) == (1, 1, 1)
    rows["b"] = {"every": 1, "count": 0, "last": app.now() - timedelta(seconds=60)}
    scheduler.changed = True
    assert scheduler.tick() == 0.0
    assert (rows["b"]["count"], sent(app)) == (1, 2)


# -- the file


@pytest.mark.row("API-380", "CFG-213", "CLI-079")
def test_a_file_remembers_when_entries_ran(app, tmp_path):
    app.conf.beat_schedule = {"a": entry(app, ago=60), "b": entry(app)}
    scheduler = PersistentScheduler(app, schedule_filename=str(tmp_path / "schedule"))
    assert scheduler.info == f"    . db -> {tmp_path / 'schedule'}"
    scheduler.tick()
    ran = scheduler.schedule["a"].last_run_at
    scheduler.close()

    app.conf.beat_schedule = {"a": {"task": "t", "schedule": 20}}
    again = PersistentScheduler(app, schedule_filename=str(tmp_path / "schedule"))
    assert list(again.schedule) == ["a"]
    assert (again.schedule["a"].last_run_at, again.schedule["a"].total_run_count) == (ran, 1)
    assert again.schedule["a"].schedule == schedule(20)
    assert {"entries", "__version__", "tz", "utc_enabled"} == set(again._store)
    again.close()
    again.close()


@pytest.mark.row("API-380")
def test_a_file_that_cannot_be_read_is_made_anew(app, tmp_path, caplog):
    (tmp_path / "schedule").write_bytes(b"no database at all" * 100)
    app.conf.beat_schedule = {"a": entry(app)}
    scheduler = PersistentScheduler(app, schedule_filename=str(tmp_path / "schedule"))

    assert list(scheduler.schedule) == ["a"]
    assert "cannot be read and is made anew" in caplog.text
    scheduler.close()


def test_a_second_beat_on_one_file_is_warned_of(app, tmp_path, caplog):
    name = str(tmp_path / "schedule")
    first = PersistentScheduler(app, schedule_filename=name)
    first.sync()
    assert caplog.text == ""
    try:
        PersistentScheduler(app, schedule_filename=name).close()
    except ImproperlyConfigured:
        pass  # GNU dbm has a lock of its own
    assert f"another beat (process {os.getpid()}) uses the schedule file" in caplog.text
    first.close()
    caplog.clear()
    PersistentScheduler(app, schedule_filename=name).close()
    assert caplog.text == ""


@pytest.mark.row("API-381")
def test_another_time_zone_clears_the_file(app, tmp_path, caplog):
    app.conf.beat_schedule = {"a": entry(app)}
    scheduler = PersistentScheduler(app, schedule_filename=str(tmp_path / "schedule"))
    scheduler.schedule["a"].total_run_count = 5
    scheduler.close()

    app.conf.timezone = "Asia/Tokyo"
    again = PersistentScheduler(app, schedule_filename=str(tmp_path / "schedule"))
    assert again.schedule["a"].total_run_count == 0
    assert "Reset: tz changed from 'UTC' to 'Asia/Tokyo'" in caplog.text
    again.close()


@pytest.mark.row("ALB-06")
def test_a_file_that_celery_s_beat_wrote_is_read(app, tmp_path):
    entries = {"a": ScheduleEntry("a", "t", NOW, 7, schedule(10)), "b": ScheduleEntry("b", "t", NOW, 8, crontab("*/5"))}
    text = pickle.dumps(entries, protocol=2)
    for ours, theirs in (("beat.entry", "beat"), ("schedules.base", "schedules"), ("schedules.crontab", "schedules")):
        text = text.replace(f"cumbel.{ours}\n".encode(), f"ccelery.{theirs}\n".encode())
    assert b"umbel" not in text
    with shelve.open(str(tmp_path / "schedule")) as shelf:
        shelf.dict[b"entries"] = text
        shelf["__version__"], shelf["tz"], shelf["utc_enabled"] = "5.7.0", "UTC", True

    app.conf.beat_schedule = {name: {"task": "t", "schedule": plan.schedule} for name, plan in entries.items()}
    scheduler = PersistentScheduler(app, schedule_filename=str(tmp_path / "schedule"))

    assert [(each.last_run_at, each.total_run_count) for each in scheduler.schedule.values()] == [(NOW, 7), (NOW, 8)]
    scheduler.close()
