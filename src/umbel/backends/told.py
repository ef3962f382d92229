"""Wait for tasks whose changes others tell of, in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from umbel.brokers.memory_store import Bell

__all__ = ["ToldWatch"]


class ToldWatch:
    """The port `Watch` where whoever learns of a change says so by `tell`."""

    def __init__(self, ids: frozenset[str], leave: Callable[[ToldWatch], None], told: threading.Condition) -> None:
        """Wait for *ids* on *told*; *leave* is called once, when nobody waits any more."""
        self.ids = ids
        self._leave = leave
        self._told = told
        self._changed: set[str] = set()
        self._bell: Bell | None = None  # made when somebody asks for the descriptor
        self._closed = False

    def tell(self, task_id: str) -> None:
        """Note that something came for *task_id*."""
        with self._told:
            self._changed.add(task_id)
            if self._bell is not None:
                self._bell.ring()
            self._told.notify_all()

    def wait(self, timeout: float | None) -> set[str]:
        with self._told:
            self._told.wait_for(lambda: self._changed or self._closed, timeout)
            changed, self._changed = self._changed, set()
            if self._bell is not None:
                self._bell.silence()
            return changed

    def fileno(self) -> int:
        with self._told:
            if self._closed:
                raise RuntimeError("this watch is closed: watch again")
            if self._bell is None:
                self._bell = Bell()
                if self._changed:
                    self._bell.ring()
            return self._bell.fileno()

    def close(self) -> None:
        with self._told:
            if self._closed:
                return
            self._closed = True
            if self._bell is not None:
                self._bell.close()
                self._bell = None
            self._told.notify_all()
        self._leave(self)
