"""Keep messages in this process's memory, with every promise of the port except that they outlive it."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Final, Self

from umbel.brokers.base import (
    BrokerFeatures,
    Bury,
    Claim,
    DeadLetter,
    Delivery,
    Done,
    Lease,
    Publication,
    QueueSize,
    Release,
    Settlement,
    Turn,
)
from umbel.states import SUCCESS
from umbel.wire.message import Message, Route
from umbel.wire.record import Record
from umbel.wire.topology import Topology, match

__all__ = ["Bell", "MemoryBroker", "MemoryStore", "MemoryStores"]

_NEVER: Final = float("inf")


class Bell:
    """A descriptor that is readable while it rings. Its user guards it with a lock."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._rings = False

    def fileno(self) -> int:
        return self._reader

    def ring(self) -> None:
        """Make it readable; never more than one byte is in the pipe, so this never blocks."""
        if not self._rings:
            self._rings = True
            os.write(self._writer, b"!")

    def silence(self) -> None:
        if self._rings:
            self._rings = False
            os.read(self._reader, 1)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@dataclass(slots=True, eq=False)
class _Entry:
    """A message in one queue, or in the hand of whoever claimed it from there."""

    tag: int
    message: Message
    route: Route
    queue: _Queue
    since: float  # unix seconds of publishing
    order: int  # its place among those of its priority
    token: int = 0
    until: float = 0.0  # unix seconds when its lease runs out; read only while it is held
    owner: str = ""
    crashes: int = 0
    evidence: tuple[str, ...] = ()
    redelivered: bool = False


class _Queue:
    """Heaps of what may be claimed, by priority and order, and of what is not due yet, by time."""

    __slots__ = ("consumers", "delayed", "name", "ready")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: list[tuple[int, int, _Entry]] = []
        self.delayed: list[tuple[float, int, _Entry]] = []
        self.consumers: list[MemoryBroker] = []

    def add(self, entry: _Entry, due: float = 0.0) -> None:
        """Take *entry* in, to be claimed now or, if *due* is given, from that unix second on."""
        if due:
            heappush(self.delayed, (due, entry.order, entry))
        else:
            heappush(self.ready, (-(entry.message.priority or 0), entry.order, entry))
        self.wake()  # also for a delayed one: who waits asks `next_due` again

    def wake(self) -> None:
        for consumer in self.consumers:
            if consumer.bell is not None:
                consumer.bell.ring()


