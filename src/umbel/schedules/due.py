"""List the instants at which a schedule was due while nobody looked."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Protocol

from umbel.schedules.base import schedule

__all__ = ["Instants", "due_instants"]


class Instants(Protocol):
    """A schedule that knows its instants."""

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the instant that follows *moment*."""


def due_instants(plan: Instants, after: datetime, until: datetime, *, limit: int) -> list[datetime]:
    """Return the newest instants behind *after* and not behind *until*, at most *limit*, oldest first."""
    if isinstance(plan, schedule) and not plan.relative:
        every = max(plan.run_every, timedelta(microseconds=1))
        count = (until - after) // every
        return [after + every * number for number in range(max(1, count - limit + 1), count + 1)]
    found: deque[datetime] = deque(maxlen=limit)
    # Look back further and further, so that a year of silence costs no more than the instants that are wanted.
    reach = timedelta(hours=1)
    while True:
        begin = after if isinstance(plan, schedule) else max(after, until - reach)
        found.clear()
        moment: datetime | None = begin
        while moment is not None and (moment := plan.next_after(moment)) is not None and moment <= until:
            found.append(moment)
        if len(found) == limit or begin == after:
            return list(found)
        reach *= 8
