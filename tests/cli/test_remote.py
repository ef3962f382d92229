"""What umbel status, inspect, control, pause, resume and events say and answer."""

import json
import os
import signal
import threading
import time

import pytest

from umbel import Umbel
from umbel.exceptions import BrokerUnavailable
from umbel.worker.control import Panel, control_command

SECONDS = 30.0


@pytest.fixture
def app(folder):
    with Umbel("shop", broker="memory://", backend="memory://") as made:
        made.task(name="shop.sell", rate_limit="9/m")(lambda: None)
        yield made


@pytest.fixture
def node(app):
    """A worker that answers."""
    worker = app.Worker(pool="solo", hostname="w1@host", without_heartbeat=True)
    thread = threading.Thread(target=worker.start, daemon=True)
    thread.start()
    end = time.monotonic() + SECONDS
    while not app.control.ping(destination=["w1@host"], timeout=0.1):
        assert time.monotonic() < end
    yield worker
    worker.stop()
    thread.join(SECONDS)


@pytest.fixture
def run(umbel, app):
    """Run ``umbel WORDS...`` for that app, for the one node unless words say otherwise."""
    return lambda *words: umbel(*words, app=app)


TO = ("-d", "w1@host", "-t", "30")


@pytest.mark.row("CLI-098", "CLI-099", "CLI-100", "CLI-102")
def test_status_shows_who_is_there(run, node):
    assert run("status", *TO).out == "w1@host: OK\n\n1 node online.\n"
    assert json.loads(run("status", *TO, "-j").out) == {"w1@host": {"ok": "pong"}}
    assert run("-q", "status", *TO).out == "w1@host: OK\n"


@pytest.mark.row("CLI-115")
def test_graph_draws_workers_that_answer(run, node):
    assert '"w1@host slot 1" -> "w1@host"' in run("graph", "workers", *TO).out


@pytest.mark.row("CLI-022", "CLI-115")
def test_graph_of_a_broker_that_is_away(run, app, monkeypatch):
    def away(*_, **__):
        raise BrokerUnavailable("gone")

    monkeypatch.setattr(app.control, "broadcast", away)
    assert run("graph", "workers").code == 69


@pytest.mark.row("CLI-021", "CLI-098")
def test_nobody_answers(run, app):
    for words in (("status",), ("inspect", "ping"), ("control", "heartbeat")):
        ran = run(*words, "-t", "0.01")
        assert (ran.code, ran.out, ran.err) == (69, "", "Error: No nodes replied within time constraint\n")


@pytest.mark.row("CLI-022")
def test_the_broker_is_down(run, app, monkeypatch):
    def down(*_, **__):
        raise BrokerUnavailable("the broker at memory:// does not answer")

    monkeypatch.setattr(app, "open_broker", down)

    ran = run("inspect", "ping")
    assert (ran.code, ran.err) == (69, "Error: the broker at memory:// does not answer\n")


@pytest.mark.row("CLI-103", "CLI-105")
def test_inspect_shows_each_node(run, node):
    assert run("inspect", "ping", *TO).out == "->  w1@host: OK\n    pong\n\n1 node online.\n"
    assert run("inspect", "active", *TO).out == "->  w1@host: OK\n    - empty -\n\n1 node online.\n"
    assert "* shop.sell [rate_limit=9/m]" in run("inspect", "registered", *TO).out
    assert "* shop.sell [name=shop.sell]" in run("inspect", "registered", "name", *TO).out
    assert "max-concurrency: 1" in run("inspect", "stats", *TO).out
    assert len(run("inspect", "conf", "true", *TO).out) > 5 * len(run("inspect", "conf", *TO).out)
    assert json.loads(run("inspect", "query_task", "a", "b", *TO, "--json").out) == {"w1@host": {}}


@pytest.mark.row("CLI-020", "CLI-101", "CLI-106")
def test_commands_are_listed_and_mistakes_answered(run, app):
    listed = run("inspect", "--list")
    assert listed.code == 0
    assert "query_task [id1 [id2 [... [idN]]]]" in listed.out
    assert "List the tasks that run." in listed.out
    assert "hello" not in listed.out
    listed = run("control", "--list").out
    for name in (
        "add_consumer", "autoscale", "cancel_consumer", "disable_events", "election", "enable_events", "heartbeat",
        "pool_grow", "pool_restart", "pool_shrink", "rate_limit", "revoke", "revoke_by_stamped_headers", "shutdown",
        "terminate", "time_limit",
    ):  # fmt: skip
        assert f"  {name}" in listed

    for words, hint in (
        (("inspect",), "umbel inspect --list"),
        (("inspect", "actve"), "did you mean 'active'?"),
        (("inspect", "revoke"), "It is a command of umbel control."),
        (("control", "pool_grow", "many"), "'many' is no n"),
        (("control", "pool_grow", "1", "2"), "takes no more words: 2"),
    ):
        ran = run(*words)
        assert ran.code == 2
        assert hint in ran.err


