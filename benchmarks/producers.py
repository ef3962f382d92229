"""Send and await tasks from a fresh process: `python -m benchmarks.producers MODULE WORKLOAD NUMBER…`."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from types import ModuleType
from typing import Any


def enqueue(module: ModuleType, count: int, with_results: int = 0) -> float:
    """Send *count* tasks one at a time; return how many a second."""
    task = module.double if with_results else module.noop
    send = task.delay if hasattr(task, "delay") else task
    arguments = (1,) if with_results else ()
    send(*arguments)  # connects
    began = time.perf_counter()
    for _ in range(count - 1):
        send(*arguments)
    return (count - 1) / (time.perf_counter() - began)


def bulk(module: ModuleType, count: int) -> float:
    """Send *count* tasks in bulk; return how many a second."""
    from umbel.canvas import group  # only umbel has one

    began = time.perf_counter()
    group(module.noop.s() for _ in range(count)).apply_async()
    return count / (time.perf_counter() - began)


def round_trip(module: ModuleType, count: int) -> float:
    """Call a task and get its result *count* times; return the median in milliseconds."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        value = _call(module.double, number)
        times.append(time.perf_counter() - began)
        if value != 2 * number:
            raise AssertionError(f"double({number}) came back as {value}")
    return statistics.median(times[count // 5 :]) * 1000


def _call(task: Any, number: int) -> Any:
    if hasattr(task, "delay"):
        return task.delay(number).get(timeout=30)
    return task(number).get(blocking=True, timeout=30, backoff=1.0, max_delay=0.001)


if __name__ == "__main__":
    workload = {"enqueue": enqueue, "bulk": bulk, "round_trip": round_trip}[sys.argv[2]]
    figure = workload(importlib.import_module(sys.argv[1]), *map(int, sys.argv[3:]))
    print(json.dumps(figure))
