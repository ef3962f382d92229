"""The JSON envelope in which every broker that is not AMQP stores a message, as kombu's virtual transports write it."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from datetime import datetime
from json.encoder import encode_basestring_ascii
from typing import Any, Final, Literal

import msgspec

from umbel._repr import safe_repr
from umbel.exceptions import InvalidMessage
from umbel.wire.extended_json import ExtendedJson
from umbel.wire.message import Message, Route
from umbel.wire.protocol import (
    MessageReader,
    Received,
    TaskHeaders,
    TaskProperties,
    headers_of,
    properties_of,
    read_plain,
)

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
        if _is_common(message):
            return _common_envelope(message, route, delivery_tag).encode("ascii")
        properties = properties_of(message, now)
        properties["delivery_info"] = {"exchange": route.exchange, "routing_key": route.routing_key}
        properties["priority"] = message.priority or 0
        properties["body_encoding"] = "base64"
        properties["delivery_tag"] = delivery_tag
        rest = self._json.encode(
            {
                "body": "",
                "content-encoding": message.content_encoding,
                "content-type": message.content_type,
                "headers": headers_of(message),
                "properties": properties,
            }
        )
        # Nothing in base64 needs to be escaped; looking for it takes twice as long as all else.
        return b"%b%b%b" % (rest[:_BEFORE_BODY], b2a_base64(message.body, newline=False), rest[_BEFORE_BODY:])

    def decode(self, data: bytes | str, reader: MessageReader | None) -> Envelope:
        """Return what an envelope holds: a task message as *reader* reads it, without one a plain message.

        Raises:
            InvalidMessage: it is no envelope, or there is no such message in it.
            ContentDisallowed: the *reader* does not accept the content type.
            DecodeError: the body, of protocol 1, is damaged.
        """
        if reader is not None and not _has_mark(data):
            try:
                return _decode_common(data, reader)
            except (msgspec.MsgspecError, UnicodeError):
                pass  # not the common form, or damaged: the longer way tells
        envelope = self._open(data)
        headers, properties = envelope.headers, envelope.properties
        body = _body(envelope.body, properties.get("body_encoding"))
        received = Received(headers, properties, body, envelope.content_type, envelope.content_encoding)
        info = properties.get("delivery_info")
        way: dict[str, Any] = info if isinstance(info, dict) else {}
        return Envelope(
            read_plain(received) if reader is None else reader.read(received),
            Route(str(way.get("exchange") or ""), str(way.get("routing_key") or "")),
            str(properties.get("delivery_tag") or ""),
            bool(way.get("redelivered") or (headers and headers.get("redelivered"))),
        )

    def mark_redelivered(self, data: bytes | str) -> bytes:
        """Return the envelope as peers put it back into its queue: marked as delivered before (PRT-126).

        Raises:
            InvalidMessage: it is no envelope.
        """
        return self.amend(data, {"redelivered": True}, {"redelivered": True})

    def amend(self, data: bytes | str, headers: Mapping[str, Any], way: Mapping[str, Any]) -> bytes:
        """Return the envelope with these *headers* and this of its `delivery_info` changed; None takes one out.

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
                "headers": _changed(envelope.headers, headers),
                "properties": {**envelope.properties, "delivery_info": _changed(info, way)},
            }
        )

    def _open(self, data: bytes | str) -> _Envelope:
        try:
            if not _has_mark(data):
                return _DECODER.decode(data)
        except msgspec.ValidationError as exc:
            raise InvalidMessage(f"no message: {exc} in {safe_repr(data, maxlen=200)}") from exc
        except (msgspec.DecodeError, UnicodeError):
            pass  # perhaps what only Python's own JSON reads, such as NaN
        try:
            return msgspec.convert(self._json.decode(data), _Envelope)
        except Exception as exc:  # a user's decoder of an extended type may raise anything
            raise InvalidMessage(f"no message: {exc} in {safe_repr(data, maxlen=200)}") from exc


_BEFORE_BODY: Final = len('{"body": "')
_HYPHENS: Final = {"content_encoding": "content-encoding", "content_type": "content-type"}


class _Envelope(msgspec.Struct, rename=_HYPHENS, gc=False):
    body: str
    headers: dict[str, Any] | None = None
    properties: dict[str, Any] = {}
    content_encoding: str | None = None
    content_type: str | None = None


_DECODER: Final = msgspec.json.Decoder(_Envelope)


