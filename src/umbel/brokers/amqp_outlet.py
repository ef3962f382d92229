"""Publish and know that it is stored: any number of messages, one wait for all their confirms."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from umbel.brokers.amqp_link import ChannelClosed, Link, refusal
from umbel.exceptions import BrokerFull, BrokerUnavailable, BrokerUnusable, PublishTimeout
from umbel.wire import amqp
from umbel.wire.amqp import Incoming

__all__ = ["Outlet", "Parcel"]

_CHANNEL: Final = 3
_ASK: Final = 2
_WINDOW: Final = 1 << 20  # bytes sent before looking what is confirmed


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """A message ready to be sent."""

    exchange: str
    key: str
    content: bytes  # properties, encoded
    body: bytes
    mandatory: bool = False  # somebody must take it; on the default exchange its queue is made then


class Outlet:
    """The way out over one link."""

    def __init__(self, link: Link, *, confirm: bool) -> None:
        """Without *confirm* nothing tells that a message was stored."""
        self.link = link
        self._confirm = confirm
        if not confirm:
            # RabbitMQ drops what its channel has not looked at when a connection ends without goodbye, so a process
            # that has sent and ends says it (up to two hundred of 20,000 messages were lost otherwise).
            weakref.finalize(self, link.close)
        self._sent = 0  # messages on this channel, as the server numbers them
        self._waiting: set[int] = set()  # numbers of those not yet confirmed
        self._lowest = 1  # below it none waits
        self._refused = 0
        self._known: set[str] = set()  # queues that exist, where nothing would tell us otherwise
        self._returned: list[Incoming] = []
        self._starts: dict[tuple[str, str, bool], bytes] = {}  # of frames, by route

    def publish(self, parcels: Sequence[Parcel], *, timeout: float) -> None:
        """Return when all *parcels* are stored.

        Raises:
            BrokerUnavailable: the connection was gone before anything was sent.
            BrokerFull: the server has no room, and says so.
            BrokerUnusable: there is no such exchange, or we may not publish there.
            PublishTimeout: no confirm came, and the text says of how many.
        """
        link = self.link
        if link.blocked:
            link.receive()
            if link.blocked:
                raise BrokerFull(f"{link.address}: {link.blocked}")
        until = time.monotonic() + timeout
        try:
            self._prepare(parcels)
            while parcels:
                self._send(parcels, until)
                self._await(until)
                parcels = self._made_for_returned()
        except ChannelClosed as exc:
            self._waiting.clear()
            what = f"publishing to exchange {parcels[0].exchange!r} with key {parcels[0].key!r}"
            raise refusal(link.address, exc, what) from exc
        except BrokerUnavailable as exc:
            raise PublishTimeout(
                f"{exc}. It had confirmed all but {len(self._waiting)} of {len(parcels)} messages; "
                "those may be stored or not."
            ) from exc
        if self._refused:
            count, self._refused = self._refused, 0
            raise BrokerFull(
                f"{link.address} refused {count} messages: a queue is full and has 'x-overflow' set to reject them"
            )

    def _prepare(self, parcels: Iterable[Parcel]) -> None:
        if not self.link.has_channel(_CHANNEL):
            self._sent, self._lowest = 0, 1
            self._waiting.clear()
            if self._confirm:
                self.link.call(_CHANNEL, "confirm.select", False)
            else:
                self.link.call(_CHANNEL, "basic.qos", 0, 0, False)  # opens the channel
        if not self._confirm:
            for key in {parcel.key for parcel in parcels if parcel.mandatory and not parcel.exchange} - self._known:
                self._make_queue(key)
                self._known.add(key)

    def _send(self, parcels: Iterable[Parcel], until: float) -> None:
        frame_max = self.link.frame_max
        frames: list[bytes] = []
        size = 0
        for parcel in parcels:
            frame = self._start(parcel) + amqp.content_frames(_CHANNEL, parcel.content, parcel.body, frame_max)
            self._sent += 1
            if self._confirm:
                self._waiting.add(self._sent)
            frames.append(frame)
            size += len(frame)
            if size >= _WINDOW:
                self.link.send(b"".join(frames), timeout=max(0.0, until - time.monotonic()))
                self._look(0.0)
                frames, size = [], 0
        self.link.send(b"".join(frames), timeout=max(0.0, until - time.monotonic()))

    def _start(self, parcel: Parcel) -> bytes:
        place = (parcel.exchange, parcel.key, parcel.mandatory)
        start = self._starts.get(place)
        if start is None:
            if len(self._starts) > 1000:
                self._starts.clear()
            start = amqp.method_frame(_CHANNEL, "basic.publish", 0, *place, False)
            self._starts[place] = start
        return start

    def _await(self, until: float) -> None:
        while self._waiting:
            left = until - time.monotonic()
            if left <= 0:
                count = len(self._waiting)
                self._waiting.clear()
                self.link.drop()  # late confirms must not be taken for those of other messages
                why = f" ({self.link.blocked})" if self.link.blocked else ""
                raise PublishTimeout(
                    f"{self.link.address} did not confirm {count} messages in time{why}; they may be stored or not"
                )
            self._look(left)

    def _look(self, timeout: float) -> None:
        """Read confirms and returns."""
        link = self.link
        link.receive(timeout)
        left: list[Incoming] = []
        while link.inbox:
            incoming = link.inbox.popleft()
            if incoming.channel != _CHANNEL:
                left.append(incoming)
            elif incoming.name == "basic.ack":
                self._settle(*incoming.arguments)
            elif incoming.name == "basic.nack":
                self._refused += self._settle(*incoming.arguments[:2])
            elif incoming.name == "basic.return":
                self._returned.append(incoming)
        link.inbox.extend(left)

    def _settle(self, number: int, multiple: bool) -> int:  # noqa: FBT001 - as on the wire
        if not multiple:
            self._waiting.discard(number)
            return 1
        before = len(self._waiting)
        self._waiting.difference_update(range(self._lowest, number + 1))
        self._lowest = number + 1
        return before - len(self._waiting)

    def _made_for_returned(self) -> list[Parcel]:
        """Make the queues that were missing; return what is to be sent again."""
        returned, self._returned = self._returned, []
        again: list[Parcel] = []
        for incoming in returned:
            code, text, exchange, key = incoming.arguments
            if exchange:
                raise BrokerUnusable(
                    f"{self.link.address} took a message for exchange {exchange!r} with key {key!r}, and no queue is "
                    f"bound there for it: {code} {text}"
                )
            again.append(Parcel(exchange, key, incoming.properties, incoming.body, mandatory=True))
        for key in {parcel.key for parcel in again}:
            self._make_queue(key)
        return again

    def _make_queue(self, name: str) -> None:
        try:
            self.link.call(_ASK, "queue.declare", 0, name, False, True, False, False, False, {})
        except ChannelClosed as exc:
            if exc.code != 406:  # it is there already, made in another way: good as well
                raise refusal(self.link.address, exc, f"making queue {name!r}") from exc
