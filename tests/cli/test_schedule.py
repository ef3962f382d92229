"""Periodic tasks at the command line, and beat itself."""

import importlib.metadata
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime

import pytest

from umbel import Umbel, signals
from umbel.beat import EmbeddedService, PersistentScheduler, Scheduler, Service, SharedScheduler
from umbel.beat.service import scheduler_class
from umbel.exceptions import BrokerUnavailable, ImproperlyConfigured

SHOP = """
from umbel import Umbel
from umbel.schedules import crontab

app = Umbel("shop")

@app.task
def sell(n=1):
    return n

app.conf.beat_schedule = {"hourly": {"task": "shop.sell", "schedule": crontab(minute=0), "args": (3,)}}
"""


@pytest.fixture
def shop(folder):
    (folder / "shop.py").write_text(SHOP)
    return folder


def test_entries_are_added_paused_resumed_run_and_removed(umbel, shop):
    assert (
        "fast runs every 10.00 seconds, next at " in umbel("schedule", "add", "fast", "shop.sell", "--every", "10").out
    )
    words = ("--crontab", "*/5 2 * * mon", "--tz", "Europe/Berlin", "--dst", "both", "-a", "[1]", "-k", '{"n": 2}')
    assert umbel("schedule", "add", "cron", "shop.sell", *words, "--queue", "slow", "--misfire", "skip").code == 0
    assert umbel("schedule", "add", "sun", "shop.other", "--solar", "sunset", "52.5", "13.4").err.startswith("Note:")
    assert umbel("schedule", "pause", "cron").out == "cron is paused.\n"

    listed = {each["name"]: each for each in json.loads(umbel("schedule", "list", "-j", "--next", "5").out)}
    assert list(listed) == ["hourly", "cron", "fast", "sun"]
    assert {datetime.fromisoformat(each).minute for each in listed["hourly"]["next"]} == {0}
    assert len(listed["fast"]["next"]) == len(listed["sun"]["next"]) == 5
    cron = listed["cron"]
    assert cron["schedule"] == {"crontab": "*/5 2 * * mon", "tz": "Europe/Berlin", "dst": "both"}
    assert (cron["args"], cron["kwargs"], cron["options"], cron["misfire"]) == (
        [1],
        {"n": 2},
        {"queue": "slow"},
        "skip",
    )
    assert (cron["paused"], cron["next"]) == (True, [])

    table = umbel("schedule", "list", "--next", "2").out.splitlines()
    assert table[0].split() == ["Name", "Task", "Schedule", "Next", "Last", "Runs", "From"]
    assert len(table) == 1 + 2 + 1 + 2 + 2
    assert "*/5 2 * * mon (Europe/Berlin, both)  paused" in "\n".join(table)

    assert umbel("schedule", "resume", "cron").out == "cron runs again.\n"
    assert len(umbel("schedule", "run", "fast").out.strip()) == 36
    assert umbel("schedule", "remove", "fast").out == "fast is removed.\n"
    names = [each["name"] for each in json.loads(umbel("schedule", "list", "-j").out)]
    assert names == ["hourly", "cron", "sun"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "x", "t"), "say when it runs by one of --every, --crontab and --solar"),
        (("add", "x", "t", "--every", "1", "--crontab", "* * * * *"), "by one of"),
        (("add", "x", "t", "--every", "0"), "an interval is longer than nothing"),
        (("add", "x", "t", "--every", "1", "--tz", "UTC"), "--tz and --dst belong to --crontab"),
        (("add", "x", "t", "--crontab", "* * *"), "a crontab has five"),
        (("add", "x", "t", "--crontab", "60 * * * *"), "60 is outside 0-59"),
        (("add", "x", "t", "--crontab", "* * * * *", "--tz", "Mars"), "'Mars'"),
        (("add", "x", "t", "--solar", "moon", "1", "2"), "'moon' is unknown"),
        (("add", "x", "t", "--every", "1", "-a", "{}"), "no json array"),
        (("add", "x", "t", "--every", "1", "--misfire", "often"), "misfire='often'"),
        (("add", "hourly", "t", "--every", "1"), "stands in the settings"),
        (("pause", "hourley"), "no periodic task is called 'hourley'; did you mean 'hourly'?"),
        (("remove", "hourly"), "remove it there, or pause it"),
    ],
)
def test_what_makes_no_sense_is_refused(umbel, shop, words, said):
    ran = umbel("schedule", *words)

    assert ran.code != 0
    assert said in ran.err


def test_without_entries_the_list_says_so(umbel, hello):
    assert umbel("schedule", "list").out == "No periodic tasks.\n"


# -- beat


