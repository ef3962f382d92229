"""Run every workload on umbel and its peers in turn, and print medians, spread, ratios and targets.

`python -m benchmarks [--rounds N] [WORKLOAD …]`. A round runs umbel, then each peer; rounds follow one another, so
that a slow minute of the machine is shared by all. Absolute figures are this machine's; the ratios are the result.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import recorder
from benchmarks.peers import (
    CELERY_RABBITMQ,
    CELERY_REDIS,
    DRAMATIQ_RABBITMQ,
    HUEY,
    HUEY_REDIS,
    UMBEL,
    UMBEL_RABBITMQ,
    UMBEL_REDIS,
    Peer,
    wait_for,
)

_TASKS = 20_000
_OWN_WAYS = ("huey", "dramatiq")  # peers whose workers do not have Celery's options


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table."""

    name: str
    unit: str
    measure: Callable[[Peer, Path], float]
    target: float
    peers: tuple[Peer, ...] = (UMBEL,)
    less_is_better: bool = False


def drain(
    *options: str, with_results: bool = False, tasks: int = _TASKS, fill: str = "enqueue"
) -> Callable[[Peer, Path], float]:
    """Fill a queue, then start a worker: tasks a second from the first start to the last end."""

    def measure(peer: Peer, folder: Path) -> float:
        count = tasks if peer.name == "umbel" else tasks // 5
        peer.run(fill, folder, count, int(with_results))
        spans = folder / "spans"
        with peer.worker(folder, *(() if peer.name in _OWN_WAYS else options)):
            wait_for(lambda: recorder.read(spans)[2] >= count, 120, f"{count} tasks of {peer.name}")
        return recorder.read(spans).rate

    return measure


def enqueue(peer: Peer, folder: Path) -> float:
    """Send tasks one at a time."""
    return peer.run("enqueue", folder, 5_000)


def unconfirmed(peer: Peer, folder: Path) -> float:
    """Send tasks one at a time without waiting until each is stored."""
    return peer.run("unconfirmed", folder, 5_000)


def bulk(peer: Peer, folder: Path) -> float:
    """Send tasks in bulk."""
    return peer.run("bulk", folder, _TASKS)


def round_trip(*options: str) -> Callable[[Peer, Path], float]:
    """Call an idle worker and wait for the result: median milliseconds."""

    def measure(peer: Peer, folder: Path) -> float:
        with peer.worker(folder, *(("-d", "0.001", "-m", "0.001") if peer.name == "huey" else options)):
            return peer.run("round_trip", folder, 300)

    return measure


def canvas(workload: str, count: int) -> Callable[[Peer, Path], float]:
    """Send a work-flow to an idle worker and await its end: tasks a second."""

    def measure(peer: Peer, folder: Path) -> float:
        with peer.worker(folder, *SOLO):
            return peer.run(workload, folder, count)

    return measure


def import_time(_peer: Peer, _folder: Path) -> float:
    """Import the library from its bytecode, in milliseconds beyond a bare interpreter."""
    bare, full = (
        min(_seconds([sys.executable, "-c", code]) for _ in range(5)) for code in ("pass", "from umbel import Umbel")
    )
    return (full - bare) * 1000


def cold_start(*options: str) -> Callable[[Peer, Path], float]:
    """From starting a worker to the first task's run, in seconds."""

    def measure(peer: Peer, folder: Path) -> float:
        peer.run("enqueue", folder, 1)
        began = time.time()
        with peer.worker(folder, *options):
            wait_for(lambda: recorder.read(folder / "spans")[2] >= 1, 30, "the first task")
        return recorder.read(folder / "spans")[0] - began

    return measure


def memory(*options: str) -> Callable[[Peer, Path], float]:
    """Proportional set size of an idle worker and its children, in MB."""

    def measure(peer: Peer, folder: Path) -> float:
        peer.run("enqueue", folder, 1)
        with peer.worker(folder, *options) as process:
            wait_for(lambda: recorder.read(folder / "spans")[2] >= 1, 30, "the first task")
            time.sleep(0.5)
            return sum(_pss(pid) for pid in _family(process.pid)) / 1e6

    return measure


def idle_cost(*options: str) -> Callable[[Peer, Path], float]:
    """Processor time of an idle worker and its children, in percent of a core."""

    def measure(peer: Peer, folder: Path) -> float:
        peer.run("enqueue", folder, 1)
        with peer.worker(folder, *options) as process:
            wait_for(lambda: recorder.read(folder / "spans")[2] >= 1, 30, "the first task")
            time.sleep(0.5)
            before = _cpu(process.pid)
            time.sleep(5.0)
            return (_cpu(process.pid) - before) / 5.0 * 100

    return measure


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""})
    return time.perf_counter() - began


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu(pid: int) -> float:
    ticks = 0
    for one in _family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


SOLO = ("-P", "solo")
PREFORK = ("-P", "prefork", "-c", "2")
BOTH = (UMBEL, HUEY)
REDIS = (UMBEL_REDIS, HUEY_REDIS, CELERY_REDIS)
RABBITMQ = (UMBEL_RABBITMQ, CELERY_RABBITMQ, DRAMATIQ_RABBITMQ)

