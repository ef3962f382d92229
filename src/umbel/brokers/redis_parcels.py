"""Turn messages into what lies in a Redis list, and back: kombu's envelope, crashes noted in its headers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec

from umbel.brokers.base import DeadLetter, Publication
from umbel.exceptions import ContentDisallowed, DecodeError, EncodeError, InvalidMessage
from umbel.wire.envelope import Envelope, Envelopes
from umbel.wire.extended_json import ExtendedJson
from umbel.wire.message import Message, Route
from umbel.wire.protocol import MessageReader

__all__ = ["Letter", "Parcels", "Seen", "published"]

CRASHES: Final = "umbel-crashes"  # header: one line for each counted crash
_MARK: Final = CRASHES.encode()


class Seen(NamedTuple):
    """What is in an envelope."""

    envelope: Envelope
    crashes: tuple[str, ...]  # the evidence, one line for each
    invalid: str | None  # why it is no message; that of the envelope is then a stand-in


class Letter(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A dead letter as it is stored."""

    id: str
    task: str
    queue: str
    reason: str
    evidence: tuple[str, ...]
    crashes: int
    died_at: float
    data: bytes  # the envelope


class Parcels:
    """Write and read envelopes; used by one broker."""

    def __init__(self, json: ExtendedJson, reader: MessageReader, clock: Callable[[], float] = time.time) -> None:
        self._envelopes = Envelopes(json)
        self._reader = reader
        self._clock = clock
        self._node = os.urandom(4).hex()
        self._numbers = count(int.from_bytes(os.urandom(3), "big"))
        self._pid = os.getpid()
        self._sort = (0, 0, 0)  # milliseconds, high part of the number and process of the last tag, and how it begins
        self._begin = ""

    def pack(self, publication: Publication) -> bytes:
        """Return the envelope of a publication.

        Raises:
            EncodeError: its headers, stamps or properties hold what JSON cannot say.
        """
        message, now = publication.message, self._clock()
        try:
            return self._envelopes.encode(
                message,
                publication.route,
                delivery_tag=self._tag(now),
                now=_EPOCH if message.expires is None else datetime.fromtimestamp(now, UTC),
            )
        except (TypeError, ValueError, OverflowError) as exc:
            raise EncodeError(
                f"message {message.id} of task {message.task} cannot be sent: {exc}. "
                "Headers, stamps and properties take what JSON can say."
            ) from exc

    def read(self, data: bytes, name: str, *, plain: bool = False) -> Seen:
        """Return what is in *data*; nonsense gets a stand-in called *name*.

        With *plain* a message that is no task's is right too: an event, a command, a reply.
        """
        envelopes = self._envelopes
        try:
            try:
                envelope = envelopes.decode(data, self._reader)
            except InvalidMessage:
                if not plain:
                    raise
                envelope = envelopes.decode(data, None)
                if "task" in envelope.message.headers:
                    raise
        except (InvalidMessage, ContentDisallowed, DecodeError) as exc:
            return Seen(self._stand_in(data, name), (), str(exc))
        except RecursionError:
            return Seen(Envelope(Message(id=name, task="", body=data), Route(), "", False), (), "it is nested too deep")
        if _MARK not in data or not isinstance(lines := envelope.message.headers.get(CRASHES), list):
            return Seen(envelope, (), None)
        headers = {key: value for key, value in envelope.message.headers.items() if key != CRASHES}
        message = msgspec.structs.replace(envelope.message, headers=headers)
        return Seen(msgspec.structs.replace(envelope, message=message), tuple(map(str, lines)), None)

    def give_back(self, data: bytes, crash: str | None = None) -> bytes:
        """Return *data* as it goes back to its queue: delivered before, and with one more *crash* if there was one."""
        headers: dict[str, Any] = {"redelivered": True}
        try:
            if crash is not None:
                headers[CRASHES] = [*self.read(data, "").crashes, crash]
            return self._envelopes.amend(data, headers, {"redelivered": True})
        except (InvalidMessage, RecursionError):
            return data  # nothing can be said in it; it will be buried by whoever claims it

    def renewed(self, letter: Letter) -> bytes:
        """Return the message of a dead *letter* as if it had never been delivered, nor expired if it died of that."""
        data = letter.data
        changed: dict[str, Any] = {CRASHES: None, "redelivered": None}
        if letter.reason == "expired":
            changed["expires"] = None
        try:
            return self._envelopes.amend(data, changed, {"redelivered": None})
        except (InvalidMessage, RecursionError):
            return data

    def letter(self, tag: int, stored: bytes) -> DeadLetter:
        """Return a stored letter as the port tells it."""
        letter = _decode_letter(stored)
        seen = self.read(letter.data, letter.id, plain=True)
        message = seen.envelope.message
        return DeadLetter(
            tag=tag,
            id=letter.id,
            task=letter.task,
            queue=letter.queue,
            reason=letter.reason,
            evidence=letter.evidence,
            crashes=letter.crashes,
            died_at=letter.died_at,
            message=message if message.id == letter.id else msgspec.structs.replace(message, id=letter.id),
        )

    def _stand_in(self, data: bytes, name: str) -> Envelope:
        """Return as much of a bad message as helps to know it again."""
        try:
            plain = self._envelopes.decode(data, None)
        except (InvalidMessage, ContentDisallowed, DecodeError, RecursionError):
            return Envelope(Message(id=name, task="", body=data), Route(), "", False)
        headers = plain.message.headers
        task_id, task = headers.get("id"), headers.get("task")
        message = Message(
            id=task_id if isinstance(task_id, str) and task_id else name,
            task=task if isinstance(task, str) else "",
            body=plain.message.body,
            content_type=plain.message.content_type,
            content_encoding=plain.message.content_encoding,
        )
        return Envelope(message, plain.route, plain.delivery_tag, plain.redelivered)

    def _tag(self, now: float) -> str:
        """Return a new delivery tag: a UUID of version 7, so that it also tells when."""
        pid, number = os.getpid(), next(self._numbers)
        sort = (int(now * 1000), number >> 16, pid)
        if sort != self._sort:  # else but for its end it is as the one before (micro_redis.py, publish 1000 at once)
            if pid != self._pid:
                self._pid, self._node = pid, os.urandom(4).hex()
            self._sort, stamp = sort, f"{sort[0]:012x}"
            high = f"7{number >> 28 & 0xFFF:03x}-8{number >> 16 & 0xFFF:03x}"
            self._begin = f"{stamp[:8]}-{stamp[8:]}-{high}-{self._node}"
        return f"{self._begin}{number & 0xFFFF:04x}"


_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_decode_letter: Final = msgspec.msgpack.Decoder(Letter).decode


def published(tag: str) -> float | None:
    """Return the unix second that a delivery tag of ours tells; None for others."""
    if len(tag) != 36 or tag[14] != "7":
        return None
    try:
        return int(tag[:8] + tag[9:13], 16) / 1000
    except ValueError:
        return None
