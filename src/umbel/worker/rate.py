"""Space the starts of a task that may not start as often as it comes.

What may not start yet goes back to the broker, so it holds no slot and delays nobody. The starts of the next
moments are reserved by task id: what comes back then runs without asking again. What would start later than that
gets no reservation, so that other workers may take it meanwhile and a changed rate is felt soon; the more there is
of it, the longer it stays away, so that a long backlog does not go round and round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["Starts"]

_HORIZON: Final = 30.0  # seconds ahead that starts are reserved
_LONGEST: Final = 3600.0  # seconds that anything is sent away
_PATIENCE: Final = 60.0  # seconds after its start that a reservation is kept for one that another worker may have
_GOLDEN: Final = 0.618  # spreads those that are sent away evenly, however many they are


@dataclass(slots=True)
class Starts:
    """The starts of one task, *interval* seconds apart."""

    interval: float  # seconds
    free_at: float = 0.0  # monotonic: the first start that is not reserved
    reserved: dict[str, float] = field(default_factory=dict)  # task id: monotonic; in the order of starts
    away: float = _HORIZON  # seconds that those without a reservation stay away, give or take a half
    sent_away: int = 0  # in this round
    round_ends: float = 0.0  # monotonic

    def wait(self, task_id: str, now: float) -> float:
        """Return seconds until this one may start, 0.0 = now; if it is many, it has to ask again then."""
        start = self.reserved.pop(task_id, None)
        if start is None:
            start = max(now, self.free_at)
            if start - now > _HORIZON:
                return self._send_away(now)
            self.free_at = start + self.interval
        if start <= now:
            return 0.0
        self._forget(now)
        self.reserved[task_id] = start
        return start - now

    def _send_away(self, now: float) -> float:
        if now >= self.round_ends:
            # As many came in the last round as there are; a quarter of their time is soon enough to ask again.
            self.away = min(max(_HORIZON, self.sent_away * self.interval / 4), _LONGEST)
            self.round_ends = now + self.away
            self.sent_away = 0
        self.sent_away += 1
        return self.away * (0.5 + self.sent_away * _GOLDEN % 1.0)

    def _forget(self, now: float) -> None:
        """Drop reservations that nobody came for."""
        while self.reserved:
            oldest = next(iter(self.reserved))
            if self.reserved[oldest] > now - _PATIENCE:
                return
            del self.reserved[oldest]
