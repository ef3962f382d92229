"""What starting a work-flow comes to: tasks to publish, and chords that wait for some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Call", "Opening"]


class Call(msgspec.Struct, frozen=True, gc=False):
    """One message to be: a task's name, its arguments, and the options of `apply_async`, identity included."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]


class Opening(msgspec.Struct, frozen=True, gc=False):
    """A chord that waits from now on; it comes before the calls of its header."""

    group: str  # the group id of its header
    size: int  # the tasks whose values it waits for
    results: Sequence[Any]  # of its members in order, as `GroupResult.as_tuple` has them
    body: Mapping[str, Any]  # the signature that runs then, in dict form
    options: Mapping[str, Any]  # those of `apply_async` that hold for the header
