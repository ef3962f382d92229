"""Run a real worker on a real queue, and kill what it is made of at chosen instants."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from umbel import Umbel
from umbel.worker.facts import Manner
from umbel.worker.worker import Worker

__all__ = ["Runs", "at_each_step", "in_hand", "kill_at_step", "make_app", "run_worker", "run_worker_until", "waiting"]

_WATCHED = (
    "umbel/worker/loop.py",
    "umbel/worker/settle.py",
    "umbel/worker/core.py",
    "umbel/brokers/sqlite",
    "umbel/brokers/redis",
    "umbel/execution/fire.py",
)


class Runs:
    """What ran, written by the tasks themselves: one line each, appended in one write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, text: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


def make_app(folder: Path, url: str = "", **settings: Any) -> tuple[Umbel, Runs]:
    """Return an app on the queue at *url*, or on SQLite in *folder*, with tasks that write down that they ran."""
    runs = Runs(folder / "runs")
    url = url or f"sqlite:///{folder / 'queue.db'}"
    app = Umbel("story", broker=url, backend=url, **settings)

    @app.task(name="story.first")
    def first(number: int) -> int:
        runs.note(f"first {number}")
        return number

    @app.task(name="story.second")
    def second(number: int) -> int:
        runs.note(f"second {number}")
        return number

    @app.task(name="story.suicide")
    def suicide() -> None:
        runs.note("suicide")
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="story.nap")
    def nap(number: int, seconds: float) -> int:
        runs.note(f"nap {number}")
        signal.sigtimedwait([], seconds)
        return number

    return app, runs


def waiting(app: Umbel) -> int:
    """How many messages are in the queue or in a hand."""
    with closing(app.open_broker()) as broker:
        return sum(size.ready + size.delayed + size.claimed for size in broker.sizes().values())


def in_hand(app: Umbel) -> int:
    """How many messages some worker has claimed, dead or alive."""
    with closing(app.open_broker()) as broker:
        return sum(size.claimed for size in broker.sizes().values())


def run_worker(work: Callable[[], object]) -> int:
    """Fork, do *work* in the child, and return its wait status; nothing of the test runs on in the child."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            work()
        except BaseException:  # noqa: BLE001 - a forked test process must never return into pytest
            traceback.print_exc()
            os._exit(70)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return status


def run_worker_until(app: Umbel, is_done: Callable[[], bool], **options: Any) -> Callable[[], None]:
    """Return work for `run_worker`: a worker that stops warm once *is_done*, looked at every now and then."""

    def watch(worker: Worker) -> None:
        while not is_done():
            time.sleep(0.02)
        worker.stop(Manner.WARM)

    def work() -> None:
        Worker(app, on_ready=lambda worker: threading.Thread(target=watch, args=(worker,)).start(), **options).start()

    return work


def kill_at_step(step: int, begin: str) -> None:
    """Kill this process at the *step*-th line run in the watched files after the function *begin* was first called."""

    def kill(reached: int) -> None:
        if reached >= step:
            os.kill(os.getpid(), signal.SIGKILL)

    at_each_step(kill, begin)


def at_each_step(act: Callable[[int], None], begin: str) -> None:
    """Call *act* with 1, 2, 3 … before each line run in the watched files after *begin* was first called."""
    step = 0
    counting = False
    known: dict[CodeType, bool] = {}

    def on_line(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal step
        if event == "line" and counting:
            step += 1
            act(step)
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal counting
        code = frame.f_code
        if code not in known:
            known[code] = any(name in code.co_filename for name in _WATCHED)
        if not known[code]:
            return None
        counting = counting or code.co_name == begin
        return on_line

    sys.settrace(on_call)
    threading.settrace(on_call)  # a second thread of solo leads its loop while jobs take their time
