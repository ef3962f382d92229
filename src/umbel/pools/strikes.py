"""Raise inside a coroutine what is to interrupt it, where it awaits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Final

from umbel.exceptions import SoftTimeLimitExceeded, Terminated

__all__ = ["INTERRUPTS", "strikeable"]

INTERRUPTS: Final = (SoftTimeLimitExceeded, Terminated)


@coroutine
def strikeable(
    running: Coroutine[Any, Any, Any], strike: Callable[[BaseException], BaseException]
) -> Generator[Any, Any, Any]:
    """Await *running*; what its event loop throws into it, *strike* may replace, say a CancelledError that woke it."""
    step: Callable[[Any], Any] = running.send
    argument: Any = None
    while True:
        try:
            awaited = step(argument)
        except StopIteration as stop:
            return stop.value
        try:
            argument = yield awaited
            step = running.send
        except GeneratorExit:
            running.close()
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever the event loop throws goes in
            step, argument = running.throw, strike(exc)
