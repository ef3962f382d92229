"""The broker goes away and comes back while producers go on: every accepted task runs, and nobody waits for ever."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.stories.own_redis import OwnRedis

from umbel import Umbel
from umbel.exceptions import BrokerUnavailable, OperationalError, PublishTimeout

pytestmark = [pytest.mark.process, pytest.mark.timeout(150)]
PATIENCE = 60.0
ROOT = Path(__file__).resolve().parents[2]
REDIS = pytest.param("redis", marks=pytest.mark.service("redis", "A"))
RABBITMQ = pytest.param("rabbitmq", marks=pytest.mark.service("rabbitmq", "A"))
KILLED_REDIS = pytest.param("killed redis", marks=pytest.mark.service("redis", "A"))
KILLED_RABBITMQ = pytest.param("killed rabbitmq", marks=pytest.mark.service("rabbitmq", "A"))
PROJECT = """
import os
from umbel import Umbel

app = Umbel("outage", broker=os.environ["OUTAGE"])
app.conf.update(task_ignore_result=True, task_lease=3)

@app.task(name="mark")
def mark(name):
    descriptor = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{name}\\n".encode())
    os.close(descriptor)
"""


class Gate:
    """Stands before a server: open, it lets everything through; shut, it cuts and refuses as a dead network does."""

    def __init__(self, host, port):
        self._target = (host, port)
        self._pairs = []
        self._lock = threading.Lock()
        self._listener = None
        self.port = free_port()
        self.open()

    def open(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(50)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener):
        while True:
            try:
                inner, _ = listener.accept()
            except OSError:
                return
            pair = (inner, socket.create_connection(self._target))
            with self._lock:
                self._pairs.append(pair)
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()


class OwnRabbitMQ:
    """A node of the test's own, killed and started again with what it had on disk."""

    def __init__(self, folder):
        module = importlib.util.spec_from_file_location("services", ROOT / "scripts/services.py")
        self._services = services = importlib.util.module_from_spec(module)
        sys.modules["services"] = services  # its data classes look themselves up
        module.loader.exec_module(services)
        self._folder = folder / "rabbitmq"
        self._folder.mkdir()
        self._plan = services.SERVICES["rabbitmq"].plan(
            self._folder, services._program("rabbitmq"), [free_port() for _ in range(3)]
        )
        for name, text in self._plan.files.items():
            (self._folder / name).write_text(text)
        self.url = self._plan.url
        self.open()

    def open(self):
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._plan.command, cwd=self._folder, env={**os.environ, **self._plan.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        service = self._services.SERVICES["rabbitmq"]
        wait_until(lambda: self._services._answers(self._plan.port, service.hello, service.answer))

    def shut(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for command in self._plan.after:
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "outage.py").write_text(PROJECT)
    return tmp_path


@pytest.fixture
def broker(request, service_url, folder):
    """A broker that can be shut and opened, and its URL."""
    match request.param:
        case "redis":
            import redis

            host, _, port = service_url("redis").removeprefix("redis://").partition("/")[0].partition(":")
            gate = Gate(host, int(port))
            with redis.Redis.from_url(f"redis://{host}:{port}/14") as server:
                server.flushdb()
            url = f"redis://127.0.0.1:{gate.port}/14"
        case "rabbitmq":
            whole = request.getfixturevalue("rabbitmq_vhost")
            user, _, rest = whole.rpartition("@")
            place, _, vhost = rest.partition("/")
            host, _, port = place.partition(":")
            gate = Gate(host, int(port))
            url = f"{user}@127.0.0.1:{gate.port}/{vhost}"
        case "killed rabbitmq":
            gate = OwnRabbitMQ(folder)
            url = gate.url
        case _:
            gate = OwnRedis(folder)
            url = f"redis://127.0.0.1:{gate.port}/0"
    yield gate, url
    gate.shut()


@contextlib.contextmanager
def working(folder, url):
    log = folder / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "umbel", "-A", "outage", "worker", "-c", "2", "-l", "WARNING"],
            cwd=folder, env={**os.environ, "OUTAGE": url}, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        wait_until(lambda: "ready." in log.read_text(), log.read_text)
        yield worker, log
    finally:
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
            worker.wait(40)