WORKLOADS = [
    Workload("drain, no results, SQLite, solo", "tasks/s", drain(*SOLO), 20_000, BOTH),
    Workload("drain, no results, SQLite, prefork -c 2", "tasks/s", drain(*PREFORK), 15_000, BOTH),
    Workload("drain with results, SQLite, solo", "tasks/s", drain(*SOLO, with_results=True), 12_000, BOTH),
    Workload("drain with events, SQLite, prefork -c 2", "tasks/s", drain(*PREFORK, "-E"), 13_500),
    Workload("enqueue one at a time, SQLite", "tasks/s", enqueue, 9_000, BOTH),
    Workload("enqueue in bulk, SQLite", "tasks/s", bulk, 40_000),
    Workload("round trip p50, SQLite, solo", "ms", round_trip(*SOLO), 0.5, BOTH, less_is_better=True),
    Workload("round trip p50, SQLite, prefork -c 1", "ms", round_trip("-c", "1"), 0.7, less_is_better=True),
    Workload("drain, no results, Redis, solo", "tasks/s", drain(*SOLO), 15_000, REDIS),
    Workload("drain, no results, Redis, prefork -c 2", "tasks/s", drain(*PREFORK), 12_000, REDIS),
    Workload("drain with results, Redis, solo", "tasks/s", drain(*SOLO, with_results=True), 12_000, REDIS),
    Workload("enqueue one at a time, Redis", "tasks/s", enqueue, 12_000, REDIS),
    Workload("enqueue in bulk, Redis", "tasks/s", bulk, 40_000, (UMBEL_REDIS,)),
    Workload("round trip p50, Redis, solo", "ms", round_trip(*SOLO), 0.5, REDIS, less_is_better=True),
    Workload(
        "round trip p50, Redis, prefork -c 1", "ms", round_trip("-c", "1"), 0.7, (UMBEL_REDIS,), less_is_better=True
    ),
    *(
        Workload(f"{name}, {where}, solo", "tasks/s", canvas(workload, count), target, peers)
        for where, peers in (("SQLite", (UMBEL,)), ("Redis", (UMBEL_REDIS, CELERY_REDIS)))
        for name, workload, count, target in (
            ("chord of 1,000 and body", "chord", 1000, 3_000),
            ("group of 1,000 and join", "join", 1000, 4_000),
            ("chain of 200", "chain", 200, 1_500),
        )
    ),
    Workload("drain, no results, RabbitMQ, solo", "tasks/s", drain(*SOLO, fill="unconfirmed"), 12_000, RABBITMQ),
    Workload(
        "drain, no results, RabbitMQ, prefork -c 2",
        "tasks/s",
        drain(*PREFORK, fill="unconfirmed"),
        12_000,
        RABBITMQ[:2],
    ),
    Workload("enqueue one at a time, RabbitMQ, confirmed", "tasks/s", enqueue, 900, (UMBEL_RABBITMQ,)),
    Workload("enqueue one at a time, RabbitMQ, unconfirmed", "tasks/s", unconfirmed, 10_000, RABBITMQ),
    Workload("enqueue in bulk, RabbitMQ, confirmed", "tasks/s", bulk, 10_000, (UMBEL_RABBITMQ,)),
    Workload("round trip p50, RabbitMQ, solo", "ms", round_trip(*SOLO), 0.9, RABBITMQ[:2], less_is_better=True),
    Workload("import", "ms", import_time, 60, less_is_better=True),
    Workload("cold start to first task, prefork -c 1", "s", cold_start("-c", "1"), 0.4, less_is_better=True),
    Workload("memory of an idle worker, solo", "MB", memory(*SOLO), 35, less_is_better=True),
    Workload("memory of an idle worker, prefork -c 1", "MB", memory("-c", "1"), 55, less_is_better=True),
    Workload("idle cost, prefork -c 1", "% of a core", idle_cost("-c", "1"), 0.3, less_is_better=True),
]


def main() -> None:
    """Run what was asked for and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("workloads", nargs="*", help="words that a workload's name must contain")
    asked = parser.parse_args()
    print(f"{'workload':44}{'umbel':>12}{'spread':>10}{'target':>10}{'':>8}  ratio to peers")
    for workload in WORKLOADS:
        if not all(word in workload.name for word in asked.workloads):
            continue
        missing = [peer.name for peer in workload.peers if not peer.is_here]
        if "umbel" in missing:
            print(f"{workload.name:44}  no server: python scripts/services.py run redis -- python -m benchmarks")
        else:
            print(_row(workload, _measure(workload, asked.rounds)), flush=True)


def _measure(workload: Workload, rounds: int) -> dict[str, list[float]]:
    peers = [peer for peer in workload.peers if peer.is_here]
    figures: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            peer.prepare()
            with tempfile.TemporaryDirectory(prefix="umbel-bench-") as folder:
                figures[peer.name].append(workload.measure(peer, Path(folder)))
    return figures


def _row(workload: Workload, figures: dict[str, list[float]]) -> str:
    ours = statistics.median(figures["umbel"])
    spread = (max(figures["umbel"]) - min(figures["umbel"])) / ours * 100 if ours else 0.0
    reached = ours <= workload.target if workload.less_is_better else ours >= workload.target
    ratios = []
    for name, values in figures.items():
        if name != "umbel":
            theirs = statistics.median(values)
            ratio = theirs / ours if workload.less_is_better else ours / theirs
            ratios.append(f"{ratio:.1f} x {name} ({_number(theirs)})")
    verdict = "reached" if reached else "MISSED"
    return (
        f"{workload.name:44}{_number(ours):>12}{spread:>9.0f}%{_number(workload.target):>10}{verdict:>8}  "
        f"{', '.join(ratios)} {workload.unit if not ratios else ''}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    main()
