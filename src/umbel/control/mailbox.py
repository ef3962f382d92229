"""Send commands to nodes and collect their replies: the client's side of remote control."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from umbel.brokers.base import Broker, Publication
from umbel.brokers.listener import Listener
from umbel.exceptions import CeleryError
from umbel.wire.codecs import Codecs
from umbel.wire.command import Command, command_message, node_mailbox, read_reply, reply_mailbox
from umbel.wire.message import Route
from umbel.wire.topology import Exchange, Topology

__all__ = ["Mailbox", "PostOffice"]

_LOOK: Final = 0.2  # seconds: a client waits for so short a time that a missed wake-up would be noticed


class PostOffice(msgspec.Struct, frozen=True, kw_only=True):
    """How commands travel in one application; the same for clients and nodes."""

    codecs: Codecs
    accept: Collection[str] | None  # content types that are read
    serializer: str = "json"
    namespace: str = "celery"  # of the exchanges
    queue_expires: float | None = 10.0  # seconds until a mailbox that nobody reads is dropped
    queue_ttl: float | None = 300.0  # seconds a command or reply waits at most
    exclusive: bool = True
    durable: bool = False

    @property
    def exchange(self) -> Topology:
        """Where commands go."""
        return Topology.of(Exchange(f"{self.namespace}.pidbox", "fanout", durable=False))

    def of_node(self, node: str) -> Topology:
        """Return where *node* gets its commands."""
        return node_mailbox(node, namespace=self.namespace, **self._queues())

    def of_client(self, oid: str) -> Topology:
        """Return where the client *oid* gets replies."""
        return reply_mailbox(oid, namespace=self.namespace, **self._queues())

    def publication(self, command: Command) -> Publication:
        """Return the message of *command* and its way to all nodes."""
        message, route = command_message(
            command, codecs=self.codecs, serializer=self.serializer, namespace=self.namespace
        )
        return Publication(message=message, route=route)

    def _queues(self) -> dict[str, Any]:
        names = ("queue_expires", "queue_ttl", "exclusive", "durable")
        return {name: getattr(self, name) for name in names}


class Mailbox:
    """Asks nodes over *broker*, which serves nothing else meanwhile."""

    def __init__(self, office: PostOffice, broker: Broker, *, oid: str, hear_clock: Callable[[int], object]) -> None:
        """Take the id *oid* that names where replies go; *hear_clock* is told the clocks of those who answer."""
        self._office = office
        self._broker = broker
        self._oid = oid
        self._hear_clock = hear_clock

    def ask(
        self,
        command: Command,
        *,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
    ) -> list[dict[str, Any]]:
        """Return what nodes answered to *command* (which has a ticket): one dict of {node: value} each.

        Ends when there are *limit* answers, or none came for *timeout* seconds. The *callback* gets each at once.

        Raises:
            BrokerUnavailable: the broker is gone.
        """
        office = self._office
        listener = Listener(
            self._broker, office.of_client(self._oid).merge(office.exchange), owner=self._oid, look=_LOOK
        )
        try:
            route = Route(f"reply.{office.namespace}.pidbox", self._oid)
            self._broker.publish([office.publication(msgspec.structs.replace(command, reply_to=route))])
            return self._collect(listener, command.ticket, timeout, limit, callback)
        finally:
            listener.close()

    def _collect(
        self,
        listener: Listener,
        ticket: str | None,
        timeout: float | None,
        limit: int | None,
        callback: Callable[[dict[str, Any]], object] | None,
    ) -> list[dict[str, Any]]:
        replies: list[dict[str, Any]] = []
        while limit is None or len(replies) < limit:
            messages = listener.hear(timeout)
            if not messages:
                break
            for message in messages:
                try:
                    reply = read_reply(message, codecs=self._office.codecs, accept=self._office.accept)
                except CeleryError:
                    continue  # no reply at all
                self._hear_clock(reply.clock)
                if reply.ticket != ticket or (reply.expires and reply.expires < time.time()):
                    continue  # an answer to an older question
                replies.append(reply.values)
                if callback is not None:
                    callback(reply.values)
        return replies if limit is None else replies[:limit]
