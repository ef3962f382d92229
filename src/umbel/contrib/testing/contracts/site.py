"""One fresh store as a contract suite sees it: how to open it, and how time passes there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from umbel.backends.base import Backend
from umbel.brokers.base import Broker

__all__ = ["Clock", "OnSite", "RealClock", "Site", "at_once"]

_T = TypeVar("_T")


class Clock(Protocol):
    """What a site's stores read the time from. Calling it returns unix seconds."""

    def __call__(self) -> float: ...

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""


class RealClock:
    """The time of this machine, for stores that know no other: a test then really waits."""

    def __call__(self) -> float:
        return time.time()

    def advance(self, seconds: float) -> None:
        time.sleep(seconds)


def _missing() -> Any:
    raise NotImplementedError("this site has no such part: give it when the Site is made")


@dataclass(kw_only=True)
class Site:
    """One fresh, empty store.

    The suite opens connections with `broker` and `backend`, which close themselves when the site is left; threads
    call `make_broker` and `make_backend`, and close what they opened.
    """

    clock: Clock
    make_broker: Callable[[], Broker] = _missing  # opens another connection to this store
    make_backend: Callable[[], Backend] = _missing  # opens another connection to the results of this store
    poison: Callable[[str, bytes], None] | None = None  # puts bytes that are no message into a queue; None = impossible
    # The same as `make_broker` and `make_backend` for another process: picklable, and on the machine's clock.
    # None = the store lives in one process.
    open_elsewhere: Callable[[], Broker] | None = None
    open_results_elsewhere: Callable[[], Backend] | None = None
    second: float = 1.0  # what the suite takes for a second; small where `clock` is real
    grace: float = 0.0  # seconds between the end of a publish and the moment its message can be claimed
    temporary_queues: bool = True  # queues go with their consumers, messages after their time, as declared
    exchange_types: frozenset[str] = frozenset({"direct", "topic", "fanout", "headers"})
    _opened: ExitStack = field(default_factory=ExitStack)

    def broker(self, *queues: str) -> Broker:
        """Open a connection that consumes *queues*."""
        broker = self.make_broker()
        self._opened.callback(broker.close)
        if queues:
            broker.consume(queues)
        return broker

    def backend(self) -> Backend:
        """Open a connection to the results."""
        backend = self.make_backend()
        self._opened.callback(backend.close)
        return backend

    def skip(self, seconds: float) -> None:
        """Let *seconds* of the suite's time pass."""
        self.clock.advance(seconds * self.second)

    def moment(self, seconds: float) -> datetime:
        """Return the moment *seconds* of the suite's time from now, aware."""
        return datetime.fromtimestamp(self.clock() + seconds * self.second, UTC)

    @contextmanager
    def opened(self) -> Iterator[Site]:
        """Close at the end what was opened."""
        with self._opened:
            yield self


class OnSite:
    """A suite whose tests each have a store of their own: say in `new_site` how one is made."""

    def new_site(self, folder: Path) -> Site:
        """Return a fresh, empty store; *folder* is empty and its own."""
        raise NotImplementedError("say in new_site how a fresh store is made")

    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        with self.new_site(tmp_path).opened() as site:
            yield site


def at_once(*calls: Callable[[], _T], timeout: float = 50.0) -> list[_T]:
    """Run *calls*, each in its own thread, all beginning together; return their results or raise the first error."""
    begin = threading.Barrier(len(calls))

    def run(call: Callable[[], _T]) -> _T:
        begin.wait(timeout)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [each.result(timeout) for each in [threads.submit(run, call) for call in calls]]
