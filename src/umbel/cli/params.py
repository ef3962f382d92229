"""Read JSON from the command line."""

from __future__ import annotations

from typing import Any

import click
import msgspec

__all__ = ["Json"]


class Json(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A JSON text of one kind."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self.name = "json array" if kind is list else "json object"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return msgspec.json.decode(value, type=self._kind)
        except msgspec.DecodeError as exc:
            self.fail(f"{value!r} is no {self.name}: {exc}", param, ctx)
