"""AMQP 0-9-1 as bytes: the methods, tables, properties and frames a task queue needs, with no socket in sight."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from umbel.exceptions import InvalidMessage

__all__ = [
    "HEARTBEAT",
    "PROTOCOL_HEADER",
    "FrameReader",
    "Incoming",
    "Method",
    "ack",
    "content_frames",
    "decode_properties",
    "decode_table",
    "encode_properties",
    "encode_table",
    "method_frame",
    "nack",
    "read_arguments",
    "write_octet",
    "write_short",
]

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_METHOD, _HEADER, _BODY, _BEAT = 1, 2, 3, 8
_END: Final = 0xCE
_DEPTH_LIMIT: Final = 64  # of tables and arrays in each other; a peer's nesting must not exhaust our stack
_BODY_LIMIT: Final = 1 << 31  # bytes; RabbitMQ's own limit is far below


# -- Methods -----------------------------------------------------------------------------------------------------------

# Types of arguments: o octet, s short, l long, q long long, S short string, X long string, T table, b bit.
_SPECS: Final[dict[str, tuple[int, int, str]]] = {
    "connection.start": (10, 10, "ooTXX"),
    "connection.start-ok": (10, 11, "TSXS"),
    "connection.secure": (10, 20, "X"),
    "connection.secure-ok": (10, 21, "X"),
    "connection.tune": (10, 30, "sls"),
    "connection.tune-ok": (10, 31, "sls"),
    "connection.open": (10, 40, "SSb"),
    "connection.open-ok": (10, 41, "S"),
    "connection.close": (10, 50, "sSss"),
    "connection.close-ok": (10, 51, ""),
    "connection.blocked": (10, 60, "S"),
    "connection.unblocked": (10, 61, ""),
    "channel.open": (20, 10, "S"),
    "channel.open-ok": (20, 11, "X"),
    "channel.flow": (20, 20, "b"),
    "channel.flow-ok": (20, 21, "b"),
    "channel.close": (20, 40, "sSss"),
    "channel.close-ok": (20, 41, ""),
    "exchange.declare": (40, 10, "sSSbbbbbT"),  # ticket, name, type, passive, durable, auto-delete, internal, no-wait
    "exchange.declare-ok": (40, 11, ""),
    "exchange.delete": (40, 20, "sSbb"),
    "exchange.delete-ok": (40, 21, ""),
    "exchange.bind": (40, 30, "sSSSbT"),  # ticket, destination, source, key, no-wait
    "exchange.bind-ok": (40, 31, ""),
    "queue.declare": (50, 10, "sSbbbbbT"),  # ticket, name, passive, durable, exclusive, auto-delete, no-wait
    "queue.declare-ok": (50, 11, "Sll"),  # name, messages, consumers
    "queue.bind": (50, 20, "sSSSbT"),  # ticket, queue, exchange, key, no-wait
    "queue.bind-ok": (50, 21, ""),
    "queue.purge": (50, 30, "sSb"),
    "queue.purge-ok": (50, 31, "l"),
    "queue.delete": (50, 40, "sSbbb"),  # ticket, name, if-unused, if-empty, no-wait
    "queue.delete-ok": (50, 41, "l"),
    "basic.qos": (60, 10, "lsb"),
    "basic.qos-ok": (60, 11, ""),
    "basic.consume": (60, 20, "sSSbbbbT"),  # ticket, queue, tag, no-local, no-ack, exclusive, no-wait
    "basic.consume-ok": (60, 21, "S"),
    "basic.cancel": (60, 30, "Sb"),
    "basic.cancel-ok": (60, 31, "S"),
    "basic.publish": (60, 40, "sSSbb"),  # ticket, exchange, key, mandatory, immediate
    "basic.return": (60, 50, "sSSS"),  # code, text, exchange, key
    "basic.deliver": (60, 60, "SqbSS"),  # consumer, tag, redelivered, exchange, key
    "basic.get": (60, 70, "sSb"),
    "basic.get-ok": (60, 71, "qbSSl"),  # tag, redelivered, exchange, key, messages left
    "basic.get-empty": (60, 72, "S"),
    "basic.ack": (60, 80, "qb"),
    "basic.nack": (60, 120, "qbb"),  # tag, multiple, requeue
    "confirm.select": (85, 10, "b"),
    "confirm.select-ok": (85, 11, ""),
}

Method: TypeAlias = int
"""A method's class and number in one: ``class << 16 | number``."""

