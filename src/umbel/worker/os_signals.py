"""Turn OS signals into facts: TERM and INT stop warm, a second INT or QUIT stops cold."""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from umbel.worker.facts import Manner

__all__ = ["StopRequest", "listening"]

_Handler = Callable[[int, FrameType | None], None]

StopRequest = Callable[[Manner, signal.Signals], None]
"""Called in a signal handler: how to stop, and because of which signal."""


@contextmanager
def listening(stop: StopRequest, *, remap_term: bool = False, hang_up: bool = False) -> Iterator[None]:
    """Handle TERM, INT, QUIT and USR1 while the block runs; does nothing outside the main thread.

    *remap_term*: TERM means QUIT (`REMAP_SIGTERM=SIGQUIT`). *hang_up*: HUP is handled too, as TERM, unless whoever
    started us wants it ignored (`nohup`). USR1 writes the stack of every thread to stderr.
    Source: cli.md, worker process signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[Manner] = []

    def handle(signum: int, _frame: FrameType | None) -> None:
        manner = _manner(signal.Signals(signum), already=bool(asked), remap_term=remap_term)
        asked.append(manner)
        stop(manner, signal.Signals(signum))

    def dump(_signum: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)

    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    handlers: dict[signal.Signals, _Handler] = {**dict.fromkeys(stops, handle), signal.SIGUSR1: dump}
    if hang_up and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = handle
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _manner(number: signal.Signals, *, already: bool, remap_term: bool) -> Manner:
    """Return how to stop. A second TERM repeats the first: an impatient supervisor must not cost work."""
    if number == signal.SIGQUIT or (number == signal.SIGTERM and remap_term):
        return Manner.COLD
    if number == signal.SIGINT and already:
        return Manner.COLD
    return Manner.WARM
