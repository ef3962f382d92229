"""An afternoon of an operator: look at a worker, steer it, watch what becomes of tasks."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from umbel import Umbel
from umbel.exceptions import TaskRevokedError

pytestmark = pytest.mark.process

KITCHEN = """
import os, signal, time
from umbel import Umbel

app = Umbel("kitchen", task_crash_limit=2)


@app.task
def cook(seconds=0):
    time.sleep(seconds)
    return "done"


@app.task(bind=True)
def die(self):
    os.kill(os.getpid(), signal.SIGKILL)
"""
PATIENCE = 40.0


def until(claim, what=str):
    end = time.monotonic() + PATIENCE
    while not (found := claim()):
        assert time.monotonic() < end, what()
        time.sleep(0.02)
    return found


def page(port, path):
    try:
        with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()
    except URLError:
        return 0, ""


@pytest.fixture
def kitchen(tmp_path):
    """A worker that tells of tasks, what is told in a file, and the app to call it with."""
    (tmp_path / "kitchen.py").write_text(KITCHEN)
    log, told = tmp_path / "worker.log", tmp_path / "told.log"
    umbel = [sys.executable, "-m", "umbel", "-A", "kitchen"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:

        def start(file, *words):
            out = stack.enter_context(file.open("wb"))
            process = subprocess.Popen(
                [*umbel, *words], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            stack.callback(process.wait, PATIENCE)
            stack.callback(process.kill)
            return process

        watcher = start(told, "events", "--dump")
        until(lambda: "starting capture" in told.read_text(), told.read_text)
        worker = start(log, "worker", "-E", "-c", "2", "-n", "chef@here", "-l", "INFO", "--http", "127.0.0.1:0")
        until(lambda: "ready." in log.read_text() or worker.poll() is not None, log.read_text)
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/metrics", log.read_text())[1])
        url = f"sqlite:///{tmp_path / 'kitchen.umbel.db'}"
        app = stack.enter_context(Umbel("kitchen", broker=url, backend=url, set_as_current=False))
        yield app, worker, told, port, log
        watcher.send_signal(signal.SIGINT)


@pytest.mark.row("API-466", "API-468", "API-476", "API-488", "PRT-226", "CLI-090")
def test_an_operator_sees_and_steers_a_worker(kitchen):
    app, worker, told, port, log = kitchen
    inspect = app.control.inspect(destination=["chef@here"], timeout=PATIENCE)
    to = {"destination": ["chef@here"], "reply": True, "timeout": PATIENCE}
    assert until(inspect.ping) == {"chef@here": {"ok": "pong"}}

    # What runs is seen, and ended.
    roast = app.send_task("kitchen.cook", (60,))
    [running] = until(lambda: inspect.active()["chef@here"])
    assert (running["id"], running["args"]) == (roast.id, [60])
    assert running["worker_pid"] not in {None, worker.pid}
    assert app.control.revoke(roast.id, terminate=True, **to) == [{"chef@here": {"ok": f"terminate: {roast.id}"}}]
    with pytest.raises(TaskRevokedError, match="terminated"):
        roast.get(timeout=PATIENCE)
    until(lambda: "task revoked: " in told.read_text(), told.read_text)
    assert "signum=15, terminated=True" in told.read_text()

    # The pool grows.
    assert app.control.pool_grow(2, **to) == [{"chef@here": {"ok": "pool will grow"}}]
    until(lambda: inspect.stats()["chef@here"]["pool"]["max-concurrency"] == 4)

    # A process that dies is counted, and seen by machines.
    assert page(port, "ready") == (200, "ready\n")
    lost = app.send_task("kitchen.die")
    with pytest.raises(Exception, match=r"."):
        lost.get(timeout=PATIENCE)
    metrics = page(port, "metrics")[1]
    assert "\numbel_task_crashes_total 1\n" in metrics
    assert 'umbel_tasks_total{task="kitchen.die",state="FAILURE"} 1' in metrics
    assert 'umbel_tasks_total{task="kitchen.cook",state="REVOKED"} 1' in metrics
    assert "\numbel_worker_slots 4\n" in metrics

    # A paused queue waits.
    app.control.pause("celery")
    soup = app.send_task("kitchen.cook")
    until(lambda: 'umbel_queue_paused{queue="celery"} 1' in page(port, "metrics")[1])
    assert not soup.ready()
    app.control.resume("celery")
    assert soup.get(timeout=PATIENCE) == "done"

    # It is sent home.
    app.control.shutdown(destination=["chef@here"])
    until(lambda: worker.poll() is not None, log.read_text)
    assert worker.returncode == 0
    until(lambda: "shutdown: " in told.read_text(), told.read_text)
    assert page(port, "live")[0] == 0