_NUMBERS: Final = {name: kind << 16 | number for name, (kind, number, _) in _SPECS.items()}
_NAMES: Final = {number: name for name, number in _NUMBERS.items()}
_TYPES: Final = {_NUMBERS[name]: types for name, (_, _, types) in _SPECS.items()}
_DELIVER: Final = _NUMBERS["basic.deliver"]
_WITH_CONTENT: Final = frozenset(_NUMBERS[name] for name in ("basic.deliver", "basic.return", "basic.get-ok"))

_frame_start: Final = struct.Struct(">BHI").pack
_read_frame_start: Final = struct.Struct(">BHI").unpack_from
_read_long: Final = struct.Struct(">I").unpack_from
_ack: Final = struct.Struct(">BHIHHQBB").pack
_nack: Final = struct.Struct(">BHIHHQBB").pack


def method_frame(channel: int, name: str, *arguments: Any) -> bytes:
    """Return the frame of a method.

    Raises:
        TypeError: an argument does not fit its type; a short string may have 255 bytes.
    """
    payload = bytearray(_NUMBERS[name].to_bytes(4, "big"))
    bits = shift = 0
    for kind, value in zip(_TYPES[_NUMBERS[name]], arguments, strict=True):
        if kind == "b":
            bits |= bool(value) << shift
            shift += 1
            continue
        if shift:
            payload.append(bits)
            bits = shift = 0
        payload += _WRITERS[kind](value)
    if shift:
        payload.append(bits)
    return _frame_start(_METHOD, channel, len(payload)) + payload + b"\xce"


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return the frame that acknowledges a delivery, or all up to it."""
    return _ack(_METHOD, channel, 13, 60, 80, tag, multiple, _END)


def nack(channel: int, tag: int, *, multiple: bool = False, requeue: bool = True) -> bytes:
    """Return the frame that gives a delivery back, or all up to it."""
    return _nack(_METHOD, channel, 13, 60, 120, tag, multiple | requeue << 1, _END)


def content_frames(channel: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """Return the frames that follow a publish: *properties* as `encode_properties` made them, and the *body*."""
    size = len(body)
    head = b"\x00\x3c\x00\x00" + size.to_bytes(8, "big") + properties
    frames = _frame_start(_HEADER, channel, len(head)) + head + b"\xce"
    room = frame_max - 8
    if size <= room:
        return frames + _frame_start(_BODY, channel, size) + body + b"\xce" if size else frames
    parts = [frames]
    for at in range(0, size, room):
        part = body[at : at + room]
        parts.append(_frame_start(_BODY, channel, len(part)) + part + b"\xce")
    return b"".join(parts)


# -- Frames coming in --------------------------------------------------------------------------------------------------


class Incoming(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A method that came in, with its content if it has one."""

    channel: int
    name: str  # "" for a heartbeat
    arguments: tuple[Any, ...]
    properties: bytes = b""  # still encoded, see `decode_properties`
    body: bytes = b""


