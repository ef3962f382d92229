"""Run coroutines of tasks in a thread that has no event loop, on one loop that the thread keeps.

The loop is kept between tasks, so that connections and sessions which a task opens on it can be used by the next.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from umbel import current
from umbel.pools.strikes import INTERRUPTS, strikeable

if TYPE_CHECKING:
    import asyncio

__all__ = ["run_in_this_thread"]


class _Loops(threading.local):
    runner: asyncio.Runner | None = None


_LOOPS: Final = _Loops()


def run_in_this_thread(running: Coroutine[Any, Any, Any]) -> Any:
    """Return what *running* returns, or raise what it raises.

    An interrupt that strikes this thread is raised where the coroutine awaits, so that it can clean up (API-190).
    Background tasks that it leaves go on when the next coroutine runs in this thread.
    """
    if (in_thread := current.thread_for_coroutines()) is not None:
        return _run_among_greenlets(running, in_thread)
    if _is_in_a_loop():
        return _run_in_another_thread(running)
    runner = _LOOPS.runner
    if runner is None:
        runner = _LOOPS.runner = _asyncio().Runner()
    assert runner is not None
    loop = runner.get_loop()
    struck: list[BaseException] = []
    task = loop.create_task(_struck(running, struck), context=copy_context())

    def strike(exc: BaseException) -> None:
        struck.append(exc)
        task.cancel()

    def on_trouble(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A strike may fall into a callback of the loop itself, which would only log it.
        exc = context.get("exception")
        if isinstance(exc, INTERRUPTS):
            strike(exc)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(on_trouble)
    while True:
        try:
            return loop.run_until_complete(task)
        except INTERRUPTS as exc:
            if task.done():
                raise
            strike(exc)


def _is_in_a_loop() -> bool:
    if "asyncio" not in sys.modules:
        return False
    try:
        _asyncio().get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_another_thread(running: Coroutine[Any, Any, Any]) -> Any:
    """Run it although this thread's loop is busy: with calling us (`apply` within a coroutine). It waits meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="umbel-apply") as executor:
        return executor.submit(copy_context().run, _asyncio().run, running).result()


def _run_among_greenlets(running: Coroutine[Any, Any, Any], in_thread: Callable[[Callable[[], Any]], Any]) -> Any:
    """Run it in a real thread; a strike hits the greenlet that waits for it, and ends the coroutine as well."""
    cancel: list[Callable[[], object]] = []

    async def work() -> Any:
        asyncio = _asyncio()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        cancel.append(lambda: loop.call_soon_threadsafe(task.cancel))
        return await running

    context = copy_context()
    try:
        return in_thread(lambda: context.run(_asyncio().run, work()))
    except INTERRUPTS:
        for end in cancel:
            end()
        raise


async def _struck(running: Coroutine[Any, Any, Any], struck: list[BaseException]) -> Any:
    asyncio = _asyncio()

    def strike(exc: BaseException) -> BaseException:
        if not struck or not isinstance(exc, asyncio.CancelledError):
            return exc
        asyncio.current_task().uncancel()
        return struck.pop()

    return await strikeable(running, strike)


def _asyncio() -> Any:
    return importlib.import_module("asyncio")  # 15 ms that only who has coroutines pays, and often has paid
