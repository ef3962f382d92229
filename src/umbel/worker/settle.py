"""Write what has ended, in one atomic exchange where broker and store are one server, else in the safe order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from umbel.backends.base import Backend
from umbel.brokers.base import Broker, Claim, Settlement, Turn

__all__ = ["Apart", "Fused", "Settler"]


class Settler(Protocol):
    """Settles and claims."""

    def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Turn:
        """Settle *settlements* and take what *claim* asks for; as `Broker.settle`."""

    def close(self) -> None:
        """Release what it opened beside the broker."""


class Fused:
    """Broker and result store are one server: results travel with the acknowledgement, in one transaction."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Turn:
        """Settle and claim in one atomic write."""
        return self._broker.settle(settlements, claim)

    def close(self) -> None:
        """Nothing was opened beside the broker."""


class Apart:
    """Broker and result store are two servers.

    The order is follow-ups (confirmed), results, acknowledgements, each in one batch. Dying between two of
    them repeats a task; it never loses one, nor its continuation.
    """

    def __init__(self, broker: Broker, backend: Backend | None) -> None:
        self._broker = broker
        self._backend = backend  # None = results are not kept

    def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Turn:
        """Settle in three batches, the last of which also claims."""
        if settlements:
            follow_ups = [publication for one in settlements for publication in one.follow_ups]
            if follow_ups:
                self._broker.publish(follow_ups)
            records = [record for one in settlements for record in one.records]
            if records and self._backend is not None:
                self._backend.store(records)
            settlements = [
                msgspec.structs.replace(one, follow_ups=(), records=()) if one.follow_ups or one.records else one
                for one in settlements
                if one.lease is not None
            ]
        if not settlements and claim is None:
            return Turn()
        return self._broker.settle(settlements, claim)

    def close(self) -> None:
        """Close the result store."""
        if self._backend is not None:
            self._backend.close()
