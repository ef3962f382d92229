"""Keep outcomes in this process's memory, beside the messages of the memory broker."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from functools import partial

from umbel.backends.base import BackendFeatures
from umbel.backends.told import ToldWatch
from umbel.brokers.memory_store import MemoryStore
from umbel.wire.chord import ChordPart, ChordSize, ReadyChord
from umbel.wire.record import Record

__all__ = ["MemoryBackend"]


class MemoryBackend:
    """A connection to the results of a `MemoryStore`: the port `Backend` without a server."""

    features = BackendFeatures(push=True, expires=True, groups=True, chords=True)

    def __init__(self, store: MemoryStore) -> None:
        self._open_store: MemoryStore | None = store

    @property
    def _store(self) -> MemoryStore:
        if self._open_store is None:
            raise RuntimeError("this memory backend is closed: open another one on its store")
        return self._open_store

    def store(self, records: Sequence[Record]) -> None:
        with self._store as store:
            store.keep(records, store.clock())

    def fetch(self, ids: Collection[str]) -> dict[str, bytes]:
        with self._store as store:
            store.expire(store.clock())
            results = store.results
            return {task_id: results[task_id][0].payload for task_id in ids if task_id in results}

    def forget(self, ids: Iterable[str]) -> None:
        with self._store as store:
            for task_id in ids:
                store.results.pop(task_id, None)

    def watch(self, ids: Collection[str]) -> ToldWatch:
        with self._store as store:
            watch = ToldWatch(frozenset(ids), partial(_unwatch, store), threading.Condition(store.lock))
            for task_id in watch.ids:
                store.watchers.setdefault(task_id, []).append(watch.tell)
            return watch

    def save_group(self, group_id: str, payload: bytes, *, expires: float | None = None) -> None:
        with self._store as store:
            store.groups[group_id] = (payload, float("inf") if expires is None else store.clock() + expires)

    def fetch_group(self, group_id: str) -> bytes | None:
        with self._store as store:
            payload, expires = store.groups.get(group_id, (None, 0.0))
            return payload if expires > store.clock() else None

    def forget_group(self, group_id: str) -> None:
        with self._store as store:
            store.groups.pop(group_id, None)

    def cleanup(self) -> int:
        with self._store as store:
            now = store.clock()
            groups = [group_id for group_id, (_, expires) in store.groups.items() if expires <= now]
            for group_id in groups:
                del store.groups[group_id]
            return store.expire(now) + len(groups) + store.chords.expire(now)

    def open_chords(self, sizes: Sequence[ChordSize]) -> None:
        with self._store as store:
            store.chords.open(sizes, store.clock())

    def count_parts(self, parts: Sequence[ChordPart]) -> tuple[ReadyChord, ...]:
        with self._store as store:
            return tuple(store.chords.count(parts, store.clock()))

    def ready_chords(self, limit: int) -> tuple[ReadyChord, ...]:
        with self._store as store:
            return tuple(store.chords.ready(limit, store.clock()))

    def close_chords(self, groups: Iterable[str]) -> frozenset[str]:
        with self._store as store:
            return frozenset(group for group in groups if store.chords.close(group))

    def close(self) -> None:
        self._open_store = None


def _unwatch(store: MemoryStore, watch: ToldWatch) -> None:
    with store:
        for task_id in watch.ids:
            listening = store.watchers[task_id]
            listening.remove(watch.tell)
            if not listening:
                del store.watchers[task_id]
