"""Measure what `execute` adds to the user's function: ``python benchmarks/micro_execute.py``.

The target is 12 µs for a no-op whose result is ignored and 18 µs with a result, on one core.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

import msgspec

from umbel.app.app import Umbel
from umbel.app.perform import Plans
from umbel.brokers.base import Delivery
from umbel.execution.execute import execute
from umbel.wire.message import Message, Route

ROUNDS, RUNS = 7, 5000


def best(work: Callable[[], object]) -> float:
    """Return the fewest microseconds that one call of *work* took, over rounds of many."""
    found = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(RUNS):
            work()
        found = min(found, time.perf_counter() - began)
    return found / RUNS * 1e6


def main() -> None:
    """Print microseconds per task."""
    logging.disable(logging.INFO)
    app = Umbel("bench", broker="memory://", set_as_current=False)

    @app.task(name="noop", lazy=False)
    def noop(*args: object) -> int:
        return 1

    @app.task(name="coroutine", lazy=False)
    async def coroutine(*args: object) -> int:
        return 1

    plans = Plans(app, "bench@host")
    link = dict(noop.si().set(task_id="n1"))

    def delivery(task: str, *, ignore: bool, chain: list[object] | None = None) -> Delivery:
        embed = {"callbacks": None, "errbacks": None, "chain": chain, "chord": None}
        body = json.dumps([[1, 2], {}, embed]).encode()
        message = Message(id="t1", task=task, body=body, ignore_result=ignore, root_id="t1")
        packed = msgspec.msgpack.encode(Delivery(message=message, queue="q", route=Route("", "q"), tag=1, token=1))
        return msgspec.msgpack.decode(packed, type=Delivery)

    cases = {
        "no result": delivery("noop", ignore=True),
        "with result": delivery("noop", ignore=False),
        "next link": delivery("noop", ignore=False, chain=[link]),
        "coroutine, no result": delivery("coroutine", ignore=True),
    }
    for name, job in cases.items():
        plan = plans.find(job.message.task)
        assert plan is not None
        outcome = execute(plan, job)
        assert outcome.state == "SUCCESS", outcome.reason
        print(f"{name:22} {best(lambda plan=plan, job=job: execute(plan, job)):6.1f} µs")
    print(f"{'reading the body':22} {best(lambda: plans.env.read(cases['no result'].message)):6.1f} µs")


if __name__ == "__main__":
    main()
