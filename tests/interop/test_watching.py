"""Each side watches and steers the workers of the other: events, inspect and control, and Flower."""

import json
import socket
import subprocess
import sys
import urllib.request
from urllib.error import HTTPError

import pytest

fleet = sys.modules["umbel_interop_fleet"]
until = fleet.until

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

PAIRS = [("celery", "umbel"), ("umbel", "celery")]

ASK = """
inspect = app.control.inspect(destination=[node], timeout=20.0)
return {name: getattr(inspect, name)()[node] for name in names}
"""
TELL = """
[reply] = app.control.broadcast(command, arguments, destination=[node], reply=True, timeout=20.0)
return reply[node]
"""
WATCH = """
import threading
state = app.events.State()
heard = []
def hear(event):
    state.event(event)
    if event["hostname"] == node:
        heard.append(event)
    if {"task-failed", "worker-heartbeat"} <= {each["type"] for each in heard}:
        receiver.should_stop = True
with app.connection_for_read() as connection:
    receiver = app.events.Receiver(connection, handlers={"*": hear})
    def send():
        results.append(add.apply_async((1, 2), queue=queue).get(timeout=30))
        fail.apply_async(("custom",), queue=queue)
    results = []
    app.control.enable_events(destination=[node])
    sender = threading.Timer(0.5, send)
    sender.start()
    receiver.capture(limit=None, timeout=30)
    sender.join()
done = [task for task in state.tasks.values() if task.name == "proj.add" and task.worker.hostname == node][-1]
lost = [task for task in state.tasks.values() if task.name == "proj.fail"][-1]
worker = state.workers[node]
return {
    "results": results,
    "kinds": sorted({event["type"] for event in heard}),
    "done": [done.state, done.args, done.kwargs, done.result, done.worker.hostname, done.runtime is not None],
    "lost": [lost.state, lost.exception, "SoldOut" in lost.traceback],
    "worker": [worker.alive, worker.pid is not None, worker.sw_ident, worker.freq],
    "common": sorted(heard[0].keys() & {"hostname", "utcoffset", "pid", "clock", "timestamp", "type"}),
}
"""


def _node(fleet, side):
    return next(member.name for member in fleet._members if member.name.startswith(side))


@pytest.mark.row("API-488", "API-492", "API-494", "API-495", "API-498", "PRT-235", "PRT-239", "PRT-241", "PRT-242")
@pytest.mark.parametrize(("client", "worker"), PAIRS)
def test_a_worker_answers_the_other_side(shared, client, worker):
    node, ask = _node(shared, worker), shared.client(client, client)
    names = [
        "ping",
        "clock",
        "active",
        "reserved",
        "scheduled",
        "revoked",
        "registered",
        "active_queues",
        "stats",
        "conf",
        "report",
    ]

    told = ask(ASK, node=node, names=names)

    assert told["ping"] == {"ok": "pong"}
    assert told["clock"]["clock"] > 0
    assert told["active"] == told["reserved"] == told["scheduled"] == []
    assert "proj.add" in told["registered"]
    assert [queue["name"] for queue in told["active_queues"]] == [shared.queue(worker)]
    assert told["active_queues"][0]["exchange"]["type"] == "direct"
    assert told["stats"]["pool"]["max-concurrency"] == 2
    assert {"total", "pid", "clock", "uptime", "broker", "prefetch_count", "rusage"} <= told["stats"].keys()
    assert told["conf"]["task_default_queue"] == shared.queue(worker)
    assert told["report"]["ok"]


@pytest.mark.row("API-465", "API-466", "API-471", "API-472", "API-473", "API-474", "API-476", "API-485", "API-491")
@pytest.mark.parametrize(("client", "worker"), PAIRS)
def test_a_worker_obeys_the_other_side(shared, client, worker):
    node, tell = _node(shared, worker), shared.client(client, client)

    def order(command, **arguments):
        return tell(TELL, node=node, command=command, arguments=arguments)

    assert order("rate_limit", task_name="proj.add", rate_limit="100/s") == {"ok": "new rate limit set successfully"}
    assert order("rate_limit", task_name="proj.add", rate_limit=0) == {"ok": "rate limit disabled successfully"}
    assert order("rate_limit", task_name="nothing", rate_limit="1/s") == {"error": "unknown task"}
    assert order("time_limit", task_name="proj.add", soft=50, hard=60) == {"ok": "time limits set successfully"}
    extra = shared.queue("extra")
    assert order("add_consumer", queue=extra) == {"ok": f"add consumer {extra}"}
    assert tell("return add.apply_async((4, 5), queue=queue).get(timeout=30)", queue=extra) == 9
    assert order("cancel_consumer", queue=extra) == {"ok": f"no longer consuming from {extra}"}
    assert order("pool_grow", n=1) == {"ok": "pool will grow"}
    assert order("pool_shrink", n=1) == {"ok": "pool will shrink"}
    assert order("nonsense") == {"error": "KeyError('nonsense')"}
    assert order("revoke", task_id="gone") == {"ok": "tasks {'gone'} flagged as revoked"}
    assert "gone" in tell(ASK, node=node, names=["revoked"])["revoked"]


