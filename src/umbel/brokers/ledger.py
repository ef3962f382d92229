"""The port `Ledger`: what some brokers remember beside messages, for schedules and limits that all processes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec

from umbel.brokers.base import Publication

__all__ = ["Ledger", "Note", "ledger_of"]


class Note(msgspec.Struct, frozen=True, array_like=True):
    """One entry of a book: a few bytes under a name, which survive all processes."""

    book: str
    name: str
    text: bytes


class Ledger(Protocol):
    """What a broker with `features.ledger` can do besides.

    It is a second face of the `Broker` itself: one object, one connection, one thread, and the same errors.
    """

    def publish_once(
        self,
        key: str,
        publications: Sequence[Publication],
        *,
        expires: float,
        note: Note | None = None,
        timeout: float = 5.0,
    ) -> bool:
        """Publish *publications* unless *key* was accepted before; return whether they were.

        Accepting the key, publishing and writing *note* are one atomic write: of all who come with one key, whenever
        they die, exactly one publishes. The key is remembered for *expires* seconds, at least. Publishing nothing is
        allowed: then the key alone is taken.

        Raises:
            BrokerUnavailable: it is unknown whether the key was accepted; calling again is safe, and if it was,
                answers False.
        """

    def note(self, book: str, entries: Mapping[str, bytes | None]) -> None:
        """Write *entries* into *book*, by name, all at once; None strikes one out. They stay until then."""

    def notes(self, book: str) -> dict[str, bytes]:
        """Return all entries of *book* by name; a book that nobody wrote in is empty."""

    def reserve(self, name: str, interval: float, count: int = 1) -> float:
        """Reserve the next *count* starts under *name*, *interval* seconds apart; return seconds until the first.

        All who reserve under a name stand in one line: no two starts are less than *interval* apart, whoever asked.
        A line that has been idle begins now (0.0). What is reserved is not given back (GCRA, with room for one).
        """


def ledger_of(broker: Any) -> Ledger | None:
    """Return the other face of *broker*; None when it has none."""
    return cast("Ledger", broker) if broker.features.ledger else None
