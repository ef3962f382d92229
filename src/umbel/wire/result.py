"""What a result store keeps of a task: the result meta, exceptions as data, and trees of results as tuples."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from umbel._repr import safe_repr
from umbel._time import parse_iso
from umbel.exceptions import DecodeError, EncodeError, InvalidMessage, SecurityError, wire_class, wire_module
from umbel.states import PENDING
from umbel.wire.codecs import Codecs
from umbel.wire.compression import SIZE_LIMIT, compress, decompress

__all__ = [
    "Columns",
    "Details",
    "Node",
    "ResultMeta",
    "decode_columns",
    "decode_group",
    "decode_group_column",
    "decode_meta",
    "encode_columns",
    "encode_group",
    "encode_group_column",
    "encode_meta",
    "exception_from_data",
    "exception_to_data",
    "is_compressed",
    "node_from_tuple",
    "node_to_tuple",
]


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What the meta also tells with `result_extended`."""

    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None  # node name
    retries: int | None = None
    queue: str | None = None  # the routing key it came by
    stamps: dict[str, Any] = {}


class ResultMeta(msgspec.Struct, frozen=True, kw_only=True):
    """One state of one task (PRT-156 to 163). Of an unknown task all fields but the id keep their defaults."""

    task_id: str
    status: str = PENDING
    result: Any = None  # the value; in the states of failure what `exception_to_data` made; STARTED: {pid, hostname}
    traceback: str | None = None
    children: list[Any] | None = None  # what it sent itself, as `node_to_tuple` makes it; None = unknown
    date_done: datetime | None = None  # aware; None = not done
    group_id: str | None = None
    parent_id: str | None = None
    details: Details | None = None


def encode_meta(meta: ResultMeta, *, codecs: Codecs, serializer: str = "json", compression: str | None = None) -> bytes:
    """Return the payload of a `Record`, its keys in the order in which Celery writes them.

    Raises:
        EncodeError: the serializer cannot hold the result.
    """
    payload: dict[str, Any] = {
        "status": meta.status,
        "result": meta.result,
        "traceback": meta.traceback,
        "children": meta.children,
        "date_done": None if meta.date_done is None else meta.date_done.isoformat(),
    }
    if meta.group_id:
        payload["group_id"] = meta.group_id
    if meta.parent_id:
        payload["parent_id"] = meta.parent_id
    details = meta.details
    if details is not None:
        payload |= {name: getattr(details, name) for name in _DETAILS}
        if details.stamps:
            payload["stamped_headers"] = list(details.stamps)
            payload |= details.stamps
    payload["task_id"] = meta.task_id
    return _packed(codecs.encode(payload, serializer).body, compression)


def decode_meta(
    payload: bytes,
    *,
    codecs: Codecs,
    accept: Collection[str] | None,
    serializer: str = "json",
    task_id: str = "",
    limit: int = SIZE_LIMIT,
) -> ResultMeta:
    """Return the meta that umbel or a Celery worker stored; *task_id* stands in where an old one lacks it.

    *limit* is the size in bytes that a compressed payload may have.

    Raises:
        InvalidMessage: it is no result meta.
        ContentDisallowed: the serializer's content type is not in *accept*.
        DecodeError: the bytes are damaged.
    """
    found = _unpacked(payload, codecs, serializer, accept, limit)
    try:
        known = msgspec.convert(found, _Meta)
        details = msgspec.convert(found, Details) if "name" in found else None
        if details is not None and known.stamped_headers:
            stamps = {name: found.get(name) for name in known.stamped_headers}
            details = msgspec.structs.replace(details, stamps=stamps)
        return ResultMeta(
            task_id=known.task_id or task_id,
            status=known.status,
            result=known.result,
            traceback=known.traceback if isinstance(known.traceback, str) else None,
            children=known.children,
            date_done=None if known.date_done is None else parse_iso(known.date_done, UTC),
            group_id=known.group_id,
            parent_id=known.parent_id,
            details=details,
        )
    except (msgspec.ValidationError, ValueError) as exc:
        raise InvalidMessage(f"no result meta of task {task_id!r}: {exc} in {safe_repr(found, maxlen=200)}") from exc


# -- Results in columns ------------------------------------------------------------------------------------------------