@pytest.mark.row("API-505", "API-512", "PRT-209", "PRT-213", "PRT-220", "PRT-222", "PRT-223", "PRT-229", "API-475")
@pytest.mark.parametrize(("client", "worker"), PAIRS)
def test_tasks_of_the_other_side_are_seen(shared, client, worker):
    node = _node(shared, worker)

    seen = shared.client(client, client)(WATCH, node=node, queue=shared.queue(worker))

    assert seen["results"] == [3]
    assert {"task-received", "task-started", "task-succeeded", "task-failed", "worker-heartbeat"} <= set(seen["kinds"])
    assert seen["done"] == ["SUCCESS", "(1, 2)", "{}", "3", node, True]
    assert seen["lost"] == ["FAILURE", "SoldOut('tea', 3)", True]
    assert seen["worker"][:3] == [True, True, "py-celery"]
    assert seen["common"] == ["clock", "hostname", "pid", "timestamp", "type", "utcoffset"]


# -- Flower


class Flower:
    """A Flower on the broker of a fleet."""

    def __init__(self, members, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "flower.log"
        environment = {**members._environment("celery", "celery"), "FLOWER_UNAUTHENTICATED_API": "true"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [fleet.CELERY, "-m", "celery", "-A", "proj", "flower", f"--port={self.port}", "--address=127.0.0.1"],
                env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def __call__(self, path, **fields):
        """Return what Flower answers to a GET, or with *fields* to a POST."""
        data = "&".join(f"{name}={value}" for name, value in fields.items()).encode() if fields else None
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", data, timeout=fleet.PATIENCE) as answer:
            return json.load(answer)

    def finds(self, path, claim):
        """Wait until *claim* holds of what Flower answers; return that."""
        found = {}

        def look():
            try:
                found["it"] = self(path)
            except (OSError, HTTPError, ValueError):
                return False
            return claim(found["it"])

        until(look, lambda: f"{found}\n{self.log.read_text()}")
        return found["it"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("redis", marks=pytest.mark.service("redis", "A")),
        pytest.param("rabbitmq", marks=[pytest.mark.service("rabbitmq", "A"), pytest.mark.service("redis", "A")]),
    ],
)
def watched(request, make_fleet, tmp_path_factory):
    """A worker of umbel that tells of tasks, and a Flower that watches it."""
    if subprocess.run([fleet.CELERY, "-c", "import flower"], capture_output=True, check=False).returncode:
        pytest.skip("no Flower beside the real Celery: make .venv-peer/.celery")
    members = make_fleet(request.param)
    worker = members.worker("umbel", "umbel", options=("-c", "2", "-E")).ready()
    flower = Flower(members, tmp_path_factory.mktemp("flower"))
    yield members, worker, flower
    flower.process.terminate()
    flower.process.wait(fleet.PATIENCE)
    members.close()


@pytest.mark.row("ALI-012", "ALI-013")
def test_flower_sees_and_steers_a_worker_of_umbel(watched):
    members, worker, flower = watched
    flower.finds("api/workers?refresh=1", lambda found: worker.name in found and "stats" in found[worker.name])
    client = members.client("umbel", "umbel")
    assert client("return add.delay(20, 22).get(timeout=30)") == 42
    client("fail.delay('custom')")

    tasks = flower.finds(
        "api/tasks", lambda found: {each["state"] for each in found.values()} == {"SUCCESS", "FAILURE"}
    )
    added, lost = sorted(tasks.values(), key=lambda each: each["name"])
    assert (added["name"], added["args"], added["result"], added["worker"]) == (
        "proj.add",
        "(20, 22)",
        "42",
        worker.name,
    )
    assert added["runtime"] >= 0
    assert (lost["exception"], "SoldOut" in lost["traceback"]) == ("SoldOut('tea', 3)", True)
    told = flower(f"api/workers?workername={worker.name}")[worker.name]
    assert told["stats"]["pool"]["max-concurrency"] == 2
    assert "proj.add" in told["registered"]
    assert [queue["name"] for queue in told["active_queues"]] == [members.queue("umbel")]

    answer = flower("api/task/rate-limit/proj.add", workername=worker.name, ratelimit="100/s")
    assert answer["message"] == "new rate limit set successfully"
    assert "revoked" in flower("api/task/revoke/gone", terminate="false")["message"].lower()
    until(
        lambda: (
            "gone"
            in client("return app.control.inspect(destination=[node], timeout=20).revoked()[node]", node=worker.name)
        )
    )
    assert "grow" in flower(f"api/worker/pool/grow/{worker.name}", n=1)["message"].lower()
    assert "shut" in flower(f"api/worker/shutdown/{worker.name}", x=1)["message"].lower()
    until(lambda: worker._process.poll() is not None, worker.log.read_text)
