"""Turn messages into AMQP content as kombu writes it, and back; with a header of our own only where we need one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from umbel.brokers.base import DeadLetter
from umbel.exceptions import InvalidMessage
from umbel.wire.amqp import Incoming, decode_properties, encode_properties
from umbel.wire.message import Message, Route
from umbel.wire.protocol import MessageReader, Received, headers_of, properties_of, read_plain

__all__ = ["Arrival", "Notes", "as_letter", "content_of", "copy_of", "letter_content", "read", "revived", "with_crash"]

_OURS: Final = "umbel"  # the header that holds `Notes` or a dead letter's evidence
_LEASE: Final = "umbel.lease."  # what the queues begin with through which a lost long task comes back
_EVIDENCE_LIMIT: Final = 100  # lines kept of one message's crashes


class Notes(msgspec.Struct, frozen=True, kw_only=True):
    """What we must remember of a message that we put back into a queue, and its bytes do not say."""

    exchange: str | None = None  # its route, which the way back has changed
    key: str = ""
    crashes: int = 0
    evidence: tuple[str, ...] = ()  # a line for each crash, the newest at the end
    owner: str = ""  # whose lease it is under
    token: int = 0  # of that lease
    queue: str = ""  # where it came from


class Arrival(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message that came in, read as far as it can be."""

    message: Message
    route: Route
    notes: Notes
    invalid: str | None
    deliveries: int  # as a quorum queue counts those before


def content_of(message: Message, now: datetime, *, expiration: bool) -> bytes:
    """Return the content header of *message* (PRT-001 to 030).

    Without *expiration* an expired message stays, so that a worker can say so, instead of vanishing in silence.

    Raises:
        TypeError: a header or property cannot travel over AMQP.
    """
    properties = properties_of(message, now)
    if message.expires is not None and not expiration and "expiration" not in message.properties:
        del properties["expiration"]
    properties["content_type"] = message.content_type
    properties["content_encoding"] = message.content_encoding
    properties["headers"] = headers_of(message)
    properties["priority"] = message.priority
    return encode_properties(properties)


def copy_of(content: bytes, notes: Notes) -> bytes:
    """Return the content header *content* with *notes* in it, and without the broker's own remarks."""
    properties = _readable(content)
    headers = properties.get("headers") or {}
    properties["headers"] = {**_without_remarks(headers), _OURS: msgspec.to_builtins(notes)}
    properties.pop("expiration", None)  # it has been counted from the first publish
    return encode_properties(properties)


def read(incoming: Incoming, queue: str, reader: MessageReader, *, plain: bool) -> Arrival:
    """Return the message that came from *queue*; a *plain* queue may hold more than tasks.

    What cannot be read is a stand-in with a reason.
    """
    *_, exchange, key = incoming.arguments[:5]
    route = Route(exchange, key)
    notes, deliveries = _NO_NOTES, 0
    try:
        properties = decode_properties(incoming.properties)
        headers = properties.pop("headers", None)
        if headers is not None and not _REMARKS.isdisjoint(headers):
            notes, deliveries = _notes(headers)
            headers = _without_remarks(headers)
        if notes.exchange is not None:
            route = Route(notes.exchange, notes.key)
        content_type = properties.pop("content_type", None)
        encoding = properties.pop("content_encoding", None)
        received = Received(headers or {}, properties, incoming.body, content_type, encoding)
        if plain and (headers is None or "task" not in headers):
            message = read_plain(received)
        else:
            message = reader.read(received)
    except InvalidMessage as exc:
        stand_in = Message(id="", task="", body=incoming.body)
        return Arrival(message=stand_in, route=route, notes=notes, invalid=str(exc) or repr(exc), deliveries=deliveries)
    return Arrival(message=message, route=route, notes=notes, invalid=None, deliveries=deliveries)


_NO_NOTES: Final = Notes()
_REMARKS: Final = frozenset(
    (
        *(_OURS, "x-death", "x-delivery-count", "x-acquired-count"),
        *(f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")),
    )
)


def _without_remarks(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name not in _REMARKS}


def _notes(headers: Mapping[str, Any]) -> tuple[Notes, int]:
    try:
        notes = msgspec.convert(headers.get(_OURS) or {}, Notes)
    except msgspec.ValidationError:
        notes = _NO_NOTES  # somebody else's header of that name
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    if str(last.get("queue", "")).startswith(_LEASE):
        notes = with_crash(notes, f"lost by {notes.owner}: its lease was not renewed")
    count = headers.get("x-delivery-count")
    return notes, count if isinstance(count, int) else 0


def with_crash(notes: Notes, evidence: str) -> Notes:
    """Return *notes* with one crash more."""
    lines = (*notes.evidence, evidence)[-_EVIDENCE_LIMIT:]
    return msgspec.structs.replace(notes, crashes=notes.crashes + 1, evidence=lines)


# -- Dead letters ------------------------------------------------------------------------------------------------------


class _Grave(msgspec.Struct, frozen=True, kw_only=True):
    tag: str
    id: str
    task: str
    queue: str
    exchange: str = ""
    key: str = ""
    reason: str
    evidence: tuple[str, ...] = ()
    crashes: int = 0
    died_at: float = 0.0


def letter_content(content: bytes, letter: DeadLetter, route: Route) -> bytes:
    """Return the content header *content* with the evidence of its death in it."""
    properties = _readable(content)
    grave = _Grave(
        tag=str(letter.tag),
        id=letter.id,
        task=letter.task,
        queue=letter.queue,
        exchange=route.exchange,
        key=route.routing_key,
        reason=letter.reason,
        evidence=letter.evidence,
        crashes=letter.crashes,
        died_at=letter.died_at,
    )
    headers = _without_remarks(properties.get("headers") or {})
    properties["headers"] = {**headers, _OURS: msgspec.to_builtins(grave)}
    properties["delivery_mode"] = 2
    properties.pop("expiration", None)
    return encode_properties(properties)


def as_letter(incoming: Incoming, reader: MessageReader) -> DeadLetter:
    """Return the dead letter that came in."""
    headers = _readable(incoming.properties).get("headers") or {}
    message = read(incoming, "", reader, plain=True).message
    try:
        grave = msgspec.convert(headers.get(_OURS), _Grave)
    except msgspec.ValidationError:  # somebody else put it here, such as a dead-letter exchange
        deaths = headers.get("x-death")
        last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
        queue, reason = str(last.get("queue") or ""), str(last.get("reason") or "dead-lettered")
        grave = _Grave(tag="0", id=message.id, task=message.task, queue=queue, key=queue, reason=reason)
    return DeadLetter(
        tag=grave.tag,
        id=grave.id,
        task=grave.task,
        queue=grave.queue,
        reason=grave.reason,
        evidence=grave.evidence,
        crashes=grave.crashes,
        died_at=grave.died_at,
        message=message,
    )


def revived(incoming: Incoming) -> tuple[bytes, str]:
    """Return the content header of a dead letter as it was when it lived, and the queue to put it into."""
    properties = _readable(incoming.properties)
    headers = properties.get("headers") or {}
    grave = msgspec.convert(headers.get(_OURS), _Grave)
    properties["headers"] = _without_remarks(headers)
    if grave.reason == "expired":
        properties["headers"].pop("expires", None)
        properties.pop("expiration", None)
    if (grave.exchange, grave.key) != ("", grave.queue):
        properties["headers"][_OURS] = msgspec.to_builtins(Notes(exchange=grave.exchange, key=grave.key))
    return encode_properties(properties), grave.queue


def _readable(content: bytes) -> dict[str, Any]:
    try:
        return decode_properties(content)
    except InvalidMessage:
        return {}
