"""Measure what a pool costs without a broker: jobs handed over in batches, and the round trip of one.

Run ``python -m benchmarks.micro_pools``. Figures are the best of some rounds: other work on the machine only adds.
"""

from __future__ import annotations

import os
import resource
import select
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from umbel.pools.base import ChildInfo, Job
from umbel.pools.kinds import make_pool

JOBS = 20_000
ROUNDS = 5
TURN = 100  # jobs a worker's loop hands over at once, at the most
PAYLOAD = b"x" * 200  # bytes, about a small task message


class NoOp:
    """Does nothing, as fast as can be."""

    payload_type: Any = bytes
    report_type: Any = int

    def enter(self, child: ChildInfo) -> None:
        """There is nothing to do."""

    def leave(self, exitcode: int) -> None:
        """There is nothing to do."""

    def perform(self, payload: bytes) -> int:
        return len(payload)

    async def aperform(self, payload: bytes) -> int:
        return len(payload)


def in_flight(pool: Any, jobs: int, limit: int) -> None:
    """Run so many jobs, never more than *limit* of them in the pool, as a worker's loop does."""
    submitted = ended = 0
    while ended < jobs:
        more = min(limit - (submitted - ended), jobs - submitted)
        if more > 0:
            pool.submit([Job(submitted + i, PAYLOAD) for i in range(more)])
            submitted += more
        receipts = pool.collect()
        ended += len(receipts)
        if not receipts:
            select.select([pool.fileno()], [], [], pool.next_timer())


def measure(pool: Any) -> tuple[float, float, float, float]:
    """Return jobs/s all at once, jobs/s in turns, processor seconds of the parent per job, and the round trip."""
    in_flight(pool, 1000, TURN)
    at_once, turns, cost = [], [], []
    for _ in range(ROUNDS):
        at_once.append(clocked(lambda: in_flight(pool, JOBS, JOBS)))
        before = cpu()
        turns.append(clocked(lambda: in_flight(pool, JOBS, TURN)))
        cost.append((cpu() - before) / JOBS)
    trips = [clocked(lambda: in_flight(pool, 1, 1)) for _ in range(2000)]
    return JOBS / min(at_once), JOBS / min(turns), min(cost), statistics.median(trips)


def clocked(act: Callable[[], None]) -> float:
    """Return the seconds that *act* takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def cpu() -> float:
    """Return the processor seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def show(name: str, figures: tuple[float, float, float, float]) -> None:
    """Print one line."""
    at_once, turns, cost, trip = figures
    print(f"{name:14} {at_once:12,.0f} {turns:12,.0f} {cost * 1e6:10.1f} µs {trip * 1e6:10.0f} µs", flush=True)


def main() -> None:
    """Measure all kinds."""
    print(f"{os.cpu_count()} processors; {JOBS} no-op jobs of {len(PAYLOAD)} bytes, best of {ROUNDS}\n")
    print(f"{'pool':14} {'all at once':>12} {f'{TURN} a turn':>12} {'parent/job':>13} {'round trip':>13}")
    for name, kind, slots, processes in (
        ("prefork 1", "prefork", 1, None),
        ("prefork 2", "prefork", 2, None),
        ("prefork 8", "prefork", 8, None),
        ("threads 10", "threads", 10, None),
        ("threads 2x5", "threads", 10, 2),
        ("asyncio 100", "asyncio", 100, None),
        ("asyncio 2x50", "asyncio", 100, 2),
    ):
        pool = make_pool(kind, NoOp(), slots=slots, processes=processes)
        pool.start()
        try:
            show(name, measure(pool))
        finally:
            pool.stop(1.0)
    solo = make_pool("solo", NoOp())
    solo.start()

    def loop() -> None:
        show("solo", measure(solo))
        solo.stop(1.0)

    threading.Thread(target=loop).start()
    solo.run()  # type: ignore[union-attr]  # a solo pool has it


if __name__ == "__main__":
    main()