def _changed(known: object, changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**(known if isinstance(known, dict) else {}), **changes}
    return {key: value for key, value in merged.items() if value is not None or key not in changes}


def _body(text: str, encoding: object) -> bytes:
    try:
        return a2b_base64(text) if encoding == "base64" else text.encode()
    except ValueError as exc:
        raise InvalidMessage(f"no message: its body is not the {encoding} text it should be: {exc}") from exc


def _has_mark(data: bytes | str) -> bool:
    """Tell whether there may be extended types inside, which msgspec does not know."""
    return b'"__type__"' in data if isinstance(data, bytes) else '"__type__"' in data


# -- The common message, faster ----------------------------------------------------------------------------------------

# Most messages have no eta, limit, stamp, header or property of their own. Their envelope is one text with holes, which
# is written three times as fast as a dictionary is encoded (benchmarks/micro_wire.py, envelope out: 2.7 µs against 10),
# and is read into structures instead of dictionaries (in: 3.8 µs against 12). test_envelope.py sees that the
# short ways and the long ones agree.


def _is_common(message: Message) -> bool:
    return bool(message.task) and not (
        message.headers
        or message.stamps
        or message.properties
        or message.eta is not None
        or message.expires is not None
        or message.hard_limit is not None
        or message.soft_limit is not None
        or message.stamped_headers is not None
        or message.compression is not None
    )


def _common_envelope(message: Message, route: Route, delivery_tag: str) -> str:
    return (
        f'{{"body": "{b2a_base64(message.body, newline=False).decode("ascii")}", '
        f'"content-encoding": {_quoted(message.content_encoding)}, "content-type": {_quoted(message.content_type)}, '
        f'"headers": {{"lang": "py", "task": {_quoted(message.task)}, "id": {_quoted(message.id)}, '
        f'"shadow": {_text(message.shadow)}, "eta": null, "expires": null, "group": {_text(message.group)}, '
        f'"group_index": {_NULL if message.group_index is None else message.group_index}, '
        f'"retries": {message.retries}, "timelimit": [null, null], "root_id": {_text(message.root_id)}, '
        f'"parent_id": {_text(message.parent_id)}, "argsrepr": {_text(message.argsrepr)}, '
        f'"kwargsrepr": {_text(message.kwargsrepr)}, "origin": {_text(message.origin)}, '
        f'"ignore_result": {_FLAGS[message.ignore_result]}, '
        f'"replaced_task_nesting": {message.replaced_task_nesting}, "stamped_headers": null, "stamps": {{}}}}, '
        f'"properties": {{"correlation_id": {_quoted(message.correlation_id or message.id)}, '
        f'"reply_to": {_quoted(message.reply_to or "")}, "delivery_mode": {message.delivery_mode}, '
        f'"delivery_info": {{"exchange": {_quoted(route.exchange)}, "routing_key": {_quoted(route.routing_key)}}}, '
        f'"priority": {message.priority or 0}, "body_encoding": "base64", "delivery_tag": {_quoted(delivery_tag)}}}}}'
    )


def _text(value: str | None) -> str:
    return _NULL if value is None else _quoted(value)


_NULL: Final = "null"
_FLAGS: Final = {None: "null", True: "true", False: "false"}
_quoted: Final = encode_basestring_ascii


class _CommonHeaders(TaskHeaders, forbid_unknown_fields=True, gc=False):
    lang: Literal["py"] = "py"


class _Way(msgspec.Struct, gc=False):
    exchange: str | None = None
    routing_key: str | None = None
    redelivered: bool | None = None


class _CommonProperties(TaskProperties, forbid_unknown_fields=True, gc=False):
    delivery_info: _Way
    body_encoding: Literal["base64"]
    delivery_tag: str


class _CommonEnvelope(msgspec.Struct, rename=_HYPHENS, gc=False):
    body: str
    headers: _CommonHeaders
    properties: _CommonProperties
    content_encoding: str
    content_type: str


_COMMON: Final = msgspec.json.Decoder(_CommonEnvelope)


def _decode_common(data: bytes | str, reader: MessageReader) -> Envelope:
    common = _COMMON.decode(data)
    properties = common.properties
    way = properties.delivery_info
    received = Received({}, {}, _body(common.body, "base64"), common.content_type, common.content_encoding)
    return Envelope(
        reader.read_known(common.headers, properties, received),
        Route(way.exchange or "", way.routing_key or ""),
        properties.delivery_tag,
        bool(way.redelivered or common.headers.redelivered),
    )
