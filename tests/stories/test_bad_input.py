"""A thousand hostile messages among two hundred good ones: the worker lives, and keeps every one as evidence."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import redis
from tests.stories.hostile import bad_letters

from umbel import Umbel

pytestmark = [pytest.mark.process, pytest.mark.timeout(170)]
PATIENCE = 100.0
PEER = Path(os.environ.get("UMBEL_TEST_PEER_PYTHON") or Path(__file__).parents[2] / ".venv-peer" / "bin" / "python")
PROJECT = """
import os
from umbel import Umbel

app = Umbel("target", broker=os.environ["TARGET"], backend=os.environ["TARGET_RESULTS"])

@app.task(name="mark")
def mark(name):
    descriptor = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{name}\\n".encode())
    os.close(descriptor)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "target.py").write_text(PROJECT)
    return tmp_path


def test_on_sqlite(folder):
    broker = f"sqlite:///{folder / 'queue.db'}"
    app = Umbel("sender", broker=broker, set_as_current=False)
    app.send_task("mark", ("bad",))
    app.close()
    connection = sqlite3.connect(folder / "queue.db", timeout=30)
    (model,) = connection.execute("SELECT message FROM ready").fetchone()

    def put(letters):
        connection.executemany(
            "INSERT INTO ready (key, token, crashes, message) SELECT max(key) + 1, 0, 0, ? FROM ready",
            [(letter,) for letter in letters],
        )
        connection.commit()

    def forget_model():
        connection.execute("DELETE FROM ready WHERE message = ?", (model,))
        connection.commit()

    letters = spoilt(model, str(folder / "marker"))
    attack(folder, broker, broker, put, letters, before=forget_model)
    connection.close()


@pytest.mark.service("redis", "A")
def test_on_redis(folder, service_url):
    broker = service_url("redis").rpartition("/")[0] + "/13"
    with redis.Redis.from_url(broker) as server:
        server.flushdb()

        def put(letters):
            server.lpush("celery", *(each.envelope() for each in letters))

        attack(folder, broker, broker, put, bad_letters(random.Random(3), str(folder / "marker")))
        server.flushdb()


@pytest.mark.service("rabbitmq", "A")
def test_on_rabbitmq(folder, rabbitmq_vhost):
    if not PEER.exists():
        pytest.skip("no real Celery: make .venv-peer/.celery")
    letters = bad_letters(random.Random(3), str(folder / "marker"))
    broker = rabbitmq_vhost
    with subprocess.Popen(
        [PEER, "-c", PUBLISHER, broker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as publisher:

        def put(some):
            publisher.stdin.write(json.dumps([each.parts() for each in some]) + "\n")
            publisher.stdin.flush()
            assert publisher.stdout.readline() == "sent\n"

        attack(folder, broker, f"sqlite:///{folder / 'results.db'}", put, letters)
        publisher.stdin.close()


PUBLISHER = """
import base64, json, sys
from kombu import Connection
with Connection(sys.argv[1]) as connection:
    channel = connection.default_channel
    channel.queue_declare("celery", durable=True, auto_delete=False)
    channel.queue_purge("celery")
    for line in sys.stdin:
        for body, content_type, encoding, headers in json.loads(line):
            message = channel.prepare_message(base64.b64decode(body), 0, content_type, encoding, headers, {})
            channel.basic_publish(message, exchange="", routing_key="celery")
        print("sent", flush=True)
"""


def attack(folder, broker, results, put, letters, *, before=lambda: None):
    """Let *put* mix *letters* with good messages, run a worker, and hold it to its promises."""
    app = Umbel("sender", broker=broker, backend=results, set_as_current=False)
    good = [f"good-{number}" for number in range(200)]
    for number, name in enumerate(good):
        put(letters[number * len(letters) // 200 : (number + 1) * len(letters) // 200])
        app.send_task("mark", (name,))
    before()

    environment = {**os.environ, "TARGET": broker, "TARGET_RESULTS": results}
    command = [sys.executable, "-m", "umbel", "-A", "target", "worker", "-c", "2", "-l", "WARNING"]
    log, runs, deadline = folder / "log", folder / "runs", time.monotonic() + PATIENCE
    with log.open("wb") as out:
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)

    def wait_until(claim):
        while not claim():
            assert worker.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)

    def ran():
        return Counter(runs.read_text().split()) if runs.exists() else Counter()

    try:
        wait_until(lambda: len(ran()) >= len(good))
        wait_until(lambda: len(dead_letters(app)) >= len(letters))
        app.send_task("mark", ("last",))
        wait_until(lambda: ran()["last"])
    finally:
        worker.terminate()
        worker.wait(30)

    kept, said = dead_letters(app), log.read_text()
    app.close()
    assert ran() == Counter([*good, "last"])
    assert len(kept) == len(letters)
    assert not (folder / "marker").exists()
    assert {each.reason for each in kept} <= {"invalid", "unknown-task"}
    assert all(any(each.evidence) for each in kept)
    assert sum(("is not run" in line) or ("cannot be read" in line) for line in said.splitlines()) == len(letters)
    assert "Traceback" not in said


def dead_letters(app):
    found, after = [], None
    with app.lend_broker() as broker:
        while page := broker.dead(limit=500, after=after):
            found += page
            after = page[-1].tag
    return found


def spoilt(model, marker):
    """Make a thousand stored messages that umbel would not write out of one that it has written."""
    chance, fields = random.Random(3), msgspec.msgpack.decode(model)
    bodies = [letter.body for letter in bad_letters(chance, marker) if letter.raw is None and letter.is_bad_by_body()]
    place = next(path for path, value in _leaves(fields) if isinstance(value, bytes) and b"bad" in value)
    found = [msgspec.msgpack.encode(_with(fields, place, body)) for body in bodies]
    while len(found) < 1000:
        if chance.randrange(2):
            found.append(chance.randbytes(chance.randrange(1, 300)))
        else:
            found.append(model[: chance.randrange(1, len(model) - 1)])
    chance.shuffle(found)
    return found[:1000]


def _leaves(value, path=()):
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _leaves(each, (*path, number))
    else:
        yield path, value


def _with(value, path, new):
    if not path:
        return new
    return [_with(each, path[1:], new) if number == path[0] else each for number, each in enumerate(value)]
