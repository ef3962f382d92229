"""Count what happens in a cluster, so that events of different nodes can be put in order."""

from __future__ import annotations

import threading

__all__ = ["LamportClock"]


class LamportClock:
    """A logical clock (``app.clock``): it grows with everything a node says, and runs ahead to what it hears."""

    def __init__(self, initial_value: int = 0) -> None:
        self.value = initial_value
        self._lock = threading.Lock()

    def forward(self, by: int = 1) -> int:
        """Count *by* more things said; return the number of the last."""
        with self._lock:
            self.value += by
            return self.value

    def adjust(self, other: int) -> int:
        """Run ahead to what a peer said at *other*; return our number for having heard it."""
        with self._lock:
            self.value = max(self.value, other) + 1
            return self.value

    def __repr__(self) -> str:
        return f"<LamportClock: {self.value}>"

    def __str__(self) -> str:
        return str(self.value)
