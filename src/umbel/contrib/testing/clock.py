"""Stand in for the time, so that a test decides when an hour has passed."""

from __future__ import annotations

__all__ = ["VirtualClock"]


class VirtualClock:
    """A clock that stands still until it is moved. Calling it returns unix seconds, as `time.time` does."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        if seconds < 0:
            raise ValueError(f"a clock goes forward only, not by {seconds} seconds")
        self._now += seconds
