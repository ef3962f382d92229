"""Read and empty the dead-letter set on a Redis server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from umbel.brokers.base import DeadLetter
from umbel.brokers.redis_link import Argument, Link
from umbel.brokers.redis_names import Names
from umbel.brokers.redis_orders import Orders
from umbel.brokers.redis_parcels import Letter, Parcels

__all__ = ["Graves"]

_CHUNK: Final = 500


class Graves:
    """Three keys: the tags in order, the letters by tag, and the tags by task id."""

    def __init__(self, link: Link, names: Names, parcels: Parcels, run: Callable[[Orders], int]) -> None:
        """*run* carries out orders and returns how many settlements of them were refused."""
        self._link = link
        self._names = names
        self._parcels = parcels
        self._run = run

    def page(self, limit: int, after: int | str | None) -> list[DeadLetter]:
        """Return at most *limit* letters, beginning behind the tag *after*."""
        if limit <= 0:
            return []
        begin = b"-inf" if after is None else f"({int(after)}".encode()
        tags = self._link.call(b"ZRANGEBYSCORE", self._names.own("dead"), begin, b"+inf", b"LIMIT", 0, limit)
        return [self._parcels.letter(tag, stored) for tag, stored in self._stored([int(tag) for tag in tags])]

    def newest(self, task_id: str) -> DeadLetter | None:
        """Return the newest letter of a task."""
        found = list(self._stored(self._tags([task_id])[-1:]))
        return self._parcels.letter(*found[0]) if found else None

    def revive(self, ids: Iterable[str]) -> int:
        """Send the letters of these tasks back to their queues; return how many."""
        return self._exhume(ids, revive=True)

    def discard(self, ids: Iterable[str]) -> int:
        """Delete the letters of these tasks; return how many."""
        return self._exhume(ids, revive=False)

    def _exhume(self, ids: Iterable[str], *, revive: bool) -> int:
        exhumed = 0
        tags = self._tags(ids)
        for start in range(0, len(tags), _CHUNK):
            orders, count = Orders(), 0
            for tag, stored in self._stored(tags[start : start + _CHUNK]):
                letter = msgspec.msgpack.decode(stored, type=Letter)
                orders.exhume(tag, letter.id)
                count += 1
                if revive:
                    data = self._parcels.renewed(letter)
                    priority = self._parcels.read(data, "", plain=True).envelope.message.priority
                    orders.push(self._names.lists(letter.queue)[self._names.step(priority)], data)
            exhumed += count - self._run(orders)
        return exhumed

    def _stored(self, tags: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        if tags:
            stored = self._link.call(b"HMGET", self._names.own("dead.letters"), *tags)
            yield from ((tag, each) for tag, each in zip(tags, stored, strict=True) if each is not None)

    def _tags(self, ids: Iterable[str]) -> list[int]:
        """Return the tags of the letters of these tasks, oldest first."""
        key = self._names.own("dead.ids")
        commands: list[tuple[Argument, ...]] = []
        for task_id in dict.fromkeys(ids):
            begin = task_id.encode("utf-8", "surrogatepass")
            commands.append((b"ZRANGEBYLEX", key, b"[" + begin + b"\0", b"(" + begin + b"\1"))
        return sorted(int(member.rpartition(b"\0")[2]) for found in self._link.pipeline(commands) for member in found)