@pytest.mark.row("CFG-212", "CLI-080", "CLI-079")
def test_the_scheduler_is_the_one_that_is_named_else_the_best_for_the_broker(tmp_path):
    with Umbel("one", broker="memory://", set_as_current=False) as app:
        assert app.conf.beat_scheduler == "celery.beat:PersistentScheduler"
        assert scheduler_class(app) is SharedScheduler
        assert scheduler_class(app, "celery.beat:PersistentScheduler") is PersistentScheduler
        assert scheduler_class(app, PersistentScheduler) is PersistentScheduler
        service = Service(app, schedule_filename=str(tmp_path / "file"))
        assert type(service.scheduler) is PersistentScheduler
        service.scheduler.close()
        with pytest.raises(ImproperlyConfigured, match=r"'no\.such:Thing' cannot be imported"):
            scheduler_class(app, "no.such:Thing")
        app.conf.beat_scheduler = "celery.beat:PersistentScheduler"
        assert scheduler_class(app) is PersistentScheduler


@pytest.mark.row("API-383", "API-446")
def test_a_service_runs_until_it_is_stopped_and_survives_a_tick_that_fails(caplog):
    told = []

    class Failing:
        max_interval = 1.0
        ticks = 0
        closed = False

        def __init__(self, app, **options):
            self.options = options

        def tick(self):
            self.ticks += 1
            if self.ticks == 1:
                service._stop.wait = lambda seconds: None
                raise LookupError("on purpose")
            service.stop()
            return 0.0

        def should_sync(self):
            return False

        def close(self):
            self.closed = True

    with Umbel("one", broker="memory://", set_as_current=False) as app:
        service = Service(app, max_interval=3, scheduler_cls=Failing)

        def init(sender, **_):
            told.append(sender)

        signals.beat_init.connect(init)
        signals.beat_embedded_init.connect(init)
        service.start(embedded_process=True)

    assert (service.scheduler.ticks, service.scheduler.closed) == (2, True)
    assert service.scheduler.options["max_interval"] == 3
    assert told == [service, service]
    assert "a tick failed; beat goes on" in caplog.text


def test_a_second_beat_on_one_file_and_a_broker_without_ledger_are_warned_of(caplog, tmp_path):
    with Umbel("one", broker="memory://", set_as_current=False) as app:
        broker = app.open_broker()

        class Plain(type(broker)):
            features = type("Features", (), {"ledger": False})()

        app.open_broker = lambda **_: Plain(app.memory.at("memory://"))
        app.conf.beat_schedule_filename = str(tmp_path / "file")
        Service(app).scheduler.close()
        broker.close()

    assert "run exactly one beat for this app" in caplog.text


def start(shop, *words):
    command = [sys.executable, "-m", "umbel", "beat", *words]
    return subprocess.Popen(command, cwd=shop, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, patience=30.0):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.process
@pytest.mark.row("CLI-084", "CLI-085", "CLI-087", "CLI-088", "CLI-079")
def test_beat_sends_until_it_is_told_to_stop(umbel, shop):
    umbel("schedule", "add", "fast", "shop.sell", "--every", "0.1")
    beat = start(shop, "-l", "info", "--pidfile", "beat.pid")
    try:
        wait_for(lambda: "celery  0" not in umbel("list", "queues").out and "celery" in umbel("list", "queues").out)
        assert (shop / "beat.pid").read_text() == f"{beat.pid}\n"
        second = start(shop, "--pidfile", "beat.pid")
        _, err = second.communicate(timeout=30)
        assert second.returncode == 73
        assert f"says that process {beat.pid} runs already" in err
    finally:
        beat.send_signal(signal.SIGTERM)
        out, err = beat.communicate(timeout=30)

    assert beat.returncode == 0
    assert out.startswith("celery beat v")
    assert "is starting." in out
    for line in ("LocalTime -> ", "broker -> sqlite:", "loader -> ", "ledger -> ", "logfile -> [stderr]@%INFO"):
        assert line in out
    assert "Scheduler: Sending due task fast (shop.sell)" in err
    assert not (shop / "beat.pid").exists()


@pytest.mark.row("CLI-080", "API-582")
@pytest.mark.parametrize("group", ["umbel.beat_schedulers", "celery.beat_schedulers"])
def test_installed_packages_may_name_schedulers(monkeypatch, group):
    point = importlib.metadata.EntryPoint("mine", "umbel.beat:Scheduler", group)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] if group == point.group else [])
    with Umbel("one", broker="memory://", beat_scheduler="mine", set_as_current=False) as app:
        assert scheduler_class(app) is Scheduler


def test_beat_waits_for_a_broker_that_is_not_there_yet(monkeypatch, caplog):
    monkeypatch.setattr("umbel.beat.service._RETRY", 0.01)
    with Umbel("one", broker="memory://", set_as_current=False) as app:
        failures = [BrokerUnavailable("gone")] * 3
        connect = app.open_broker

        def fail(**options):
            if failures:
                raise failures.pop()
            return connect(**options)

        app.open_broker = fail
        service = Service(app)
        assert type(service.wait_for_scheduler()) is SharedScheduler
        service.scheduler.close()
        assert caplog.text.count("the broker cannot be reached: gone") == 1
        service = Service(app)
        service.stop()
        assert service.wait_for_scheduler() is None


