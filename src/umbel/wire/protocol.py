"""Read and write task messages as Celery's peers do: headers, properties and body of protocols 2 and 1.

A message whose `task` is empty is a *plain* one: no task but an event, a command, a reply or a task message of protocol
1. Of its fields only body, `headers` and properties travel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from umbel._time import aware, parse_iso
from umbel.exceptions import InvalidMessage
from umbel.wire.codecs import Codecs, Encoded
from umbel.wire.compression import SIZE_LIMIT, compress, decompress
from umbel.wire.message import Message

__all__ = [
    "Body",
    "MessageReader",
    "Received",
    "as_protocol_1",
    "decode_body",
    "decode_value",
    "embed",
    "encode_body",
    "headers_of",
    "properties_of",
    "read_plain",
]


class Received(msgspec.Struct, frozen=True, gc=False):
    """The parts of a message as a broker hands them over, before anybody knows what it is."""

    headers: Mapping[str, Any] | None
    properties: Mapping[str, Any]
    body: bytes
    content_type: str | None
    content_encoding: str | None


class Body(NamedTuple):
    """What a task is called with, and what follows from it."""

    args: list[Any] | tuple[Any, ...]
    kwargs: dict[str, Any]
    embed: dict[str, Any]  # see `embed`; peers may add keys of their own


# -- Out ---------------------------------------------------------------------------------------------------------------


def headers_of(message: Message) -> dict[str, Any]:
    """Return the headers of *message* in the order in which Celery writes them (PRT-001 to 023)."""
    if not message.task:
        headers = dict(message.headers)
    else:
        headers = {
            "lang": "py",
            "task": message.task,
            "id": message.id,
            "shadow": message.shadow,
            "eta": None if message.eta is None else message.eta.isoformat(),
            "expires": None if message.expires is None else message.expires.isoformat(),
            "group": message.group,
            "group_index": message.group_index,
            "retries": message.retries,
            "timelimit": [message.hard_limit, message.soft_limit],
            "root_id": message.root_id,
            "parent_id": message.parent_id,
            "argsrepr": message.argsrepr,
            "kwargsrepr": message.kwargsrepr,
            "origin": message.origin,
            "ignore_result": message.ignore_result,
            "replaced_task_nesting": message.replaced_task_nesting,
            "stamped_headers": None if message.stamped_headers is None else list(message.stamped_headers),
            "stamps": message.stamps,
        }
        if message.headers:
            headers |= message.headers
    if message.compression is not None:
        headers["compression"] = message.compression
    return headers


def properties_of(message: Message, now: datetime) -> dict[str, Any]:
    """Return the properties of *message* that do not belong to a transport (PRT-024 to 030).

    *now* turns `expires` into the remaining `expiration`. Priority is left to the transport, since some need a number.
    """
    if message.task:
        properties: dict[str, Any] = {
            "correlation_id": message.correlation_id or message.id,
            "reply_to": message.reply_to or "",
        }
    else:
        properties = {}
        if message.correlation_id is not None:
            properties["correlation_id"] = message.correlation_id
        if message.reply_to is not None:
            properties["reply_to"] = message.reply_to
    expiration: str | None = None
    if message.properties:
        properties |= message.properties
        expiration = properties.pop("expiration", None)
    properties["delivery_mode"] = message.delivery_mode
    if message.expires is not None:
        expiration = str(max(0, (message.expires - now) // _MILLISECOND))
    if expiration is not None:
        properties["expiration"] = expiration
    return properties


def embed(
    callbacks: list[Any] | None = None,
    errbacks: list[Any] | None = None,
    chain: list[Any] | None = None,
    chord: Any = None,
) -> dict[str, Any]:
    """Return the third part of a body (PRT-032): what runs after the task, as signature dicts.

    *chain* holds the remaining steps with the next one last.
    """
    return {"callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": chord}


def encode_body(
    args: list[Any] | tuple[Any, ...],
    kwargs: Mapping[str, Any],
    embed: Mapping[str, Any],
    *,
    codecs: Codecs,
    serializer: str = "json",
    compression: str | None = None,
) -> Encoded:
    """Return the body of protocol 2 (PRT-031), ready to be put into a `Message`.

    Raises:
        TypeError: *args* is no list or tuple, or *kwargs* no mapping.
        EncodeError: the serializer cannot hold one of the arguments.
        ImproperlyConfigured: no such serializer or compression, or its dependency is not installed.
    """
    if not isinstance(args, list | tuple):
        raise TypeError(f"task args must be a list or tuple, not {type(args).__name__}: {args!r:.100}")
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"task kwargs must be a mapping, not {type(kwargs).__name__}: {kwargs!r:.100}")
    encoded = codecs.encode((args, kwargs, embed), serializer)
    return encoded if compression is None else _compressed(encoded, compression)


def as_protocol_1(
    message: Message, body: Body, *, codecs: Codecs, serializer: str = "json", compression: str | None = None
) -> Message:
    """Return *message* with *body* as a plain message of protocol 1, for peers that read nothing newer.

    It cannot carry `root_id`, `parent_id`, stamps, `ignore_result`, `origin`, `shadow` or a chain (PRT-039).
    """
    payload = {
        "task": message.task,
        "id": message.id,
        "args": body.args,
        "kwargs": body.kwargs,
        "group": message.group,
        "group_index": message.group_index,
        "retries": message.retries,
        "eta": None if message.eta is None else message.eta.isoformat(),
        "expires": None if message.expires is None else message.expires.isoformat(),
        "utc": True,
        "callbacks": body.embed.get("callbacks"),
        "errbacks": body.embed.get("errbacks"),
        "timelimit": (message.hard_limit, message.soft_limit),
        "taskset": message.group,
        "chord": body.embed.get("chord"),
    }
    encoded = codecs.encode(payload, serializer)
    if compression is not None:
        encoded = _compressed(encoded, compression)
    return Message(
        id=message.id,
        task="",
        body=encoded.body,
        content_type=encoded.content_type,
        content_encoding=encoded.content_encoding,
        compression=encoded.compression,
        expires=message.expires,
        headers=message.headers,
        reply_to=message.reply_to or "",
        correlation_id=message.correlation_id or message.id,
        priority=message.priority,
        delivery_mode=message.delivery_mode,
        properties=message.properties,
    )


# -- In ----------------------------------------------------------------------------------------------------------------


class MessageReader:
    """Read task messages of both protocols. Knows what may be decoded; holds no state between messages."""

    def __init__(
        self, codecs: Codecs, accept: Collection[str] | None, *, timezone: tzinfo = UTC, limit: int = SIZE_LIMIT
    ) -> None:
        """Take the content types to *accept* (None = all) and the *timezone* of naive times in protocol 1.

        *limit* is the size in bytes that a compressed body of protocol 1 may have.
        """
        self._codecs = codecs
        self._accept = accept
        self._timezone = timezone
        self._limit = limit

    def read(self, received: Received) -> Message:
        """Return the call that a peer sent (PRT-043). The body of protocol 2 stays encoded.

        Raises:
            InvalidMessage: it follows neither protocol, a field is of the wrong type, or a time cannot be read.
            ContentDisallowed: the content type is not accepted.
            DecodeError: the body of protocol 1 is damaged.
        """
        headers = received.headers
        if not isinstance(headers, Mapping):
            raise InvalidMessage(f"no task message: its headers are {type(headers).__name__}, not a mapping")
        if not isinstance(received.content_type, str):
            raise InvalidMessage(f"no task message: its content type is {received.content_type!r:.100}")
        try:
            known = msgspec.convert(received.properties, _Properties)
            if "task" in headers:
                return self._read_2(received, headers, known)
            return self._read_1(received, headers, known)
        except msgspec.ValidationError as exc:
            raise InvalidMessage(f"task message {_name(received)}: {exc}") from exc

    def _read_2(self, received: Received, headers: Mapping[str, Any], known: _Properties) -> Message:
        content_type = received.content_type or ""
        self._codecs.check(content_type, self._accept)
        properties = received.properties
        head = msgspec.convert(headers, _Headers)
        hard_limit, soft_limit = head.timelimit or _NO_LIMITS
        return Message(
            id=head.id,
            task=head.task,
            body=received.body,
            content_type=content_type,
            content_encoding=received.content_encoding or "utf-8",
            compression=head.compression,
            eta=None if head.eta is None else _moment("eta", head.eta, UTC),
            expires=None if head.expires is None else _moment("expires", head.expires, UTC),
            retries=head.retries or 0,
            hard_limit=hard_limit,
            soft_limit=soft_limit,
            root_id=head.root_id,
            parent_id=head.parent_id,
            group=head.group,
            group_index=head.group_index,
            shadow=head.shadow,
            argsrepr=head.argsrepr,
            kwargsrepr=head.kwargsrepr,
            origin=head.origin,
            ignore_result=head.ignore_result,
            replaced_task_nesting=head.replaced_task_nesting or 0,
            stamped_headers=head.stamped_headers,
            stamps=head.stamps or {},
            headers={} if headers.keys() <= _HEADERS and head.lang == "py" else _own_headers(headers),
            reply_to=known.reply_to or None,
            correlation_id=None if known.correlation_id == head.id else known.correlation_id,
            priority=known.priority,
            delivery_mode=known.delivery_mode or 2,
            properties={} if properties.keys() <= _PROPERTIES else _own_properties(properties, head.expires),
        )

    def _read_1(self, received: Received, headers: Mapping[str, Any], known: _Properties) -> Message:
        content_type = received.content_type or ""
        plain = _plain_bytes(received.body, headers.get("compression"), self._limit)
        payload = self._codecs.decode(plain, content_type, received.content_encoding or "utf-8", accept=self._accept)
        if not isinstance(payload, Mapping) or "task" not in payload:
            raise InvalidMessage(
                f"no task message: no header 'task', and the body holds no mapping with a task: {payload!r:.200}"
            )
        call = msgspec.convert(dict(payload), _Protocol1)
        _check_call(call.args, call.kwargs)
        zone = UTC if call.utc else self._timezone
        hard_limit, soft_limit = call.timelimit or _NO_LIMITS
        follow_ups = embed(call.callbacks, call.errbacks, call.chain, call.chord)
        encoded = encode_body(
            call.args, call.kwargs, follow_ups, codecs=self._codecs, serializer=self._codecs.codec(content_type).name
        )
        return Message(
            id=call.id,
            task=call.task,
            body=encoded.body,
            content_type=encoded.content_type,
            content_encoding=encoded.content_encoding,
            eta=None if call.eta is None else _moment("eta", call.eta, zone),
            expires=None if call.expires is None else _moment("expires", call.expires, zone),
            retries=call.retries or 0,
            hard_limit=hard_limit,
            soft_limit=soft_limit,
            root_id=call.root_id,
            parent_id=call.parent_id,
            group=call.group or call.taskset,
            group_index=call.group_index,
            shadow=call.shadow,
            origin=call.origin,
            ignore_result=call.ignore_result,
            headers=_own_headers(headers),
            reply_to=known.reply_to or None,
            correlation_id=None if known.correlation_id == call.id else known.correlation_id,
            priority=known.priority,
            delivery_mode=known.delivery_mode or 2,
            properties=_own_properties(received.properties, call.expires),
        )


def read_plain(received: Received) -> Message:
    """Return a message that is no task (event, command, reply) as a plain one; its id is the correlation id or "".

    Raises:
        InvalidMessage: headers or properties are of the wrong type.
    """
    try:
        known = msgspec.convert(received.properties, _Properties)
        headers = msgspec.convert(received.headers or {}, dict[str, Any])
        compression = msgspec.convert(headers.pop("compression", None), str | None)
    except msgspec.ValidationError as exc:
        raise InvalidMessage(f"message {_name(received)}: {exc}") from exc
    return Message(
        id=known.correlation_id or "",
        task="",
        body=received.body,
        content_type=received.content_type or "application/data",
        content_encoding=received.content_encoding or "utf-8",
        compression=compression,
        headers=headers,
        reply_to=known.reply_to,
        correlation_id=known.correlation_id,
        priority=known.priority,
        delivery_mode=known.delivery_mode or 2,
        properties=_own_properties(received.properties, None),
    )


def decode_value(message: Message, *, codecs: Codecs, accept: Collection[str] | None, limit: int = SIZE_LIMIT) -> Any:
    """Return what the body of *message* holds, whatever it is; *limit* is its size in bytes when compressed.

    Raises:
        ContentDisallowed: its content type is not in *accept*.
        DecodeError: its bytes are damaged.
        MissingExtra: its serializer or compression is not installed.
    """
    data = _plain_bytes(message.body, message.compression, limit)
    return codecs.decode(data, message.content_type, message.content_encoding, accept=accept)


def decode_body(message: Message, *, codecs: Codecs, accept: Collection[str] | None, limit: int = SIZE_LIMIT) -> Body:
    """Return what the task of *message* is called with; *limit* is the size in bytes a compressed body may have.

    Takes the body of protocol 2, and the mapping of protocol 1 that some peers put under headers of protocol 2.

    Raises:
        InvalidMessage: the body has neither form.
        ContentDisallowed: its content type is not in *accept*.
        DecodeError: its bytes are damaged.
        MissingExtra: its serializer or compression is not installed.
    """
    payload = decode_value(message, codecs=codecs, accept=accept, limit=limit)
    match payload:
        case [args, kwargs, follow_ups]:
            pass
        case {"args": args, "kwargs": kwargs}:
            follow_ups = {name: payload.get(name) for name in ("callbacks", "errbacks", "chain", "chord")}
        case _:
            raise InvalidMessage(
                f"the body of task {message.task}[{message.id}] is not [args, kwargs, embed]: {payload!r:.200}"
            )
    _check_call(args, kwargs)
    if follow_ups is None:
        follow_ups = embed()
    elif not isinstance(follow_ups, dict):
        raise InvalidMessage(f"the third part of a task's body must be a mapping, not {follow_ups!r:.200}")
    return Body(args, kwargs, follow_ups)


# -- Shapes on the wire ------------------------------------------------------------------------------------------------

_Text = str | None
_Named = Annotated[str, msgspec.Meta(min_length=1)]
_Limits = tuple[int | float | None, int | float | None] | None


class _Headers(msgspec.Struct, kw_only=True, gc=False):
    """Headers of protocol 2. Times are read by hand, since peers write them in more ways than one."""

    task: _Named
    id: _Named
    lang: _Text = "py"
    shadow: _Text = None
    eta: Any = None
    expires: Any = None
    group: _Text = None
    group_index: int | None = None
    retries: int | None = 0
    timelimit: _Limits = None
    root_id: _Text = None
    parent_id: _Text = None
    argsrepr: _Text = None
    kwargsrepr: _Text = None
    origin: _Text = None
    ignore_result: bool | None = None
    replaced_task_nesting: int | None = 0
    stamped_headers: tuple[str, ...] | None = None
    stamps: dict[str, Any] | None = None
    compression: _Text = None


class _Protocol1(msgspec.Struct, kw_only=True):
    """The mapping of protocol 1, with the fields of protocol 2 that some peers add."""

    task: _Named
    id: _Named
    args: Any = ()
    kwargs: Any = {}
    group: _Text = None
    group_index: int | None = None
    retries: int | None = 0
    eta: Any = None
    expires: Any = None
    utc: bool | None = False
    callbacks: list[Any] | None = None
    errbacks: list[Any] | None = None
    timelimit: _Limits = None
    taskset: _Text = None
    chord: Any = None
    chain: list[Any] | None = None
    root_id: _Text = None
    parent_id: _Text = None
    shadow: _Text = None
    origin: _Text = None
    ignore_result: bool | None = None


class _Properties(msgspec.Struct, kw_only=True, gc=False):
    correlation_id: _Text = None
    reply_to: _Text = None
    priority: int | None = None
    delivery_mode: int | None = None


_NO_LIMITS: Final = (None, None)
_MILLISECOND: Final = timedelta(milliseconds=1)
# `redelivered` tells about a delivery, not about the call, so it does not stay with the message.
_HEADERS: Final = frozenset(_Headers.__struct_fields__) | {"redelivered"}
_PROPERTIES: Final = frozenset(_Properties.__struct_fields__) | {
    "body_encoding",
    "content_encoding",
    "content_type",
    "delivery_info",
    "delivery_tag",
}


def _own_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sender's own headers; a language other than ours counts as one, so that it is not lost."""
    own = {name: value for name, value in headers.items() if name not in _HEADERS}
    if headers.get("lang", "py") != "py":
        own["lang"] = headers["lang"]
    return own


