"""What a store counts of a chord: how many parts it waits for, each part as it ends, and all of them in the end."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["HELD", "ChordPart", "ChordSize", "ReadyChord"]

HELD: Final = 5.0
"""Seconds a ready chord is left to whoever was given it; then others are given it too."""


class ChordSize(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """How many parts a chord waits for; stored before any of them can end."""

    group: str  # the group id of its header
    size: int = 0  # parts of the header as it was sent; with `added`: 0
    added: str | None = None  # the id of one task that joins a chord under way, which waits for one more; counts once
    expires: float | None = None  # seconds until an unfinished count is forgotten; None = never


class ChordPart(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One task of a header is over, well or not. It counts once for each (id, index); the first one stays."""

    group: str
    index: int | None  # its place among the results; None = behind all that have one
    id: str  # task id
    payload: bytes  # `[1, id, state, result]`, encoded by `result_serializer` (PRT-196); opaque to the store
    body: bytes  # what firing needs; opaque to the store, which keeps that of the part that completes the chord
    expires: float | None = None  # seconds from now until an unfinished count is forgotten; None = never


class ReadyChord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A chord that waits for nothing any more but to be fired."""

    group: str
    parts: tuple[bytes, ...]  # the payloads in order of index
    body: bytes  # of the part that completed it
