"""Remote control: commands to nodes, the replies to them, and their mailboxes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from umbel._repr import safe_repr
from umbel.exceptions import InvalidMessage
from umbel.wire.codecs import Codecs
from umbel.wire.message import Message, Route
from umbel.wire.protocol import decode_value
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology

__all__ = [
    "Command",
    "Reply",
    "command_message",
    "is_for",
    "node_mailbox",
    "read_command",
    "read_reply",
    "reply_mailbox",
    "reply_message",
]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Something that nodes are asked to do (PRT-235 to 238)."""

    method: str  # the command's name
    arguments: dict[str, Any] = {}
    destination: list[str] | None = None  # node names; None = see pattern
    pattern: str | None = None  # of node names; None = all nodes
    matcher: str | None = None  # how to read the pattern: "glob", "pcre"; None = compare
    ticket: str | None = None  # names the question in its replies; None = no reply wanted
    reply_to: Route | None = None
    clock: int = 0  # Lamport
    expires: float = 0.0  # unix seconds; 0 = never. Nodes do not look at it, their queue's TTL does that work


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What nodes answered to one ticket (PRT-239 to 241)."""

    values: dict[str, Any]  # node -> {"ok": …}, {"error": repr}, or bare data for what only inspects
    ticket: str | None = None
    clock: int = 0
    expires: float | None = None  # unix seconds; a client ignores it afterwards


def command_message(
    command: Command, *, codecs: Codecs, serializer: str = "json", namespace: str = "celery"
) -> tuple[Message, Route]:
    """Return *command* as a plain message, and its way to all nodes."""
    body: dict[str, Any] = {
        "method": command.method,
        "arguments": command.arguments,
        "destination": command.destination,
        "pattern": command.pattern,
        "matcher": command.matcher,
    }
    if command.ticket is not None and command.reply_to is not None:
        body["ticket"] = command.ticket
        body["reply_to"] = {
            "exchange": command.reply_to.exchange,
            "routing_key": command.reply_to.routing_key,
        }
    headers = {"clock": command.clock, "expires": command.expires}
    return _plain(body, headers, 2, codecs, serializer), Route(f"{namespace}.pidbox", "")


def reply_message(reply: Reply, to: Route, *, codecs: Codecs, serializer: str = "json") -> tuple[Message, Route]:
    """Return *reply* as a plain message, and its way: where the command said (PRT-239)."""
    return _plain(reply.values, {"ticket": reply.ticket, "clock": reply.clock}, 1, codecs, serializer), to


def read_command(message: Message, *, codecs: Codecs, accept: Collection[str] | None) -> Command:
    """Return the command in a plain message.

    Raises:
        InvalidMessage: it holds none.
        ContentDisallowed: its content type is not in *accept*.
        DecodeError: its bytes are damaged.
    """
    body = decode_value(message, codecs=codecs, accept=accept)
    try:
        call = msgspec.convert(body, _Call)
        head = msgspec.convert(message.headers, _Head)
    except msgspec.ValidationError as exc:
        raise InvalidMessage(f"no command: {exc} in {safe_repr(body, maxlen=200)}") from exc
    address = call.reply_to
    return Command(
        method=call.method,
        arguments=call.arguments or {},
        destination=call.destination,
        pattern=call.pattern,
        matcher=call.matcher,
        ticket=call.ticket,
        reply_to=None if address is None else Route(address.exchange or "", address.routing_key or ""),
        clock=int(head.clock or 0),
        expires=head.expires or 0.0,
    )


def read_reply(message: Message, *, codecs: Codecs, accept: Collection[str] | None) -> Reply:
    """Return the reply in a plain message.

    Raises:
        InvalidMessage: it holds none.
        ContentDisallowed: its content type is not in *accept*.
        DecodeError: its bytes are damaged.
    """
    body = decode_value(message, codecs=codecs, accept=accept)
    try:
        values = msgspec.convert(body, dict[str, Any])
        head = msgspec.convert(message.headers, _Head)
    except msgspec.ValidationError as exc:
        raise InvalidMessage(f"no reply: {exc} in {safe_repr(body, maxlen=200)}") from exc
    return Reply(values=values, ticket=head.ticket, clock=int(head.clock or 0), expires=head.expires)


def is_for(command: Command, node: str) -> bool:
    """Tell whether *node* is meant: named in the destination, or matched by the pattern, or everybody is (PRT-238).

    Raises:
        InvalidMessage: the pattern cannot be read, or its kind is unknown.
    """
    if command.destination:
        return node in command.destination
    if not command.pattern:
        return True
    match command.matcher:
        case None | "":
            return command.pattern == node
        case "glob":
            return fnmatchcase(node, command.pattern)
        case "pcre":
            try:
                return re.match(command.pattern, node) is not None
            except re.error as exc:
                raise InvalidMessage(f"command {command.method!r} with a bad pattern: {exc}") from exc
    raise InvalidMessage(f"command {command.method!r} with the unknown matcher {command.matcher!r}; use glob or pcre")


def node_mailbox(
    node: str,
    *,
    namespace: str = "celery",
    queue_expires: float | None = 10.0,
    queue_ttl: float | None = 300.0,
    exclusive: bool = True,
    durable: bool = False,
) -> Topology:
    """Return where *node* gets its commands (PRT-141). Durations are seconds."""
    exchange = f"{namespace}.pidbox"
    queue = _mailbox(f"{node}.{exchange}", queue_expires, queue_ttl, exclusive=exclusive, durable=durable)
    return Topology.of(Exchange(exchange, "fanout", durable=False), queue, Binding(exchange, queue.name))


def reply_mailbox(
    owner: str,
    *,
    namespace: str = "celery",
    queue_expires: float | None = 10.0,
    queue_ttl: float | None = 300.0,
    exclusive: bool = True,
    durable: bool = False,
) -> Topology:
    """Return where the client with the id *owner* gets replies: `Route("reply.celery.pidbox", owner)` (PRT-142)."""
    exchange = f"reply.{namespace}.pidbox"
    queue = _mailbox(f"{owner}.{exchange}", queue_expires, queue_ttl, exclusive=exclusive, durable=durable)
    return Topology.of(Exchange(exchange, "direct", durable=False), queue, Binding(exchange, queue.name, owner))


class _Address(msgspec.Struct):
    exchange: str | None = None
    routing_key: str | None = None


class _Call(msgspec.Struct):
    method: str
    arguments: dict[str, Any] | None = None
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: str | None = None
    reply_to: _Address | None = None


class _Head(msgspec.Struct):
    clock: float | int | None = None
    expires: float | None = None
    ticket: str | None = None


def _plain(
    body: Mapping[str, Any], headers: dict[str, Any], delivery_mode: int, codecs: Codecs, serializer: str
) -> Message:
    encoded = codecs.encode(body, serializer)
    return Message(
        id="",
        task="",
        body=encoded.body,
        content_type=encoded.content_type,
        content_encoding=encoded.content_encoding,
        headers=headers,
        delivery_mode=delivery_mode,
    )


def _mailbox(name: str, expires: float | None, ttl: float | None, *, exclusive: bool, durable: bool) -> QueueSpec:
    return QueueSpec(name, durable=durable, exclusive=exclusive, auto_delete=True, expires=expires, message_ttl=ttl)
