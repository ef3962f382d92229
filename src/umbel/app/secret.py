"""Keep what an argument holds out of logs, events and errors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

__all__ = ["Hidden", "Secret"]

T = TypeVar("T")


class _Stars:
    """What people are shown instead."""

    def __repr__(self) -> str:
        return "***"


_STARS: Final = _Stars()

Secret = Annotated[T, _STARS]
"""Says that nobody is to see an argument: ``def login(user: str, password: Secret[str])``. It travels as it is."""


class Hidden:
    """The arguments of one function that are secret."""

    __slots__ = ("_names", "_positions")

    def __init__(self, names: frozenset[str], positions: frozenset[int]) -> None:
        self._names = names
        self._positions = positions

    @classmethod
    def of(cls, function: Any, *, bound: bool) -> Hidden | None:
        """Return what is secret of a task's function, whose first argument is the task if *bound*; None = nothing."""
        annotations = getattr(function, "__annotations__", {})
        names = frozenset(name for name, kind in annotations.items() if _is_secret(kind))
        if not names:
            return None
        parameters = list(inspect.signature(function).parameters)[1 if bound else 0 :]
        return cls(names, frozenset(i for i, name in enumerate(parameters) if name in names))

    def mask(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments as they may be shown."""
        return (
            tuple(_STARS if i in self._positions else value for i, value in enumerate(args)),
            {key: _STARS if key in self._names else value for key, value in kwargs.items()},
        )


def _is_secret(annotation: Any) -> bool:
    if isinstance(annotation, str):  # as `from __future__ import annotations` leaves it
        return "Secret[" in annotation
    return _STARS in getattr(annotation, "__metadata__", ())
