"""One task to publish, as the canvas hands it to the app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Call"]


class Call(msgspec.Struct, frozen=True, gc=False):
    """One message to be: a task's name, its arguments, and the options of `apply_async`, identity included."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
