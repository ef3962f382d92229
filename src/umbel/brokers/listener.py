"""Hear what arrives in a queue of one's own: events, commands and replies, which nobody has to keep."""

from __future__ import annotations

import selectors
import time
from typing import Final

from umbel.brokers.base import Broker, Claim, Lease, Settlement
from umbel.wire.message import Message
from umbel.wire.topology import Topology

__all__ = ["Listener"]

_LEASE: Final = 60.0  # seconds; what was heard is acknowledged with the next call


class Listener:
    """Consumes the queues of *topology* over *broker*, which serves nothing else meanwhile.

    Used by one thread. Every verb may raise `BrokerUnavailable`; then the listener is of no use any more.
    """

    def __init__(self, broker: Broker, topology: Topology, *, owner: str, look: float = 1.0, limit: int = 200) -> None:
        """Declare what *topology* holds and begin to hear; *look* is how often to ask without having been woken."""
        self._broker = broker
        self._look = look
        self._claim = Claim(limit=limit, lease=_LEASE, owner=owner)
        self._heard: list[Settlement] = []
        self._hungry = True
        self._look_at = 0.0  # monotonic
        broker.declare(topology)
        broker.consume(list(topology.queues))

    def hear(self, timeout: float | None, *, unless: int | None = None) -> list[Message]:
        """Return what has arrived, oldest first; wait *timeout* seconds for it (None = for ever).

        Nothing may come earlier, when the descriptor *unless* becomes readable.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            now = time.monotonic()
            if self._hungry or now >= self._look_at:
                heard, self._heard = self._heard, []
                turn = self._broker.settle(heard, self._claim)
                self._heard = [Settlement(lease=Lease(each.tag, each.token)) for each in turn.deliveries]
                self._hungry = len(turn.deliveries) >= self._claim.limit
                self._look_at = now + self._look
                if turn.deliveries:
                    return [each.message for each in turn.deliveries if each.invalid is None]
            left = self._look_at - now if until is None else min(self._look_at, until) - now
            if left <= 0:
                if until is not None and now >= until:
                    return []
                continue
            if self._wait(left, unless):
                return []

    def close(self) -> None:
        """Stop hearing; what was heard is acknowledged. The broker stays open."""
        if self._heard:
            self._broker.settle(self._heard)
        self._broker.consume(())

    def _wait(self, seconds: float, unless: int | None) -> bool:
        """Wait for news; return whether *unless* ended it."""
        with selectors.DefaultSelector() as selector:  # not select(): a big worker has more than 1024 descriptors
            ear = self._broker.fileno()
            for descriptor in (ear,) if unless is None else (ear, unless):
                selector.register(descriptor, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(seconds)}
        self._hungry = self._hungry or ear in ready
        return unless in ready
