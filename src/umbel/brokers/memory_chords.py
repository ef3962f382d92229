"""Count the parts of chords in this process's memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from umbel.wire.chord import HELD, ChordPart, ChordSize, ReadyChord

__all__ = ["ChordCounts"]

_NEVER: Final = float("inf")


@dataclass(slots=True)
class _Count:
    size: int = 0
    added: set[str] = field(default_factory=set)
    parts: dict[tuple[str, int | None], ChordPart] = field(default_factory=dict)
    until: float = _NEVER  # unix seconds; unfinished: it expires; ready: it is left to somebody
    ready: ReadyChord | None = None


class ChordCounts:
    """The chords that are under way, and those that are ready. Its user guards it with a lock."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def open(self, sizes: Iterable[ChordSize], now: float) -> None:
        """As `ChordCounter.open_chords`."""
        for size in sizes:
            count = self._counts.get(size.group)
            if count is None or _is_over(count, now):
                if size.added is not None:
                    continue
                count = self._counts[size.group] = _Count(size.size)
            if count.ready is None:
                if size.added is not None:
                    count.added.add(size.added)
                count.until = _NEVER if size.expires is None else now + size.expires

    def count(self, parts: Iterable[ChordPart], now: float) -> list[ReadyChord]:
        """As `ChordCounter.count_parts`."""
        ready = []
        for part in parts:
            count = self._counts.get(part.group)
            if count is None or count.ready is not None or _is_over(count, now):
                continue
            count.parts.setdefault((part.id, part.index), part)
            count.until = _NEVER if part.expires is None else now + part.expires
            if len(count.parts) >= count.size + len(count.added):
                ordered = sorted(count.parts.values(), key=lambda each: _NEVER if each.index is None else each.index)
                count.ready = ReadyChord(
                    group=part.group, parts=tuple(each.payload for each in ordered), body=part.body
                )
                count.parts.clear()
                count.until = now + HELD
                ready.append(count.ready)
        return ready

    def ready(self, limit: int, now: float) -> list[ReadyChord]:
        """As `ChordCounter.ready_chords`."""
        found: list[ReadyChord] = []
        for count in self._counts.values():
            if len(found) >= limit:
                break
            if count.ready is not None and count.until <= now:
                count.until = now + HELD
                found.append(count.ready)
        return found

    def close(self, group: str) -> bool:
        """Forget a ready chord; tell whether it was there."""
        count = self._counts.get(group)
        if count is None or count.ready is None:
            return False
        del self._counts[group]
        return True

    def expire(self, now: float) -> int:
        """Forget the unfinished counts that have expired; return how many."""
        gone = [group for group, count in self._counts.items() if _is_over(count, now)]
        for group in gone:
            del self._counts[group]
        return len(gone)


def _is_over(count: _Count, now: float) -> bool:
    return count.ready is None and count.until <= now
