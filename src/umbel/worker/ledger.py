"""Count what a worker does, for people and for machines that watch it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from umbel.brokers.base import Delivery
from umbel.worker.orders import Ending

__all__ = ["BUCKETS", "Histogram", "Ledger"]

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper ends of the classes of a histogram, in seconds; a last one takes all that is longer."""


class Histogram:
    """How often durations fell into each class."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0  # seconds, of all

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Ledger:
    """What has happened in one worker since it started. The loop's thread writes, others may read.

    A task that is not registered (*is_known* says which are) counts under "(unknown)": foreign names must not fill our
    memory, nor that of whoever collects these numbers.
    """

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self.received: Counter[str] = Counter()  # by task
        self.ended: Counter[tuple[str, str]] = Counter()  # by task and state
        self.runtimes: dict[str, Histogram] = {}  # by task; of those that user code ended
        self.waits: dict[str, Histogram] = {}  # by queue: from publishing, or its eta, to a worker
        self.lost_leases = 0
        self.crashes = 0  # attempts that ended with their process and will be repeated
        self._is_known = is_known

    @property
    def processed(self) -> int:
        """Return how many tasks have come to an end."""
        return sum(self.ended.copy().values())

    def arrived(self, deliveries: Iterable[Delivery], *, wall: float) -> None:
        """Count these in; *wall* is unix seconds."""
        for delivery in deliveries:
            message = delivery.message
            self.received[self._name(message.task)] += 1
            if delivery.since is not None and not delivery.redelivered:
                since = delivery.since if message.eta is None else max(delivery.since, message.eta.timestamp())
                _into(self.waits, delivery.queue).add(max(0.0, wall - since))

    def left(self, endings: Iterable[Ending]) -> None:
        """Count these out."""
        for ending in endings:
            name = self._name(ending.delivery.message.task)
            self.ended[name, ending.outcome.state] += 1
            if ending.runtime is not None:
                _into(self.runtimes, name).add(ending.runtime)

    def _name(self, task: str) -> str:
        return task if self._is_known(task) else "(unknown)"


def _into(histograms: dict[str, Histogram], name: str) -> Histogram:
    histogram = histograms.get(name)
    if histogram is None:
        histogram = histograms[name] = Histogram()
    return histogram
