"""Kill the worker at every step, its children at random: nothing is lost, nothing runs twice without need."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from tests.stories.killing import at_each_step, in_hand, kill_at_step, make_app, run_worker, run_worker_until, waiting

from umbel import Umbel
from umbel.worker.worker import Worker

pytestmark = [pytest.mark.process, pytest.mark.slow]

STRIDE = {"solo": 10, "prefork": 20}  # lines between two kills
PER_KILL = 2  # chains of two tasks sent before each


def drain(app: Umbel, is_done: Callable[[], bool], **options: object) -> None:
    assert run_worker(run_worker_until(app, is_done, **options)) == 0


def let_leases_run_out(file: Path) -> None:
    """Have as much time pass as it takes until what dead workers held is free."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE claimed SET until = 0")


@pytest.mark.row("TB-117")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_killed_at_any_step_loses_neither_task_nor_continuation(tmp_path: Path, pool: str):
    app, runs = make_app(tmp_path, task_crash_limit=0)
    first, second = app.tasks["story.first"], app.tasks["story.second"]
    sent: list[int] = []
    kills = in_flight = 0

    def send() -> None:
        for _ in range(PER_KILL):
            sent.append(len(sent))
            first.apply_async((sent[-1],), link=second.s())

    def work(watch: Callable[[], None]) -> Callable[[], None]:
        def watched_work() -> None:
            expected = len(sent)
            worker = run_worker_until(
                app, lambda: len(set(runs.lines())) >= 2 * expected and not waiting(app), pool=pool, concurrency=1
            )
            watch()
            worker()

        return watched_work

    steps = multiprocessing.Value("i", 0)
    send()
    assert run_worker(work(lambda: at_each_step(lambda step: setattr(steps, "value", step), "settle"))) == 0
    for step in range(1, steps.value, STRIDE[pool]):
        send()
        status = run_worker(work(partial(kill_at_step, step, "settle")))
        if not os.WIFSIGNALED(status):
            break  # the worker came to its end before that step
        kills += 1
        in_flight += in_hand(app)
        let_leases_run_out(tmp_path / "queue.db")
    drain(app, lambda: not waiting(app), pool="solo")

    ran = Counter(runs.lines())
    assert kills > 20, "the worker was hardly ever killed: the test looks at the wrong lines"
    assert set(ran) == {f"{name} {number}" for name in ("first", "second") for number in sent}
    repeated = sum(ran.values()) - len(ran)
    assert repeated <= in_flight, "more ran twice than was in flight at a kill"
    app.close()


@pytest.mark.timeout(120)
def test_children_killed_at_random_over_two_thousand_tasks_lose_none(tmp_path: Path):
    app, runs = make_app(tmp_path, task_crash_limit=0)
    first = app.tasks["story.first"]
    results = [first.delay(number) for number in range(2000)]
    kills: list[int] = []
    dice = random.Random(7)

    def kill_children(worker: Worker) -> None:
        while len(set(runs.lines())) < len(results):
            time.sleep(0.04)
            pids = worker.pool.info()["processes"]
            if pids:
                kills.append(dice.choice(pids))
                try:
                    os.kill(kills[-1], signal.SIGKILL)
                except ProcessLookupError:
                    kills.pop()
        (tmp_path / "kills").write_text(str(len(kills)))

    def work() -> None:
        def ready(worker: Worker) -> None:
            threading.Thread(target=kill_children, args=(worker,)).start()
            threading.Thread(target=stop_when_done, args=(worker,)).start()

        def stop_when_done(worker: Worker) -> None:
            while waiting(app) or not (tmp_path / "kills").exists():
                time.sleep(0.05)
            worker.stop()

        Worker(app, pool="prefork", concurrency=2, on_ready=ready).start()

    assert run_worker(work) == 0

    ran = Counter(runs.lines())
    killed = int((tmp_path / "kills").read_text())
    assert killed >= 3
    assert set(ran) == {f"first {number}" for number in range(2000)}
    assert sum(ran.values()) - len(ran) <= killed, "only the task that a killed child was running may run twice"
    assert [result.get(timeout=30) for result in results] == list(range(2000))
    app.close()


def test_a_task_that_kills_its_process_runs_as_often_as_the_limit_says_and_leaves_its_evidence(tmp_path: Path):
    app, runs = make_app(tmp_path, task_crash_limit=5)
    result = app.tasks["story.suicide"].delay()
    innocent = app.tasks["story.first"].delay(1)

    drain(app, lambda: not waiting(app), pool="prefork", concurrency=1)

    assert Counter(runs.lines()) == {"suicide": 5, "first 1": 1}
    assert innocent.get(timeout=30) == 1
    assert result.state == "FAILURE"
    with closing(app.open_broker()) as broker:
        (letter,) = broker.dead()
    assert (letter.id, letter.reason, letter.crashes) == (result.id, "crashed", 5)
    assert len(letter.evidence) == 5
    assert all("SIGKILL" in line for line in letter.evidence)
    app.close()
