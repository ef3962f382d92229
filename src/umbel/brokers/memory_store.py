"""Be for the memory broker and backend what a server is for others: messages and results behind one lock."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Self

from umbel.brokers.base import (
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
)
from umbel.brokers.memory_chords import ChordCounts
from umbel.states import SUCCESS
from umbel.wire.chord import ReadyChord
from umbel.wire.message import Message, Route
from umbel.wire.record import Record
from umbel.wire.topology import QueueSpec, Topology, match

__all__ = ["Bell", "MemoryQueue", "MemoryStore", "MemoryStores"]

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
    queue: MemoryQueue
    since: float  # unix seconds of publishing
    order: int  # its place among those of its priority
    token: int = 0
    until: float = 0.0  # unix seconds when its lease runs out; read only while it is held
    owner: str = ""
    crashes: int = 0
    evidence: tuple[str, ...] = ()
    redelivered: bool = False

    def crash(self, evidence: str) -> None:
        self.crashes += 1
        self.evidence += (evidence,)


class MemoryQueue:
    """Heaps of what may be claimed, by priority and order, and of what is not due yet, by time."""

    __slots__ = ("delayed", "idle_since", "listeners", "name", "ready")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.ready: list[tuple[int, int, _Entry]] = []
        self.delayed: list[tuple[float, int, _Entry]] = []
        self.listeners: list[Callable[[], None]] = []  # one for each connection that consumes from it
        self.idle_since = now  # unix seconds when the last of them left

    def add(self, entry: _Entry, due: float = 0.0) -> None:
        """Take *entry* in, to be claimed now or, if *due* is given, from that unix second on."""
        if due:
            heappush(self.delayed, (due, entry.order, entry))
        else:
            heappush(self.ready, (-(entry.message.priority or 0), entry.order, entry))
        self.wake()  # also for a delayed one: who waits asks `next_due` again

    def wake(self) -> None:
        for ring in self.listeners:
            ring()

    def refresh(self, spec: QueueSpec | None, now: float) -> None:
        """Make ready what is due, and drop what has waited longer than *spec* allows."""
        while self.delayed and self.delayed[0][0] <= now:
            self.add(heappop(self.delayed)[2])
        if spec is not None and spec.message_ttl is not None:
            self.ready = [place for place in self.ready if place[2].since + spec.message_ttl > now]
            heapify(self.ready)

    def place(self) -> tuple[int, int]:
        """Return priority and order of its first ready message."""
        return self.ready[0][:2]


class MemoryStore:
    """Messages and results, shared by all brokers and backends opened on it.

    Its connections may be used from any thread; they call the verbs below inside ``with store:``.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """Take the time from *clock*, a callable that returns unix seconds."""
        self.clock = clock
        self.lock = threading.RLock()
        self.topology = Topology()
        self.expiring: dict[str, float] = {}  # queue -> seconds it may be unused
        self.queues: dict[str, MemoryQueue] = {}
        self.paused: set[str] = set()
        self.held: dict[int | str, _Entry] = {}  # by tag
        self.next_lapse = _NEVER  # no lease runs out before this unix second
        self.numbers = count(1)  # tags, orders and the tags of dead letters
        self.revoked: dict[str, float] = {}  # task id -> unix seconds it is kept until
        self.dead: dict[int, tuple[DeadLetter, Publication]] = {}  # by the letter's tag, oldest first
        self.results: dict[str, tuple[Record, float]] = {}  # task id -> record and unix seconds it expires
        self.groups: dict[str, tuple[bytes, float]] = {}
        self.chords = ChordCounts()
        self.expiries: list[tuple[float, str]] = []  # heap of what may expire; outdated entries are passed over
        self.accepted: dict[str, float] = {}  # key -> unix seconds it is remembered until
        self.books: dict[str, dict[str, bytes]] = {}  # notes
        self.forget_at = 0.0  # unix seconds
        self.lines: dict[str, float] = {}  # name -> unix seconds of the first start that nobody has reserved
        self.watchers: dict[str, list[Callable[[str], None]]] = {}  # task id -> who wants to know that it changed

    def __enter__(self) -> Self:
        self.lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    # -- queues

    def queue(self, name: str) -> MemoryQueue:
        """Return the queue *name*, created empty when it is new."""
        found = self.queues.get(name)
        if found is None:
            found = self.queues[name] = MemoryQueue(name, self.clock())
        return found

    def declare(self, topology: Topology) -> None:
        self.topology = self.topology.merge(topology)
        for name, spec in topology.queues.items():
            self.queue(name)
            if spec.expires is not None:
                self.expiring[name] = spec.expires

    def leave(self, queue: MemoryQueue, ring: Callable[[], None]) -> None:
        """End the consuming of whom *ring* wakes, and the queue if it was to go with the last."""
        queue.listeners.remove(ring)
        queue.idle_since = self.clock()
        spec = self.topology.queues.get(queue.name)
        if spec is not None and (spec.auto_delete or spec.exclusive) and not queue.listeners:
            self._delete(queue.name)

    def tidy(self, now: float) -> None:
        """Delete the queues that expire and were not consumed from for so long; forget old keys and idle lines."""
        for name, seconds in list(self.expiring.items()):
            queue = self.queues[name]
            if not queue.listeners and queue.idle_since + seconds <= now:
                self._delete(name)
        if now >= self.forget_at:
            self.forget_at = now + 60
            self.accepted = {key: until for key, until in self.accepted.items() if until > now}
            self.lines = {name: start for name, start in self.lines.items() if start > now}

    def _delete(self, name: str) -> None:
        queue = self.queues.pop(name)
        self.expiring.pop(name, None)
        self.held = {tag: entry for tag, entry in self.held.items() if entry.queue is not queue}
        self.topology = self.topology.without_queue(name)
        sources = {binding.source for binding in self.topology.bindings}
        for exchange in self.topology.exchanges.values():
            if exchange.auto_delete and exchange.name not in sources:
                self.topology = self.topology.without_exchange(exchange.name)

    def size(self, queue: MemoryQueue, now: float) -> QueueSize:
        queue.refresh(self.topology.queues.get(queue.name), now)
        return QueueSize(
            ready=len(queue.ready),
            delayed=len(queue.delayed),
            claimed=sum(entry.queue is queue for entry in self.held.values()),
            oldest=max((now - entry.since for _, _, entry in queue.ready), default=None),
        )

    # -- messages

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

    def holds(self, lease: Lease) -> bool:
        """Tell whether *lease* is the newest of its message, and not settled."""
        entry = self.held.get(lease.tag)
        return entry is not None and entry.token == lease.token

    def claim(self, queues: Sequence[MemoryQueue], claim: Claim, now: float) -> list[Delivery]:
        """Take the first messages of *queues* by priority, then age."""
        self._reclaim(now)
        for queue in queues:
            queue.refresh(self.topology.queues.get(queue.name), now)
        deliveries: list[Delivery] = []
        until = now + claim.lease
        while len(deliveries) < claim.limit:
            filled = [queue for queue in queues if queue.ready]
            if not filled:
                break
            entry = heappop(min(filled, key=MemoryQueue.place).ready)[2]
            entry.token += 1
            entry.until = until
            entry.owner = claim.owner
            self.held[entry.tag] = entry
            deliveries.append(self._deliver(entry, now))
        if deliveries:
            self.next_lapse = min(self.next_lapse, until)
        return deliveries

    def _deliver(self, entry: _Entry, now: float) -> Delivery:
        message = entry.message
        revoked = self.revoked.get(message.id)
        return Delivery(
            message=message,
            queue=entry.queue.name,
            route=entry.route,
            tag=entry.tag,
            token=entry.token,
            crashes=entry.crashes,
            redelivered=entry.redelivered,
            revoked=revoked is not None and (now < revoked or entry.since <= revoked),
            expired=message.expires is not None and message.expires.timestamp() <= now,
            since=entry.since,
        )

    def _reclaim(self, now: float) -> None:
        """Put back what is held beyond its time, with a counted crash."""
        if now < self.next_lapse:
            return
        for entry in [entry for entry in self.held.values() if entry.until <= now]:
            del self.held[entry.tag]
            entry.crash(f"lost by {entry.owner}: its lease was not renewed")
            entry.redelivered = True
            entry.queue.add(entry)
        self.next_lapse = min((entry.until for entry in self.held.values()), default=_NEVER)

    def renew(self, lease: Lease, until: float) -> None:
        self.held[lease.tag].until = until
        self.next_lapse = min(self.next_lapse, until)

    def settle(self, settlement: Settlement, now: float) -> list[ReadyChord] | None:
        """Write a settlement; return the chords it completes, or None if it does not hold: nothing was written."""
        lease = settlement.lease
        if lease is not None and not self.holds(lease):
            return None
        if settlement.fires is not None and not self.chords.close(settlement.fires):
            return None
        self.put(settlement.follow_ups, now)
        self.keep(settlement.records, now)
        if lease is not None:
            self._end(self.held.pop(lease.tag), settlement, now)
        self.chords.open(settlement.sizes, now)
        return self.chords.count(settlement.parts, now)

    def _end(self, entry: _Entry, settlement: Settlement, now: float) -> None:
        match settlement.verdict:
            case Done():
                pass
            case Release(delay=delay, counted=counted, evidence=evidence, front=front):
                entry.redelivered = True
                if counted:
                    entry.crash(evidence)
                if not front:
                    entry.order = next(self.numbers)
                entry.queue.add(entry, now + delay if delay > 0 else 0.0)
            case Bury(reason=reason, evidence=evidence):
                letter = DeadLetter(
                    tag=next(self.numbers),
                    id=entry.message.id,
                    task=entry.message.task,
                    queue=entry.queue.name,
                    reason=reason,
                    evidence=entry.evidence + ((evidence,) if evidence else ()),
                    crashes=entry.crashes,
                    died_at=now,
                    message=entry.message,
                )
                self.dead[int(letter.tag)] = (letter, Publication(message=entry.message, route=entry.route))

    def exhume(self, ids: Iterable[str]) -> list[tuple[DeadLetter, Publication]]:
        """Take the dead letters of these tasks out of their set."""
        wanted = set(ids)
        tags = [tag for tag, (letter, _) in self.dead.items() if letter.id in wanted]
        return [self.dead.pop(tag) for tag in tags]

    def forget_revoked(self, now: float) -> None:
        """Forget the revoked ids whose time is over, unless a message of that id is still here."""
        if any(until <= now for until in self.revoked.values()):
            here = {message.id for message in self._messages()}
            self.revoked = {key: until for key, until in self.revoked.items() if until > now or key in here}

    def _messages(self) -> Iterator[Message]:
        for queue in self.queues.values():
            yield from (entry.message for _, _, entry in queue.ready)
            yield from (entry.message for _, _, entry in queue.delayed)
        yield from (entry.message for entry in self.held.values())

    # -- results

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


class MemoryStores:
    """The memory stores of one process by name, for whoever opens brokers and backends by URL."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._stores: dict[str, MemoryStore] = {}

    def at(self, url: str) -> MemoryStore:
        """Return the store of a URL like ``memory://name``: the same one for the same name."""
        name = url.partition("://")[2].partition("?")[0].strip("/")
        return self._stores.setdefault(name, MemoryStore(clock=self._clock))
