"""Hand publications to the broker, within a deadline, trying again where that is safe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec

from umbel._time import pauses
from umbel.app.connections import Connections
from umbel.brokers.base import Broker, Publication
from umbel.exceptions import BrokerUnavailable
from umbel.wire.message import Route
from umbel.wire.topology import Topology

__all__ = ["NO_RETRY", "Line", "Lines", "RetryPolicy", "Sender"]


class Line:
    """A connection for sending, and what it has declared."""

    __slots__ = ("broker", "declared")

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.declared: set[Route] = set()

    def close(self) -> None:
        """Close the connection."""
        self.broker.close()


class Lines(Protocol):
    """Where a line comes from and goes back to; see `Connections`."""

    def take(self) -> Line:
        """Return a line."""

    def give(self, line: Line) -> None:
        """Take back one that works."""

    def drop(self, line: Line) -> None:
        """Take back one that may be broken."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How publishing is tried again when the broker is down; the words of ``task_publish_retry_policy``."""

    max_retries: int | None = 3  # None = until the time is over
    interval_start: float = 0.0  # seconds before the second attempt
    interval_step: float = 0.2  # seconds more before each later one
    interval_max: float = 1.0  # seconds
    retry_errors: tuple[type[BaseException], ...] = ()  # more errors after which trying again is right
    errback: Callable[[BaseException, float], object] | None = None  # told each error and the pause after it

    @classmethod
    def of(cls, *policies: Mapping[str, Any] | None) -> RetryPolicy:
        """Return the policy that these dicts say together, later ones winning; None in them means the default."""
        said = {key: value for policy in policies for key, value in (policy or {}).items()}
        known = {key: said[key] for key in cls.__struct_fields__ if key in said}
        return cls(**{key: value for key, value in known.items() if value is not None or key == "max_retries"})

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each further attempt."""
        return pauses(self.interval_start, self.interval_step, self.interval_max, self.max_retries)


NO_RETRY: Final = RetryPolicy(max_retries=0)


class Sender:
    """The way out of one app."""

    def __init__(self, lines: Connections[Line], *, timeout: float, policy: RetryPolicy) -> None:
        """Send over *lines*; all attempts together take at most *timeout* seconds."""
        self.lines = lines
        self._timeout = timeout
        self._policy = policy

    def send(
        self,
        publications: Sequence[Publication],
        needs: Mapping[Route, Topology],
        *,
        policy: RetryPolicy | None = None,
        timeout: float | None = None,
        over: Lines | None = None,
    ) -> None:
        """Return when the broker has all *publications*; *needs* is what must be declared for some routes first.

        They are sent *over* somebody's own line where one is given.

        Raises:
            OperationalError: it has not; `PublishTimeout` says that it may have, all others that it has none.
        """
        policy = policy or self._policy
        until = time.monotonic() + (self._timeout if timeout is None else timeout)
        further: Iterator[float] | None = None
        errors: tuple[type[BaseException], ...] = (BrokerUnavailable, *policy.retry_errors)
        while True:
            try:
                self._attempt(publications, needs, until, over or self.lines)
                return
            except errors as exc:
                further = policy.pauses() if further is None else further
                pause = next(further, None)
                if pause is None or time.monotonic() + pause >= until:
                    raise
                if policy.errback is not None:
                    policy.errback(exc, pause)
            time.sleep(pause)

    def declare(self, publications: Sequence[Publication], needs: Mapping[Route, Topology]) -> None:
        """Declare what *publications* need, for somebody else who will send them."""
        if needs and not needs.keys().isdisjoint(_place(each.route) for each in publications):
            with self.lines.lend() as line:
                _declare(line, publications, needs)

    @contextmanager
    def lend(self) -> Iterator[Broker]:
        """Lend a connection for the block; an exception of the block closes it."""
        with self.lines.lend() as line:
            yield line.broker

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.lines.close()

    @staticmethod
    def _attempt(
        publications: Sequence[Publication], needs: Mapping[Route, Topology], until: float, lines: Lines
    ) -> None:
        line = lines.take()
        try:
            if needs:
                _declare(line, publications, needs)
            line.broker.publish(publications, timeout=max(0.0, until - time.monotonic()))
        except BaseException:
            lines.drop(line)
            raise
        lines.give(line)


def _declare(line: Line, publications: Sequence[Publication], needs: Mapping[Route, Topology]) -> None:
    for place in {_place(publication.route) for publication in publications}:
        if place in needs and place not in line.declared:
            line.broker.declare(needs[place])
            line.declared.add(place)


def _place(route: Route) -> Route:
    return Route(route.exchange) if route.exchange else route
