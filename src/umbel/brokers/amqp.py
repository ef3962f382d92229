"""Keep messages in RabbitMQ, beside Celery's, by the port's promises as far as AMQP can hold them."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from umbel.brokers.amqp_address import Dialling
from umbel.brokers.amqp_delays import Delays
from umbel.brokers.amqp_graves import Graves
from umbel.brokers.amqp_leases import Leases
from umbel.brokers.amqp_link import ChannelClosed, Link, connect, refusal
from umbel.brokers.amqp_messages import Arrival, content_of, copy_of, read, with_crash
from umbel.brokers.amqp_outlet import Outlet, Parcel
from umbel.brokers.amqp_steering import Steering
from umbel.brokers.amqp_taps import CHANNEL, Held, Taps
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
from umbel.exceptions import BrokerUnavailable, PublishTimeout
from umbel.wire import amqp
from umbel.wire.delayed import delay_topology, delayed_route, target_topology
from umbel.wire.message import Route
from umbel.wire.protocol import MessageReader
from umbel.wire.topology import Exchange, QueueSpec, Topology

__all__ = ["AmqpBroker", "AmqpOptions"]

_ASK: Final = 2  # the channel for questions, which the server closes when it does not like one
_MANY: Final = 32  # deliveries
_SOON: Final = 0.01  # seconds: what is due so soon is due
# What has come and is due so soon waits here. The last queue for a delay of a minute lets go at once what is due within
# four seconds; to send that on took as long (benchmarks/delayed.py near, 20,000 tasks: p99 4.4 s late, 0.25 s now).
_SHORTLY: Final = 4.5  # seconds
_MOST_SOON: Final = 4000  # deliveries
_MOST_MORE: Final = 1000  # deliveries
_FOLLOW_UP_TIMEOUT: Final = 10.0  # seconds for the confirms of what a settlement publishes


class AmqpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``broker_transport_options`` may say beside how to connect."""

    confirm: bool = True  # `confirm_publish`: wait until a message is stored; False = Celery's default
    expiration: bool = False  # `expiration`: let RabbitMQ drop what has expired, without a trace
    hold: float = 5.0  # `lease_after`: seconds a delivery is held unacknowledged before it gets a lease queue
    lease: float = 30.0  # `lease_ttl`: seconds after which a dead worker's long task comes back
    delay_queue_type: str = "quorum"  # `broker_native_delayed_delivery_queue_type`

    @classmethod
    def of(cls, options: Mapping[str, Any], delay_queue_type: str = "quorum") -> AmqpOptions:
        """Return what *options* say."""
        return cls(
            confirm=bool(options.get("confirm_publish", True)),
            expiration=bool(options.get("expiration", False)),
            hold=float(options.get("lease_after", 5.0)),
            lease=float(options.get("lease_ttl", 30.0)),
            delay_queue_type=delay_queue_type,
        )


