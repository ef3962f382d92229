"""The port `Backend`: where outcomes are kept, and the shapes that cross it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, cast

import msgspec

from umbel.wire.chord import ChordPart, ChordSize, ReadyChord
from umbel.wire.record import Record

__all__ = ["Backend", "BackendFeatures", "ChordCounter", "Watch", "chord_counter"]


class BackendFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """What only some stores can do, as data."""

    push: bool  # a `Watch` wakes by itself; False = it polls
    expires: bool  # removes old records by itself; False = `cleanup` must be called
    groups: bool  # keeps group records
    readable_anywhere: bool = True  # False = only the sender can read (rpc)
    chords: bool = False  # it is also a `ChordCounter`


class Watch(Protocol):
    """A caller's wait for some tasks; lives only as long as the wait."""

    def wait(self, timeout: float | None) -> set[str]:
        """Block until the state of a watched task may have changed, at most *timeout* seconds (None = forever).

        Return the ids to look at; empty when the time ran out. May name an id for nothing, never misses one.
        """

    def fileno(self) -> int | None:
        """Return a descriptor readable when `wait` would not block, or None where the store must be polled."""

    def close(self) -> None:
        """End the wait. May be called twice."""


class Backend(Protocol):
    """Where outcomes are kept. One object owns one connection and is used by one thread.

    Every verb may raise `BackendError`: nothing of the call was stored. After `close` every verb but `close`
    raises `RuntimeError`: that is a mistake of the caller.
    """

    features: BackendFeatures

    def store(self, records: Sequence[Record]) -> None:
        """Keep *records*; a later record of the same id replaces an earlier one, but nothing replaces SUCCESS.

        Not even another SUCCESS, until it is forgotten or has expired.
        """

    def fetch(self, ids: Collection[str]) -> dict[str, bytes]:
        """Return the payloads of those *ids* that are known and have not expired."""

    def forget(self, ids: Iterable[str]) -> None:
        """Delete the records of these tasks."""

    def watch(self, ids: Collection[str]) -> Watch:
        """Watch these tasks; what changes after this returns is seen by `Watch.wait`."""

    def save_group(self, group_id: str, payload: bytes, *, expires: float | None = None) -> None:
        """Keep a group's result tuple."""

    def fetch_group(self, group_id: str) -> bytes | None:
        """Return a saved group, or None."""

    def forget_group(self, group_id: str) -> None:
        """Delete a saved group."""

    def cleanup(self) -> int:
        """Delete what has expired and is still there; return how many records."""

    def close(self) -> None:
        """Release the connection. May be called twice."""


class ChordCounter(Protocol):
    """What a store that can count chords does besides.

    Used alone where messages wait elsewhere: sizes are stored before the header is published, parts before their
    messages are acknowledged, and a body is published before its chord is closed. Where broker and store are one,
    `Broker.settle` does all of it with the same promises, and senders use `open_chords` only.
    """

    def open_chords(self, sizes: Sequence[ChordSize]) -> None:
        """Keep how many parts these chords wait for; opening one that is open or ready already changes nothing."""

    def count_parts(self, parts: Sequence[ChordPart]) -> tuple[ReadyChord, ...]:
        """Count *parts*; return the chords that are thereby complete, left to the caller for `HELD` seconds.

        A part counts once for each (id, index), and the first one stays. Parts of chords that are not open, or are
        ready already, are dropped. A chord that is ready does not expire.
        """

    def ready_chords(self, limit: int) -> tuple[ReadyChord, ...]:
        """Return at most *limit* ready chords that are left to nobody now, and leave them to the caller."""

    def close_chords(self, groups: Iterable[str]) -> frozenset[str]:
        """Forget ready chords, which are fired; return those of *groups* that were there."""


def chord_counter(backend: Backend | None) -> ChordCounter | None:
    """Return *backend* as what counts chords, or None if it cannot."""
    return cast("ChordCounter", backend) if backend is not None and backend.features.chords else None
