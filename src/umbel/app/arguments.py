"""Check a call's arguments against a task's signature before anything is sent."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Arguments"]


class Arguments:
    """What arguments a function takes."""

    __slots__ = ("_least", "_most", "_signature", "_task")

    def __init__(self, task: str, signature: inspect.Signature) -> None:
        """Take the *task*'s name for messages, and its *signature* as callers see it."""
        self._task = task
        self._signature = signature
        parameters = signature.parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        simple = not any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        # Calls with so many positional arguments and no named ones are right without a closer look.
        self._least = sum(p.default is p.empty for p in positional) if simple else 1
        self._most = (1 << 30 if any_number else len(positional)) if simple else 0

    @classmethod
    def of(cls, task: Any) -> Arguments:
        """Return what *task* takes; one that cannot be known takes anything."""
        try:
            signature = inspect.signature(task.run)
        except (TypeError, ValueError):
            signature = inspect.Signature(
                [
                    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
                ]
            )
        return cls(task.name, signature)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Return if the function can be called so.

        Raises:
            TypeError: it cannot; the text says why.
        """
        if not kwargs and self._least <= len(args) <= self._most:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self._task}{self._signature} cannot be called so: {exc}") from None
