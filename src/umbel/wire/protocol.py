"""Read and write task messages as Celery's peers do: headers, properties and body of protocols 2 and 1.

A message whose `task` is empty is a *plain* one: no task but an event, a command, a reply or a task message of protocol
1. Of its fields only body, `headers` and properties travel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from umbel._repr import safe_repr
from umbel._time import aware, parse_iso
from umbel.exceptions import EncodeError, InvalidMessage
from umbel.wire.codecs import Codecs, Encoded
from umbel.wire.compression import SIZE_LIMIT, compress, decompress
from umbel.wire.links import Links, read_with_links
from umbel.wire.message import Message

__all__ = [
    "Body",
    "MessageReader",
    "Received",
    "TaskHeaders",
    "TaskProperties",
    "as_protocol_1",
    "decode_body",
    "decode_body_with_links",
    "decode_value",
    "embed",
    "encode_body",
    "headers_of",
    "properties_of",
    "read_plain",
]


class Received(msgspec.Struct, frozen=True, gc=False):
    """The parts of a message as a broker hands them over, before anybody knows what it is."""

    headers: dict[str, Any] | None
    properties: dict[str, Any]
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
        raise TypeError(f"task args must be a list or tuple, not {type(args).__name__}: {safe_repr(args, maxlen=100)}")
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"task kwargs must be a mapping, not {type(kwargs).__name__}: {safe_repr(kwargs, maxlen=100)}")
    if type(links := embed.get("chain")) is not Links:
        encoded = codecs.encode((args, kwargs, embed), serializer)
    elif serializer == "json" and codecs.has_own_json:
        encoded = _with_links(args, kwargs, embed, links, codecs)
    else:
        encoded = codecs.encode((args, kwargs, {**embed, "chain": [*links]}), serializer)
    return encoded if compression is None else _compressed(encoded, compression)


def _with_links(args: Any, kwargs: Any, embed: Mapping[str, Any], links: Links, codecs: Codecs) -> Encoded:
    """Return the JSON that `Codecs.encode` makes, with the texts of *links* as they are."""

    def text(value: Any) -> bytes:
        return codecs.encode(value, "json").body

    parts = (
        b"[", text(args), b", ", text(kwargs),
        b', {"callbacks": ', text(embed["callbacks"]), b', "errbacks": ', text(embed["errbacks"]),
        b', "chain": [', b", ".join(map(bytes, links.texts)), b'], "chord": ', text(embed["chord"]), b"}]",
    )  # fmt: skip
    return Encoded(b"".join(parts), "application/json", "utf-8")


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
        self._accept = None if accept is None else frozenset(accept)
        self._timezone = timezone
        self._limit = limit

    def read(self, received: Received) -> Message:
        """Return the call that a peer sent (PRT-043). The body of protocol 2 stays encoded.

        Raises:
            InvalidMessage: it follows neither protocol, a field is of the wrong type, or a time cannot be read.
            ContentDisallowed: the content type is not accepted.
            DecodeError: the body of protocol 1 is damaged.
        """
        headers, properties = received.headers, received.properties
        if not isinstance(headers, dict):
            raise InvalidMessage(f"no task message: its headers are {type(headers).__name__}, not a mapping")
        if not isinstance(properties, dict):
            raise InvalidMessage(f"no task message: its properties are {type(properties).__name__}, not a mapping")
        if not isinstance(received.content_type, str):
            raise InvalidMessage(f"no task message: its content type is {safe_repr(received.content_type, maxlen=100)}")
        try:
            known = msgspec.convert(properties, TaskProperties)
            if "task" not in headers:
                received = self._as_protocol_2(headers, received)
                headers = received.headers or {}
            head = msgspec.convert(headers, TaskHeaders)
            own = Received(
                {} if headers.keys() <= _HEADERS and head.lang in _OUR_LANG else _own_headers(headers),
                {} if properties.keys() <= _PROPERTIES else _own_properties(properties),
                received.body,
                received.content_type,
                received.content_encoding,
            )
            return self.read_known(head, known, own)
        except msgspec.ValidationError as exc:
            raise InvalidMessage(f"task message {_name(received)}: {exc}") from exc

    def read_known(self, head: TaskHeaders, known: TaskProperties, received: Received) -> Message:
        """Return the call whose headers and properties are checked; *received* holds what is not among them.

        Raises:
            InvalidMessage: a time cannot be read.
            ContentDisallowed: the content type is not accepted.
        """
        content_type = received.content_type or ""
        if self._accept is not None and content_type not in self._accept:
            self._codecs.check(content_type, self._accept)
        eta, expires = head.eta, head.expires
        hard_limit, soft_limit = head.timelimit or _NO_LIMITS
        own_properties = received.properties
        if known.expiration is not None and expires is None:  # otherwise it only repeats `expires`
            own_properties = {**own_properties, "expiration": known.expiration}
        # In the order of Message's fields: half of what thirty keyword arguments cost (benchmarks/micro_wire.py, build:
        # 0.4 µs against 0.8).
        fields = [
            head.id,
            head.task,
            received.body,
            content_type,
            received.content_encoding or "utf-8",
            head.compression,
            None if eta is None else _moment("eta", eta, UTC),
            None if expires is None else _moment("expires", expires, UTC),
            head.retries or 0,
            hard_limit,
            soft_limit,
            head.root_id,
            head.parent_id,
            head.group,
            head.group_index,
            head.shadow,
            head.argsrepr,
            head.kwargsrepr,
            head.origin,
            head.ignore_result,
            head.replaced_task_nesting or 0,
            head.stamped_headers,
            head.stamps or {},
            received.headers,
            known.reply_to or None,
            None if known.correlation_id == head.id else known.correlation_id,
            known.priority,
            known.delivery_mode or 2,
            own_properties,
        ]
        return msgspec.convert(fields, Message)

    def _as_protocol_2(self, headers: dict[str, Any], received: Received) -> Received:
        """Return a message of protocol 1, whose body holds all, as one of protocol 2."""
        content_type = received.content_type or ""
        plain = _plain_bytes(received.body, headers.get("compression"), self._limit)
        encoding = received.content_encoding or "utf-8"
        call = self._codecs.decode(plain, content_type, encoding, accept=self._accept)
        if not isinstance(call, dict) or "task" not in call:
            raise InvalidMessage(
                "no task message: no header 'task', and the body holds no mapping with a task: "
                + safe_repr(call, maxlen=200)
            )
        args, kwargs = call.get("args", ()), call.get("kwargs", {})
        _check_call(args, kwargs)
        follow_ups = embed(call.get("callbacks"), call.get("errbacks"), call.get("chain"), call.get("chord"))
        serializer = self._codecs.codec(content_type).name
        try:
            encoded = encode_body(args, kwargs, follow_ups, codecs=self._codecs, serializer=serializer)
        except EncodeError as exc:
            raise InvalidMessage(f"task message {_name(received)} of protocol 1: {exc}") from exc
        zone = UTC if call.get("utc") else self._timezone
        moments = {name: _moment(name, call[name], zone) for name in ("eta", "expires") if call.get(name) is not None}
        own = {name: value for name, value in headers.items() if name != "compression"}
        fields = {name: call[name] for name in _PROTOCOL_1 if name in call}
        group = {"group": call.get("group") or call.get("taskset")}
        return Received(
            {**own, **fields, **group, **moments},
            received.properties,
            encoded.body,
            encoded.content_type,
            encoded.content_encoding,
        )


def read_plain(received: Received) -> Message:
    """Return a message that is no task (event, command, reply) as a plain one; its id is the correlation id or "".

    Raises:
        InvalidMessage: headers or properties are of the wrong type.
    """
    try:
        known = msgspec.convert(received.properties, TaskProperties)
        headers = msgspec.convert(received.headers or {}, dict[str, Any])
        compression = msgspec.convert(headers.pop("compression", None), str | None)
    except msgspec.ValidationError as exc:
        raise InvalidMessage(f"message {_name(received)}: {exc}") from exc
    properties = _own_properties(received.properties)
    if known.expiration is not None:
        properties["expiration"] = known.expiration
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
        properties=properties,
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


def decode_body_with_links(message: Message, *, codecs: Codecs, accept: Collection[str] | None) -> Body:
    """Do as `decode_body`, but leave a long chain unread, as `Links`."""
    if message.content_type == "application/json" and message.compression is None and codecs.has_own_json:
        codecs.check(message.content_type, accept)
        found = read_with_links(message.body)
        if found is not None:
            return Body(*found)
    return decode_body(message, codecs=codecs, accept=accept)


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
                f"the body of task {message.task}[{message.id}] is not [args, kwargs, embed]: "
                + safe_repr(payload, maxlen=200)
            )
    _check_call(args, kwargs)
    if follow_ups is None:
        follow_ups = embed()
    elif not isinstance(follow_ups, dict):
        raise InvalidMessage(f"the embed of a task's body must be a mapping, not {safe_repr(follow_ups, maxlen=200)}")
    return Body(args, kwargs, follow_ups)


# -- Shapes on the wire ------------------------------------------------------------------------------------------------


_Text = str | None
_Name = Annotated[str, msgspec.Meta(min_length=1)]


class TaskHeaders(msgspec.Struct, kw_only=True, gc=False):
    """The headers of protocol 2, as lenient as it is harmless: only task and id must be there."""

    task: _Name
    id: _Name
    lang: _Text = "py"
    shadow: _Text = None
    eta: Any = None  # see `_moment`
    expires: Any = None
    group: _Text = None
    group_index: int | None = None
    retries: int | None = 0
    timelimit: tuple[int | float | None, int | float | None] | None = None
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
    redelivered: Any = None  # tells about a delivery, not about the call, so it does not stay with the message


class TaskProperties(msgspec.Struct, kw_only=True, gc=False):
    """The properties that say something about a task, whatever the transport."""

    correlation_id: _Text = None
    reply_to: _Text = None
    delivery_mode: int | None = None
    priority: int | None = None
    expiration: str | int | None = None  # milliseconds


_OUR_LANG: Final = (None, "py")
_NO_LIMITS: Final = (None, None)
_MILLISECOND: Final = timedelta(milliseconds=1)
# What protocol 1 knows, and fields of protocol 2 that some peers add to it.
_PROTOCOL_1: Final = (
    *("task", "id", "group_index", "retries", "timelimit"),
    *("root_id", "parent_id", "shadow", "origin", "ignore_result"),
)
_HEADERS: Final = frozenset(TaskHeaders.__struct_fields__)
_PROPERTIES: Final = frozenset(TaskProperties.__struct_fields__) | {
    "body_encoding",
    "content_encoding",
    "content_type",
    "delivery_info",
    "delivery_tag",
}


def _own_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sender's own headers; a language other than ours counts as one, so that it is not lost."""
    own = {name: value for name, value in headers.items() if name not in _HEADERS}
    if headers.get("lang") not in _OUR_LANG:
        own["lang"] = headers["lang"]
    return own


def _own_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if name not in _PROPERTIES}


def _moment(name: str, value: object, timezone: tzinfo) -> datetime:
    try:
        if isinstance(value, datetime):
            moment = aware(value, timezone)
        else:
            moment = parse_iso(value if isinstance(value, str) else "", timezone)
        moment.astimezone(UTC)  # some moments exist in their own zone only
    except (ValueError, OverflowError):
        raise InvalidMessage(
            f"task message with an unreadable {name}: {safe_repr(value, maxlen=100)} is no ISO 8601 time"
        ) from None
    return moment


def _check_call(args: object, kwargs: object) -> None:
    if not isinstance(args, list | tuple):
        raise InvalidMessage(f"the args of a task must be a list, not {safe_repr(args, maxlen=200)}")
    if not isinstance(kwargs, dict):
        raise InvalidMessage(f"the kwargs of a task must be a mapping, not {safe_repr(kwargs, maxlen=200)}")


def _plain_bytes(body: bytes, compression: object, limit: int) -> bytes:
    if not compression:
        return body
    if not isinstance(compression, str):
        raise InvalidMessage(f"the header 'compression' must be text, not {safe_repr(compression, maxlen=100)}")
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
