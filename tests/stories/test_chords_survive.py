"""Kill the worker at every step with chords in flight: each body fires exactly once, and nothing is lost."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.stories.killing import Runs, in_hand, kill_at_step, make_app, run_worker, run_worker_until, waiting

from umbel import Umbel, chord
from umbel.brokers.base import Claim, Delivery, Lease, Settlement
from umbel.execution.execute import execute
from umbel.wire.chord import HELD

pytestmark = pytest.mark.process

STRIDE = {"sqlite": 113, "redis": 211}  # lines between two kills
DATABASE = 9  # of Redis


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.service("redis", "A"))])
def story(
    request: pytest.FixtureRequest, tmp_path: Path, service_url: Callable[[str], str]
) -> Iterator[tuple[Umbel, Runs]]:
    url = ""
    if request.param == "redis":
        url = service_url("redis").rpartition("/")[0] + f"/{DATABASE}"
        with redis.Redis.from_url(url) as server:
            server.flushdb()
    app, runs = make_app(tmp_path, url, task_crash_limit=0, task_lease=1.0)  # who stalls for longer harms nothing here

    @app.task(name="story.body", bind=True)
    def body(self: Any, values: list[int], number: int) -> list[int]:
        runs.note(f"body {number} {values}{message_of(self.request.delivery)}")
        return values

    @app.task(name="story.fails")
    def fails(number: int) -> None:
        runs.note(f"fails {number}")
        raise ValueError(number)

    @app.task(name="story.errback", bind=True)
    def errback(self: Any, task_id: str) -> None:
        runs.note(f"errback {task_id}{message_of(self.request.delivery)}")

    yield app, runs
    app.close()


def message_of(delivery: Delivery) -> str:
    """Say which message it is. Redis names one anew when it is delivered again after a crash: then say nothing."""
    return "" if delivery.crashes and isinstance(delivery.tag, str) else f" as {delivery.tag}"


def fired(runs: Runs, kind: str) -> Counter[str]:
    """By how many messages each body (or errback) ran."""
    messages = {line for line in runs.lines() if line.startswith(kind)}
    found = Counter(line.partition(" as ")[0] for line in messages if " as " in line)
    return Counter({line.partition(" as ")[0]: 1 for line in messages}) | found


def let_its_time_run_out(app: Umbel, file: Path) -> None:
    """Have as much time pass as the one ready chord is left to whoever completed it."""
    if file.exists():
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            assert connection.execute("UPDATE chords SET until = 0").rowcount == 1
    else:
        with redis.Redis.from_url(app.conf.broker_url) as server:
            (chord_key,) = server.zrange("umbel.chords", 0, -1)
            server.zadd("umbel.chords", {chord_key: 0.0})


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_killed_at_any_step_fires_each_body_exactly_once(
    request: pytest.FixtureRequest, story: tuple[Umbel, Runs]
):
    app, runs = story
    stride = STRIDE["redis" if "redis" in request.node.name else "sqlite"]
    first, second, body, fails, errback = (
        app.tasks[f"story.{name}"] for name in ("first", "second", "body", "fails", "errback")
    )
    bodies: list[str] = []
    failed: list[str] = []
    kills = 0

    def send() -> None:
        number = len(bodies)
        chord([first.si(10 * number), first.s(10 * number + 1) | second.s()], body.s(number)).apply_async()
        bodies.append(f"body {number} {[10 * number, 10 * number + 1]}")
        if number % 2:
            wrong = chord([first.si(-number), fails.si(number)], body.s(-1).on_error(errback.s())).apply_async()
            failed.append(f"errback {wrong.id}")

    def killed_at(step: int) -> Callable[[], None]:
        orphans = in_hand(app)  # of those killed before; whoever comes when their leases have run out may have them
        worker = run_worker_until(app, lambda: waiting(app) <= orphans, pool="solo", concurrency=1)

        def work() -> None:
            kill_at_step(step, begin="settle")
            worker()

        return work

    for step in range(1, 20_000, stride):
        send()
        if not os.WIFSIGNALED(run_worker(killed_at(step))):
            break  # the worker came to its end before that step
        kills += 1

    def all_is_done() -> bool:
        done = len(fired(runs, "body")) + len(fired(runs, "errback"))
        return done == len(bodies) + len(failed) and not waiting(app)

    assert run_worker(run_worker_until(app, all_is_done, pool="solo")) == 0
    assert kills > 10, "the worker was hardly ever killed: the test looks at the wrong lines"
    assert fired(runs, "body") == dict.fromkeys(bodies, 1)
    assert fired(runs, "errback") == dict.fromkeys(failed, 1)


@pytest.mark.timeout(60)
def test_a_chord_that_a_dead_worker_completed_is_found_and_fired(story: tuple[Umbel, Runs], tmp_path: Path):
    app, runs = story
    made = chord([app.tasks["story.first"].si(1)], app.tasks["story.body"].s(7)).apply_async()
    with closing(app.open_broker()) as broker:
        broker.consume(["celery"])
        (delivery,) = broker.settle((), Claim(limit=1, lease=HELD, owner="dies")).deliveries
        outcome = execute(app.plans("dies").find("story.first"), delivery)
        lease = Lease(delivery.tag, delivery.token)
        turn = broker.settle([Settlement(lease=lease, records=outcome.records, parts=outcome.parts)])
        assert len(turn.ready) == 1  # and with that it dies
    let_its_time_run_out(app, tmp_path / "queue.db")

    assert run_worker(run_worker_until(app, lambda: bool(fired(runs, "body")) and not waiting(app), pool="solo")) == 0
    assert fired(runs, "body") == {"body 7 [1]": 1}
    assert made.get(timeout=1) == [1]