class MemoryStore:
    """What a server is elsewhere: messages and results, shared by all brokers and backends opened on it.

    Its connections may be used from any thread; its fields are theirs, inside ``with store:``.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """Take the time from *clock*, a callable that returns unix seconds."""
        self.clock = clock
        self.lock = threading.RLock()
        self.topology = Topology()
        self.queues: dict[str, _Queue] = {}
        self.paused: set[str] = set()
        self.held: dict[int | str, _Entry] = {}  # by tag
        self.next_lapse = _NEVER  # no lease runs out before this unix second
        self.numbers = count(1)  # tags, orders and the tags of dead letters
        self.revoked: dict[str, float] = {}  # task id -> unix seconds it is kept until
        self.dead: dict[int, tuple[DeadLetter, Publication]] = {}  # by the letter's tag, oldest first
        self.results: dict[str, tuple[Record, float]] = {}  # task id -> record and unix seconds it expires
        self.groups: dict[str, tuple[bytes, float]] = {}
        self.expiries: list[tuple[float, str]] = []  # heap of what may expire; outdated entries are passed over
        self.watchers: dict[str, list[Callable[[str], None]]] = {}  # task id -> who wants to know that it changed

    def __enter__(self) -> Self:
        self.lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def queue(self, name: str) -> _Queue:
        """Return the queue *name*, created empty when it is new."""
        found = self.queues.get(name)
        if found is None:
            found = self.queues[name] = _Queue(name)
        return found

    def put(self, publications: Sequence[Publication], now: float) -> None:
        """Store *publications*, all or none."""
        placed = [(each, match(self.topology, each.route.exchange, each.route.routing_key, each.message.headers))
                  for each in publications]  # fmt: skip
        for publication, names in placed:
            eta = publication.message.eta
            due = 0.0 if eta is None else eta.timestamp()
            for name in names:
                self.insert(publication, name, now, due if due > now else 0.0)

    def insert(self, publication: Publication, queue: str, now: float, due: float = 0.0) -> None:
        tag, place = next(self.numbers), self.queue(queue)
        place.add(_Entry(tag, publication.message, publication.route, place, since=now, order=tag), due)

    def keep(self, records: Iterable[Record], now: float) -> None:
        """Store *records*, and tell those who watch for them."""
        self.expire(now)
        for record in records:
            known = self.results.get(record.id)
            if known is not None and known[0].state == SUCCESS:
                continue
            expires = _NEVER if record.expires is None else now + record.expires
            self.results[record.id] = (record, expires)
            if record.expires is not None:
                heappush(self.expiries, (expires, record.id))
            for tell in self.watchers.get(record.id, ()):
                tell(record.id)

    def expire(self, now: float) -> int:
        """Forget the results that have expired; return how many."""
        gone = 0
        while self.expiries and self.expiries[0][0] <= now:
            expires, task_id = heappop(self.expiries)
            known = self.results.get(task_id)
            if known is not None and known[1] == expires:
                del self.results[task_id]
                gone += 1
        return gone

    def reclaim(self, now: float) -> None:
        """Put back what is held beyond its time, with a counted crash."""
        if now < self.next_lapse:
            return
        for entry in [entry for entry in self.held.values() if entry.until <= now]:
            del self.held[entry.tag]
            entry.redelivered = True
            entry.crashes += 1
            entry.evidence += (f"lost by {entry.owner}: its lease was not renewed",)
            entry.queue.add(entry)
        self.next_lapse = min((entry.until for entry in self.held.values()), default=_NEVER)

    def messages(self) -> Iterable[Message]:
        """Return every message that is not dead."""
        for queue in self.queues.values():
            yield from (entry.message for _, _, entry in queue.ready)
            yield from (entry.message for _, _, entry in queue.delayed)
        yield from (entry.message for entry in self.held.values())


class MemoryStores:
    """The memory stores of one process by name, for whoever opens brokers and backends by URL."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._stores: dict[str, MemoryStore] = {}

    def at(self, url: str) -> MemoryStore:
        """Return the store of a URL like ``memory://name``: the same one for the same name."""
        name = url.partition("://")[2].partition("?")[0].strip("/")
        return self._stores.setdefault(name, MemoryStore(clock=self._clock))


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
    )

    def __init__(self, store: MemoryStore) -> None:
        self._open_store: MemoryStore | None = store
        self._consumed: list[_Queue] = []
        self.bell: Bell | None = None  # made when somebody asks for the descriptor; a sender needs none

    @property
    def _store(self) -> MemoryStore:
        if self._open_store is None:
            raise RuntimeError("this memory broker is closed: open another one on its store")
        return self._open_store

    # -- sending and receiving

    def publish(self, publications: Sequence[Publication], *, timeout: float = 5.0) -> None:
        with self._store as store:
            store.put(publications, store.clock())

    def consume(self, queues: Sequence[str]) -> None:
        with self._store as store:
            self._leave()
            self._consumed = [store.queue(name) for name in dict.fromkeys(queues)]
            for queue in self._consumed:
                queue.consumers.append(self)
            self._set_bell(store)

    def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Turn:
        refused: list[Lease] = []
        with self._store as store:
            now = store.clock()
            for settlement in settlements:
                lease = settlement.lease
                if lease is not None and not _holds(store, lease):
                    refused.append(lease)
                    continue
                store.put(settlement.follow_ups, now)
                store.keep(settlement.records, now)
                if lease is not None:
                    _end(store, store.held.pop(lease.tag), settlement, now)
            deliveries = self._claim(store, claim, now) if claim is not None else ()
        return Turn(refused=tuple(refused), deliveries=tuple(deliveries))

    def _claim(self, store: MemoryStore, claim: Claim, now: float) -> list[Delivery]:
        store.reclaim(now)
        queues = self._unpaused(store)
        for queue in queues:
            while queue.delayed and queue.delayed[0][0] <= now:
                queue.add(heappop(queue.delayed)[2])
        deliveries: list[Delivery] = []
        until = now + claim.lease
        while len(deliveries) < claim.limit:
            filled = [queue for queue in queues if queue.ready]
            if not filled:
                break
            first = filled[0] if len(filled) == 1 else min(filled, key=_first_place)
            entry = heappop(first.ready)[2]
            entry.token += 1
            entry.until = until
            entry.owner = claim.owner
            store.held[entry.tag] = entry
            deliveries.append(_delivery(entry, store.revoked, now))
        if deliveries:
            store.next_lapse = min(store.next_lapse, until)
        self._set_bell(store)
        return deliveries

    def renew(self, leases: Sequence[Lease], lease: float) -> tuple[Lease, ...]:
        with self._store as store:
            until = store.clock() + lease
            lost = tuple(each for each in leases if not _holds(store, each))
            for each in set(leases).difference(lost):
                store.held[each.tag].until = until
            store.next_lapse = min(store.next_lapse, until)
            return lost

    def fileno(self) -> int:
        with self._store as store:
            if self.bell is None:
                self.bell = Bell()
                self._set_bell(store)
            return self.bell.fileno()

    def next_due(self) -> float | None:
        with self._store as store:
            queues = self._unpaused(store)
            due = [queue.delayed[0][0] for queue in queues if queue.delayed]
            due += [entry.until for entry in store.held.values() if entry.queue in queues]
            return max(0.0, min(due) - store.clock()) if due else None

    # -- exchanges and queues

    def declare(self, topology: Topology) -> None:
        with self._store as store:
            store.topology = store.topology.merge(topology)
            for name in topology.queues:
                store.queue(name)

    def sizes(self, queues: Iterable[str] | None = None) -> dict[str, QueueSize]:
        with self._store as store:
            now = store.clock()
            claimed = Counter(entry.queue.name for entry in store.held.values())
            names = list(store.queues) if queues is None else [name for name in queues if name in store.queues]
            return {name: _size(store.queues[name], claimed[name], now) for name in names}

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
            store.queue(queue).wake()

    def paused(self) -> frozenset[str]:
        with self._store as store:
            return frozenset(store.paused)

    def revoke(self, ids: Iterable[str], *, expires: float = 10800.0 * 8) -> None:
        with self._store as store:
            until = store.clock() + expires
            _forget_revoked(store)
            store.revoked.update({task_id: max(until, store.revoked.get(task_id, 0.0)) for task_id in ids})

    def revoked(self) -> frozenset[str]:
        with self._store as store:
            _forget_revoked(store)
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
            letters = _take_dead(store, ids)
            for letter, publication in letters:
                store.insert(publication, letter.queue, store.clock())
            return len(letters)

    def discard(self, ids: Iterable[str]) -> int:
        with self._store as store:
            return len(_take_dead(store, ids))

    # -- ending

    def close(self) -> None:
        if self._open_store is None:
            return
        with self._open_store:
            self._open_store = None
            self._leave()
            if self.bell is not None:
                self.bell.close()
                self.bell = None

    def _unpaused(self, store: MemoryStore) -> list[_Queue]:
        return [queue for queue in self._consumed if queue.name not in store.paused]

    def _set_bell(self, store: MemoryStore) -> None:
        if self.bell is None:
            return
        if any(queue.ready for queue in self._unpaused(store)):
            self.bell.ring()
        else:
            self.bell.silence()

    def _leave(self) -> None:
        for queue in self._consumed:
            queue.consumers.remove(self)
        self._consumed = []


