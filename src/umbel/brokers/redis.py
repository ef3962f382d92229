"""Keep messages on a Redis server, in kombu's keys, so that Celery's workers and senders may share the queues."""

from __future__ import annotations

import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from umbel.brokers import redis_census as census
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
from umbel.brokers.doorbell import Doorbell
from umbel.brokers.ledger import Note
from umbel.brokers.redis_address import Address
from umbel.brokers.redis_dead import Graves
from umbel.brokers.redis_link import Argument, Link, LinkLost
from umbel.brokers.redis_lost import Lost, envelope_of, queue_of, tail_of_entry
from umbel.brokers.redis_names import Names
from umbel.brokers.redis_orders import Orders, part_of_chord, size_of_chord
from umbel.brokers.redis_parcels import Letter, Parcels, Seen, published
from umbel.brokers.redis_revoked import Revocations
from umbel.brokers.redis_routes import Routes
from umbel.brokers.redis_scripts import ARM, RENEW, RESERVE, SWEEP, TURN
from umbel.exceptions import BrokerUnavailable, BrokerUnusable, OperationalError, PublishTimeout
from umbel.wire.chord import ReadyChord
from umbel.wire.codecs import Codecs
from umbel.wire.protocol import MessageReader
from umbel.wire.topology import Topology

__all__ = ["RedisBroker"]

_SEEN: Final = 14.0  # seconds after which we tell again that we consume; a silence of 30 means that we are gone
_SWEEP: Final = 600.0  # seconds between two looks for names that nobody uses any more
_REST: Final = 60.0  # seconds between two looks where nothing changed: the server says when something does
_BLIND: Final = 0.1  # seconds between two looks where the server cannot tell us of changes
_CHUNK: Final = 500
_MOST_KNOWN: Final = 10_000
_MOST_TWINS: Final = 1000
_TAG: Final = re.compile(rb'"delivery_tag": ?"([^"]+)"')
# Bytes that make tags unlike others'. So many, because a set whose members are longer than 64 characters is kept as a
# skip list; the compact form, which the server prefers for small sets, costs 9 µs a task more (micro_redis.py, claim).
_NONCE: Final = 32


