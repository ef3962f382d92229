"""Measure delayed work: ``python benchmarks/delayed.py far|near [URL] [TASKS]``.

*far*: a million tasks over ninety days on a clock that is moved, through ten workers' cores and the SQLite queue. Says
how much memory ten workers need more at the end than at the beginning, and that none was early and each ran once.

*near*: 50,000 tasks due within one real minute, through real workers on the broker at URL. Says how late they began.
"""

from __future__ import annotations

import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from umbel import Umbel
from umbel.brokers.base import Claim, Publication
from umbel.brokers.sqlite import Location, SqliteBroker
from umbel.contrib.testing.clock import VirtualClock
from umbel.execution.outcome import Outcome
from umbel.pools.base import Finished
from umbel.wire.message import Message, Route
from umbel.worker.admit import Policy
from umbel.worker.core import WorkerState, room, step
from umbel.worker.facts import Arrived, Reported
from umbel.worker.orders import Run, Settle

WORKERS = 10
DAYS = 90
STEP = 900.0  # seconds that the clock is moved at a time
BATCH = 2000

APP = """
import os, time
from umbel import Umbel

app = Umbel("near", broker={url!r}, worker_redirect_stdouts=False, task_default_queue="near")

@app.task(ignore_result=True)
def note(due):
    with open(f"{folder}/late.{{os.getpid()}}", "a") as file:
        file.write(f"{{time.time() - due:.6f}}\\n")
"""


def memory() -> float:
    """Return the memory of this process now, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def far(tasks: int) -> None:
    """Run *tasks* over ninety days."""
    clock = VirtualClock()
    with tempfile.TemporaryDirectory() as folder:
        location = Location(Path(folder) / "queue.db")
        begin = clock()
        _send_far(SqliteBroker(location, clock=clock), begin, tasks)
        workers = []
        for _ in range(WORKERS):
            broker = SqliteBroker(location, clock=clock)
            broker.consume(["celery"])
            workers.append((WorkerState(slots=4, policy={"t": Policy()}.get), broker))
        seen = bytearray(tasks)
        early = late = 0.0
        first = most = memory()
        began = time.monotonic()
        while clock() < begin + DAYS * 86400:
            clock.advance(STEP)
            for state, broker in workers:
                late = max(late, _drain(state, broker, clock, seen))
            most = max(most, memory())
        early = sum(1 for count in seen if count != 1)
        seconds = time.monotonic() - began
    print(f"{tasks} tasks over {DAYS} days in {seconds:.0f} s: {early} not run exactly once, none early")
    print(f"memory of {WORKERS} workers: {first:.1f} MiB at first, at most {most - first:+.1f} MiB")
    print(f"longest wait behind the due time: {late:.0f} s, where the clock moves by {STEP:.0f} s")


def _send_far(broker: SqliteBroker, begin: float, tasks: int) -> None:
    dice = random.Random(1)
    route = Route("", "celery")
    for start in range(0, tasks, BATCH):
        broker.publish(
            [
                Publication(
                    message=Message(
                        id=str(number),
                        task="t",
                        body=b"[[], {}, {}]",
                        eta=datetime.fromtimestamp(begin + dice.uniform(1, DAYS * 86400 - STEP), UTC),
                    ),
                    route=route,
                )
                for number in range(start, min(tasks, start + BATCH))
            ],
            timeout=60.0,
        )
    broker.close()


def _drain(state: WorkerState, broker: SqliteBroker, clock: VirtualClock, seen: bytearray) -> float:
    late = 0.0
    settlements = []
    while True:
        turn = broker.settle(settlements, Claim(limit=max(1, room(state)), lease=60.0, owner="w"))
        settlements = []
        if not turn.deliveries:
            return late
        for delivery in turn.deliveries:
            eta = delivery.message.eta
            assert eta is not None
            assert eta.timestamp() <= clock(), "early"
            late = max(late, clock() - eta.timestamp())
            seen[int(delivery.message.id)] += 1
        for order in step(state, Arrived(turn.deliveries, clock()), now=clock()):
            if isinstance(order, Run):
                receipts = [Finished(job.tag, Outcome(state="SUCCESS"), 1, 0.0001) for job in order.jobs]
                for after in step(state, Reported(receipts), now=clock()):
                    if isinstance(after, Settle):
                        settlements += after.settlements


def near(url: str | None, tasks: int) -> None:
    """Run *tasks* that are due within a minute."""
    with tempfile.TemporaryDirectory() as folder:
        url = url or f"sqlite:///{folder}/queue.db"
        (Path(folder) / "near.py").write_text(APP.format(url=url, folder=folder))
        app = Umbel("near", broker=url, task_default_queue="near")
        command = [sys.executable, "-m", "umbel", "-A", "near", "worker", "-c", "2"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as worker:
            dice = random.Random(1)
            # The first is due when all are sent, so that sending does not disturb.
            begin = time.time() + 10 + tasks / 4000
            for start in range(0, tasks, 1000):
                moments = [begin + dice.uniform(0, 60) for _ in range(start, min(tasks, start + 1000))]
                app.send_calls(_calls(moments))
            print(f"sent with {begin - time.time():+.1f} s to spare")
            late: list[float] = []
            end = begin + 180
            while len(late) < tasks and time.time() < end:
                time.sleep(1)
                late = [float(line) for each in Path(folder).glob("late.*") for line in each.read_text().split()]
            worker.terminate()
        app.close()
    late.sort()
    print(
        f"{len(late)} of {tasks} tasks on {url.partition(':')[0]}, due within 60 s; earliest {late[0] * 1000:+.1f} ms"
    )
    print(
        f"late: median {statistics.median(late) * 1000:.1f} ms, p99 {late[int(len(late) * 0.99)] * 1000:.0f} ms, "
        f"most {late[-1] * 1000:.0f} ms"
    )


def _calls(moments: list[float]) -> list[object]:
    from umbel.canvas.call import Call

    return [Call("near.note", (due,), {}, {"eta": datetime.fromtimestamp(due, UTC)}) for due in moments]


if __name__ == "__main__":
    which, *words = sys.argv[1:] or ["far"]
    if which == "far":
        far(int(words[0]) if words else 1_000_000)
    else:
        address = next((word for word in words if "://" in word), None)
        count = next((int(word) for word in words if word.isdigit()), 50_000)
        near(address, count)
