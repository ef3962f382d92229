"""Encode and decode bodies and results as the settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import json
from umbel.exceptions import wire_module

from umbel.wire.message import Message

__all__ = ["Coder"]


class Coder:
    """The serializers of one app."""

    def __init__(self, conf: Any) -> None:
        self._conf = conf

    def body(self, value: Any, *, serializer: str, compression: str | None) -> tuple[bytes, str, str, str | None]:
        return json.dumps(value).encode(), "application/json", "utf-8", None

    def read(self, message: Message) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
        args, kwargs, embed = json.loads(message.body)
        return args, kwargs, embed

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
        return json.dumps({"status": state, "result": result, "traceback": traceback, "children": list(children),
             "date_done": datetime.now(UTC).isoformat(), "task_id": task_id, **(extended or {})}).encode()

    def read_meta(self, payload: bytes) -> dict[str, Any]:
        meta = json.loads(payload)
        if isinstance(meta["result"], dict) and "exc_type" in meta["result"]:
            meta["result"] = Exception(*meta["result"]["exc_message"])
        return meta

    def write_group(self, result: Any) -> bytes:
        return json.dumps({"result": result}).encode()

    def read_group(self, payload: bytes) -> Any:
        return json.loads(payload)["result"]
