"""Encode and decode bodies and results as the settings say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from umbel.states import EXCEPTION_STATES, READY_STATES
from umbel.wire.codecs import Codecs, Encoded
from umbel.wire.message import Message
from umbel.wire.protocol import Body, decode_body, decode_body_with_links, encode_body
from umbel.wire.result import (
    Details,
    ResultMeta,
    decode_columns,
    decode_group,
    decode_group_column,
    decode_meta,
    encode_columns,
    encode_group,
    encode_group_column,
    encode_meta,
    exception_from_data,
    exception_to_data,
    node_from_tuple,
    node_to_tuple,
)

__all__ = ["Coder"]


class Coder:
    """The serializers of one app, and what its settings say of them."""

    def __init__(self, conf: Any, codecs: Codecs, now: Callable[[], datetime], *, columns: bool = False) -> None:
        """Take the settings, the serializers there are, and *now*, which gives the end of a task its time.

        With *columns* results are encoded for a store that keeps their parts in columns of a table.
        """
        self.codecs = codecs
        self._now = now
        self._columns = columns
        self._accept = None if conf.accept_content is None else codecs.content_types(conf.accept_content)
        results = conf.result_accept_content
        self._accept_results = self._accept if results is None else codecs.content_types(results)
        self._serializer: str = conf.result_serializer
        self._compression: str | None = conf.result_compression

    def body(self, body: Body, *, serializer: str, compression: str | None) -> Encoded:
        """Return a task's body encoded, and compressed if *compression* names how; raises as `encode_body`."""
        args, kwargs, embed = body
        return encode_body(args, kwargs, embed, codecs=self.codecs, serializer=serializer, compression=compression)

    def read(self, message: Message) -> Body:
        """Return what is in the body of *message*; raises as `decode_body`."""
        return decode_body(message, codecs=self.codecs, accept=self._accept)

    def read_to_run(self, message: Message) -> Body:
        """Do as `read`, but leave a long chain unread, as `Links`."""
        return decode_body_with_links(message, codecs=self.codecs, accept=self._accept)

    def write(
        self,
        *,
        task_id: str,
        state: str,
        result: Any,
        traceback: str | None,
        children: Sequence[Any],
        group_id: str | None,
        parent_id: str | None,
        extended: Mapping[str, Any] | None,
    ) -> bytes:
        """Return the payload of a record; see `execution.plan.Writer`."""
        if isinstance(result, BaseException):
            result = exception_to_data(result, codecs=self.codecs, serializer=self._serializer)
        meta = ResultMeta(
            task_id=task_id,
            status=state,
            result=result,
            traceback=traceback,
            children=list(children),
            date_done=self._now() if state in READY_STATES else None,
            group_id=group_id,
            parent_id=parent_id,
            details=None if extended is None else _details(extended),
        )
        if self._columns:
            return encode_columns(meta, codecs=self.codecs, serializer=self._serializer)
        return encode_meta(meta, codecs=self.codecs, serializer=self._serializer, compression=self._compression)

    def read_meta(self, payload: bytes, task_id: str) -> dict[str, Any]:
        """Return what a payload says, exceptions as such; raises as `decode_meta`."""
        decode = decode_columns if self._columns else decode_meta
        meta = decode(
            payload, codecs=self.codecs, accept=self._accept_results, serializer=self._serializer, task_id=task_id
        )
        result = meta.result
        if meta.status in EXCEPTION_STATES and result is not None:
            result = exception_from_data(result)
        known: dict[str, Any] = {
            "status": meta.status,
            "result": result,
            "traceback": meta.traceback,
            "children": meta.children,
            "date_done": meta.date_done,
            "group_id": meta.group_id,
            "parent_id": meta.parent_id,
            "task_id": meta.task_id,
        }
        return known if meta.details is None else {**known, **msgspec.structs.asdict(meta.details)}

    def write_group(self, result: Any) -> bytes:
        """Return the payload of a saved group, given as its result tuple."""
        node = node_from_tuple(result)
        if self._columns:
            return encode_group_column(node, codecs=self.codecs, serializer=self._serializer)
        return encode_group(node, codecs=self.codecs, serializer=self._serializer, compression=self._compression)

    def read_group(self, payload: bytes) -> list[Any]:
        """Return the result tuple of a saved group."""
        decode = decode_group_column if self._columns else decode_group
        node = decode(payload, codecs=self.codecs, accept=self._accept_results, serializer=self._serializer)
        return node_to_tuple(node)


def _details(extended: Mapping[str, Any]) -> Details:
    known = {name: extended.get(name) for name in ("name", "args", "kwargs", "worker", "retries", "queue")}
    return Details(**known, stamps={name: extended.get(name) for name in extended.get("stamped_headers") or ()})