class RedisBroker:
    """A connection to a Redis server: the port `Broker`, and what settles results in one write with it.

    One connection does it all (RESP3): commands, wake-ups (the server says when a key we looked at has changed) and
    what is published to all (fanout).
    """

    features = BrokerFeatures(
        atomic=True,
        delayed=True,
        priorities=True,
        fanout=True,
        higher_priority_first=False,
        stores_results=True,
        durable_revokes=True,
        counts_crashes=True,
        ledger=True,
    )

    def __init__(
        self,
        address: Address,
        names: Names,
        *,
        codecs: Codecs | None = None,
        reader: MessageReader | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Read task messages with *reader* (None = whatever their content type).

        The time is taken from *clock*, a callable that returns unix seconds; None = from the server.
        """
        codecs = codecs or Codecs()
        self._names = names
        self._turn_keys = names.turn()
        self._clock = clock
        self._link = Link(address, on_open=self._prepare)
        self._link.on_push = self._hear
        self._parcels = Parcels(codecs.json, reader or MessageReader(codecs, None), clock or time.time)
        self._routes = Routes(names, address.database)
        self._lost = Lost(self._link, names, self._parcels, self._routes, self._given_time)
        self._nonce = os.urandom(_NONCE).hex()
        self._last_token = 0  # of what we have claimed and handed out
        self._closed = False
        self._pid = os.getpid()
        self._consumed: tuple[str, ...] = ()
        self._turned = 0  # claims, for going round the queues
        self._bell: Doorbell | None = None  # made when somebody asks for the descriptor; a sender needs none
        self._blind = False  # the server does not tell us of changes
        self._changed = True  # what we know of the next due time is old
        self._due: float | None = None  # unix seconds
        self._delayed_due: Any = None  # the same of delayed messages alone, as the server says it
        self._ready = False  # there was more when we looked last
        self._order: tuple[str, ...] = ()  # the queues as the last claim named them
        self._now = 0.0  # the time of the last turn, by the clock we go by
        self._now_at = 0.0  # monotonic, when that was
        self._told = 0.0  # monotonic: when we said last that we consume
        self._asked = -_REST  # the same: when we claimed last and were then to be told of changes
        self._swept = -_SWEEP  # the same: when we removed last what nobody uses
        self._revoked = Revocations(self._link, names, self._ids_here)
        self._graves = Graves(self._link, names, self._parcels, lambda orders: len(self._turn(orders)[1]))
        self._known: set[str] = set()  # queues that we have made known
        self._heard: deque[tuple[str, bytes]] = deque()  # of fanout: queue, envelope
        self._local: dict[str, tuple[str, bytes]] = {}  # of fanout, in a worker's hand: by tag
        self._numbers = 0
        self._twins: deque[bytes] = deque(maxlen=_MOST_TWINS)  # delivery tags that were published to all

    # -- sending

    def publish(self, publications: Sequence[Publication], *, timeout: float = 5.0) -> None:
        self._check_open()
        if not publications:
            return
        orders = Orders()
        try:
            self._order_all(orders, publications)
            single = orders.single_command()
            if single is not None:
                self._link.call(*single, timeout=timeout)
            elif orders:
                self._turn(orders, timeout=timeout)
        except LinkLost as exc:
            if exc.sent:
                raise PublishTimeout(f"{exc}: whether it has the task is unknown") from exc
            raise
        if orders.brings_work:
            self._wake()

    def _order_all(self, orders: Orders, publications: Iterable[Publication]) -> None:
        """Add to *orders* what stores *publications*."""
        names = self._names
        now = 0.0
        for publication in publications:
            message, route = publication.message, publication.route
            data = self._parcels.pack(publication)
            if not route.exchange:
                queues: Sequence[str] = (route.routing_key,)
            else:
                channels, queues = self._routes.find(self._link, route)
                for channel in channels:
                    orders.call_out(channel, data)
            step = names.step(message.priority)
            for queue in queues:
                key = names.lists(queue)[step]
                if queue not in self._known:
                    orders.make_known(names.own("queues"), queue)
                if message.eta is not None:
                    now = now or self._time()
                    due = message.eta.timestamp()
                    if due > now:
                        orders.delay(
                            names.delayed(queue),
                            due,
                            _member(step, data),
                            consumers=names.consumers(queue),
                            key=key,
                            data=data,
                        )
                        continue
                orders.push(key, data)
                lifetime = self._routes.lifetime(queue)
                if lifetime is not None:
                    orders.expire(key, lifetime)

    def _make_known(self, *queues: str) -> None:
        """Let others know that these queues exist."""
        now = self._time()
        words = [word for queue in queues for word in (now, queue)]
        self._link.call(b"ZADD", self._names.own("queues"), *words)
        self._known.update(queues)

    # -- receiving

    def consume(self, queues: Sequence[str]) -> None:
        self._check_open()
        wanted = tuple(dict.fromkeys(queues))
        left = [queue for queue in self._consumed if queue not in wanted]
        self._consumed = wanted
        self._told = 0.0
        if left:
            self._leave(left)
            self._known.difference_update(left)
        if wanted:
            self._make_known(*wanted)
        self._subscribe()
        if wanted:
            self._tell(begins=True)
        self._wake()

    def _subscribe(self) -> None:
        """Hear the fanout exchanges that our queues are bound to, and no others."""
        wanted = self._routes.channels(self._link, self._consumed)
        if wanted or self._routes.heard:
            self._routes.listen(self._link, wanted)

    def _tell(self, *, begins: bool = False) -> None:
        """Say that we consume from our queues, so that delayed messages may lie where only umbel looks."""
        self._told = time.monotonic()
        names, now = self._names, self._time()
        sweeps = not 0 <= self._told - self._swept < _SWEEP
        commands: list[tuple[Argument, ...]] = []
        for queue in self._consumed:
            key = names.consumers(queue)
            if not self._routes.bring_all((queue,)):  # what is published to all is not delayed
                commands.append((b"ZADD", key, now, self._nonce))
                if begins or sweeps:
                    commands += [(b"ZREMRANGEBYSCORE", key, b"-inf", now - 86400), (b"EXPIRE", key, 86400)]
            if begins or sweeps:
                commands.append((b"ZADD", names.own("queues"), now, queue))
        self._link.pipeline([*commands, *self._routes.refresh(self._consumed)])
        if sweeps:
            self._swept = self._told
            steps = [f"{names.sep}{step}" for step in names.steps if step]
            begin = (names.bindings(""), names.permanent(""), names.prefix, names.delayed(""))
            self._link.run(SWEEP, (names.deadlines, names.own("queues")), self._given_time(), *begin, *steps)
            self._known.clear()  # so that what we use is not taken for unused

    def _leave(self, queues: Sequence[str]) -> None:
        """Consume from these no more."""
        self._link.pipeline([(b"ZREM", self._names.consumers(queue), self._nonce) for queue in queues])
        self._routes.leave(self._link, queues)

    def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Turn:
        self._check_open()
        if not settlements and claim is None:
            return Turn()
        orders = Orders()
        if settlements:
            self._order_settlements(orders, settlements)
        if claim is None:
            turn = self._read_settled(settlements, orders, self._turn(orders))
            if orders.brings_work:
                self._wake()
            return turn
        quiet = not settlements and self._nothing_came()
        if quiet and claim.chords == 0 and self._routes.bring_all(self._consumed):
            return Turn()  # what is published to all comes by itself, and is in nobody's hand before
        if self._consumed and not 0 <= time.monotonic() - self._told < _SEEN:
            self._tell()
        moved = self._lost.of_ours() + self._lost.of_foreigners(self._time())
        if quiet and not moved and self._nothing_is_due(claim.chords):
            return Turn()
        deliveries: list[Delivery] = self._take_heard(claim.limit)
        try:
            found, turn = self._claim(orders, claim, claim.limit - len(deliveries), settlements)
        except OperationalError:
            self._lost.note(self._nonce, self._last_token)
            raise
        deliveries += found
        # What was published to all before we asked has come before the answer.
        deliveries += self._take_heard(claim.limit - len(deliveries))
        if self._bell is not None:
            # A change that was told behind our look must not be silenced with the earlier ones.
            changed = self._changed and not self._blind
            ready = self._heard or self._ready or changed or len(deliveries) >= claim.limit
            (self._bell.ring if ready else self._bell.rest)()
        return Turn(refused=turn.refused, deliveries=tuple(deliveries), ready=turn.ready)

    def _nothing_came(self) -> bool:
        """Tell, without asking the server, that our queues have not changed since the last look, nor come due."""
        bell = self._bell
        if bell is None or self._blind or not 0 <= time.monotonic() - self._asked < _REST:
            return False
        self._link.drain()
        if self._changed or self._ready or self._heard:
            return False
        if self._delayed_due is not None and float(self._delayed_due) <= self._time():
            return False
        bell.rest()
        return not bell.is_heard()

    def _nothing_is_due(self, chords: int) -> bool:
        """Tell whether no lease has run out and, if they are wanted, no chord is left: of these nobody tells us."""
        keys = (self._turn_keys[2], self._turn_keys[9]) if chords else (self._turn_keys[2],)
        firsts = self._link.pipeline([(b"ZRANGE", key, 0, 0, b"WITHSCORES") for key in keys])
        lease, *_ = moments = [float(found[0][1]) if found else None for found in firsts]
        self._note_due(lease)
        now = self._time()
        return not self._changed and all(moment is None or moment > now for moment in moments)

    def _claim(
        self, orders: Orders, claim: Claim, limit: int, settlements: Sequence[Settlement]
    ) -> tuple[list[Delivery], Turn]:
        """Settle by *orders* and claim up to *limit* messages; come again while something stood in the way."""
        deliveries: list[Delivery] = []
        settled: Turn | None = None
        while True:
            answer = self._turn(orders, claim, limit - len(deliveries))
            if settled is None:
                settled = self._read_settled(settlements, orders, answer)
                orders = Orders()
            if answer[4] is not None:
                self._lost.of_the_dead(answer[3], answer[4])
                continue
            self._revoked.refresh(answer[5])
            waiting = self._read_claimed(answer[6], claim.owner, deliveries) if answer[6] is not None else []
            if not waiting:
                self._note_due(answer[3])
                self._last_token = max((each.token for each in deliveries), default=self._last_token)
                return deliveries, settled
            # Celery's senders know nothing of our delayed sets, so we put into them what is not due.
            self._park(waiting)

    def _turn(
        self, orders: Orders, claim: Claim | None = None, limit: int = -1, *, timeout: float | None = None
    ) -> Any:
        """Run the script that settles and claims; return its answer."""
        names, now = self._names, self._given_time()
        if claim is None:
            keys, tail = self._turn_keys, orders.words([-1, 0, 0, 0, 0, 0])
            return self._read_turn(orders, self._link.run(TURN, keys, now, *tail, timeout=timeout))
        queues = self._consumed
        fair = names.strategy == "round_robin"
        if names.strategy == "sorted":
            queues = tuple(sorted(queues))
        elif fair and len(queues) > 1:  # so that each is the first in turn
            self._turned = (self._turned + 1) % len(queues)
            queues = queues[self._turned :] + queues[: self._turned]
        self._order = queues
        words: list[Argument] = [
            limit,
            claim.lease,
            len(names.steps),
            claim.chords,
            self._beyond(claim.lease),
            int(fair),
        ]
        suffix = f"|{self._nonce}|{claim.owner.replace('|', '/')}|"
        for queue in queues:
            words += (queue, tail_of_entry(queue), suffix + queue)
        claimed = names.claim_of(queues)
        keys = (*self._turn_keys, *claimed)
        rest = (len(keys), *keys, now, *orders.words(words))
        if self._bell is None or self._blind:
            answer = self._link.run_packed(TURN, rest)[0]
            self._link.drain()
        else:
            self._link.load(ARM)
            armed = (self._turn_keys[4], *claimed)
            arm: tuple[Argument, ...] = (b"EVALSHA", ARM.digest, len(armed), *armed, len(names.steps), *queues)
            answer, _, (ready, due) = self._link.run_packed(TURN, rest, (b"CLIENT", b"CACHING", b"YES"), arm)
            self._ready, self._delayed_due = bool(ready), due
            self._changed = False
            self._asked = time.monotonic()
            self._link.drain()  # a change that came behind the look rings the bell
        return self._read_turn(orders, answer)

    def _beyond(self, lease: float) -> float:
        """Return by how much a *lease* is longer than Celery's workers wait: they then must see it in the future."""
        return max(0.0, lease - self._names.visibility_timeout)

    def _read_turn(self, orders: Orders, answer: Any) -> Any:
        self._now = float(answer[0])
        self._now_at = time.monotonic()
        if orders.known and not answer[1]:
            if len(self._known) > _MOST_KNOWN:  # reply queues have as many names as there are clients
                self._known.clear()
            self._known |= orders.known
        return answer

    def _read_settled(self, settlements: Sequence[Settlement], orders: Orders, answer: Any) -> Turn:
        refused = set(orders.refused)
        refused.update(place - 1 for place in answer[1])
        for tag in orders.local:
            self._local.pop(tag, None)
        return Turn(
            refused=tuple(
                lease
                for place, each in enumerate(settlements)
                if place in refused and (lease := each.lease) is not None
            ),
            ready=tuple(_ready_chord(each) for each in answer[2]),
        )

    def _read_claimed(self, claimed: list[Any], owner: str, into: list[Delivery]) -> list[tuple[str, str, Seen, bytes]]:
        """Add what was claimed to the deliveries; return what is not due yet: tag, queue, what it is, envelope."""
        token = int(claimed[0])
        now = self._now
        waiting: list[tuple[str, str, Seen, bytes]] = []
        suffix = f"|{self._nonce}|{owner.replace('|', '/')}|"
        read = self._parcels.read
        for place in range(1, len(claimed), 2):
            queue = self._order[claimed[place]]
            plain = self._routes.is_temporary(queue)
            end = suffix + queue
            for data in claimed[place + 1]:
                tag = f"{token}{end}"
                seen = read(data, f"invalid-{token}", plain=plain)
                message = seen.envelope.message
                if message.eta is not None and message.eta.timestamp() > now:
                    waiting.append((tag, queue, seen, data))
                else:
                    into.append(self._delivery(seen, queue, tag, token, now))
                token += 1
        return waiting

    def _delivery(self, seen: Seen, queue: str, tag: str, token: int, now: float) -> Delivery:
        envelope, since = seen.envelope, published(seen.envelope.delivery_tag)
        message, revoked = envelope.message, self._revoked
        return Delivery(
            message=message,
            queue=queue,
            route=envelope.route,
            tag=tag,
            token=token,
            crashes=len(seen.crashes),
            redelivered=envelope.redelivered,
            revoked=bool(revoked) and revoked.holds(message.id, since, self._now),
            expired=message.expires is not None and message.expires.timestamp() <= now,
            invalid=seen.invalid,
            since=since,
        )

    def _park(self, waiting: Sequence[tuple[str, str, Seen, bytes]]) -> None:
        orders = Orders()
        for tag, queue, seen, data in waiting:
            message = seen.envelope.message
            if message.eta is not None:
                orders.settle(tag)
                step = self._names.step(message.priority)
                orders.wait(self._names.delayed(queue), message.eta.timestamp() - self._now, _member(step, data))
        self._turn(orders)

    # -- settlements

    def _order_settlements(self, orders: Orders, settlements: Sequence[Settlement]) -> None:
        names = self._names
        held = self._fetch_held(settlements)
        for each in settlements:
            lease = each.lease
            tag = self._guard(orders, each)
            if tag is None:
                orders.refuse()
                continue
            orders.settle(tag)
            if lease is not None and not isinstance(each.verdict, Done):
                self._order_verdict(orders, each, held)
            if each.follow_ups:
                self._order_all(orders, each.follow_ups)
            for record in each.records:
                orders.record(names.result(record.id), record)
            for size in each.sizes:
                size_of_chord(orders, names.group(size.group), size)
            for part in each.parts:
                part_of_chord(orders, names.group(part.group), part)

    def _guard(self, orders: Orders, settlement: Settlement) -> str | None:
        """Return what makes the server refuse a stale settlement; None = we refuse it ourselves."""
        lease = settlement.lease
        if lease is None:
            return "" if settlement.fires is None else f"!{self._names.group(settlement.fires)}.r"
        tag = str(lease.tag)
        if tag.startswith("fan|"):
            if tag not in self._local or tag in orders.local:
                return None
            orders.local.append(tag)
            return ""
        return tag if tag.startswith(f"{lease.token}|") else None

    def _fetch_held(self, settlements: Sequence[Settlement]) -> dict[str, bytes]:
        """Return the envelopes of what is released or buried, by tag: they go back with more in them than before."""
        tags = [
            str(each.lease.tag)
            for each in settlements
            if each.lease is not None and not isinstance(each.verdict, Done) and str(each.lease.tag)[:4] != "fan|"
        ]
        if not tags:
            return {}
        held: dict[str, bytes] = {}
        for start in range(0, len(tags), _CHUNK):
            some = tags[start : start + _CHUNK]
            entries = self._link.call(b"HMGET", self._names.prefix + self._names.unacked, *some)
            for tag, entry in zip(some, entries, strict=True):
                if entry is not None:
                    held[tag] = envelope_of(entry, queue_of(tag))
        return held

    def _order_verdict(self, orders: Orders, settlement: Settlement, held: dict[str, bytes]) -> None:
        names, verdict = self._names, settlement.verdict
        tag = str(settlement.lease.tag) if settlement.lease is not None else ""
        local = self._local.get(tag)
        data = local[1] if local is not None else held.get(tag)
        if data is None:
            return  # the server will refuse it
        queue = local[0] if local is not None else queue_of(tag)
        seen = self._parcels.read(data, f"invalid-{tag.partition('|')[0]}", plain=True)
        message = seen.envelope.message
        match verdict:
            case Release(delay=delay, counted=counted, evidence=evidence, front=front):
                data = self._parcels.give_back(data, (evidence or "it crashed") if counted else None)
                step = names.step(message.priority)
                if local is not None:
                    (self._heard.appendleft if front else self._heard.append)((queue, data))
                elif delay > 0:
                    orders.wait(names.delayed(queue), delay, _member(step, data))
                elif front:
                    orders.to_front(names.lists(queue)[step], data)
                else:
                    orders.push(names.lists(queue)[step], data)
            case Bury(reason=reason, evidence=evidence):
                letter = Letter(
                    message.id,
                    message.task,
                    queue,
                    reason,
                    (*seen.crashes, evidence) if evidence else seen.crashes,
                    len(seen.crashes),
                    self._time(),
                    data,
                )
                orders.bury(message.id, msgspec.msgpack.encode(letter))
            case _:
                pass

    def inherit(self, predecessor: object) -> None:
        """Take over from another object that consumed here: what its last claim took unseen goes back at once."""
        if isinstance(predecessor, RedisBroker):
            self._lost.unanswered += predecessor._lost.unanswered

    def renew(self, leases: Sequence[Lease], lease: float) -> tuple[Lease, ...]:
        self._check_open()
        asked = [each for each in leases if str(each.tag).startswith(f"{each.token}|")]
        lost = {each for each in leases if each not in asked and str(each.tag) not in self._local}
        if asked:
            _, index, owned, *_ = self._turn_keys
            tags = [str(each.tag) for each in asked]
            lost.update(
                asked[place]
                for place in self._link.run(
                    RENEW, (index, owned), self._given_time(), lease, self._beyond(lease), *tags
                )
            )
        return tuple(each for each in leases if each in lost)

    # -- fanout

    def _take_heard(self, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        while self._heard and len(deliveries) < limit:
            queue, data = self._heard.popleft()
            self._numbers += 1
            tag = f"fan|{self._nonce}|{self._numbers}"
            self._local[tag] = (queue, data)
            seen = self._parcels.read(data, tag, plain=True)
            deliveries.append(self._delivery(seen, queue, tag, self._numbers, self._time()))
        return deliveries

    def _hear(self, push: Sequence[Any]) -> None:
        """Take what the server sent by itself: a change of what we look at, or what was published to all."""
        match push:
            case [b"pmessage" | b"message", *_, data]:
                if self._names.legacy_fanout and self._is_twin(data):
                    return
                found = self._routes.queues_of(push[1].decode("utf-8", "replace"))
                self._heard.extend((queue, data) for queue in found)
            case [b"invalidate", _]:
                self._changed = True
            case _:
                return
        if self._bell is not None:
            self._bell.ring()

    def _is_twin(self, data: bytes) -> bool:
        """Tell whether *data* has come on another channel before: peers publish the same on both (PRT-132)."""
        found = _TAG.search(data)
        if found is None or found[1] not in self._twins:
            if found is not None:
                self._twins.append(found[1])
            return False
        return True

    # -- waiting

    def fileno(self) -> int:
        self._check_open()
        if self._bell is None:
            self._link.close()  # the next one asks the server to tell us of changes
            self._bell = Doorbell()
            self._link.open()
            if self._consumed:
                self._look()
            if self._ready or self._heard:
                self._bell.ring()
        return self._bell.fileno()

    def next_due(self) -> float | None:
        self._check_open()
        if self._changed or self._bell is None:
            self._look()
        due = self._due
        seconds = None if due is None else max(0.0, due - self._time())
        if self._blind and self._consumed:
            return _BLIND if seconds is None else min(seconds, _BLIND)
        return seconds

    def _look(self) -> None:
        """Find out what comes due next, without the help of a claim."""
        names, queues = self._names, self._consumed
        self._due = None
        if not queues:
            return
        keys = (names.own("paused"), *names.claim_of(queues))
        _, _, owned, *_ = self._turn_keys
        self._link.load(ARM)
        commands: list[tuple[Argument, ...]] = [(b"ZRANGE", owned, 0, 0, b"WITHSCORES")]
        if self._bell is not None and not self._blind:
            commands.append((b"CLIENT", b"CACHING", b"YES"))
        commands.append((b"EVALSHA", ARM.digest, len(keys), *keys, len(names.steps), *queues))
        self._changed = False  # before, so that nothing is missed
        first, *_, (ready, self._delayed_due) = self._link.pipeline(commands)
        self._ready = bool(ready)
        self._note_due(first[0][1] if first else None)

    def _note_due(self, lease: Any) -> None:
        times = [float(moment) for moment in (lease, self._delayed_due) if moment is not None]
        self._due = min(times, default=None)

    def _wake(self) -> None:
        """Look again: we have changed something ourselves, of which the server does not tell us."""
        self._changed = True
        if self._bell is not None:
            self._bell.ring()

    def _prepare(self, link: Link) -> None:
        """Make a new connection what the old one was."""
        self._changed = True
        self._routes.forget()
        self._revoked.forget()
        if self._bell is None:
            return
        self._bell.listen(link.fileno())
        try:
            link.call(b"CLIENT", b"TRACKING", b"ON", b"OPTIN", b"NOLOOP")
            self._blind = False
        except BrokerUnusable:
            self._blind = True
        if self._consumed:
            self._routes.listen(link, self._routes.channels(link, self._consumed))

    # -- exchanges and queues

    def declare(self, topology: Topology) -> None:
        self._check_open()
        self._routes.declare(self._link, topology)
        new = [queue for queue in topology.queues if queue not in self._known]
        if new:
            self._make_known(*new)
        if not topology.queues.keys().isdisjoint(self._consumed):
            self._subscribe()
        self._wake()

    def sizes(self, queues: Iterable[str] | None = None) -> dict[str, QueueSize]:
        self._check_open()
        return census.sizes(
            self._link,
            self._names,
            self._parcels,
            self._lost,
            queues,
            now=self._server_time(),
            heard=Counter(queue for queue, _ in self._heard),
            in_hand=Counter(queue for queue, _ in self._local.values()),
        )

    def purge(self, queue: str) -> int:
        self._check_open()
        names = self._names
        keys = names.lists(queue)
        counts = [(b"LLEN", key) for key in keys]
        found = self._link.pipeline(
            [(b"MULTI",), *counts, (b"ZCARD", names.delayed(queue)), (b"DEL", *keys, names.delayed(queue)), (b"EXEC",)]
        )[-1]
        self._heard = deque(each for each in self._heard if each[0] != queue)
        return int(sum(found[:-1]))

    # -- steering

    def pause(self, queue: str) -> None:
        self._check_open()
        self._link.call(b"SADD", self._names.own("paused"), queue)
        self._wake()

    def resume(self, queue: str) -> None:
        self._check_open()
        self._link.call(b"SREM", self._names.own("paused"), queue)
        self._wake()

    def paused(self) -> frozenset[str]:
        self._check_open()
        return frozenset(name.decode() for name in self._link.call(b"SMEMBERS", self._names.own("paused")))

    def revoke(self, ids: Iterable[str], *, expires: float = 10800.0 * 8) -> None:
        self._check_open()
        self._revoked.add(ids, self._server_time(), expires)

    def revoked(self) -> frozenset[str]:
        self._check_open()
        return self._revoked.all(self._server_time())

    def _ids_here(self) -> Iterator[str]:
        return census.task_ids(self._link, self._names, self._parcels, self._lost)

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
        self._check_open()
        orders = Orders()
        orders.once(self._names.own(f"once.{key}"), expires)
        self._order_all(orders, publications)
        if note is not None:
            orders.note(self._names.own(f"book.{note.book}"), note.name, note.text)
        accepted = not self._turn(orders, timeout=timeout)[1]
        self._wake()
        return accepted

    def note(self, book: str, entries: Mapping[str, bytes | None]) -> None:
        self._check_open()
        orders = Orders()
        for name, text in entries.items():
            orders.note(self._names.own(f"book.{book}"), name, text)
        if orders:
            self._turn(orders)

    def notes(self, book: str) -> dict[str, bytes]:
        self._check_open()
        found = self._link.call(b"HGETALL", self._names.own(f"book.{book}"))
        return {name.decode("utf-8", "surrogatepass"): text for name, text in found.items()}

    def reserve(self, name: str, interval: float, count: int = 1) -> float:
        self._check_open()
        line = self._names.own(f"line.{name}")
        return float(self._link.run(RESERVE, (line,), self._given_time(), repr(float(interval)), count))

    # -- the dead-letter set

    def dead(self, *, limit: int = 100, after: int | str | None = None) -> list[DeadLetter]:
        self._check_open()
        return self._graves.page(limit, after)

    def find_dead(self, task_id: str) -> DeadLetter | None:
        self._check_open()
        return self._graves.newest(task_id)

    def revive(self, ids: Iterable[str]) -> int:
        self._check_open()
        revived = self._graves.revive(ids)
        if revived:
            self._wake()
        return revived

    def discard(self, ids: Iterable[str]) -> int:
        self._check_open()
        return self._graves.discard(ids)

    # -- ending

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            try:
                if self._consumed and self._link.is_open:
                    self._leave(self._consumed)
            except (BrokerUnavailable, BrokerUnusable):
                pass  # what is left behind expires
        self._link.close()
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this Redis broker is closed: open another one")
        if self._pid != os.getpid():
            self._start_anew()

    def _start_anew(self) -> None:
        """Be another connection: we are in a forked child, and what we had is our parent's."""
        self._pid = os.getpid()
        self._nonce = os.urandom(_NONCE).hex()
        self._local.clear()
        self._heard.clear()
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    # -- time

    def _given_time(self) -> Argument:
        """Return what tells a script the time: nothing, so that it asks the server's clock, unless we have our own."""
        return b"" if self._clock is None else repr(self._clock())

    def _time(self) -> float:
        """Return the unix seconds of the clock we go by, without asking it."""
        if self._clock is not None:
            return self._clock()
        if not self._now_at:
            return time.time()
        return self._now + time.monotonic() - self._now_at

    def _server_time(self) -> float:
        if self._clock is not None:
            return self._clock()
        seconds, fraction = self._link.call(b"TIME")
        return int(seconds) + int(fraction) / 1_000_000


def _member(step: int, data: bytes) -> bytes:
    """Return a message as it lies in a delayed set: behind the place of its step."""
    return b"0123456789abcdefghijklmnopqrstuvwxyz"[step : step + 1] + data


def _ready_chord(found: Sequence[bytes]) -> ReadyChord:
    group, body, *parts = found
    return ReadyChord(group=group.decode(), parts=tuple(parts), body=body)
