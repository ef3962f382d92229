"""Write what has ended, in one atomic exchange where broker and store are one server, else in the safe order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from umbel.backends.base import Backend, chord_counter
from umbel.brokers.base import Broker, Bury, Claim, Settlement, Turn, Verdict
from umbel.exceptions import BrokerUnusable
from umbel.wire.chord import ReadyChord

__all__ = ["Apart", "Fused", "Settler"]

_logger: Final = logging.getLogger("celery.worker.settle")


class Settler(Protocol):
    """Settles and claims."""

    counts: bool  # chords are counted where results are kept, so somebody must look for forgotten ones

    def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Turn:
        """Settle *settlements* and take what *claim* asks for; as `Broker.settle`."""

    def close(self) -> None:
        """Release what it opened beside the broker."""


class Fused:
    """Broker and result store are one server: results travel with the acknowledgement, in one transaction."""

    counts = True

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Turn:
        """Settle and claim in one atomic write."""
        return self._broker.settle(settlements, claim)

    def close(self) -> None:
        """Nothing was opened beside the broker."""


class Apart:
    """Broker and result store are two servers.

    The order is sizes of chords, follow-ups (confirmed), results, parts, the end of chords that are fired, and
    acknowledgements, each in one batch. Dying between two of them repeats a task, or publishes the body of a chord once
    more; it never loses one, nor its continuation.
    """

    def __init__(self, broker: Broker, backend: Backend | None) -> None:
        self._broker = broker
        self._backend = backend  # None = results are not kept
        self._counter = chord_counter(backend)
        self.counts = self._counter is not None

    def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Turn:
        """Settle in batches, the last of which also claims."""
        ready: list[ReadyChord] = []
        if settlements:
            chords, refused = self._write(settlements)
            ready += chords
            settlements = [
                Settlement(lease=one.lease, verdict=refused.get(number, one.verdict))
                for number, one in enumerate(settlements)
                if one.lease is not None
            ]
        if self._counter is not None and claim is not None and claim.chords:
            ready += self._counter.ready_chords(claim.chords)
        turn = Turn()
        if settlements or (claim is not None and claim.limit > 0):
            turn = self._broker.settle(settlements, claim)
        return msgspec.structs.replace(turn, ready=tuple(ready)) if ready else turn

    def _follow(self, settlements: Sequence[Settlement]) -> dict[int, Verdict]:
        """Publish what follows; return how those must end, by number, whose follow-ups the broker does not take.

        Such as one for an exchange that does not exist: it must not keep all others from being settled for ever.
        """
        follow_ups = [publication for one in settlements for publication in one.follow_ups]
        if not follow_ups:
            return {}
        try:
            self._broker.publish(follow_ups)
        except BrokerUnusable:
            pass
        else:
            return {}
        refused: dict[int, Verdict] = {}
        for number, one in enumerate(settlements):
            for publication in one.follow_ups:
                try:
                    self._broker.publish([publication])
                except BrokerUnusable as exc:
                    message = publication.message
                    _logger.error("what follows cannot be sent: %s[%s]: %s", message.task, message.id, exc)
                    refused[number] = Bury(reason="rejected", evidence=f"what follows it cannot be sent: {exc}")
        return refused

    def _write(self, settlements: Sequence[Settlement]) -> tuple[Sequence[ReadyChord], dict[int, Verdict]]:
        """Write all but the ends of messages; return the chords that are thereby complete, and what `_follow` does."""
        counter = self._counter
        sizes = [size for one in settlements for size in one.sizes]
        if sizes and counter is not None:
            counter.open_chords(sizes)
        refused = self._follow(settlements)
        records = [record for one in settlements for record in one.records]
        if records and self._backend is not None:
            self._backend.store(records)
        if counter is None:
            return (), refused
        parts = [part for one in settlements for part in one.parts]
        ready = counter.count_parts(parts) if parts else ()
        fired = [one.fires for one in settlements if one.fires is not None]
        if fired:  # behind their parts: they may be those of chords around them
            counter.close_chords(fired)
        return ready, refused

    def close(self) -> None:
        """Close the result store."""
        if self._backend is not None:
            self._backend.close()
