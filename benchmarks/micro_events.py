"""Measure what telling monitors of a task costs its worker: ``python benchmarks/micro_events.py``.

The three events of a task that succeeds, gathered and packed in batches, in microseconds of CPU a task; beside them
their JSON alone, which nothing can save.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from umbel import Umbel
from umbel._names import uuid
from umbel.brokers.base import Delivery
from umbel.execution.outcome import Outcome
from umbel.wire.message import Message, Route
from umbel.worker.orders import Ending
from umbel.worker.teller import Teller

ROUNDS, BATCHES, BATCH = 15, 20, 100


def best(once: Callable[[], object]) -> float:
    """Return the fewest microseconds of CPU a task that *once*, of one batch, took."""
    found = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(BATCHES):
            once()
        found = min(found, time.process_time() - began)
    return found / BATCHES / BATCH * 1e6


def main() -> None:
    """Print microseconds per task."""
    app = Umbel("bench", broker="memory://", set_as_current=False)

    @app.task(name="noop", lazy=False)
    def noop() -> None:
        pass

    packed: list[Any] = []

    def pack(events: list[Any]) -> Any:
        packed[:] = events
        return app.events.packed(events)

    teller = Teller(
        pack,
        app.events.common("celery@host.example"),
        wants_events=lambda name: getattr(app.tasks.get(name), "send_events", True),
        running=list,
        busy=lambda: 0,
        enabled=True,
    )
    deliveries = []
    for tag in range(BATCH):
        message = Message(id=uuid(), task="noop", body=b"", argsrepr="()", kwargsrepr="{}", root_id=uuid())
        deliveries.append(Delivery(message=message, queue="celery", route=Route("", "celery"), tag=tag, token=1))
    endings = [Ending(each, Outcome(state="SUCCESS", shown="None"), 0.00002) for each in deliveries]

    def tell() -> None:
        teller.received(deliveries)
        teller.ended(endings)
        teller.news()

    whole = best(tell)
    print(f"events of a task {whole:6.2f} µs, of which JSON {best(lambda: msgspec.json.encode(packed)):.2f} µs")


if __name__ == "__main__":
    main()