def wait_until(claim, what=str):
    deadline = time.monotonic() + PATIENCE
    while not claim():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def ran(folder):
    runs = folder / "runs"
    return set(runs.read_text().split()) if runs.exists() else set()


@pytest.mark.parametrize("broker", [REDIS, RABBITMQ, KILLED_REDIS, KILLED_RABBITMQ], indirect=True)
def test_every_accepted_task_runs_whatever_happens_to_the_broker(folder, broker):
    gate, url = broker
    outages = 1 if isinstance(gate, OwnRabbitMQ) else 2  # it takes seven seconds to start
    app = Umbel("producer", broker=url, set_as_current=False, task_ignore_result=True, publish_timeout=3.0)
    accepted, refused, slowest, over = [], [], [0.0], threading.Event()

    def produce(who):
        number = 0
        while not over.is_set():
            name, begin = f"{who}-{number}", time.monotonic()
            number += 1
            try:
                app.send_task("mark", (name,))
                accepted.append(name)
            except OperationalError as exc:
                refused.append(exc)
            slowest[0] = max(slowest[0], time.monotonic() - begin)
            over.wait(0.005)

    with working(folder, url) as (worker, log):
        producers = [threading.Thread(target=produce, args=(who,)) for who in "ab"]
        for each in producers:
            each.start()
        try:
            for _ in range(outages):
                there = len(ran(folder))
                wait_until(lambda there=there: len(ran(folder)) > there + 20, log.read_text)
                gate.shut()
                time.sleep(0.7)
                gate.open()
            there = len(ran(folder))
            wait_until(lambda: len(ran(folder)) > there + 20, log.read_text)
        finally:
            over.set()
            for each in producers:
                each.join(PATIENCE)
        assert worker.poll() is None
        wait_until(lambda: set(accepted) <= ran(folder), lambda: f"lost: {set(accepted) - ran(folder)}")
        said = log.read_text()

    app.close()
    assert len(accepted) > 60
    assert slowest[0] < PATIENCE / 2
    assert [each for each in refused if not isinstance(each, BrokerUnavailable | PublishTimeout)] == []
    assert "Traceback" not in said, said
    if isinstance(gate, OwnRabbitMQ):  # it was away for seconds
        assert refused
        assert (said.count("broker lost"), said.count("broker is back")) == (1, 1), said


@pytest.mark.parametrize("broker", [REDIS, RABBITMQ], indirect=True)
def test_a_worker_tells_of_an_outage_once_at_its_beginning_and_once_at_its_end(folder, broker):
    gate, url = broker
    app = Umbel("producer", broker=url, set_as_current=False, task_ignore_result=True)
    with working(folder, url) as (worker, log):
        app.send_task("mark", ("before",))
        wait_until(lambda: "before" in ran(folder), log.read_text)
        before = len(log.read_text().splitlines())
        gate.shut()
        time.sleep(2.5)
        gate.open()
        app.send_task("mark", ("after",))
        begin = time.monotonic()
        wait_until(lambda: "after" in ran(folder), log.read_text)
        assert time.monotonic() - begin < 20  # five, on a machine that does not stall
        assert worker.poll() is None
        lines = log.read_text().splitlines()[before:]
    app.close()
    # What it had not yet said of the task before, it may no longer say: that is told of the task, not of the outage.
    told = [line for line in lines if "another worker holds the task" not in line]
    assert len(told) == 2, lines


@pytest.mark.parametrize("broker", [REDIS, RABBITMQ], indirect=True)
def test_a_call_during_an_outage_fails_in_time_or_waits_as_the_policy_says(broker):
    gate, url = broker
    app = Umbel("producer", broker=url, set_as_current=False, task_ignore_result=True, publish_timeout=2.0)
    app.send_task("mark", ("warm",))
    gate.shut()

    begin = time.monotonic()
    with pytest.raises(OperationalError):
        app.send_task("mark", ("at once",), retry=False)
    policy = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}
    with pytest.raises(OperationalError):
        app.send_task("mark", ("twice",), retry=True, retry_policy=policy)
    assert time.monotonic() - begin < PATIENCE / 2

    threading.Timer(1.0, gate.open).start()
    app.send_task("mark", ("patient",), retry=True, retry_policy={"max_retries": 300, "interval_max": 0.2})
    app.close()