@pytest.mark.row("CLI-104", "CLI-100")
def test_control_changes_things(run, node):
    assert run("control", "rate_limit", "shop.sell", "5/m", *TO).out == (
        "->  w1@host: OK\n    new rate limit set successfully\n"
    )
    assert run("control", "rate_limit", "shop.buy", "5/m", *TO).out == "->  w1@host: ERROR\n    unknown task\n"
    replied = json.loads(run("control", "time_limit", "shop.sell", "1.5", *TO, "-j").out)
    assert replied == [{"w1@host": {"ok": "time limits set successfully"}}]
    assert "flagged as revoked" in run("control", "revoke", "a", "b", *TO).out
    assert json.loads(run("inspect", "revoked", *TO, "-j").out) == {"w1@host": ["a", "b"]}
    assert "terminate: tasks unknown" in run("control", "terminate", "KILL", "a", *TO).out
    assert "flagged as revoked" in run("control", "revoke_by_stamped_headers", "tenant=acme", *TO).out
    assert node.desk.stamps == {"tenant": ["acme"]}


@pytest.mark.row("CLI-025")
def test_a_worker_that_is_shut_down_does_not_answer(run, node):
    ran = run("control", "shutdown", *TO, "-t", "0.3")

    assert ran.code == 69


@pytest.mark.row("CLI-107")
def test_commands_of_users_are_there(run, node, monkeypatch):
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))

    @control_command(args=[("price", float)], variadic="things", signature="<price> [thing...]")
    def reprice(state, price, things=()):
        """Change prices."""
        return {"ok": f"{things} cost {price}"}

    assert "reprice <price> [thing...]" in run("control", "--list").out
    assert "['tea', 'milk'] cost 2.5" in run("control", "reprice", "2.5", "tea", "milk", *TO).out


def test_queues_are_paused_and_resumed(run, app):
    assert run("pause").out == "No queue is paused.\n"
    assert run("pause", "a", "b").out.startswith("a is paused: what is sent to it waits.")
    assert run("pause").out == "a\nb\n"
    assert run("resume", "a", "c").out == "a goes on.\nc was not paused.\n"
    assert run("resume", "--all").out == "b goes on.\n"
    assert run("resume").code == 2
    assert app.open_broker().paused() == frozenset()


@pytest.mark.row("CLI-089")
def test_events_without_options_are_a_live_view(run, app, monkeypatch):
    seen = []
    monkeypatch.setattr("umbel.cli.top.watch", seen.append)

    assert run("events").code == 0
    assert seen == [app]


@pytest.mark.row("CLI-090", "CLI-091", "CLI-093", "CLI-094")
def test_events_are_dumped_or_photographed(run, app, folder, monkeypatch):
    def capture(self, *_, **__):
        self.process("task-started", {"type": "task-started", "timestamp": 1.0, "hostname": "w1@host", "uuid": "t1"})
        raise KeyboardInterrupt

    monkeypatch.setattr(type(app.events.Receiver()), "capture", capture, raising=False)
    ran = run("events", "--dump")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "-> evdump: starting capture...",
        "w1@host [1970-01-01 00:00:01+00:00] task started: t1",
    ]

    (folder / "photos.py").write_text(
        "from umbel.events.snapshot import Polaroid\n\n\n"
        "class Camera(Polaroid):\n"
        "    def __exit__(self, *exc):\n"
        "        super().__exit__(*exc)\n"
        "        print(self.freq, self._interval, list(self.state.tasks))\n"
    )
    monkeypatch.setattr(app.log, "setup_logging_subsystem", lambda *_: None)
    ran = run("events", "-c", "photos.Camera", "-F", "7.5", "-r", "30/m")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == ["-> evcam: Taking snapshots with photos.Camera (every 7.5 secs.)", "7.5 2.0 ['t1']"]


@pytest.mark.row("CLI-096")
def test_events_are_dumped_in_the_background(run, app, folder, monkeypatch):
    def capture(self, *_, **__):
        assert (folder / "ev.pid").read_text() == f"{os.getpid()}\n"
        self.process("task-started", {"type": "task-started", "timestamp": 1.0, "hostname": "w1@host", "uuid": "t1"})
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(60)

    detached = []
    monkeypatch.setattr(type(app.events.Receiver()), "capture", capture, raising=False)
    monkeypatch.setattr("umbel.cli.daemon.detach", lambda argv, **options: detached.append((argv, options)) or 0)
    words = ("events", "--dump", "--logfile", "ev.log", "--pidfile", "ev.pid")

    assert run(*words).code == 0
    assert (folder / "ev.log").read_text().splitlines()[-1] == "w1@host [1970-01-01 00:00:01+00:00] task started: t1"
    assert not (folder / "ev.pid").exists()
    assert run(*words, "--detach", "--umask", "027").code == 0
    assert detached == [
        ([*words, "--detach", "--umask", "027"], {"held": "ev.pid", "umask": "027", "executable": None})
    ]
    assert "needs a terminal" in run("events", "--detach").err
    assert "cannot be written" in run("events", "--dump", "-f", "not/there.log").err