def _own_properties(properties: Mapping[str, Any], expires: object) -> dict[str, Any]:
    """Return the properties that are no fields. An expiration that only repeats `expires` is one."""
    own = {name: value for name, value in properties.items() if name not in _PROPERTIES}
    if expires is not None:
        own.pop("expiration", None)
    return own


def _moment(name: str, value: object, timezone: tzinfo) -> datetime:
    try:
        if isinstance(value, datetime):
            moment = aware(value, timezone)
        else:
            moment = parse_iso(value if isinstance(value, str) else "", timezone)
        moment.astimezone(UTC)  # some moments exist in their own zone only
    except (ValueError, OverflowError):
        raise InvalidMessage(f"task message with an unreadable {name}: {value!r:.100} is no ISO 8601 time") from None
    return moment


def _check_call(args: object, kwargs: object) -> None:
    if not isinstance(args, list | tuple):
        raise InvalidMessage(f"the args of a task must be a list, not {args!r:.200}")
    if not isinstance(kwargs, dict):
        raise InvalidMessage(f"the kwargs of a task must be a mapping, not {kwargs!r:.200}")


def _plain_bytes(body: bytes, compression: object, limit: int) -> bytes:
    if not compression:
        return body
    if not isinstance(compression, str):
        raise InvalidMessage(f"the header 'compression' must be text, not {compression!r:.100}")
    return decompress(body, compression, limit=limit)


def _compressed(encoded: Encoded, compression: str) -> Encoded:
    body, mime = compress(encoded.body, compression)
    return Encoded(body, encoded.content_type, encoded.content_encoding, mime)


def _name(received: Received) -> str:
    """Return what a message that cannot be read might be called, for the error."""
    for source, key in ((received.headers, "id"), (received.properties, "correlation_id")):
        if isinstance(source, Mapping) and isinstance(name := source.get(key), str):
            return repr(name[:100])
    return "without id"
