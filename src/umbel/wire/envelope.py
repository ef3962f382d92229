"""The JSON envelope in which every broker that is not AMQP stores a message, as kombu's virtual transports write it."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from umbel.exceptions import InvalidMessage
from umbel.wire.extended_json import ExtendedJson
from umbel.wire.message import Message, Route
from umbel.wire.protocol import Received, headers_of, properties_of

__all__ = ["Envelope", "Envelopes"]


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A message with what its envelope says about its way."""

    message: Message
    route: Route
    delivery_tag: str  # "" when the peer gave none
    redelivered: bool


class Envelopes:
    """Write and read envelopes (PRT-118)."""

    def __init__(self, json: ExtendedJson) -> None:
        """Take the *json* of the application's codecs: headers may hold extended types."""
        self._json = json

    def encode(self, message: Message, route: Route, *, delivery_tag: str, now: datetime) -> bytes:
        """Return the envelope of *message*; the *delivery_tag* must be unique at its broker.

        Raises:
            TypeError: a header or property cannot travel as JSON.
        """
        properties = properties_of(message, now)
        properties["delivery_info"] = {"exchange": route.exchange, "routing_key": route.routing_key}
        properties["priority"] = message.priority or 0
        properties["body_encoding"] = "base64"
        properties["delivery_tag"] = delivery_tag
        return self._json.encode(
            {
                "body": b2a_base64(message.body, newline=False).decode("ascii"),
                "content-encoding": message.content_encoding,
                "content-type": message.content_type,
                "headers": headers_of(message),
                "properties": properties,
            }
        )

    def decode(self, data: bytes | str, read: Callable[[Received], Message]) -> Envelope:
        """Return what an envelope holds; *read* is `MessageReader.read` or `read_plain`.

        Raises:
            InvalidMessage: it is no envelope, or *read* finds no message in it.
        """
        envelope = self._open(data)
        properties = envelope.properties
        try:
            info = msgspec.convert(properties.get("delivery_info") or {}, _DeliveryInfo)
            encoding = properties.get("body_encoding")
            body = a2b_base64(envelope.body) if encoding == "base64" else envelope.body.encode()
        except (msgspec.ValidationError, ValueError) as exc:
            raise InvalidMessage(f"no message: {exc}") from exc
        headers = envelope.headers
        received = Received(headers, properties, body, envelope.content_type, envelope.content_encoding)
        return Envelope(
            read(received),
            Route(info.exchange or "", info.routing_key or ""),
            str(properties.get("delivery_tag") or ""),
            bool(info.redelivered or (headers and headers.get("redelivered"))),
        )

    def mark_redelivered(self, data: bytes | str) -> bytes:
        """Return the envelope as peers put it back into its queue: marked as delivered before (PRT-126).

        Raises:
            InvalidMessage: it is no envelope.
        """
        envelope = self._open(data)
        info = envelope.properties.get("delivery_info")
        return self._json.encode(
            {
                "body": envelope.body,
                "content-encoding": envelope.content_encoding,
                "content-type": envelope.content_type,
                "headers": {**(envelope.headers or {}), "redelivered": True},
                "properties": {
                    **envelope.properties,
                    "delivery_info": {**(info if isinstance(info, dict) else {}), "redelivered": True},
                },
            }
        )

    def _open(self, data: bytes | str) -> _Envelope:
        try:
            if _MARK not in data if isinstance(data, bytes) else _MARK.decode() not in data:
                return _DECODER.decode(data)
        except msgspec.ValidationError as exc:
            raise InvalidMessage(f"no message: {exc} in {data!r:.200}") from exc
        except (msgspec.DecodeError, UnicodeError):
            pass  # perhaps what only Python's own JSON reads, such as NaN
        try:
            return msgspec.convert(self._json.decode(data), _Envelope)
        except Exception as exc:  # a user's decoder of an extended type may raise anything
            raise InvalidMessage(f"no message: {exc} in {data!r:.200}") from exc


class _Envelope(
    msgspec.Struct, rename={"content_encoding": "content-encoding", "content_type": "content-type"}, gc=False
):
    body: str
    headers: dict[str, Any] | None = None
    properties: dict[str, Any] = {}
    content_encoding: str | None = None
    content_type: str | None = None


class _DeliveryInfo(msgspec.Struct, gc=False):
    exchange: str | None = None
    routing_key: str | None = None
    redelivered: bool | None = None


_DECODER: Final = msgspec.json.Decoder(_Envelope)
_MARK: Final = b'"__type__"'
