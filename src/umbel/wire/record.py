"""One state of one task, encoded and ready for a result store."""

from __future__ import annotations

import msgspec

__all__ = ["Record"]


class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One state of one task, ready to be stored."""

    id: str  # task id
    state: str  # a value of `states`, or a user's own
    payload: bytes  # the whole result meta, encoded by `result_serializer` (wire/result.py)
    expires: float | None = None  # seconds from now; None = never
    reply_to: str | None = None  # the sender's reply queue, for rpc
