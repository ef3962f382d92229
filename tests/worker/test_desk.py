"""A worker is steered and watched, from this process, over memory."""

import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace

import pytest

from umbel import Umbel, current, signals
from umbel.brokers.base import Delivery
from umbel.brokers.listener import Listener
from umbel.events.state import State
from umbel.exceptions import BrokerUnavailable, BrokerUnusable, TaskRevokedError
from umbel.wire.message import Message, Route
from umbel.worker import commands
from umbel.worker.admit import Policy
from umbel.worker.control import CommandState, Panel, control_command, inspect_command
from umbel.worker.core import Rules, WorkerState, step
from umbel.worker.facts import Arrived
from umbel.worker.health import pages

_names = count()
SECONDS = 30.0
ONE = {"reply": True, "limit": 1, "timeout": SECONDS}  # as long as it takes, and not for a second node


class Gate:
    """Holds a task until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.opened.set()


@pytest.fixture
def app(gate):
    with Umbel(f"desk{next(_names)}", broker="memory://", backend="memory://") as made:

        @made.task(name="proj.add")
        def add(x, y):
            return x + y

        @made.task(name="proj.fail")
        def fail():
            raise KeyError("boom")

        @made.task(name="proj.wait")
        def wait(n=0):
            gate.reached.set()
            gate.opened.wait(SECONDS)
            return n

        @made.task(name="proj.silent", send_events=False)
        def silent():
            return None

        yield made
    current.set_current_app(None)


@contextmanager
def running(app, **options):
    """Run a worker in a thread until the block ends; it answers when the block begins."""
    worker = app.Worker(pool="solo", **{"hostname": "w1@host", **options})
    thread = threading.Thread(target=worker.start, daemon=True)
    thread.start()
    try:
        if app.conf.worker_enable_remote_control:
            until(lambda: app.control.ping(destination=[worker.hostname], timeout=0.1, limit=1))
        yield worker
    finally:
        worker.stop()
        thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.fixture
def node(app):
    with running(app) as worker:
        yield worker


def until(condition):
    """Wait until *condition* holds; return what it said."""
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
    return found


def only(replies):
    """Return the answer of the only node."""
    [reply] = replies
    [value] = reply.values()
    return value


@contextmanager
def watching(app):
    """Collect events while the block runs."""
    heard, ready = [], threading.Event()
    receiver = app.events.Receiver(handlers={"*": heard.append})
    receiver.wakeup_workers = lambda *_: ready.set()

    def listen():
        receiver.capture(timeout=SECONDS)

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield heard
    finally:
        receiver.should_stop = True
        with app.events.Dispatcher() as dispatcher:
            dispatcher.send("worker-wakes-it")
        thread.join(SECONDS)


# -- events


@pytest.mark.row("PRT-220", "PRT-221", "PRT-222", "PRT-223", "PRT-229", "PRT-231", "CLI-036")
def test_a_worker_tells_what_becomes_of_tasks(app):
    with watching(app) as heard:
        with running(app, task_events=True):
            app.tasks["proj.silent"].delay().get(timeout=SECONDS)
            added = app.tasks["proj.add"].delay(1, 2)
            failed = app.tasks["proj.fail"].delay()
            until(lambda: any(event["type"] == "task-failed" for event in heard))
        until(lambda: any(event["type"] == "worker-offline" for event in heard))

    own = {kind: [event for event in heard if event["type"] == kind] for kind in {event["type"] for event in heard}}
    assert own["worker-online"][0]["sw_ident"] == "py-celery"
    assert {"freq", "active", "processed", "loadavg", "sw_ver", "sw_sys"} <= own["worker-online"][0].keys()
    received = next(event for event in own["task-received"] if event["uuid"] == added.id)
    assert (received["name"], received["args"], received["kwargs"]) == ("proj.add", "(1, 2)", "{}")
    assert {"root_id", "parent_id", "retries", "eta", "expires"} <= received.keys()
    assert {event["uuid"] for event in own["task-started"]} == {added.id, failed.id}
    [succeeded] = own["task-succeeded"]
    assert (succeeded["uuid"], succeeded["result"]) == (added.id, "3")
    assert succeeded["runtime"] >= 0
    [event] = own["task-failed"]
    assert event["exception"] == "KeyError('boom')"
    assert "Traceback" in event["traceback"]
    state = State()
    for event in heard:
        state.event(event)
    assert state.tasks[added.id].state == "SUCCESS"
    assert [event["clock"] for event in heard] == sorted(event["clock"] for event in heard)


@pytest.mark.row("PRT-218", "API-475", "CFG-184")
def test_a_worker_is_silent_about_tasks_until_it_is_asked(app, node):
    with watching(app) as heard:
        app.tasks["proj.add"].delay(1, 2).get(timeout=SECONDS)
        assert only(app.control.enable_events(**ONE)) == {"ok": "task events enabled"}
        assert only(app.control.enable_events(**ONE)) == {"ok": "task events already enabled"}
        second = app.tasks["proj.add"].delay(3, 4)
        until(lambda: any(event["type"] == "task-succeeded" for event in heard))
        assert only(app.control.disable_events(**ONE)) == {"ok": "task events disabled"}
        assert only(app.control.disable_events(**ONE)) == {"ok": "task events already disabled"}

    assert {event["uuid"] for event in heard if event["type"].startswith("task-")} == {second.id}


@pytest.mark.row("PRT-226")
def test_the_end_of_a_revoked_task_is_told(app):
    result = app.tasks["proj.add"].delay(1, 2)
    result.revoke()
    with watching(app) as heard, running(app, task_events=True):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=SECONDS)
        [event] = until(lambda: [each for each in heard if each["type"] == "task-revoked"])

    assert (event["terminated"], event["signum"], event["expired"]) == (False, None, False)


@pytest.mark.row("API-178", "PRT-228")
def test_a_task_tells_events_of_its_own(app):
    @app.task(bind=True, shared=False)
    def progress(self):
        self.send_event("task-progress", done=3)

    with watching(app) as heard, running(app):
        result = progress.delay()
        [event] = until(lambda: [each for each in heard if each["type"] == "task-progress"])

    assert (event["uuid"], event["done"], event["hostname"]) == (result.id, 3, "w1@host")


@pytest.mark.row("PRT-219")
def test_what_follows_from_a_task_is_told_as_sent(app):
    app.conf.task_send_sent_event = True
    add = app.tasks["proj.add"]
    with watching(app) as heard, running(app):
        result = (add.s(1, 2) | add.s(3)).apply_async()
        assert result.get(timeout=SECONDS) == 6
        sent = until(
            lambda: found if len(found := [each for each in heard if each["type"] == "task-sent"]) == 2 else []
        )

    assert [event["uuid"] for event in sent] == [result.parent.id, result.id]
    assert (sent[1]["name"], sent[1]["parent_id"], sent[1]["args"]) == ("proj.add", result.parent.id, "(3, 3)")


@pytest.mark.row("API-443")
def test_a_heartbeat_is_a_signal_too(app):
    seen = []
    signals.heartbeat_sent.connect(lambda sender, **_: seen.append(sender), weak=False, dispatch_uid="test")
    try:
        with running(app, without_heartbeat=True) as worker:
            app.control.heartbeat(**ONE)
    finally:
        signals.heartbeat_sent.disconnect(dispatch_uid="test")
    assert seen == [worker.desk]


@pytest.mark.row("API-480", "PRT-230", "CLI-048", "CLI-049")
def test_heartbeats_come_when_they_are_asked_for(app):
    with watching(app) as heard, running(app, without_heartbeat=True):
        assert only(app.control.heartbeat(**ONE)) is None
        [event] = until(lambda: list(heard))

    assert (event["type"], event["freq"]) == ("worker-heartbeat", 5.0)
    assert not [each for each in heard if each["type"] in {"worker-online", "worker-offline"}]


# -- looking


@pytest.mark.row("API-488", "API-489", "API-493", "API-494")
def test_what_a_worker_holds_can_be_seen(app, node, gate):
    first = app.tasks["proj.wait"].delay(1)
    assert gate.reached.wait(SECONDS)
    inspect = app.control.inspect(limit=1, timeout=SECONDS)

    [told] = inspect.active()["w1@host"]
    assert told["id"] == first.id
    assert (told["name"], told["type"], told["args"], told["kwargs"]) == ("proj.wait", "proj.wait", [1], {})
    assert told["hostname"] == "w1@host"
    assert 0 <= time.time() - told["time_start"] < SECONDS
    assert told["delivery_info"] == {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    assert isinstance(told["worker_pid"], int)
    assert inspect.reserved() == {"w1@host": []}
    assert inspect.scheduled() == {"w1@host": []}
    [(task_id, [what, _])] = inspect.query_task(first.id, "unknown")["w1@host"].items()
    assert (task_id, what) == (first.id, "active")
    stats = inspect.stats()["w1@host"]
    assert stats["total"] == {"proj.wait": 1}
    assert stats["pool"]["max-concurrency"] == 1
    assert {"pid", "clock", "uptime", "broker", "prefetch_count", "rusage"} <= stats.keys()
    gate.opened.set()
    assert first.get(timeout=SECONDS) == 1
    assert inspect.active() == {"w1@host": []}


@pytest.mark.row("API-490")
def test_what_a_worker_holds_for_its_time_can_be_seen(app):
    # As with RabbitMQ where delays are not its own; the brokers of these tests hold such messages themselves.
    worker = app.Worker(pool="solo", hostname="w1@host")
    core = WorkerState(slots=1, policy=lambda _: Policy(), rules=Rules(delays=False))
    eta = datetime.now(UTC) + timedelta(hours=1)
    message = Message(id="t1", task="proj.add", body=b"[[1, 2], {}, {}]", eta=eta, priority=3)
    delivery = Delivery(message=message, queue="celery", route=Route(routing_key="celery"), tag=1, token=1)
    step(core, Arrived((delivery,), time.time()), now=time.monotonic())
    seen = SimpleNamespace(core=core, pool=worker.pool, ask=lambda question: question(), app=app, hostname="w1@host")

    [told] = commands.scheduled(CommandState(seen, None))

    assert (told["eta"], told["priority"], told["request"]["id"]) == (eta.isoformat(), 6, "t1")
    assert (told["request"]["args"], told["request"]["delivery_info"]["priority"]) == ([1, 2], 3)


@pytest.mark.row("API-501")
def test_objects_can_be_drawn_where_the_package_for_that_is_installed(app, node, monkeypatch):
    inspect = app.control.inspect(limit=1, timeout=SECONDS)
    monkeypatch.setitem(sys.modules, "objgraph", None)
    assert "pip install objgraph" in inspect.objgraph()["w1@host"]["error"]

    drawn = {}
    drawer = SimpleNamespace(
        by_type=lambda kind: [kind] * 9, show_backrefs=lambda *args, **how: drawn.update(how, of=args)
    )
    monkeypatch.setitem(sys.modules, "objgraph", drawer)
    told = inspect.objgraph("Message", n=2, max_depth=3)["w1@host"]

    assert told == {"filename": drawn["filename"]}
    assert (drawn["of"], drawn["max_depth"]) == ((["Message", "Message"],), 3)


@pytest.mark.row(
    "API-492", "API-495", "API-496", "API-497", "API-498", "API-499", "API-502", "API-500", "API-504", "PRT-245"
)
def test_questions_are_answered_in_celerys_shapes(app, node):
    inspect = app.control.inspect(destination=["w1@host"], timeout=SECONDS)

    assert inspect.ping() == {"w1@host": {"ok": "pong"}}
    # Tasks that are shared by every app of this process may be there as well.
    assert {"proj.add", "proj.fail", "proj.silent", "proj.wait"} <= set(inspect.registered()["w1@host"])
    assert "proj.silent [send_events=False]" in inspect.registered("send_events")["w1@host"]
    [queue] = inspect.active_queues()["w1@host"]
    assert (queue["name"], queue["routing_key"], queue["exchange"]["type"]) == ("celery", "celery", "direct")
    assert inspect.conf()["w1@host"]["broker_url"] == "memory://"
    assert len(inspect.conf(with_defaults=True)["w1@host"]) > 100
    assert inspect.clock()["w1@host"]["clock"] > 0
    assert "umbel" in inspect.report()["w1@host"]["ok"]
    assert inspect.hello("w2@host", ["gone"])["w1@host"]["revoked"] == ["gone"]
    assert app.control.inspect(limit=1, timeout=0.05).hello("w1@host") is None
    assert inspect.revoked() == {"w1@host": ["gone"]}
    assert inspect.memsample()["w1@host"].endswith("MB")
    assert len(inspect.memdump()["w1@host"]) == 1
    for alias in ("dump_active", "dump_reserved", "dump_schedule", "dump_revoked", "dump_tasks", "dump_conf"):
        assert isinstance(only(app.control.broadcast(alias, **ONE)), (list, dict))


@pytest.mark.row("API-487", "PRT-238", "API-483")
def test_only_those_who_are_meant_answer(app, node):
    control = app.control

    assert control.ping(destination=["other@host"], timeout=0.05) == []
    assert control.inspect(pattern="x*", matcher="glob", timeout=0.05).ping() is None
    assert only(control.ping(pattern="w*@host", matcher="glob", limit=1, timeout=SECONDS)) == {"ok": "pong"}
    assert only(control.ping(pattern=r"w\d@", matcher="pcre", limit=1, timeout=SECONDS)) == {"ok": "pong"}
    with pytest.raises(ValueError, match="list or tuple"):
        control.inspect(destination="w1@host").ping()
    seen = []
    control.ping(callback=seen.append, limit=1, timeout=SECONDS)
    assert seen == [{"w1@host": {"ok": "pong"}}]


@pytest.mark.row("API-484", "CLI-129")
def test_two_nodes_of_one_name_are_noticed(app):
    from umbel.app.control import flatten_reply
    from umbel.exceptions import DuplicateNodenameWarning

    with pytest.warns(DuplicateNodenameWarning, match="w1@host"):
        assert flatten_reply([{"w1@host": 1}, {"w1@host": 2}, {"w2@host": 3}]) == {"w1@host": 2, "w2@host": 3}


# -- steering


@pytest.mark.row("API-465", "API-466", "API-467", "PRT-060")
def test_a_revoked_task_does_not_run_and_who_waits_is_told(app, node, gate):
    app.tasks["proj.wait"].delay()
    assert gate.reached.wait(SECONDS)
    result = app.tasks["proj.add"].delay(1, 2)

    assert only(app.control.revoke(result.id, **ONE)) == {"ok": f"tasks {{'{result.id}'}} flagged as revoked"}
    with pytest.raises(TaskRevokedError):
        result.get(timeout=SECONDS)  # although no slot is free
    assert only(app.control.terminate(["none"], **ONE)) == {"ok": "terminate: tasks unknown"}
    gate.opened.set()


@pytest.mark.row("API-293", "API-469")
def test_tasks_are_revoked_by_their_stamps_also_those_to_come(app, gate):
    add = app.tasks["proj.add"]
    with running(app):
        reply = only(app.control.revoke_by_stamped_headers({"tenant": ["acme", "zeus"]}, **ONE))
        assert reply == {"ok": "headers {'tenant': ['acme', 'zeus']} flagged as revoked, but not terminated"}
    with running(app):  # another, later worker
        stamped = add.s(1, 2)
        stamped.stamp(tenant="acme")
        with pytest.raises(TaskRevokedError):
            stamped.apply_async().get(timeout=SECONDS)
        other = add.s(1, 2)
        other.stamp(tenant="hera")
        assert other.apply_async().get(timeout=SECONDS) == 3


@pytest.mark.row("API-471", "API-472")
def test_limits_are_changed(app, node):
    control = app.control

    assert only(control.rate_limit("proj.add", "5/m", **ONE)) == {"ok": "new rate limit set successfully"}
    assert node.ask(lambda: node.core.adjusted["proj.add"].interval) == 12.0
    assert only(control.rate_limit("proj.add", 0, **ONE)) == {"ok": "rate limit disabled successfully"}
    assert only(control.rate_limit("nope", "5/m", **ONE)) == {"error": "unknown task"}
    assert only(control.rate_limit("proj.add", "5/x", **ONE)) == {"error": "KeyError('x')"}
    assert only(control.time_limit("proj.add", soft=1, hard=2, **ONE)) == {"ok": "time limits set successfully"}
    policy = node.ask(lambda: node.core.adjusted["proj.add"])
    assert (policy.soft_limit, policy.hard_limit) == (1, 2)
    assert only(control.time_limit("nope", soft=1, **ONE)) == {"error": "unknown task"}


@pytest.mark.row("API-473", "API-474")
def test_queues_are_added_and_left(app, node):
    assert only(app.control.add_consumer("extra", **ONE)) == {"ok": "add consumer extra"}
    assert app.tasks["proj.add"].apply_async((1, 2), queue="extra").get(timeout=SECONDS) == 3
    assert only(app.control.cancel_consumer("extra", **ONE)) == {"ok": "no longer consuming from extra"}
    assert [queue["name"] for queue in app.control.inspect(limit=1, timeout=SECONDS).active_queues()["w1@host"]] == [
        "celery"
    ]


@pytest.mark.row("API-476", "API-477", "API-478", "API-481", "API-485", "API-486", "PRT-240", "TB-168")
def test_what_cannot_be_done_is_answered(app, node):
    control = app.control

    assert only(control.pool_grow(**ONE)) == {"ok": "pool will grow"}
    assert only(control.pool_shrink(**ONE)) == {"ok": "pool will shrink"}
    assert only(control.pool_restart(**ONE)) == {"error": "ValueError('Pool restarts not enabled')"}
    assert only(control.autoscale(3, 1, **ONE)) == {"error": "ValueError('Autoscale not enabled')"}
    assert only(control.broadcast("nonsense", **ONE)) == {"error": "KeyError('nonsense')"}
    assert "TypeError" in only(control.broadcast("revoke", **ONE))["error"]
    assert only(control.ping(limit=1, timeout=SECONDS)) == {"ok": "pong"}


@pytest.mark.row("PRT-232", "PRT-248")
def test_an_election_is_won_once(app, node):
    signature = dict(app.tasks["proj.add"].s(1, 2).set(task_id="elected"))
    for _ in range(2):
        app.control.election("e1", "task", signature)

    assert app.AsyncResult("elected").get(timeout=SECONDS) == 3
    assert app.control.inspect(limit=1, timeout=SECONDS).stats()["w1@host"]["total"] == {"proj.add": 1}


@pytest.mark.row("API-479", "CLI-025")
def test_a_worker_is_shut_down(app, gate):
    worker = app.Worker(pool="solo", hostname="w1@host")
    thread = threading.Thread(target=worker.start, daemon=True)
    thread.start()
    until(lambda: app.control.ping(timeout=0.1, limit=1))

    assert app.control.shutdown(reply=True, timeout=0.2) == []
    thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [BrokerUnavailable, BrokerUnusable, RuntimeError])
def test_a_desk_begins_anew_when_its_connection_breaks(app, monkeypatch, error, caplog):
    monkeypatch.setattr("umbel.worker.desk._BACKOFF", (0.01,))
    hear, broken = Listener.hear, []

    def fail_once(self, *args, **options):
        if broken:
            raise error(broken.pop())
        return hear(self, *args, **options)

    with running(app, heartbeat_interval=0.01):
        monkeypatch.setattr(Listener, "hear", fail_once)
        broken.append("it broke")
        until(lambda: not broken)
        until(lambda: app.control.ping(destination=["w1@host"], timeout=0.1))
    assert ("Each needs a name of its own" in caplog.text) is (error is BrokerUnusable)


@pytest.mark.row("CFG-170")
def test_a_worker_may_be_deaf(app):
    app.conf.worker_enable_remote_control = False
    with running(app):
        assert app.control.ping(timeout=0.05) == []


def test_queues_are_paused(app, node):
    app.control.pause("celery")
    result = app.tasks["proj.add"].delay(1, 2)
    assert not result.ready()
    app.control.resume("celery")

    assert result.get(timeout=SECONDS) == 3


# -- commands of users


@pytest.fixture
def own_commands(monkeypatch):
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))

    @control_command(args=[("n", int)], signature="[N=1]", alias="more_luck")
    def add_luck(state, n=1):
        """Add luck."""
        return {"ok": [state.hostname, state.app.main, n]}

    @inspect_command
    def luck(state):
        """Tell how much there is."""
        return {"luck": state.tset([1, 1])}


@pytest.mark.row("API-503")
def test_users_have_commands_of_their_own(app, own_commands):
    with running(app):
        assert only(app.control.broadcast("add_luck", {"n": 3}, **ONE)) == {"ok": ["w1@host", app.main, 3]}
        assert only(app.control.broadcast("more_luck", **ONE)) == {"ok": ["w1@host", app.main, 1]}
        assert "cannot be sent" in only(app.control.broadcast("luck", **ONE))["error"]  # JSON has no sets
    assert (Panel.meta["luck"].type, Panel.meta["luck"].help) == ("inspect", "Tell how much there is.")
    assert list(Panel.meta["add_luck"].args) == [("n", int)]


# -- cost


class Counting:
    """A broker that counts what is asked of it."""

    def __init__(self, broker, counts):
        self._broker, self._counts = broker, counts

    def __getattr__(self, name):
        found = getattr(self._broker, name)
        if not callable(found) or name in {"fileno", "next_due"}:  # these ask nobody
            return found

        def count(*args, **options):
            self._counts.append(name)
            return found(*args, **options)

        return count


def test_an_idle_worker_asks_little(app, monkeypatch):
    connections, open_broker = [], app.open_broker

    def open_counting(**options):
        connections.append([])
        return Counting(open_broker(**options), connections[-1])

    monkeypatch.setattr(app, "open_broker", open_counting)
    with running(app, task_events=True, heartbeat_interval=0.2):
        loop = connections[0]
        desk = until(lambda: next((each for each in connections if each.count("publish") > 2), None))
        for asked in (loop, desk):
            asked.clear()
        began = time.monotonic()
        until(lambda: desk.count("publish") >= 6)
        seconds = time.monotonic() - began
        looks = seconds / 5.0  # each looks every five seconds what it may have missed

        assert len(loop) <= looks + 2
        assert len(desk) <= desk.count("publish") + looks + 2


# -- for machines


def test_a_worker_says_how_it_is(app, node):
    told = pages(node)
    app.tasks["proj.add"].delay(1, 2).get(timeout=SECONDS)

    assert told["/live"]() == (200, "alive\n")
    assert told["/ready"]() == (200, "ready\n")
    status, text = until(lambda: found if "SUCCESS" in (found := told["/metrics"]())[1] else None)
    assert status == 200
    assert 'umbel_tasks_total{task="proj.add",state="SUCCESS"} 1' in text
    assert 'umbel_queue_messages{queue="celery",state="ready"} 0' in text
    assert 'umbel_task_waiting_seconds_count{queue="celery"} 1' in text
    app.control.cancel_consumer("celery", **ONE)
    assert told["/ready"]() == (503, "takes no tasks: it consumes no queue\n")


def test_a_worker_that_stops_is_not_ready(app, gate):
    with running(app) as worker:
        app.tasks["proj.wait"].delay()
        assert gate.reached.wait(SECONDS)
        worker.stop()
        told = pages(worker)
        assert until(lambda: told["/ready"]()[0] == 503)
        assert told["/ready"]() == (503, "takes no tasks: it is stopping\n")
        assert told["/live"]() == (200, "alive\n")
        gate.opened.set()


def test_a_worker_that_has_not_begun_is_alive_and_not_ready(app):
    told = pages(app.Worker(pool="solo"))

    assert told["/live"]() == (200, "starting\n")
    assert told["/ready"]()[0] == told["/metrics"]()[0] == 503
