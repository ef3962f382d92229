"""Write what is counted in a worker as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from umbel.brokers.base import QueueSize
from umbel.worker.ledger import BUCKETS, Histogram, Ledger

__all__ = ["CONTENT_TYPE", "Gauges", "render"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is like at this moment."""

    hostname: str
    version: str
    slots: int
    busy: int  # tasks that run
    held: int  # deliveries in our hand
    consuming: bool
    replaced: Mapping[str, int]  # child processes replaced, by reason
    queues: Mapping[str, QueueSize]
    paused: frozenset[str] = frozenset()


def render(ledger: Ledger, gauges: Gauges) -> str:
    """Return all metrics as text; the format is Prometheus' exposition format 0.0.4."""
    return "\n".join([*_lines(ledger, gauges), ""])


def _lines(ledger: Ledger, gauges: Gauges) -> Iterator[str]:
    yield from _family("umbel_worker_info", "gauge", "The worker.", [
        ({"worker": gauges.hostname, "version": gauges.version}, 1),
    ])  # fmt: skip
    yield from _one("umbel_worker_consuming", "gauge", "1 while the worker takes tasks.", int(gauges.consuming))
    yield from _one("umbel_worker_slots", "gauge", "Tasks that may run at once.", gauges.slots)
    yield from _one("umbel_worker_slots_busy", "gauge", "Tasks that run.", gauges.busy)
    yield from _one("umbel_worker_deliveries", "gauge", "Messages in the worker's hand.", gauges.held)
    yield from _family(
        "umbel_tasks_received_total", "counter", "Tasks that arrived.",
        [({"task": task}, count) for task, count in sorted(ledger.received.copy().items())],
    )  # fmt: skip
    yield from _family(
        "umbel_tasks_total", "counter", "Tasks that came to an end here.",
        [({"task": task, "state": state}, count) for (task, state), count in sorted(ledger.ended.copy().items())],
    )  # fmt: skip
    yield from _histogram("umbel_task_runtime_seconds", "How long tasks ran.", "task", ledger.runtimes)
    yield from _histogram(
        "umbel_task_waiting_seconds", "How long tasks waited in their queue, once due.", "queue", ledger.waits
    )
    yield from _one("umbel_lease_losses_total", "counter", "Deliveries another worker took over.", ledger.lost_leases)
    yield from _one(
        "umbel_task_crashes_total", "counter", "Attempts that ended with their process and are repeated.",
        ledger.crashes,
    )  # fmt: skip
    yield from _family(
        "umbel_children_replaced_total", "counter", "Processes of the pool that were replaced.",
        [({"reason": reason}, count) for reason, count in sorted(gauges.replaced.items())],
    )  # fmt: skip
    yield from _queues(gauges)


def _queues(gauges: Gauges) -> Iterator[str]:
    depth = [
        ({"queue": queue, "state": state}, getattr(size, state))
        for queue, size in sorted(gauges.queues.items())
        for state in ("ready", "delayed", "claimed")
    ]
    yield from _family("umbel_queue_messages", "gauge", "Messages of a queue, for all workers.", depth)
    yield from _family(
        "umbel_queue_oldest_seconds", "gauge", "How long the oldest message has waited that could run now.",
        [
            ({"queue": queue}, size.oldest or 0.0)
            for queue, size in sorted(gauges.queues.items())
            if size.oldest is not None or not size.ready  # else the broker does not know
        ],
    )  # fmt: skip
    yield from _family(
        "umbel_queue_paused", "gauge", "1 while a queue is paused.",
        [({"queue": queue}, int(queue in gauges.paused)) for queue in sorted(gauges.queues)],
    )  # fmt: skip


def _one(name: str, kind: str, about: str, value: float) -> Iterator[str]:
    return _family(name, kind, about, [({}, value)])


def _family(name: str, kind: str, about: str, samples: Iterable[tuple[Mapping[str, str], Any]]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{_labels(labels)} {value}"


def _histogram(name: str, about: str, label: str, histograms: dict[str, Histogram]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} histogram"
    for key, histogram in sorted(histograms.copy().items()):
        counts, total = list(histogram.counts), histogram.total
        below = 0
        for end, count in zip(BUCKETS, counts, strict=False):
            below += count
            yield f"{name}_bucket{_labels({label: key, 'le': f'{end:g}'})} {below}"
        yield f"{name}_bucket{_labels({label: key, 'le': '+Inf'})} {sum(counts)}"
        yield f"{name}_sum{_labels({label: key})} {total}"
        yield f"{name}_count{_labels({label: key})} {sum(counts)}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
