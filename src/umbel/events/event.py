"""Make single events by hand, and say where they go."""

# ruff: noqa: N802 - Celery's names
from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from umbel.wire.event import EVENT_EXCHANGE
from umbel.wire.topology import Exchange

__all__ = ["Event", "event_exchange", "get_exchange", "group_from"]

event_exchange: Final = Exchange(EVENT_EXCHANGE, "topic")
"""Where events go, on AMQP."""


def Event(
    type: str, _fields: Mapping[str, Any] | None = None, __dict__: Any = dict, __now__: Any = time.time, **fields: Any
) -> dict[str, Any]:
    """Return an event as a dict: *fields*, with its type, and the time if they hold none."""
    event: dict[str, Any] = __dict__(_fields or {}, **fields)
    if "timestamp" not in event:
        event["timestamp"] = __now__()
    event["type"] = type
    return event


def group_from(type: str) -> str:
    """Return the group of an event: ``task-sent`` belongs to ``task``."""
    return type.partition("-")[0]


def get_exchange(conn: Any, name: str = EVENT_EXCHANGE) -> Exchange:
    """Return the exchange of events on the broker of *conn*, of the kind that peers there expect."""
    scheme = str(conn.as_uri()).partition(":")[0]
    return Exchange(name, "fanout" if scheme.startswith(("redis", "sentinel", "valkey", "gcpubsub")) else "topic")
