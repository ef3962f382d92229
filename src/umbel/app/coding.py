"""Encode and decode bodies and results as the settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from umbel.exceptions import wire_module
from umbel.wire.codecs import Codecs, Encoded
from umbel.wire.message import Message
from umbel.wire.protocol import Body, decode_body, encode_body

__all__ = ["Coder"]


class Coder:
    """The serializers of one app, and what its settings say of them."""

    def __init__(self, conf: Any, codecs: Codecs) -> None:
        self.codecs = codecs
        self._accept = codecs.content_types(conf.accept_content) if conf.accept_content is not None else None
        results = conf.result_accept_content
        self._accept_results = self._accept if results is None else codecs.content_types(results)
        self._serializer: str = conf.result_serializer
        self._content_type = codecs.codec(self._serializer).content_type

    def body(self, body: Body, *, serializer: str, compression: str | None) -> Encoded:
        """Return a task's body encoded, and compressed if *compression* names how; raises as `encode_body`."""
        args, kwargs, embed = body
        return encode_body(args, kwargs, embed, codecs=self.codecs, serializer=serializer, compression=compression)

    def read(self, message: Message) -> Body:
        """Return what is in the body of *message*; raises as `decode_body`."""
        return decode_body(message, codecs=self.codecs, accept=self._accept)

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
        if isinstance(result, BaseException):
            t = type(result)
            result = {"exc_type": t.__qualname__, "exc_message": list(map(repr, result.args)), "exc_module": wire_module(t)}
        return self.codecs.encode({"status": state, "result": result, "traceback": traceback, "children": list(children),
             "date_done": datetime.now(UTC).isoformat(), "task_id": task_id, **(extended or {})}, self._serializer).body

    def read_meta(self, payload: bytes) -> dict[str, Any]:
        meta = self.codecs.decode(payload, self._content_type, accept=self._accept_results)
        if isinstance(meta["result"], dict) and "exc_type" in meta["result"]:
            meta["result"] = Exception(*meta["result"]["exc_message"])
        return meta

    def write_group(self, result: Any) -> bytes:
        return self.codecs.encode({"result": result}, self._serializer).body

    def read_group(self, payload: bytes) -> Any:
        return self.codecs.decode(payload, self._content_type, accept=self._accept_results)["result"]