class AmqpBroker:
    """A connection to RabbitMQ: the port `Broker`, where a lease is as long as the connection, or a lease queue's.

    Nothing is connected before the first verb. Any error leaves the connection closed, and what was held goes back
    to its queues: whoever uses this opens another broker, and everything is built anew.
    """

    features = BrokerFeatures(
        atomic=False,
        delayed=True,
        priorities=True,  # of queues declared with a `max_priority`
        fanout=True,
        higher_priority_first=True,
        stores_results=False,
        durable_revokes=True,
        counts_crashes=False,
        timed_leases=False,
        census=False,
    )

    def __init__(
        self,
        dialling: Dialling,
        reader: MessageReader,
        *,
        options: AmqpOptions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._dialling = dialling
        self._reader = reader
        self._options = options = options or AmqpOptions()
        self._clock = clock
        self._pid = os.getpid()
        self._closed = False
        self._link: Link | None = None  # takes deliveries and asks
        self._out: Outlet | None = None  # on a link of its own once we consume: who is blocked still acknowledges
        self._queues: dict[str, None] = {}  # that we have seen
        self._plain: set[str] = set()  # queues that may hold more than tasks: they live as long as their reader
        self._consumed: tuple[str, ...] = ()
        self._taps = Taps()
        self._doorbell = Doorbell()
        self._steering = Steering(clock)
        self._delays = Delays(clock)
        self._graves = Graves(clock)
        self._leases = Leases(options.lease, reader)
        self._native_delay = False  # Celery's delayed-delivery topology is declared
        self._token = time.time_ns() >> 10
        self._given_back: deque[str] = deque(maxlen=1000)  # ids we gave back: that is no crash
        self._owner = ""
        self._brought = 0  # deliveries of the last claim

    # -- sending

    def publish(self, publications: Sequence[Publication], *, timeout: float = 5.0) -> None:
        self._check_open()
        if publications:
            self._send([self._parcel(each) for each in publications], timeout=timeout)

    def _parcel(self, publication: Publication) -> Parcel:
        message, route = publication.message, publication.route
        now = self._clock()
        moment = datetime.fromtimestamp(now, UTC)
        content = content_of(message, moment, expiration=self._options.expiration)
        mandatory = not route.exchange or bool(message.properties.get("mandatory"))
        if message.eta is not None and (seconds := message.eta.timestamp() - now) > _SOON:
            if self._native_delay and route.exchange and seconds >= 1:
                route = delayed_route(seconds, route)
            else:
                return self._delays.parcel(self._asking(), route, seconds, content, message.body)
        return Parcel(route.exchange, route.routing_key, content, message.body, mandatory)

    def _send(self, parcels: Sequence[Parcel], *, timeout: float = _FOLLOW_UP_TIMEOUT) -> None:
        self._outlet().publish(parcels, timeout=timeout)
        self._queues.update((parcel.key, None) for parcel in parcels if parcel.mandatory and not parcel.exchange)

    # -- receiving

    def consume(self, queues: Sequence[str]) -> None:
        self._check_open()
        names = tuple(dict.fromkeys(queues))
        link = self._asking(heartbeat=True)
        for name in names:
            self._ensure(link, name)
        for record in self._taps.leave(link, [name for name in self._consumed if name not in names]):
            link.send(amqp.nack(CHANNEL, record.number))
        self._consumed = names
        self._doorbell.listen(link.fileno())
        self._doorbell.ring()

    def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Turn:
        self._check_open()
        link = self._receiving()
        refused: list[Lease] = []
        try:
            self._look(link)
            if settlements:
                refused = self._settle(link, settlements)
            deliveries = () if claim is None else self._claim(link, claim)
            link.keep_alive()
        except ChannelClosed as exc:
            raise link.lost_channel(exc) from exc
        except PublishTimeout as exc:
            link.drop()  # nothing is acknowledged: it all comes again
            raise BrokerUnavailable(f"{exc} What they belong to is done again.") from exc
        return Turn(refused=tuple(refused), deliveries=deliveries)

    def renew(self, leases: Sequence[Lease], lease: float) -> tuple[Lease, ...]:
        self._check_open()
        link = self._receiving()
        lost: list[Lease] = []
        now = time.monotonic()
        old: list[Held] = []
        try:
            self._look(link)
            for each in leases:
                record = self._taps.held.get(each.tag)
                if record is not None and record.token == each.token:
                    if now - record.since >= self._options.hold:
                        old.append(record)
                elif not self._leases.renew(each, link, self._outlet(), now):
                    lost.append(each)
            if old:
                self._lease(link, old)
            if (self._taps.leftover or self._taps.soon) and now - self._taps.claimed_at > 1.0:
                self._give_back_leftover(link, 0)
            link.keep_alive()
        except ChannelClosed as exc:
            raise link.lost_channel(exc) from exc
        except PublishTimeout as exc:
            link.drop()
            raise BrokerUnavailable(str(exc)) from exc
        return tuple(lost)

    def fileno(self) -> int:
        self._check_open()
        if self._consumed:
            link = self._receiving()
            if link.inbox or self._taps.leftover:  # it came while we waited for something else
                self._doorbell.ring()
        return self._doorbell.fileno()

    def next_due(self) -> float | None:
        self._check_open()
        due = self._taps.next_due()
        return None if due is None else max(0.0, due - self._clock())

    # -- settling

    def _settle(self, link: Link, settlements: Sequence[Settlement]) -> list[Lease]:
        """Publish what follows, wait for its confirms, then end the deliveries."""
        refused: list[Lease] = []
        parcels: list[Parcel] = []
        done: list[int] = []
        back: list[int] = []
        leased: list[Lease] = []
        seen: set[Lease] = set()
        for settlement in settlements:
            lease = settlement.lease
            parcels += [self._parcel(each) for each in settlement.follow_ups]
            if lease is None:
                continue
            record = self._taps.held.get(lease.tag)
            if record is None or record.token != lease.token:
                record = None if lease in seen else self._leases.find(lease, link)
                if record is not None:
                    leased.append(lease)
            if record is None or lease in seen:
                refused.append(lease)
                if settlement.follow_ups:
                    del parcels[-len(settlement.follow_ups) :]
                continue
            seen.add(lease)
            way = self._way_back(record, settlement.verdict)
            if way is not None:
                parcels.append(way)
            if lease in leased:
                continue
            if way is None and not isinstance(settlement.verdict, Done):
                self._given_back.append(record.arrival.message.id)
                back.append(record.number)
            else:
                done.append(record.number)
        if parcels:
            self._send(parcels)
        frames = self._taps.end(done, back)
        if frames:
            link.send(frames)
        return refused + [lease for lease in leased if not self._leases.end(lease, link)]

    def _way_back(self, record: Held, verdict: Done | Release | Bury) -> Parcel | None:
        """Return what is to be published for *verdict*; None = the delivery itself says it."""
        arrival, incoming = record.arrival, record.incoming
        message, notes = arrival.message, arrival.notes
        match verdict:
            case Bury(reason=reason, evidence=evidence):
                crashes = max(notes.crashes, record.crashes)
                lines = notes.evidence + ((evidence,) if evidence else ())
                return self._graves.parcel(record, reason=reason, evidence=lines, crashes=crashes)
            case Release(delay=delay, counted=counted, evidence=evidence, front=front):
                if front and not counted and delay <= 0 and not record.leased:
                    return None
                notes = self._taps.notes_of(record)
                if counted:
                    notes = with_crash(notes, evidence)
                else:
                    self._given_back.append(message.id)
                content = copy_of(incoming.properties, notes)
                if delay > 0:
                    way = Route("", record.queue)
                    return self._delays.parcel(self._asking(), way, delay, content, incoming.body, late=True)
                return Parcel("", record.queue, content, incoming.body, mandatory=True)
            case _:
                return None

    # -- claiming

    def _claim(self, link: Link, claim: Claim) -> tuple[Delivery, ...]:
        self._owner = claim.owner
        if not self._consumed:
            self._doorbell.rest()
            return ()
        self._steer(link)
        limit = max(0, claim.limit)
        soon = self._taps.soon
        found = self._take(link, limit)
        # Where what came is only due soon, more of that kind is behind it, and what is due behind that.
        soon = self._taps.soon - soon
        wish = limit - len(found) + (min(soon * 2, _MOST_MORE) if limit and soon > 0 else 0)
        # Who takes many at once and gets them has short tasks: the next ones come while these run (benchmarks: drain).
        ahead = limit if limit >= _MANY <= self._brought else 0
        self._taps.adjust(link, wish + ahead, self._open_queues())
        if limit and not found:
            self._ask_for_all(link)
            found = self._take(link, limit)
        self._brought = len(found)
        self._taps.wish = wish = limit - len(found) + ahead
        if wish <= 0:
            self._taps.adjust(link, 0, self._consumed)
        if len(found) >= limit:
            self._give_back_leftover(link, max(len(self._consumed), limit))
            self._doorbell.ring()
        else:
            self._doorbell.rest()
        return tuple(found)

    def _open_queues(self) -> list[str]:
        return [name for name in self._consumed if name not in self._steering.paused]

    def _ask_for_all(self, link: Link) -> None:
        """Wait until what the queues have sent us has arrived.

        The queues answer behind what they have sent, and the channel of the deliveries answers behind that.
        """
        names = self._open_queues()
        for name in names:  # on the same channel, so that it is behind the opening of our consumers
            link.call(CHANNEL, "queue.declare", 0, name, True, False, False, False, False, {})
        if names:
            link.call(CHANNEL, "channel.flow", True)
        self._look(link)

    def _take(self, link: Link, limit: int) -> list[Delivery]:
        """Return at most *limit* deliveries that have come; what is not due yet is sent on its way again."""
        found: list[Delivery] = []
        early: list[Held] = []
        now = self._clock()
        revoked = self._steering.revoked
        self._taps.ripen(now)
        while len(found) < limit and (record := self._taps.next()) is not None:
            arrival = self._read(record)
            message = arrival.message
            if message.eta is not None and (seconds := message.eta.timestamp() - now) > _SOON and not arrival.invalid:
                if seconds <= _SHORTLY and self._taps.soon < _MOST_SOON:
                    self._taps.wait(record, message.eta.timestamp())
                else:
                    early.append(record)
                continue
            self._token += 1
            record.token = self._token
            self._taps.held[record.tag] = record
            found.append(
                Delivery(
                    message=message,
                    queue=record.queue,
                    route=arrival.route,
                    tag=record.tag,
                    token=record.token,
                    crashes=record.crashes,
                    redelivered=record.redelivered,
                    revoked=bool(revoked) and self._steering.is_revoked(message.id),
                    expired=message.expires is not None and message.expires.timestamp() <= now,
                    invalid=arrival.invalid,
                    since=arrival.since,
                )
            )
        if early:
            self._send_on(link, early, now)
        return found

    def _read(self, record: Held) -> Arrival:
        """Read what came, once it is looked at, and judge how often it has crashed."""
        incoming = record.incoming
        arrival = record.arrival = read(incoming, record.queue, self._reader, plain=record.queue in self._plain)
        redelivered = bool(incoming.arguments[2])
        ours = redelivered and arrival.message.id in self._given_back
        record.redelivered = redelivered or arrival.notes.crashes > 0
        if ours:
            record.crashes = arrival.notes.crashes
        else:
            record.crashes = arrival.notes.crashes + max(arrival.deliveries, int(redelivered))
        return arrival

    def _send_on(self, link: Link, early: list[Held], now: float) -> None:
        """Give what is not due back to the broker's clock."""
        parcels = []
        for record in early:
            eta = record.arrival.message.eta
            assert eta is not None
            content = copy_of(record.incoming.properties, self._taps.notes_of(record))
            parcels.append(
                self._delays.parcel(
                    self._asking(), Route("", record.queue), eta.timestamp() - now, content, record.incoming.body
                )
            )
        self._send(parcels)
        link.send(self._taps.end([record.number for record in early], []))

    def _lease(self, link: Link, records: list[Held]) -> None:
        """Move what is held for long into lease queues: no timeout and no lost connection gives it to another then."""
        parcels = [self._leases.parcel(link, record, self._owner, self._taps.notes_of(record)) for record in records]
        self._send(parcels)
        link.send(self._taps.end([record.number for record in records], []))
        self._leases.add(records, parcels)

    def _give_back_leftover(self, link: Link, keep: int) -> None:
        frames = self._taps.give_back(keep)
        if frames:
            link.send(frames)

    # -- exchanges and queues

    def declare(self, topology: Topology) -> None:
        self._check_open()
        link = self._asking()
        for exchange in topology.exchanges.values():
            self._declare_exchange(link, exchange)
        for queue in topology.queues.values():
            self._declare_queue(link, queue)
        for binding in topology.bindings:
            what = "exchange.bind" if binding.to_exchange else "queue.bind"
            arguments = (0, binding.destination, binding.source, binding.routing_key, False, binding.arguments)
            self._do(link, f"binding {binding.destination!r} to exchange {binding.source!r}", what, *arguments)
        if any(queue.queue_type == "quorum" for queue in topology.queues.values()) and not self._native_delay:
            self._declare_native_delay(topology)

    def _declare_exchange(self, link: Link, exchange: Exchange) -> None:
        flags = (False, exchange.durable, exchange.auto_delete, False, False)
        self._do(
            link,
            f"declaring exchange {exchange.name!r}",
            *("exchange.declare", 0, exchange.name, exchange.type, *flags, exchange.arguments),
        )

    def _declare_queue(self, link: Link, queue: QueueSpec) -> None:
        flags = (False, queue.durable, queue.exclusive, queue.auto_delete, False)
        hint = " Declare it as it is there ('task_queues'), or delete it there first"
        what = f"declaring queue {queue.name!r}"
        self._do(link, what, "queue.declare", 0, queue.name, *flags, queue.amqp_arguments, hint=hint)
        self._queues[queue.name] = None
        if queue.exclusive or queue.auto_delete:
            self._plain.add(queue.name)
            self._taps.kept.add(queue.name)

    def _declare_native_delay(self, topology: Topology) -> None:
        """Declare what Celery's clients delay through, and lead it to these queues (PRT-149 to 153)."""
        parts = [delay_topology(self._options.delay_queue_type)]
        for binding in topology.bindings:
            exchange = topology.exchanges.get(binding.source)
            if exchange is not None and exchange.type != "direct" and not binding.to_exchange:
                parts.append(target_topology(binding.source, binding.destination, binding.routing_key))
        self._native_delay = True
        if len(parts) > 1:
            self.declare(Topology.of(*parts))

    def sizes(self, queues: Iterable[str] | None = None) -> dict[str, QueueSize]:
        self._check_open()
        link = self._asking()
        names = [name for name in self._queues if not name.startswith("umbel.")] if queues is None else list(queues)
        counts = {name: ready for name in names if (ready := self._count(link, name)) is not None}
        if link.has_channel(CHANNEL):  # what was sent to us and has not arrived
            link.call(CHANNEL, "channel.flow", True)
            self._look(link)
        found: dict[str, QueueSize] = {}
        for name, ready in counts.items():
            held = sum(record.queue == name for record in self._taps.held.values())
            due, soon = self._taps.waiting(name)
            found[name] = QueueSize(ready=ready + due, delayed=soon, claimed=held)
        return found

    def purge(self, queue: str) -> int:
        self._check_open()
        link = self._asking()
        waiting = self._taps.drain(queue)
        if waiting:
            link.send(self._taps.end([record.number for record in waiting], []))
        try:
            (count,) = link.call(_ASK, "queue.purge", 0, queue, False).arguments
        except ChannelClosed as exc:
            if exc.code == 404:
                return 0
            raise refusal(link.address, exc, f"purging queue {queue!r}") from exc
        return int(count) + len(waiting)

    def _count(self, link: Link, queue: str) -> int | None:
        """Return how many messages are ready in *queue*; None = there is no such queue."""
        try:
            _, ready, _ = link.call(_ASK, "queue.declare", 0, queue, True, False, False, False, False, {}).arguments
        except ChannelClosed as exc:
            if exc.code == 404:
                self._queues.pop(queue, None)
                return None
            if exc.code == 405:  # exclusive to another connection: there, but not for us
                return None
            raise refusal(link.address, exc, f"looking at queue {queue!r}") from exc
        return int(ready)

    def _ensure(self, link: Link, queue: str) -> None:
        if self._count(link, queue) is None:
            self._declare_queue(link, QueueSpec(queue))
        self._queues[queue] = None

    def _do(self, link: Link, what: str, method: str, *arguments: Any, hint: str = "") -> None:
        try:
            link.call(_ASK, method, *arguments)
        except ChannelClosed as exc:
            raise refusal(link.address, exc, what + ("." + hint if hint and exc.code == 406 else "")) from exc

    # -- steering

    def pause(self, queue: str) -> None:
        self._check_open()
        self._steering.pause(self._asking(), self._outlet(), queue)

    def resume(self, queue: str) -> None:
        self._check_open()
        self._steering.resume(self._asking(), self._outlet(), queue)

    def paused(self) -> frozenset[str]:
        self._check_open()
        return self._steering.read_paused(self._asking())

    def revoke(self, ids: Iterable[str], *, expires: float = 10800.0 * 8) -> None:
        self._check_open()
        self._steering.revoke(self._asking(), self._outlet(), list(ids), expires)

    def revoked(self) -> frozenset[str]:
        self._check_open()
        return self._steering.read_revoked(self._asking())

    def _steer(self, link: Link) -> None:
        """Hear what is paused and revoked, from now on and of old; let go of what is paused now."""
        self._steering.begin(link)
        if self._steering.changed:
            self._steering.changed = False
            for record in self._taps.leave(link, [name for name in self._consumed if name in self._steering.paused]):
                self._given_back.append(read(record.incoming, record.queue, self._reader, plain=True).message.id)
                link.send(amqp.nack(CHANNEL, record.number))

    # -- the dead-letter set

    def dead(self, *, limit: int = 100, after: int | str | None = None) -> list[DeadLetter]:
        self._check_open()
        return self._graves.read(self._asking(), self._reader, limit=limit, after=after)

    def find_dead(self, task_id: str) -> DeadLetter | None:
        self._check_open()
        return self._graves.find(self._asking(), self._reader, task_id)

    def revive(self, ids: Iterable[str]) -> int:
        self._check_open()
        return self._graves.take(self._asking(), self._reader, ids, self._send)

    def discard(self, ids: Iterable[str]) -> int:
        self._check_open()
        return self._graves.take(self._asking(), self._reader, ids, None)

    # -- links

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this broker is closed: open another one")
        if self._pid != os.getpid():
            raise RuntimeError("this broker was opened before a fork: open another one in the child")

    def _asking(self, *, heartbeat: bool = False) -> Link:
        link = self._link
        if link is None or link.closed or (not self._consumed and not self._taps.held and link.is_stale()):
            if link is not None and self._consumed:
                raise BrokerUnavailable(f"{link.address}: the connection is lost")
            link = self._link = connect(self._dialling, heartbeat=heartbeat)
            if self._out is not None and self._out.link.closed:
                self._out = None
        return link

    def _receiving(self) -> Link:
        link = self._asking(heartbeat=True)
        if not link.has_channel(CHANNEL):
            link.call(CHANNEL, "basic.qos", 0, 1, False)
        return link

    def _outlet(self) -> Outlet:
        out = self._out
        if out is None or (out.link is not self._link and out.link.is_stale()) or out.link.closed:
            link = connect(self._dialling, heartbeat=False) if self._consumed else self._asking()
            out = self._out = Outlet(link, confirm=self._options.confirm)
        elif out.link is self._link and not self._consumed:
            link = self._asking()  # looks whether it is stale
            if link is not out.link:
                out = self._out = Outlet(link, confirm=self._options.confirm)
        return out

    def _look(self, link: Link) -> None:
        """Take what came in."""
        link.receive()
        while link.inbox:
            incoming = link.inbox.popleft()
            if incoming.name == "basic.deliver":
                if incoming.arguments[0] == self._steering.tag:
                    self._steering.hear(incoming)
                else:
                    self._taps.put(incoming)
            elif incoming.name == "basic.cancel" and (queue := self._taps.queue_of(str(incoming.arguments[0]))):
                link.drop()
                raise BrokerUnavailable(f"{link.address} ended our consumer: queue {queue!r} was deleted, or moves")

    # -- ending

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for link in (self._link, self._out.link if self._out is not None else None):
            if link is not None:
                link.close()
        self._doorbell.close()