class FrameReader:
    """Put together what a peer sends, however it is cut."""

    def __init__(self, frame_max: int = 131072) -> None:
        """Take no frame that is longer than *frame_max* bytes."""
        self.frame_max = frame_max
        self._rest = b""
        self._open: dict[int, _Content] = {}  # contents that are not complete, by channel

    def feed(self, data: bytes) -> list[Incoming]:
        """Return what is complete with *data*.

        Raises:
            InvalidMessage: this is no AMQP.
        """
        data = self._rest + data if self._rest else data
        found: list[Incoming] = []
        at, size = 0, len(data)
        while size - at >= 8:
            kind, channel, length = _read_frame_start(data, at)
            end = at + 7 + length
            if length > self.frame_max or kind not in _KINDS:
                raise InvalidMessage(f"no AMQP frame: {data[at : at + 8]!r}")
            if end >= size:
                break
            if data[end] != _END:
                raise InvalidMessage(f"an AMQP frame of {length} bytes does not end in CE but in {data[end]:02X}")
            payload = data[at + 7 : end]
            at = end + 1
            if kind in (_BODY, _HEADER):
                complete = self._content(kind, channel, payload)
            elif kind == _METHOD:
                complete = self._method(channel, payload)
            else:
                complete = Incoming(channel, "", ())
            if complete is not None:
                found.append(complete)
        self._rest = data[at:] if at else data
        return found

    def _method(self, channel: int, payload: bytes) -> Incoming | None:
        if channel in self._open:
            raise InvalidMessage(f"AMQP channel {channel}: a method where content was due")
        if len(payload) < 4:
            raise InvalidMessage(f"no AMQP method: {payload!r}")
        (number,) = _read_long(payload)
        name = _NAMES.get(number)
        if name is None:
            raise InvalidMessage(f"unknown AMQP method {number >> 16}.{number & 0xFFFF}")
        arguments = _read_deliver(payload) if number == _DELIVER else read_arguments(name, payload, 4)
        if number in _WITH_CONTENT:
            self._open[channel] = _Content(name, arguments)
            return None
        return Incoming(channel, name, arguments)

    def _content(self, kind: int, channel: int, payload: bytes) -> Incoming | None:
        content = self._open.get(channel)
        if content is None:
            raise InvalidMessage(f"AMQP channel {channel}: content that belongs to nothing")
        if kind == _HEADER:
            if content.left >= 0 or len(payload) < 14:
                raise InvalidMessage(f"AMQP channel {channel}: no content header: {payload[:40]!r}")
            content.properties = payload[12:]
            content.left = int.from_bytes(payload[4:12], "big")
            if content.left > _BODY_LIMIT:
                raise InvalidMessage(f"AMQP channel {channel}: a body of {content.left} bytes is announced")
        else:
            if len(payload) > content.left:
                raise InvalidMessage(f"AMQP channel {channel}: a body is longer than announced")
            content.parts.append(payload)
            content.left -= len(payload)
        if content.left:
            return None
        del self._open[channel]
        parts = content.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return Incoming(channel, content.name, content.arguments, content.properties, body)


_KINDS: Final = frozenset({_METHOD, _HEADER, _BODY, _BEAT})


class _Content:
    """A content that is not complete."""

    __slots__ = ("arguments", "left", "name", "parts", "properties")

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name = name
        self.arguments = arguments
        self.properties = b""
        self.parts: list[bytes] = []
        self.left = -1  # bytes of the body that are to come; -1 = its header is


def read_arguments(name: str, payload: bytes, at: int = 0) -> tuple[Any, ...]:
    """Return the arguments of method *name* in *payload* from *at*.

    Raises:
        InvalidMessage: they are cut off or damaged.
    """
    arguments: list[Any] = []
    bit = 8
    bits = 0
    try:
        for kind in _TYPES[_NUMBERS[name]]:
            if kind == "b":
                if bit == 8:
                    bits, bit, at = payload[at], 0, at + 1
                arguments.append(bool(bits >> bit & 1))
                bit += 1
                continue
            bit = 8
            value, at = _READERS[kind](payload, at)
            arguments.append(value)
    except (IndexError, struct.error, UnicodeDecodeError) as exc:
        raise InvalidMessage(f"AMQP method {name} is damaged: {exc}") from exc
    return tuple(arguments)


