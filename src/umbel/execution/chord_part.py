"""Turn the end of a task into what a chord counts."""

from __future__ import annotations

from typing import Any

import msgspec

from umbel.execution.plan import Environment
from umbel.execution.request import Request
from umbel.wire.chord import ChordPart

__all__ = ["Body", "make_part"]


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What firing a chord needs to know, beside the results of its header."""

    signature: bytes  # in dict form, encoded as the message of the part is
    content_type: str
    parent_id: str  # the task that completed it
    root_id: str
    priority: int | None = None  # of that task's message


_encode = msgspec.msgpack.Encoder().encode


def make_part(env: Environment, request: Request, state: str, result: Any) -> ChordPart:
    """Return the part of its chord that *request* is; *result* is its value, or the exception that ended it.

    Raises:
        EncodeError: a plain *result* cannot be encoded.
    """
    message, task_id = request.message, request.id or ""
    content_type = "application/json" if message is None else message.content_type
    body = Body(
        signature=env.chords.write_body(request.chord, content_type),
        content_type=content_type,
        parent_id=task_id,
        root_id=request.root_id or task_id,
        priority=None if message is None else message.priority,
    )
    return ChordPart(
        group=request.group or "",
        index=request.group_index,
        id=task_id,
        payload=env.chords.write_part(task_id, state, result),
        body=_encode(body),
        expires=env.chords.expires,
    )