def _holds(store: MemoryStore, lease: Lease) -> bool:
    entry = store.held.get(lease.tag)
    return entry is not None and entry.token == lease.token


def _end(store: MemoryStore, entry: _Entry, settlement: Settlement, now: float) -> None:
    """Do to *entry*, which is in nobody's hand any more, what the verdict says."""
    match settlement.verdict:
        case Done():
            pass
        case Release(delay=delay, counted=counted, evidence=evidence, front=front):
            entry.redelivered = True
            if counted:
                entry.crashes += 1
                entry.evidence += (evidence,)
            if not front:
                entry.order = next(store.numbers)
            entry.queue.add(entry, now + delay if delay > 0 else 0.0)
        case Bury(reason=reason, evidence=evidence):
            tag = next(store.numbers)
            letter = DeadLetter(
                tag=tag,
                id=entry.message.id,
                task=entry.message.task,
                queue=entry.queue.name,
                reason=reason,
                evidence=entry.evidence + ((evidence,) if evidence else ()),
                crashes=entry.crashes,
                died_at=now,
                message=entry.message,
            )
            store.dead[tag] = (letter, Publication(message=entry.message, route=entry.route))


def _delivery(entry: _Entry, revoked: dict[str, float], now: float) -> Delivery:
    message = entry.message
    until = revoked.get(message.id)
    return Delivery(
        message=message,
        queue=entry.queue.name,
        route=entry.route,
        tag=entry.tag,
        token=entry.token,
        crashes=entry.crashes,
        redelivered=entry.redelivered,
        revoked=until is not None and (now < until or entry.since <= until),
        expired=message.expires is not None and message.expires.timestamp() <= now,
    )


def _first_place(queue: _Queue) -> tuple[int, int]:
    return queue.ready[0][:2]


def _size(queue: _Queue, claimed: int, now: float) -> QueueSize:
    due = [entry for when, _, entry in queue.delayed if when <= now]
    ready = [entry.since for _, _, entry in queue.ready] + [entry.since for entry in due]
    return QueueSize(
        ready=len(ready),
        delayed=len(queue.delayed) - len(due),
        claimed=claimed,
        oldest=now - min(ready) if ready else None,
    )


def _forget_revoked(store: MemoryStore) -> None:
    now = store.clock()
    if any(until <= now for until in store.revoked.values()):
        waiting = {message.id for message in store.messages()}
        store.revoked = {key: until for key, until in store.revoked.items() if until > now or key in waiting}


def _take_dead(store: MemoryStore, ids: Iterable[str]) -> list[tuple[DeadLetter, Publication]]:
    wanted = set(ids)
    tags = [tag for tag, (letter, _) in store.dead.items() if letter.id in wanted]
    return [store.dead.pop(tag) for tag in tags]