class Columns(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A result meta as a table keeps it: the parts that hold values are encoded one by one (PRT-175, 176, 178).

    Encoded as msgpack it is the payload of a `Record` for stores with columns.
    """

    status: str
    result: bytes | None = None
    date_done: float | None = None  # unix seconds; None = not done
    traceback: str | None = None
    children: bytes | None = None
    name: str | None = None
    args: bytes | None = None
    kwargs: bytes | None = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    stamps: bytes | None = None


_read_columns: Final = msgspec.msgpack.Decoder(Columns).decode
_STAMPS: Final = ("stamped_headers", "stamps")


def encode_columns(meta: ResultMeta, *, codecs: Codecs, serializer: str = "json") -> bytes:
    """Return the payload of a `Record` for a store with columns.

    Raises:
        EncodeError: the serializer cannot hold the result.
    """

    def encoded(value: Any) -> bytes:
        return codecs.encode(value, serializer).body

    details = meta.details
    more: dict[str, Any] = {}
    if details is not None:
        more = {name: getattr(details, name) for name in ("name", "worker", "retries", "queue")}
        more |= {"args": encoded(details.args), "kwargs": encoded(details.kwargs)}
        if details.stamps:
            more["stamps"] = encoded(dict(zip(_STAMPS, (list(details.stamps), details.stamps), strict=True)))
    columns = Columns(
        status=meta.status,
        result=encoded(meta.result),
        date_done=None if meta.date_done is None else meta.date_done.timestamp(),
        traceback=meta.traceback,
        children=encoded(meta.children) if meta.children else None,
        **more,
    )
    return msgspec.msgpack.encode(columns)


def decode_columns(
    payload: bytes, *, codecs: Codecs, accept: Collection[str] | None, serializer: str = "json", task_id: str = ""
) -> ResultMeta:
    """Return the meta that umbel or a Celery worker stored in columns; raises as `decode_meta`."""

    def decoded(data: bytes | None) -> Any:
        return None if data is None else _decode_column(data, codecs, accept, serializer)

    try:
        columns = _read_columns(payload)
        stamps = decoded(columns.stamps)
        known = {name: getattr(columns, name) for name in ("name", "worker", "retries", "queue")}
        if columns.name is not None:
            known |= {"args": decoded(columns.args), "kwargs": decoded(columns.kwargs)}
            known["stamps"] = stamps.get("stamps") or {} if isinstance(stamps, dict) else {}
        return ResultMeta(
            task_id=task_id,
            status=columns.status,
            result=decoded(columns.result),
            traceback=columns.traceback,
            children=decoded(columns.children),
            date_done=None if columns.date_done is None else datetime.fromtimestamp(columns.date_done, UTC),
            details=None if columns.name is None else msgspec.convert(known, Details),
        )
    except (msgspec.ValidationError, ValueError, OverflowError) as exc:
        raise InvalidMessage(f"no result columns of task {task_id!r}: {exc}") from exc


def encode_group_column(node: Node, *, codecs: Codecs, serializer: str = "json") -> bytes:
    """Return what a store with columns keeps of a saved group (PRT-177)."""
    return codecs.encode(node_to_tuple(node), serializer).body


def decode_group_column(
    payload: bytes, *, codecs: Codecs, accept: Collection[str] | None, serializer: str = "json"
) -> Node:
    """Return a group saved in a column; raises as `decode_group`."""
    return node_from_tuple(_decode_column(payload, codecs, accept, serializer))


def _decode_column(data: bytes, codecs: Codecs, accept: Collection[str] | None, serializer: str) -> Any:
    # Old Celery pickled every column, whatever the serializer; in msgpack that first byte is an empty map.
    name = "pickle" if data[:1] == b"\x80" and serializer != "msgpack" else serializer
    codec = codecs.codec(name)
    return codecs.decode(data, codec.content_type, codec.content_encoding, accept=accept)


# -- Exceptions --------------------------------------------------------------------------------------------------------


def exception_to_data(exc: BaseException, *, codecs: Codecs, serializer: str = "json") -> Any:
    """Return *exc* as something the *serializer* can hold (PRT-165).

    That is a mapping of class name, module and arguments, in which an argument that cannot travel is replaced by its
    repr. With pickle it is the exception itself where that can be pickled.
    """
    cls, module = type(exc), wire_module(type(exc))
    if serializer == "pickle" and not _is_ours(cls) and _travels(exc, codecs, serializer):
        return exc
    args: list[Any] = list(exc.args)
    if not _travels(args, codecs, serializer):
        args = [arg if _travels(arg, codecs, serializer) else safe_repr(arg) for arg in args]
    return {"exc_type": cls.__qualname__, "exc_message": args, "exc_module": module}


def exception_from_data(data: Any) -> BaseException:
    """Return the exception that `exception_to_data`, or a Celery worker, stored (PRT-166).

    Only classes of modules that are imported already are used, so that nobody who can write to the store can make us
    import one. For any other, a class of that name is made up.

    Raises:
        SecurityError: the data names something that is no exception class.
        InvalidMessage: it names nothing.
    """
    if isinstance(data, BaseException):
        return data
    if not isinstance(data, Mapping) or not isinstance(name := data.get("exc_type"), str) or not name:
        raise InvalidMessage(f"no stored exception: {safe_repr(data, maxlen=200)}")
    module = data.get("exc_module")
    message = data.get("exc_message", "")
    if (module, name) == _CELERY_WRAPPER and isinstance(message, list | tuple) and len(message) == 4:
        module, name, message, _ = message  # an exception that Celery could not pickle
    cls = _class(str(module or "builtins"), str(name))
    args = message if isinstance(message, list | tuple) else (message,)
    try:
        return cls(*args)
    except Exception:  # noqa: BLE001 - the class of the user wants other arguments than those it kept
        return Exception(f"{cls}({list(args)})")


def _class(module: str, name: str) -> type[BaseException]:
    found: Any = wire_class(module, name)
    if found is None:
        found = sys.modules.get(module)
        for part in name.split("."):
            # Not getattr: a module with its own __getattr__ may import something.
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if found is None:
        return type(name.rpartition(".")[2], (Exception,), {"__module__": "celery.exceptions", "__qualname__": name})
    if not isinstance(found, type) or not issubclass(found, BaseException):
        raise SecurityError(f"a stored exception names {module}.{name}, which is no exception class: refused")
    return found


def _is_ours(cls: type[BaseException]) -> bool:
    """Tell whether a pickle of *cls* would name a module that a peer does not have."""
    return wire_class(cls.__module__, cls.__name__) is cls


def _travels(value: Any, codecs: Codecs, serializer: str) -> bool:
    try:
        there = codecs.encode(value, serializer)
        if serializer == "pickle":  # many exceptions can be pickled but never read again
            codecs.decode(there.body, there.content_type, accept=None)
    except (EncodeError, DecodeError):
        return False
    return True


_CELERY_WRAPPER: Final = ("celery.utils.serialization", "UnpickleableExceptionWrapper")


# -- Trees of results --------------------------------------------------------------------------------------------------


class Node(msgspec.Struct, frozen=True):
    """The place of one result among others."""

    id: str  # of a task, or of a group
    parent: Node | None = None  # what ran before it
    children: tuple[Node, ...] | None = None  # the members of a group; None = a single task


def node_to_tuple(node: Node) -> list[Any]:
    """Return *node* as it travels: `[[id, parent], members]` (PRT-164)."""
    parent = None if node.parent is None else node_to_tuple(node.parent)
    members = None if node.children is None else [node_to_tuple(child) for child in node.children]
    return [[node.id, parent], members]


def node_from_tuple(data: Any) -> Node:
    """Return the node that a peer wrote; an id without parent may stand bare.

    Raises:
        InvalidMessage: it is no result tuple.
    """
    try:
        return _node(data)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidMessage(f"no result tuple: {safe_repr(data, maxlen=200)}") from exc


def encode_group(node: Node, *, codecs: Codecs, serializer: str = "json", compression: str | None = None) -> bytes:
    """Return what is kept of a saved group (PRT-172)."""
    return _packed(codecs.encode({"result": node_to_tuple(node)}, serializer).body, compression)


def decode_group(
    payload: bytes, *, codecs: Codecs, accept: Collection[str] | None, serializer: str = "json", limit: int = SIZE_LIMIT
) -> Node:
    """Return a saved group.

    Raises:
        InvalidMessage: it is none.
        ContentDisallowed: the serializer's content type is not in *accept*.
        DecodeError: the bytes are damaged.
    """
    return node_from_tuple(_unpacked(payload, codecs, serializer, accept, limit).get("result"))


def _node(data: Any) -> Node:
    place, members = _pair(data)
    name, parent = _pair(place) if isinstance(place, list | tuple) else (place, None)
    if not isinstance(name, str):
        raise TypeError
    return Node(
        name,
        None if parent is None else Node(parent) if isinstance(parent, str) else _node(parent),
        None if members is None else tuple(_node(member) for member in members),
    )


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, list | tuple):
        raise TypeError
    first, second = data
    return first, second


# -- Payloads ----------------------------------------------------------------------------------------------------------


class _Meta(msgspec.Struct, kw_only=True):
    status: str
    result: Any = None
    traceback: Any = None  # of celery-node's workers it is the result once more
    children: list[Any] | None = None
    date_done: str | None = None
    group_id: str | None = None
    parent_id: str | None = None
    task_id: str | None = None
    stamped_headers: list[str] | None = None


_DETAILS: Final = ("name", "args", "kwargs", "worker", "retries", "queue")
_COMPRESSED: Final = b"\x00celery-compressed\x00"  # then the MIME name, a zero byte, the data


def is_compressed(payload: bytes) -> bool:
    """Tell whether nothing can be read in *payload* without decompressing it."""
    return payload.startswith(_COMPRESSED)


def _packed(body: bytes, compression: str | None) -> bytes:
    if compression is None:
        return body
    data, mime = compress(body, compression)
    return b"%b%b\x00%b" % (_COMPRESSED, mime.encode("ascii"), data)


def _unpacked(
    payload: bytes, codecs: Codecs, serializer: str, accept: Collection[str] | None, limit: int
) -> dict[str, Any]:
    if payload.startswith(_COMPRESSED):
        mime, _, data = payload[len(_COMPRESSED) :].partition(b"\x00")
        payload = decompress(data, mime.decode("ascii", "replace"), limit=limit)
    codec = codecs.codec(serializer)
    found = codecs.decode(payload, codec.content_type, codec.content_encoding, accept=accept)
    if not isinstance(found, dict):
        raise DecodeError(f"a stored result is no mapping: {safe_repr(found, maxlen=200)}")
    return found
