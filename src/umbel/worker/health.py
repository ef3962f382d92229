"""Say how a worker is: alive, ready, and in numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any, Final, Protocol

from umbel.app.version import __version__
from umbel.brokers.base import QueueSize
from umbel.exceptions import BrokerUnavailable
from umbel.pools.base import Pool
from umbel.worker.ledger import Ledger
from umbel.worker.loop import Loop
from umbel.worker.metrics import Gauges, render

__all__ = ["pages"]

_PATIENCE: Final = 10.0  # seconds that the loop may take for one turn and still count as alive
_FRESH: Final = 1.0  # seconds that the sizes of queues are kept, however often somebody asks


class Node(Protocol):
    """What is asked of a worker."""

    app: Any
    hostname: str
    ledger: Ledger
    pool: Pool

    @property
    def loop(self) -> Loop | None:
        """Its loop, once it is connected."""

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of the queues it consumes."""


def pages(node: Node) -> dict[str, Callable[[], tuple[int, str]]]:
    """Return what `http.Health` is to serve for *node*."""
    queues = _Queues(node)
    return {"/live": lambda: _live(node), "/ready": lambda: _ready(node), "/metrics": lambda: _metrics(node, queues)}


def _live(node: Node) -> tuple[int, str]:
    """Answer 200 while the loop turns: one that does not can only be helped by a restart."""
    if node.loop is None:
        return 200, "starting\n"
    try:
        node.loop.ask(lambda: None, timeout=_PATIENCE)
    except NoAnswer:
        return 503, f"the worker's loop has not turned for {_PATIENCE:g} s\n"
    return 200, "alive\n"


def _ready(node: Node) -> tuple[int, str]:
    """Answer 200 while tasks are taken."""
    reason = "it is not connected yet" if node.loop is None else node.loop.idle_because
    if reason is None and not node.queues:
        reason = "it consumes no queue"
    return (200, "ready\n") if reason is None else (503, f"takes no tasks: {reason}\n")


def _metrics(node: Node, queues: _Queues) -> tuple[int, str]:
    loop = node.loop
    if loop is None:
        return 503, "# it is not connected yet\n"
    info = loop.ask(node.pool.info)
    sizes, paused = queues.look()
    return 200, render(
        node.ledger,
        Gauges(
            hostname=node.hostname,
            version=__version__,
            slots=loop.state.slots,
            busy=min(loop.state.submitted, loop.state.slots),
            held=len(loop.state.held),
            consuming=loop.idle_because is None,
            replaced=info["replaced"],
            queues=sizes,
            paused=paused,
        ),
    )


class _Queues:
    """The sizes of the queues a worker consumes, asked for over one of the app's own connections."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._seen: tuple[Mapping[str, QueueSize], frozenset[str]] = {}, frozenset()
        self._at = -_FRESH  # monotonic

    def look(self) -> tuple[Mapping[str, QueueSize], frozenset[str]]:
        """Return sizes by name, and which are paused; nothing while the broker is away."""
        with self._lock:
            if time.monotonic() - self._at >= _FRESH:
                try:
                    with self._node.app.lend_broker() as broker:
                        self._seen = broker.sizes(self._node.queues), broker.paused()
                except BrokerUnavailable:
                    self._seen = {}, frozenset()
                self._at = time.monotonic()
            return self._seen
