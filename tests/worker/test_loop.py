"""What the shell around the core does when the world is down, with a real app, pool and broker."""

from __future__ import annotations

import logging
import threading
import time
from itertools import count

import pytest

from umbel import Umbel, current
from umbel.exceptions import BrokerUnusable
from umbel.worker.facts import Manner, Scaled
from umbel.worker.worker import Worker

PATIENCE = 30.0
_names = count()


class Breaking:
    """A broker that is unusable as long as *broken* is set."""

    def __init__(self, broker, broken):
        self._broker, self._broken = broker, broken

    def __getattr__(self, name):
        if self._broken.is_set() and name in ("settle", "renew", "publish", "consume", "declare", "next_due"):
            raise BrokerUnusable("the file is not a database")
        return getattr(self._broker, name)


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def broken():
    return threading.Event()


@pytest.fixture
def app(broken, monkeypatch):
    with Umbel(f"loop{next(_names)}", broker="memory://", backend="memory://") as made:
        made.task(name="loop.echo")(lambda value: value)
        go = made.go = threading.Event()
        made.task(name="loop.wait")(lambda: go.wait(PATIENCE))
        open_broker = made.open_broker
        monkeypatch.setattr(made, "open_broker", lambda **options: Breaking(open_broker(**options), broken))
        yield made
        go.set()
    current.set_current_app(None)


@pytest.fixture
def start(app):
    threads = []

    def run(**options):
        ready = threading.Event()
        worker = Worker(app, pool="solo", on_ready=lambda _: ready.set(), without_heartbeat=True, **options)
        thread = threading.Thread(target=worker.start, daemon=True)
        thread.start()
        threads.append((worker, thread))
        assert ready.wait(PATIENCE)
        return worker, thread

    yield run
    for worker, thread in threads:
        worker.stop(Manner.COLD)
        thread.join(PATIENCE)
        assert not thread.is_alive()


def outages(caplog):
    return [
        record.levelname
        for record in caplog.records
        if record.name == "celery.worker.loop" and "broker" in record.getMessage()
    ]


def test_a_broker_that_becomes_unusable_is_waited_for_with_one_line_at_each_end(app, start, broken, caplog):
    caplog.set_level(logging.INFO)
    worker, _ = start()
    result = app.tasks["loop.wait"].delay()
    until(lambda: worker.core.submitted == 1)

    broken.set()
    app.go.set()
    until(lambda: len(outages(caplog)) == 1)
    broken.clear()

    assert result.get(timeout=PATIENCE) is True
    assert app.tasks["loop.echo"].delay(1).get(timeout=PATIENCE) == 1
    assert outages(caplog) == ["ERROR", "WARNING"]


def test_a_worker_that_is_stopped_cold_does_not_wait_for_a_broker_that_is_away(app, start, broken, caplog):
    worker, thread = start()
    app.tasks["loop.wait"].delay()
    until(lambda: worker.core.submitted == 1)

    broken.set()
    app.go.set()
    until(lambda: outages(caplog))
    worker.stop(Manner.COLD)
    thread.join(PATIENCE)

    assert not thread.is_alive()
    assert "they will run again" in caplog.text


def test_a_pool_that_cannot_grow_says_so_by_its_slots(start):
    worker, _ = start()

    worker.post(Scaled(5))

    assert worker.loop.ask(lambda: worker.core.slots, timeout=PATIENCE) == 1
