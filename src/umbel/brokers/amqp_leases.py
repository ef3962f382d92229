"""Give a long task a lease that outlives our connection: a queue of its own, from which it goes back when we die.

RabbitMQ takes a delivery back when its connection breaks, or when it is held longer than its consumer timeout. So what
is held for some seconds is copied into a queue that nobody consumes and then acknowledged. The copy's time to live is
the lease; where it runs out, the copy returns to the task's queue. To renew is to add a new copy and take out the old.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import msgspec

from umbel.brokers.amqp_link import ChannelClosed, Link, refusal
from umbel.brokers.amqp_messages import Notes, copy_of, read
from umbel.brokers.amqp_outlet import Outlet, Parcel
from umbel.brokers.amqp_taps import Held
from umbel.brokers.base import Lease
from umbel.wire import amqp
from umbel.wire.amqp import Incoming
from umbel.wire.protocol import MessageReader

__all__ = ["Leases"]

_ASK: Final = 2
_NAME: Final = "umbel.lease."
_IDLE: Final = 10  # a lease queue goes when it is unused for so many leases; it is empty then


class _Leased(msgspec.Struct):
    record: Held
    parcel: Parcel  # the copy
    since: float  # monotonic: when it was put in last


class Leases:
    """The lease queues of one worker."""

    def __init__(self, seconds: float, reader: MessageReader) -> None:
        """Let a lease last *seconds*."""
        self._seconds = seconds
        self._reader = reader
        self._held: dict[int | str, _Leased] = {}  # by tag

    def parcel(self, link: Link, record: Held, owner: str, notes: Notes) -> Parcel:
        """Return what to publish so that *record* lies in a lease queue."""
        name = f"{_NAME}{record.tag}"
        arguments = {
            "x-message-ttl": int(self._seconds * 1000),
            "x-expires": int(self._seconds * 1000 * _IDLE),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": record.queue,
        }
        try:
            link.call(_ASK, "queue.declare", 0, name, False, True, False, False, False, arguments)
        except ChannelClosed as exc:
            raise refusal(link.address, exc, f"making lease queue {name!r}") from exc
        notes = msgspec.structs.replace(notes, owner=owner, queue=record.queue, token=record.token)
        return Parcel("", name, copy_of(record.incoming.properties, notes), record.incoming.body, mandatory=True)

    def add(self, records: Iterable[Held], parcels: Iterable[Parcel]) -> None:
        """Note that these lie in their queues."""
        for record, parcel in zip(records, parcels, strict=True):
            record.leased = True
            self._held[record.tag] = _Leased(record, parcel, time.monotonic())

    def renew(self, lease: Lease, link: Link, outlet: Outlet, now: float) -> bool:
        """Hold *lease* for longer; tell whether it is still ours."""
        leased = self._find(lease, link)
        if leased is None:
            return False
        if now - leased.since < self._seconds / 3:
            return True
        outlet.publish([leased.parcel], timeout=10.0)
        # The old copy is the first. If the one we get is the last, the old had gone back before we came.
        got = self._get(lease, link, acknowledged=True)
        if got is None or not got.arguments[4]:
            del self._held[lease.tag]
            return False
        leased.since = now
        return True

    def find(self, lease: Lease, link: Link) -> Held | None:
        """Return what is held by *lease* and is still ours."""
        leased = self._find(lease, link)
        if leased is None:
            return None
        try:
            name = f"{_NAME}{lease.tag}"
            _, count, _ = link.call(_ASK, "queue.declare", 0, name, True, False, False, False, False, {}).arguments
        except ChannelClosed:
            return None
        return leased.record if count else None

    def end(self, lease: Lease, link: Link) -> bool:
        """Remove the queue of *lease*; tell whether it was still ours."""
        self._held.pop(lease.tag, None)
        (count,) = link.call(_ASK, "queue.delete", 0, f"{_NAME}{lease.tag}", False, False, False).arguments
        return bool(count)

    def _find(self, lease: Lease, link: Link) -> _Leased | None:
        leased = self._held.get(lease.tag) or self._adopt(lease, link)
        return None if leased is None or leased.record.token != lease.token else leased

    def _adopt(self, lease: Lease, link: Link) -> _Leased | None:
        """Take over a lease of ours that another connection of ours began, before it broke."""
        got = self._get(lease, link, acknowledged=False)
        if got is None:
            return None
        link.send(amqp.nack(_ASK, got.arguments[0]))
        _, redelivered, exchange, key, _ = got.arguments
        arrived = Incoming(_ASK, got.name, ("", 0, redelivered, exchange, key), got.properties, got.body)
        arrival = read(arrived, "", self._reader, plain=True)
        notes = arrival.notes
        record = Held(number=0, tag=int(lease.tag), queue=notes.queue, incoming=arrived, tap=None, arrival=arrival)
        record.token, record.crashes, record.leased = notes.token, notes.crashes, True
        parcel = Parcel("", f"{_NAME}{lease.tag}", got.properties, got.body, mandatory=True)
        self._held[lease.tag] = _Leased(record, parcel, 0.0)
        return self._held[lease.tag]

    def _get(self, lease: Lease, link: Link, *, acknowledged: bool) -> Incoming | None:
        try:
            answers = ("basic.get-ok", "basic.get-empty")
            got = link.call(_ASK, "basic.get", 0, f"{_NAME}{lease.tag}", acknowledged, answers=answers)
        except ChannelClosed:
            return None
        return got if got.name == "basic.get-ok" else None
