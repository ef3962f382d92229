"""Run what users want done about ends that no child can report, beside the loop, which must not wait for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Full, Queue
from typing import Final

__all__ = ["Aside"]

_WAITING: Final = 10_000  # calls that may wait; beyond that they are dropped, and said to be

_logger: Final = logging.getLogger("celery.worker")


class Aside:
    """A thread that makes one call after the other; started by the first one."""

    def __init__(self) -> None:
        self._calls: Queue[Callable[[], object] | None] = Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def __call__(self, call: Callable[[], object]) -> None:
        """Make *call* soon. Used by one thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="umbel-aside", daemon=True)
            self._thread.start()
        try:
            self._calls.put_nowait(call)
        except Full:
            _logger.error("hooks and signals of a lost task are dropped: %d others wait for a slow one", _WAITING)

    def stop(self, deadline: float) -> None:
        """Wait at most *deadline* seconds until all calls have been made; what hangs ends with the process."""
        if self._thread is None:
            return
        try:
            self._calls.put_nowait(None)
        except Full:
            return
        self._thread.join(deadline)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                _logger.exception("what a lost task was to set off raised an error")