def _read_deliver(payload: bytes) -> tuple[Any, ...]:
    try:
        consumer, at = _read_short_string(payload, 4)
        tag = int.from_bytes(payload[at : at + 8], "big")
        redelivered = payload[at + 8] & 1 == 1
        exchange, at = _read_short_string(payload, at + 9)
        key, at = _read_short_string(payload, at)
    except (IndexError, UnicodeDecodeError) as exc:
        raise InvalidMessage(f"AMQP method basic.deliver is damaged: {exc}") from exc
    return consumer, tag, redelivered, exchange, key


# -- Strings and numbers -----------------------------------------------------------------------------------------------


def write_short(value: str) -> bytes:
    """Return *value* as a short string; raises TypeError beyond 255 bytes."""
    data = value.encode("utf-8", "surrogatepass")
    if len(data) > 255:
        raise TypeError(f"AMQP takes at most 255 bytes in names, keys and ids; this has {len(data)}: {value[:60]!r}…")
    return bytes((len(data),)) + data


def _write_long_string(value: str | bytes) -> bytes:
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return len(data).to_bytes(4, "big") + data


def _read_short_string(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    if end > len(data):
        raise IndexError("a string is cut off")
    return data[at + 1 : end].decode("utf-8", "surrogateescape"), end


def _read_long_string(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _read_long(data, at)
    end = at + 4 + size
    if end > len(data):
        raise IndexError("a string is cut off")
    return data[at + 4 : end], end


def write_octet(value: int) -> bytes:
    """Return a number below 256 as AMQP has it; raises TypeError."""
    if not 0 <= value < 256:
        raise TypeError(f"AMQP takes a number from 0 to 255 here, not {value!r}"[:200])
    return bytes((value,))


def _number_writer(size: int) -> Callable[[Any], bytes]:
    def write(value: int) -> bytes:
        return value.to_bytes(size, "big")

    return write


def _number_reader(layout: str) -> Callable[[bytes, int], tuple[Any, int]]:
    read = struct.Struct(layout)

    def number(data: bytes, at: int) -> tuple[Any, int]:
        return read.unpack_from(data, at)[0], at + read.size

    return number


def _read_table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    (size,) = _read_long(data, at)
    end = at + 4 + size
    if end > len(data):
        raise IndexError("a table is cut off")
    return decode_table(data, at + 4, end), end


# -- Tables ------------------------------------------------------------------------------------------------------------


def encode_table(table: Mapping[str, Any]) -> bytes:
    """Return *table* as kombu's peers write it, with its length in front.

    Raises:
        TypeError: a value has no form in AMQP, or a key has more than 255 bytes.
    """
    parts = bytearray()
    for key, value in table.items():
        parts += _key(key)
        _write_value(parts, value, 0)
    return len(parts).to_bytes(4, "big") + parts


def _key(key: object, known: dict[object, bytes] = {}) -> bytes:  # noqa: B006 - the headers' names are few and constant
    found = known.get(key)
    if found is None:
        found = write_short(key if isinstance(key, str) else str(key))
        if len(known) < 256:
            known[key] = found
    return found


def _write_value(parts: bytearray, value: Any, depth: int) -> None:
    kind = type(value)
    if value is None:
        parts += b"V"
    elif kind is str:
        data = value.encode("utf-8", "surrogatepass")
        parts += b"S" + len(data).to_bytes(4, "big") + data
    elif kind is bool:
        parts += b"t\x01" if value else b"t\x00"
    elif kind is int:
        if -0x80000000 <= value < 0x80000000:
            parts += b"I" + value.to_bytes(4, "big", signed=True)
        elif -0x8000000000000000 <= value < 0x8000000000000000:
            parts += b"L" + value.to_bytes(8, "big", signed=True)
        else:
            raise TypeError(f"AMQP has no integer as long as {value}")
    else:
        _write_rare(parts, value, depth + 1)


def _write_rare(parts: bytearray, value: Any, depth: int) -> None:
    if depth > _DEPTH_LIMIT:
        raise TypeError(f"headers are nested more than {_DEPTH_LIMIT} deep")
    match value:
        case Mapping():
            inner = bytearray()
            for key, each in value.items():
                inner += _key(key)
                _write_value(inner, each, depth)
            parts += b"F" + len(inner).to_bytes(4, "big") + inner
        case list() | tuple():
            inner = bytearray()
            for each in value:
                _write_value(inner, each, depth)
            parts += b"A" + len(inner).to_bytes(4, "big") + inner
        case float():
            parts += b"d" + struct.pack(">d", value)
        case bytes() | bytearray():
            parts += b"S" + len(value).to_bytes(4, "big") + value
        case bool() | int() | str():  # a subclass: an enum, a lazy text
            _write_value(parts, {bool: bool, int: int, str: str}[_base(value)](value), depth)
        case datetime():
            parts += b"T" + int(value.timestamp()).to_bytes(8, "big")
        case Decimal():
            sign, digits, exponent = value.as_tuple()
            if not isinstance(exponent, int) or exponent > 0:
                raise TypeError(f"AMQP has no decimal like {value}")
            number = int("".join(map(str, digits))) * (-1 if sign else 1)
            parts += b"D" + bytes((-exponent,)) + number.to_bytes(4, "big", signed=True)
        case _:
            raise TypeError(f"a header cannot be a {type(value).__name__}: {value!r}"[:200])


def _base(value: object) -> type:
    return str if isinstance(value, str) else int


def decode_table(data: bytes, at: int, end: int, depth: int = 0) -> dict[str, Any]:
    """Return the table in *data* from *at* to *end*, without its length; text that is no UTF-8 stays bytes.

    Raises:
        IndexError, struct.error: it is cut off or damaged.
    """
    table: dict[str, Any] = {}
    keys = _KEYS
    while at < end:
        stop = at + 1 + data[at]
        name = data[at + 1 : stop]
        key = keys.get(name)
        if key is None:
            key = name.decode("utf-8", "surrogateescape")
        kind = data[stop]
        at = stop + 1
        if kind == 0x53:  # S
            stop = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if stop > end:
                raise IndexError("a string is cut off")
            text = data[at + 4 : stop]
            try:
                table[key] = text.decode()
            except UnicodeDecodeError:
                table[key] = text
            at = stop
        elif kind == 0x56:  # V
            table[key] = None
        else:
            table[key], at = _read_value(kind, data, at, end, depth)
    if at != end:
        raise IndexError("a table is longer than it says")
    return table


def _read_value(kind: int, data: bytes, at: int, end: int, depth: int) -> tuple[Any, int]:
    read = _VALUES.get(kind)
    if read is not None:
        value, at = read(data, at)
        if at > end:
            raise IndexError("a value is cut off")
        return value, at
    if kind == 0x53:
        text, at = _read_long_string(data, at)
        try:
            return text.decode(), at
        except UnicodeDecodeError:
            return text, at
    if kind not in (0x46, 0x41):
        raise IndexError(f"unknown type {chr(kind)!r}")
    if depth >= _DEPTH_LIMIT:
        raise IndexError(f"nested more than {_DEPTH_LIMIT} deep")
    (size,) = _read_long(data, at)
    at, stop = at + 4, at + 4 + size
    if stop > end:
        raise IndexError("a table or list is cut off")
    if kind == 0x46:
        return decode_table(data, at, stop, depth + 1), stop
    values: list[Any] = []
    while at < stop:
        value, at = _read_value(data[at], data, at + 1, stop, depth + 1)
        values.append(value)
    return values, stop


def _read_moment(data: bytes, at: int) -> tuple[datetime, int]:
    try:
        return datetime.fromtimestamp(int.from_bytes(data[at : at + 8], "big"), UTC), at + 8
    except (ValueError, OverflowError, OSError) as exc:
        raise IndexError(f"no moment: {exc}") from exc


def _read_decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    scale, number = struct.unpack_from(">Bi", data, at)
    return Decimal(number).scaleb(-scale), at + 5


_VALUES: Final[dict[int, Callable[[bytes, int], tuple[Any, int]]]] = {
    ord("V"): lambda data, at: (None, at),
    ord("t"): lambda data, at: (data[at] != 0, at + 1),
    ord("I"): _number_reader(">i"),
    ord("i"): _number_reader(">I"),
    ord("l"): _number_reader(">q"),
    ord("L"): _number_reader(">q"),
    ord("b"): _number_reader(">b"),
    ord("B"): _number_reader(">B"),
    ord("s"): _number_reader(">h"),
    ord("u"): _number_reader(">H"),
    ord("f"): _number_reader(">f"),
    ord("d"): _number_reader(">d"),
    ord("x"): _read_long_string,
    ord("D"): _read_decimal,
    ord("T"): _read_moment,
}

_KEYS: Final = {
    name.encode(): name
    for name in (
        *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id"),
        *("parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting"),
        *("stamped_headers", "stamps", "compression", "x-delivery-count", "x-death"),
    )
}


# -- Properties --------------------------------------------------------------------------------------------------------

Kind: TypeAlias = Literal["S", "T", "o", "q"]
_PROPERTIES: Final[tuple[tuple[int, str, Kind], ...]] = (
    (1 << 15, "content_type", "S"),
    (1 << 14, "content_encoding", "S"),
    (1 << 13, "headers", "T"),
    (1 << 12, "delivery_mode", "o"),
    (1 << 11, "priority", "o"),
    (1 << 10, "correlation_id", "S"),
    (1 << 9, "reply_to", "S"),
    (1 << 8, "expiration", "S"),
    (1 << 7, "message_id", "S"),
    (1 << 6, "timestamp", "q"),
    (1 << 5, "type", "S"),
    (1 << 4, "user_id", "S"),
    (1 << 3, "app_id", "S"),
    (1 << 2, "cluster_id", "S"),
)

_WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "o": _number_writer(1),
    "s": _number_writer(2),
    "l": _number_writer(4),
    "q": _number_writer(8),
    "S": write_short,
    "X": _write_long_string,
    "T": encode_table,
}
_READERS: Final[dict[str, Callable[[bytes, int], tuple[Any, int]]]] = {
    "o": _number_reader(">B"),
    "s": _number_reader(">H"),
    "l": _number_reader(">I"),
    "q": _number_reader(">Q"),
    "S": _read_short_string,
    "X": _read_long_string,
    "T": _read_table,
}


def encode_properties(properties: Mapping[str, Any]) -> bytes:
    """Return the known ones of *properties* (``headers`` is one) as they stand in a content header.

    Raises:
        TypeError: a value does not fit.
    """
    flags = 0
    parts = [b""]
    for flag, name, kind in _PROPERTIES:
        value = properties.get(name)
        if value is None:
            continue
        flags |= flag
        try:
            parts.append(_WRITERS[kind](value))
        except (AttributeError, OverflowError) as exc:
            raise TypeError(f"the property {name!r} cannot be {value!r}: {exc}"[:300]) from exc
    parts[0] = flags.to_bytes(2, "big")
    return b"".join(parts)


def decode_properties(data: bytes) -> dict[str, Any]:
    """Return the properties in a content header, by name; ``headers`` is one of them.

    Raises:
        InvalidMessage: they are cut off or damaged.
    """
    properties: dict[str, Any] = {}
    try:
        flags, at = data[0] << 8 | data[1], 2
        for flag, name, kind in _PROPERTIES:
            if flags & flag:
                properties[name], at = _READERS[kind](data, at)
    except (IndexError, struct.error, UnicodeDecodeError) as exc:
        raise InvalidMessage(f"the AMQP properties of a message are damaged: {exc}") from exc
    if at != len(data):
        raise InvalidMessage("the AMQP properties of a message are longer than they say")
    return properties
