import asyncio
import os

import msgspec
import pytest

from umbel import current, signals
from umbel.app.loader import Loader
from umbel.brokers.base import Delivery
from umbel.exceptions import NotRegistered, TaskRevokedError, TimeLimitExceeded, WorkerLostError
from umbel.execution.outcome import Outcome
from umbel.pools.base import ChildInfo


@pytest.fixture
def add(app):
    return app.task(name="proj.add")(lambda x, y: x + y)


@pytest.fixture
def runner(app):
    made = app.make_runner("worker@test")
    made.enter(ChildInfo(index=0, slots=1))
    return made


@pytest.fixture
def delivery(app):
    """Return a call as a worker holds it."""

    def deliver(name="proj.add", *args, **options):
        publication = app.prepare(name, args, {}, options)
        return Delivery(message=publication.message, queue="celery", route=publication.route, tag=1, token=1)

    return deliver


def meta(app, record):
    return app.coder.read_meta(record.payload, record.id)


def test_a_delivery_becomes_an_outcome(app, add, runner, delivery):
    outcome = runner.perform(delivery("proj.add", 1, 2, task_id="t1"))

    assert outcome.state == "SUCCESS"
    (record,) = outcome.records
    assert (record.id, record.expires) == ("t1", 86400.0)
    assert meta(app, record)["result"] == 3


def test_what_goes_to_a_child_and_comes_back_survives_the_way(app, add, runner, delivery):
    payload = msgspec.msgpack.decode(msgspec.msgpack.encode(delivery("proj.add", 1, 2)), type=runner.payload_type)
    report = runner.perform(payload)

    assert isinstance(payload, Delivery)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=runner.report_type) == report
    assert isinstance(report, Outcome)


def test_an_event_loop_runs_async_and_plain_tasks(app, add, runner, delivery):
    async def slow(x):
        await asyncio.sleep(0)
        return x

    app.task(name="proj.slow")(slow)

    async def both():
        return await asyncio.gather(
            runner.aperform(delivery("proj.slow", 5)), runner.aperform(delivery("proj.add", 1, 2))
        )

    assert [meta(app, outcome.records[0])["result"] for outcome in asyncio.run(both())] == [5, 3]


@pytest.mark.row("PRT-045")
def test_a_task_nobody_knows_fails_by_that(app, runner, delivery):
    outcome = runner.perform(delivery("no.such.task", task_id="t1"))

    assert outcome.state == "FAILURE"
    assert isinstance(meta(app, outcome.records[0])["result"], NotRegistered)


@pytest.mark.row("API-439", "API-440", "API-542", "TB-169")
def test_a_process_for_tasks_is_announced(app):
    told = []

    class Telling(Loader):
        def on_worker_process_init(self):
            told.append("loader")

    app.loader = Telling(app)
    init = signals.worker_process_init.connect(lambda sender, **_: told.append(("init", sender)), weak=False)
    shutdown = signals.worker_process_shutdown.connect(
        lambda sender, pid, exitcode, **_: told.append(("shutdown", sender, pid, exitcode)), weak=False
    )
    runner = app.make_runner("worker@test")
    try:
        current.set_current_app(None)
        runner.enter(ChildInfo(index=0, slots=1))
        runner.leave(3)
    finally:
        signals.worker_process_init.disconnect(init)
        signals.worker_process_shutdown.disconnect(shutdown)

    assert told == ["loader", ("init", "worker@test"), ("shutdown", "worker@test", os.getpid(), 3)]
    assert current.get_current_app() is app


@pytest.mark.row("API-542")
def test_a_loader_hears_of_each_task(app, add, delivery):
    told = []

    class Telling(Loader):
        def on_task_init(self, task_id, task):
            told.append((task_id, task.name))

        def on_process_cleanup(self):
            told.append("cleanup")

    app.loader = Telling(app)
    runner = app.make_runner("worker@test")
    runner.enter(ChildInfo(index=0, slots=1))

    runner.perform(delivery("proj.add", 1, 2, task_id="t1"))

    assert told == [("t1", "proj.add"), "cleanup"]


@pytest.mark.row("CFG-048", "API-299")
def test_results_may_tell_more(app, add, delivery):
    app.conf.result_extended = True
    runner = app.make_runner("worker@test")
    runner.enter(ChildInfo(index=0, slots=1))

    known = meta(app, runner.perform(delivery("proj.add", 1, 2)).records[0])

    assert (known["name"], known["args"], known["kwargs"]) == ("proj.add", [1, 2], {})
    assert (known["worker"], known["retries"], known["queue"]) == ("worker@test", 0, "celery")


@pytest.mark.row("CFG-049", "CFG-050")
def test_results_expire_as_the_settings_say(app, add, delivery):
    app.conf.result_expires = None
    app.conf.result_failure_expires = 60
    runner = app.make_runner("worker@test")
    runner.enter(ChildInfo(index=0, slots=1))

    good, bad = runner.perform(delivery("proj.add", 1, 2)), runner.perform(delivery("proj.add", 1, "2"))

    assert (good.records[0].expires, bad.records[0].expires) == (None, 60.0)


@pytest.mark.row("PRT-058", "PRT-060", "PRT-170")
@pytest.mark.parametrize(
    ("why", "error"),
    [
        ("revoked", TaskRevokedError),
        ("expired", TaskRevokedError),
        ("terminated", TaskRevokedError),
        ("unknown-task", NotRegistered),
        ("crashed", WorkerLostError),
        ("worker-lost", WorkerLostError),
        ("time-limit", TimeLimitExceeded),
    ],
)
def test_what_no_run_reports_is_concluded(app, add, delivery, why, error):
    state = "REVOKED" if error is TaskRevokedError else "FAILURE"
    outcome = app.conclude(delivery("proj.add", 1, 2, time_limit=9), why, "the evidence")

    assert (outcome.state, outcome.reason) == (state, "the evidence")
    known = meta(app, outcome.records[0])
    assert known["status"] == state
    assert isinstance(known["result"], error)


@pytest.mark.row("API-104", "CFG-029", "PRT-157")
def test_a_started_task_is_recorded_if_it_wants_that(app, add, delivery):
    app.task(name="tracked", track_started=True)(lambda: None)

    record = app.started_record(delivery("tracked", task_id="t1"), 4711, "worker@test")

    assert (record.id, record.state) == ("t1", "STARTED")
    assert meta(app, record)["result"] == {"pid": 4711, "hostname": "worker@test"}
    assert app.started_record(delivery("proj.add", 1, 2), 4711, "worker@test") is None
    assert app.started_record(delivery("tracked", ignore_result=True), 4711, "worker@test") is None
