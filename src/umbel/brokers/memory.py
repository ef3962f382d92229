"""Keep messages in this process's memory, with every promise of the port except that they outlive it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from umbel.brokers.base import (
    BrokerFeatures,
    Claim,
    DeadLetter,
    Delivery,
    Lease,
    Publication,
    QueueSize,
    Settlement,
    Turn,
)
from umbel.brokers.ledger import Note
from umbel.brokers.memory_store import Bell, MemoryQueue, MemoryStore, MemoryStores
from umbel.wire.chord import ReadyChord
from umbel.wire.topology import Topology

__all__ = ["MemoryBroker", "MemoryStore", "MemoryStores"]


class MemoryBroker:
    """A connection to a `MemoryStore`: the port `Broker` without a server."""

    features = BrokerFeatures(
        atomic=True,
        delayed=True,
        priorities=True,
        fanout=True,
        higher_priority_first=True,
        stores_results=True,
        durable_revokes=True,
        counts_crashes=True,
        ledger=True,
    )

    def __init__(self, store: MemoryStore) -> None:
        self._open_store: MemoryStore | None = store
        self._consumed: list[MemoryQueue] = []
        self._bell: Bell | None = None  # made when somebody asks for the descriptor; a sender needs none

    @property
    def _store(self) -> MemoryStore:
        if self._open_store is None:
            raise RuntimeError("this memory broker is closed: open another one on its store")
        return self._open_store

    # -- sending and receiving

    def publish(self, publications: Sequence[Publication], *, timeout: float = 5.0) -> None:
        with self._store as store:
            store.tidy(store.clock())
            store.put(publications, store.clock())

    def consume(self, queues: Sequence[str]) -> None:
        with self._store as store:
            left, self._consumed = self._consumed, [store.queue(name) for name in dict.fromkeys(queues)]
            for queue in self._consumed:
                queue.listeners.append(self._ring)
            for queue in left:
                store.leave(queue, self._ring)
            self._set_bell(store)

    def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Turn:
        deliveries: list[Delivery] = []
        refused: list[Lease] = []
        ready: list[ReadyChord] = []
        with self._store as store:
            now = store.clock()
            for each in settlements:
                completed = store.settle(each, now)
                if completed is not None:
                    ready += completed
                elif each.lease is not None:
                    refused.append(each.lease)
            if claim is not None:
                deliveries = store.claim(self._unpaused(store), claim, now)
                ready += store.chords.ready(claim.chords, now)
                self._set_bell(store)
        return Turn(refused=tuple(refused), deliveries=tuple(deliveries), ready=tuple(ready))

    def renew(self, leases: Sequence[Lease], lease: float) -> tuple[Lease, ...]:
        with self._store as store:
            lost = [each for each in leases if not store.holds(each)]
            for each in leases:
                if store.holds(each):
                    store.renew(each, store.clock() + lease)
            return tuple(lost)

    def fileno(self) -> int:
        with self._store as store:
            if self._bell is None:
                self._bell = Bell()
                self._set_bell(store)
            return self._bell.fileno()

    def next_due(self) -> float | None:
        with self._store as store:
            queues = self._unpaused(store)
            due = [queue.delayed[0][0] for queue in queues if queue.delayed]
            due += [entry.until for entry in store.held.values() if entry.queue in queues]
            return max(0.0, min(due) - store.clock()) if due else None

    # -- exchanges and queues

    def declare(self, topology: Topology) -> None:
        with self._store as store:
            store.tidy(store.clock())
            store.declare(topology)

    def sizes(self, queues: Iterable[str] | None = None) -> dict[str, QueueSize]:
        with self._store as store:
            now = store.clock()
            store.tidy(now)
            names = list(store.queues) if queues is None else [name for name in queues if name in store.queues]
            return {name: store.size(store.queues[name], now) for name in names}

    def purge(self, queue: str) -> int:
        with self._store as store:
            found = store.queues.get(queue)
            if found is None:
                return 0
            dropped = len(found.ready) + len(found.delayed)
            found.ready.clear()
            found.delayed.clear()
            return dropped

    # -- steering

    def pause(self, queue: str) -> None:
        with self._store as store:
            store.paused.add(queue)

    def resume(self, queue: str) -> None:
        with self._store as store:
            store.paused.discard(queue)
            if queue in store.queues:
                store.queues[queue].wake()

    def paused(self) -> frozenset[str]:
        with self._store as store:
            return frozenset(store.paused)

    def revoke(self, ids: Iterable[str], *, expires: float = 10800.0 * 8) -> None:
        with self._store as store:
            now = store.clock()
            store.forget_revoked(now)
            store.revoked.update({task_id: max(now + expires, store.revoked.get(task_id, 0.0)) for task_id in ids})

    def revoked(self) -> frozenset[str]:
        with self._store as store:
            store.forget_revoked(store.clock())
            return frozenset(store.revoked)

    # -- the dead-letter set

    def dead(self, *, limit: int = 100, after: int | str | None = None) -> list[DeadLetter]:
        with self._store as store:
            begin = -1 if after is None else int(after)
            return [letter for tag, (letter, _) in store.dead.items() if tag > begin][:limit]

    def find_dead(self, task_id: str) -> DeadLetter | None:
        with self._store as store:
            return next((letter for letter, _ in reversed(store.dead.values()) if letter.id == task_id), None)

    def revive(self, ids: Iterable[str]) -> int:
        with self._store as store:
            letters = store.exhume(ids)
            for letter, publication in letters:
                message = publication.message
                if letter.reason == "expired":
                    message = msgspec.structs.replace(message, expires=None)
                store.insert(Publication(message=message, route=publication.route), letter.queue, store.clock())
            return len(letters)

    def discard(self, ids: Iterable[str]) -> int:
        with self._store as store:
            return len(store.exhume(ids))

    # -- the ledger

    def publish_once(
        self,
        key: str,
        publications: Sequence[Publication],
        *,
        expires: float,
        note: Note | None = None,
        timeout: float = 5.0,
    ) -> bool:
        with self._store as store:
            now = store.clock()
            store.tidy(now)
            if store.accepted.get(key, now) > now:
                return False
            store.put(publications, now)
            store.accepted[key] = now + expires
            if note is not None:
                store.books.setdefault(note.book, {})[note.name] = note.text
            return True

    def note(self, book: str, entries: Mapping[str, bytes | None]) -> None:
        with self._store as store:
            kept = {**store.books.get(book, {}), **entries}
            store.books[book] = {name: text for name, text in kept.items() if text is not None}

    def notes(self, book: str) -> dict[str, bytes]:
        with self._store as store:
            return dict(store.books.get(book, {}))

    def reserve(self, name: str, interval: float, count: int = 1) -> float:
        with self._store as store:
            now = store.clock()
            first = max(now, store.lines.get(name, now))
            store.lines[name] = first + interval * count
            return first - now

    # -- ending

    def close(self) -> None:
        if self._open_store is None:
            return
        self.consume(())
        with self._open_store:
            self._open_store = None
            if self._bell is not None:
                self._bell.close()
                self._bell = None

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def _set_bell(self, store: MemoryStore) -> None:
        """Ring while there is more, and only then."""
        if self._bell is not None:
            more = any(queue.ready for queue in self._unpaused(store))
            (self._bell.ring if more else self._bell.silence)()

    def _unpaused(self, store: MemoryStore) -> list[MemoryQueue]:
        return [queue for queue in self._consumed if queue.name not in store.paused]