def test_a_beat_in_a_thread_says_once_that_its_settings_are_wrong(caplog):
    with Umbel("one", broker="memory://", beat_misfire="often", set_as_current=False) as app:
        thread = EmbeddedService(app, thread=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
    assert caplog.text.count("beat: cannot run") == 1
    assert "misfire='often'" in caplog.text


@pytest.mark.row("API-384", "CFG-215")
def test_beat_may_be_a_thread_or_a_process():
    with Umbel("one", broker="memory://", set_as_current=False) as app:
        thread = EmbeddedService(app, thread=True)
        assert thread.service.max_interval == 1
        thread.start()
        wait_for(lambda: thread.service._ticked)
        thread.stop()
        assert not thread.is_alive()
        process = EmbeddedService(app, scheduler_cls="celery.beat:PersistentScheduler")
        assert isinstance(process, multiprocessing.Process)
        assert (process.service.max_interval, process.name) == (300, "Beat")


@pytest.mark.row("CLI-079", "CLI-080", "CLI-081", "CLI-082", "CLI-083", "CLI-086", "CFG-236", "CFG-288")
def test_the_options_of_beat_are_given_to_its_service(umbel, shop, monkeypatch):
    made = {}

    class Noted(Service):
        def __init__(self, app, **options):
            made.update(options, interval=app.conf.beat_max_loop_interval)
            made["deadline"] = app.conf.beat_cron_starting_deadline
            super().__init__(app, **options)

        def start(self):
            made["pid"] = (shop / "from-settings.pid").read_text()
            self.scheduler.close()

    monkeypatch.setattr("umbel.cli.beat.Service", Noted)
    words = ("-s", "file", "-S", "celery.beat:PersistentScheduler", "--max-interval", "7", "-n", "clock@%h")
    settings = ("beat_cron_starting_deadline=5", "beat.pidfile=from-settings.pid")
    ran = umbel("beat", *words, "--enable-remote-control", "beat.max_loop_interval=9", *settings)

    assert ran.code == 0, ran.err
    assert made == {
        "schedule_filename": "file", "scheduler_cls": "celery.beat:PersistentScheduler", "max_interval": 7,
        "remote_control": True, "hostname": "clock@%h", "interval": 9.0,
        "deadline": 5, "pid": f"{os.getpid()}\n",
    }  # fmt: skip
    assert "scheduler -> umbel.beat.persistent.PersistentScheduler" in ran.out
    assert "db -> file" in ran.out
    assert umbel("beat", "-q", "nonsense").code == 2


@pytest.mark.row("CFG-217", "CFG-218", "CLI-082", "CLI-083")
def test_beat_answers_a_ping_while_it_ticks():
    with Umbel("pings", broker="memory://", set_as_current=False) as app:
        service = Service(app, max_interval=0.05, remote_control=True, hostname="clock@here")
        thread = threading.Thread(target=service.start)
        thread.start()
        try:
            wait_for(lambda: app.control.ping(timeout=0.2, limit=1) == [{"clock@here": {"ok": "pong"}}])
            assert app.control.inspect(timeout=20, limit=1).ping() == {"clock@here": {"ok": "pong"}}
            assert app.control.ping(timeout=0.05, destination=["clock@there"]) == []
            assert not app.control.inspect(timeout=0.05).stats()
            answers = service._ticked
            wait_for(lambda: service._ticked > answers)
        finally:
            service.stop(wait=True)
            thread.join(30)


@pytest.mark.row("CFG-218")
def test_a_beat_that_hangs_does_not_answer():
    class Hanging:
        max_interval = 1.0

        def __init__(self, app, **options):
            pass

        def tick(self):
            go_on.wait(30)
            return 0.0

        def should_sync(self):
            return False

        def close(self):
            pass

    go_on = threading.Event()
    with Umbel("pings", broker="memory://", beat_remote_control_max_tick_age=0.001, set_as_current=False) as app:
        service = Service(app, scheduler_cls=Hanging, remote_control=True)
        thread = threading.Thread(target=service.start)
        thread.start()
        try:
            wait_for(lambda: service._ticked)
            time.sleep(0.01)
            assert app.control.ping(timeout=0.2) == []
        finally:
            service.stop()
            go_on.set()
            thread.join(30)


@pytest.mark.process
@pytest.mark.row("CLI-051", "CLI-052", "CLI-053", "TB-167")
def test_a_worker_may_tick_as_well(umbel, shop):
    umbel("schedule", "add", "fast", "shop.sell", "--every", "0.1")
    command = [sys.executable, "-m", "umbel", "worker", "-B", "-c", "1", "-P", "threads", "-l", "info"]
    with (shop / "log").open("w") as log:
        worker = subprocess.Popen(command, cwd=shop, stderr=log, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: "shop.sell" in (shop / "log").read_text() and "succeeded" in (shop / "log").read_text())
    finally:
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait(timeout=30)

    assert worker.returncode == 0
    assert "beat: Shutting down..." in (shop / "log").read_text()
