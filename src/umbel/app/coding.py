"""Encode and decode bodies and results as the settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from umbel.exceptions import InvalidTaskError, wire_module
from umbel.execution.plan import Body
from umbel.wire.codecs import Codecs, Encoded
from umbel.wire.compression import compress, decompress
from umbel.wire.message import Message

__all__ = ["Coder"]


class Coder:
    """The serializers of one app, and what its settings say of them."""

    def __init__(self, conf: Any, codecs: Codecs) -> None:
        self._codecs = codecs
        self._accept = codecs.content_types(conf.accept_content) if conf.accept_content is not None else None
        results = conf.result_accept_content
        self._accept_results = self._accept if results is None else codecs.content_types(results)
        self._serializer: str = conf.result_serializer
        self._content_type = codecs.codec(self._serializer).content_type

    def body(self, value: Any, *, serializer: str, compression: str | None) -> Encoded:
        """Return *value* encoded, and compressed if *compression* names how.

        Raises:
            EncodeError: the serializer cannot hold it.
            ImproperlyConfigured: no such serializer or compression.
        """
        encoded = self._codecs.encode(value, serializer)
        if compression is None:
            return encoded
        body, name = compress(encoded.body, compression)
        return msgspec.structs.replace(encoded, body=body, compression=name)

    def read(self, message: Message) -> Body:
        """Return what is in the body of *message*.

        Raises:
            InvalidMessage: it cannot be decoded, or must not be.
            InvalidTaskError: it is no body of a task.
        """
        data = message.body if message.compression is None else decompress(message.body, message.compression)
        body = self._codecs.decode(data, message.content_type, message.content_encoding, accept=self._accept)
        try:
            args, kwargs, embed = body
        except (TypeError, ValueError):
            raise InvalidTaskError(
                f"the body of task {message.task}[{message.id}] is no (args, kwargs, embed), but a {type(body).__name__}"
            ) from None
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, Mapping):
            raise InvalidTaskError(
                f"the arguments of task {message.task}[{message.id}] are {type(args).__name__} and "
                f"{type(kwargs).__name__}; they must be a list and a mapping"
            )
        return args, kwargs, embed or {}

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
        return self._codecs.encode({"status": state, "result": result, "traceback": traceback, "children": list(children),
             "date_done": datetime.now(UTC).isoformat(), "task_id": task_id, **(extended or {})}, self._serializer).body

    def read_meta(self, payload: bytes) -> dict[str, Any]:
        meta = self._codecs.decode(payload, self._content_type, accept=self._accept_results)
        if isinstance(meta["result"], dict) and "exc_type" in meta["result"]:
            meta["result"] = Exception(*meta["result"]["exc_message"])
        return meta

    def write_group(self, result: Any) -> bytes:
        return self._codecs.encode({"result": result}, self._serializer).body

    def read_group(self, payload: bytes) -> Any:
        return self._codecs.decode(payload, self._content_type, accept=self._accept_results)["result"]
