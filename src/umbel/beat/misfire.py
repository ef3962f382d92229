"""Decide which of the instants that have passed are still sent."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from umbel.exceptions import ImproperlyConfigured
from umbel.schedules.due import Instants, due_instants

__all__ = ["check_misfire", "instants_to_send"]

_POLICY: Final = re.compile(r"skip|run_once|catch_up\((\d+)\)")
_PUNCTUAL: Final = 60.0  # seconds: an instant that is later is a missed one


def check_misfire(policy: str) -> int:
    """Return how many missed instants *policy* still sends: ``skip`` 0, ``run_once`` 1, ``catch_up(n)`` n.

    Raises:
        ImproperlyConfigured: it is none of these.
    """
    found = _POLICY.fullmatch(policy)
    if found is None:
        raise ImproperlyConfigured(
            f"misfire={policy!r}: it is 'skip', 'run_once' or 'catch_up(n)', such as catch_up(5)"
        )
    return int(found[1]) if found[1] else int(policy == "run_once")


def instants_to_send(
    schedule: Instants, last: datetime, now: datetime, *, policy: str, deadline: float | None
) -> tuple[list[datetime], datetime | None]:
    """Return the instants to send now, oldest first, and the newest that has passed; None = none has.

    *last* is the instant sent last. An instant that has just come is sent under every policy; the newest ones that
    were missed as *policy* says. What is later than *deadline* seconds is not sent.
    """
    count = check_misfire(policy)
    found = due_instants(schedule, last, now, limit=max(1, count))
    if not found:
        return [], None
    latest = _PUNCTUAL if count == 0 else float("inf")
    if deadline is not None:
        latest = min(latest, deadline)
    return [each for each in found if (now - each).total_seconds() <= latest], found[-1]
