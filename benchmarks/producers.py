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


def unconfirmed(module: ModuleType, count: int, with_results: int = 0) -> float:
    """Send *count* tasks one at a time, trusting the broker; return how many a second."""
    if type(getattr(module, "app", None)).__module__.startswith("umbel"):
        module.app.conf.broker_transport_options = {"confirm_publish": False}
    return enqueue(module, count, with_results)


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


def chord(module: ModuleType, count: int) -> float:
    """Send a chord and await its body, twice; return how many tasks a second the second one was."""
    canvas = _canvas(module)

    def once() -> None:
        header = [module.double.s(number) for number in range(count)]
        value = canvas.chord(header, module.total.s()).apply_async().get(timeout=60)
        if value != count * (count - 1):
            raise AssertionError(f"the chord came to {value}")

    once()
    began = time.perf_counter()
    once()
    return (count + 1) / (time.perf_counter() - began)


def join(module: ModuleType, count: int) -> float:
    """Send a group and await all its results, twice; return how many tasks a second the second one was."""
    canvas = _canvas(module)
    for _ in range(2):
        began = time.perf_counter()
        values = canvas.group(module.double.s(number) for number in range(count)).apply_async().get(timeout=60)
        if values != [2 * number for number in range(count)]:
            raise AssertionError("the group came to something else")
    return count / (time.perf_counter() - began)


def chain(module: ModuleType, count: int) -> float:
    """Send a chain and await its last link, twice; return how many links a second the second one was."""
    canvas = _canvas(module)
    for _ in range(2):
        began = time.perf_counter()
        canvas.chain(module.double.si(number) for number in range(count)).apply_async().get(timeout=60)
    return count / (time.perf_counter() - began)


def _canvas(module: ModuleType) -> ModuleType:
    """Return the package of whoever is measured."""
    return importlib.import_module(type(module.app).__module__.partition(".")[0])


def _call(task: Any, number: int) -> Any:
    if hasattr(task, "delay"):
        return task.delay(number).get(timeout=30)
    return task(number).get(blocking=True, timeout=30, backoff=1.0, max_delay=0.001)


if __name__ == "__main__":
    known = {each.__name__: each for each in (enqueue, unconfirmed, bulk, round_trip, chord, join, chain)}
    workload = known[sys.argv[2]]
    figure = workload(importlib.import_module(sys.argv[1]), *map(int, sys.argv[3:]))
    print(json.dumps(figure))
