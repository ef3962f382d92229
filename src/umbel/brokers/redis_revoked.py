"""Remember which task ids are forbidden: a set on the Redis server, and a copy here that a number tells to be old."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from umbel.brokers.redis_link import Argument, Link
from umbel.brokers.redis_names import Names

__all__ = ["Revocations"]

_CHUNK: Final = 500
_FORGET: Final = 600.0  # seconds between two looks for those that have expired


class Revocations:
    """The revocations as one broker knows them."""

    def __init__(self, link: Link, names: Names, ids_here: Callable[[], Iterable[str]]) -> None:
        """*ids_here* yields the task ids of all messages on the server; that takes its time."""
        self._link = link
        self._names = names
        self._ids_here = ids_here
        self._known: dict[str, float] = {}  # task id -> unix seconds
        self._version: bytes | None = None
        self._forgot = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._known)

    def holds(self, task_id: str, since: float | None, now: float) -> bool:
        """Tell whether a message of *task_id* is revoked that was published at *since* (None = unknown)."""
        until = self._known.get(task_id)
        if until is None:
            return False
        # A revocation holds for its time, and longer for what was published before its end.
        return now < until or (since is not None and since <= until)

    def add(self, ids: Iterable[str], now: float, expires: float) -> None:
        """Forbid *ids* for *expires* seconds."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return
        key, until = self._names.own("revoked"), repr(now + expires)
        commands: list[tuple[Argument, ...]] = [(b"MULTI",)]
        for start in range(0, len(wanted), _CHUNK):
            words = [word for task_id in wanted[start : start + _CHUNK] for word in (until, task_id)]
            commands.append((b"ZADD", key, b"GT", *words))
        self._link.pipeline([*commands, (b"INCR", self._names.own("revoked.version")), (b"EXEC",)])
        if not 0 <= time.monotonic() - self._forgot < _FORGET:
            self._forgot = time.monotonic()
            gone = [*self._read().keys() - self.all(now)]
            for start in range(0, len(gone), _CHUNK):
                self._link.call(b"ZREM", key, *gone[start : start + _CHUNK])

    def all(self, now: float) -> frozenset[str]:
        """Return the forbidden ids: those whose time is not over, and of the others those that still have messages."""
        known = self._read()
        expired = {task_id for task_id, until in known.items() if until <= now}
        if expired:
            expired -= expired.intersection(self._ids_here())
        return frozenset(known.keys() - expired)

    def refresh(self, version: bytes | None) -> None:
        """Read them again if *version*, which a claim brings, is another than before."""
        if version != self._version:
            self._known = self._read() if version is not None else {}
            self._version = version

    def forget(self) -> None:
        """Know that a new connection may lead to another server."""
        self._version = None

    def _read(self) -> dict[str, float]:
        found = self._link.call(b"ZRANGE", self._names.own("revoked"), 0, -1, b"WITHSCORES")
        return {task_id.decode("utf-8", "replace"): float(until) for task_id, until in found}
