"""Turn messages into rows of the SQLite file, and rows into messages."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from umbel.brokers.base import DeadLetter, Delivery, Publication
from umbel.brokers.sqlite_schema import SPAN, TICKS
from umbel.exceptions import EncodeError
from umbel.wire.message import Message, Route

__all__ = [
    "LETTERS",
    "Parcel",
    "Row",
    "add_evidence",
    "deliver",
    "id_of",
    "letter",
    "pack",
    "published",
    "unexpiring",
    "unpack",
]

_BIG: Final = 2048  # bytes: a larger body lies apart, so that claiming does not copy it

LETTERS: Final = """
    SELECT tag, dead.id, task, queue, reason, died_at, crashes, evidence, message, body
    FROM dead LEFT JOIN bodies ON bodies.id = big
"""
"""What `letter` takes."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Publication).decode


class Parcel(NamedTuple):
    """A publication, encoded before the file is locked."""

    publication: Publication
    message: bytes
    body: bytes | None  # what lies apart
    due: float  # unix seconds; 0.0 = no eta


class Row(NamedTuple):
    """A message as it was claimed."""

    queue: str
    key: int
    token: int
    crashes: int
    redelivered: int  # 0 or 1
    message: bytes
    body: bytes | None  # what lay apart


def pack(publication: Publication) -> Parcel:
    """Encode a publication.

    Raises:
        EncodeError: its headers, stamps or properties hold what msgpack cannot say.
    """
    message = publication.message
    body = None
    if len(message.body) > _BIG:
        body = message.body
        publication = Publication(message=msgspec.structs.replace(message, body=b""), route=publication.route)
    try:
        blob = _encode(publication)
    except (TypeError, ValueError, OverflowError) as exc:
        raise EncodeError(
            f"message {message.id} of task {message.task} cannot be stored: {exc}. "
            f"Headers, stamps and properties take numbers, text, bytes, lists and mappings."
        ) from exc
    return Parcel(publication, blob, body, 0.0 if message.eta is None else message.eta.timestamp())


def unpack(blob: bytes, key: int, queue: str) -> tuple[Publication, str | None]:
    """Return what was stored and None; if it is nonsense, a stand-in and what is wrong with it."""
    try:
        return _decode(blob), None
    except (msgspec.MsgspecError, ValueError, OverflowError) as exc:
        message = Message(id=f"invalid-{key}", task="", body=blob)
        return Publication(message=message, route=Route("", queue)), f"no message of umbel: {exc}"


def unexpiring(blob: bytes) -> bytes:
    """Return what was stored, without the moment after which it expires."""
    publication, invalid = unpack(blob, 0, "")
    if invalid is not None:
        return blob
    message = msgspec.structs.replace(publication.message, expires=None)
    return _encode(msgspec.structs.replace(publication, message=message))


class _HeadOfMessage(msgspec.Struct, array_like=True):
    id: str


class _Head(msgspec.Struct, array_like=True):
    """As much of a publication as tells its task's id."""

    message: _HeadOfMessage


_decode_head: Final = msgspec.msgpack.Decoder(_Head).decode


def id_of(blob: bytes) -> str | None:
    """Return the task id in a stored message; None if there is none."""
    try:
        return _decode_head(blob).message.id
    except (msgspec.MsgspecError, ValueError):
        return None


def published(key: int) -> float:
    """Return the unix second of publishing that a key tells."""
    return key % SPAN / TICKS


def deliver(
    row: Row, publication: Publication, invalid: str | None, revoked_until: float | None, now: float
) -> Delivery:
    """Return what a worker gets; *revoked_until* is the end of its id's revocation, if there is one."""
    message, since = publication.message, published(row.key)
    if row.body is not None:
        message = msgspec.structs.replace(message, body=row.body)
    return Delivery(
        message=message,
        queue=row.queue,
        route=publication.route,
        tag=row.key,
        token=row.token,
        crashes=row.crashes,
        redelivered=row.redelivered == 1,
        # A revocation holds for its time, and longer for what was published before its end.
        revoked=revoked_until is not None and (now < revoked_until or since <= revoked_until),
        expired=message.expires is not None and message.expires.timestamp() <= now,
        invalid=invalid,
        since=since,
    )


def add_evidence(evidence: bytes | None, line: str) -> bytes:
    """Return *evidence* with one more line."""
    return msgspec.json.encode([*_lines(evidence), line])


def letter(row: tuple[Any, ...]) -> DeadLetter:
    """Return a row of `LETTERS` as a dead letter."""
    tag, task_id, task, queue, reason, died_at, crashes, evidence, blob, body = row
    message = unpack(blob, 0, queue)[0].message
    if message.id != task_id or body is not None:
        message = msgspec.structs.replace(message, id=task_id, body=message.body if body is None else body)
    return DeadLetter(
        tag=tag,
        id=task_id,
        task=task,
        queue=queue,
        reason=reason,
        evidence=_lines(evidence),
        crashes=crashes,
        died_at=died_at,
        message=message,
    )


def _lines(evidence: bytes | None) -> tuple[str, ...]:
    return () if evidence is None else msgspec.json.decode(evidence, type=tuple[str, ...])
