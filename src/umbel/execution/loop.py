"""Run coroutines of tasks in a thread that has no event loop, on one loop that the thread keeps.

The loop is kept between tasks, so that connections and sessions which a task opens on it can be used by the next.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import coroutine
from typing import Any, Final

from umbel.exceptions import SoftTimeLimitExceeded, Terminated

__all__ = ["run_in_this_thread"]

_INTERRUPTS: Final = (SoftTimeLimitExceeded, Terminated)


class _Loops(threading.local):
    runner: asyncio.Runner | None = None


_LOOPS: Final = _Loops()


def run_in_this_thread(running: Coroutine[Any, Any, Any]) -> Any:
    """Return what *running* returns, or raise what it raises.

    An interrupt that strikes this thread is raised where the coroutine awaits, so that it can clean up (API-190).
    Background tasks that it leaves go on when the next coroutine runs in this thread.
    """
    if _is_in_a_loop():
        return _run_in_another_thread(running)
    runner = _LOOPS.runner
    if runner is None:
        runner = _LOOPS.runner = asyncio.Runner()
    loop = runner.get_loop()
    struck: list[BaseException] = []
    task = loop.create_task(_struck(running, struck), context=copy_context())

    def strike(exc: BaseException) -> None:
        struck.append(exc)
        task.cancel()

    def on_trouble(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A strike may fall into a callback of the loop itself, which would only log it.
        exc = context.get("exception")
        if isinstance(exc, _INTERRUPTS):
            strike(exc)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(on_trouble)
    while True:
        try:
            return loop.run_until_complete(task)
        except _INTERRUPTS as exc:
            if task.done():
                raise
            strike(exc)


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_another_thread(running: Coroutine[Any, Any, Any]) -> Any:
    """Run it although this thread's loop is busy: with calling us (`apply` within a coroutine). It waits meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="umbel-apply") as executor:
        return executor.submit(copy_context().run, asyncio.run, running).result()


async def _struck(running: Coroutine[Any, Any, Any], struck: list[BaseException]) -> Any:
    return await _strikeable(running, struck)  # Python 3.12 and newer make tasks of `async def` alone


@coroutine
def _strikeable(running: Coroutine[Any, Any, Any], struck: list[BaseException]) -> Generator[Any, Any, Any]:
    """Await *running*; what has *struck* is raised in it instead of the CancelledError that wakes it."""
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
            step, argument = running.throw, exc
            if struck and isinstance(exc, asyncio.CancelledError):
                argument = struck.pop()
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()
