"""Say in a word what a test of a broker does: send, take, finish, wait."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Any

from umbel.brokers.base import Broker, Claim, Delivery, Done, Lease, Publication, Settlement, Verdict
from umbel.contrib.testing.contracts.site import Site
from umbel.wire.message import Message, Route
from umbel.wire.record import Record

__all__ = ["PATIENCE", "call", "finish", "is_woken", "lease_of", "nothing_comes", "send", "take", "to"]

PATIENCE: float = 10.0  # real seconds that something which must happen may take on a busy machine


def call(task_id: str, **fields: Any) -> Message:
    """Return a message with this task id."""
    return Message(**{"id": task_id, "task": "contract.noop", "body": b"[[], {}, {}]", **fields})


def to(queue: str, task_id: str, **fields: Any) -> Publication:
    """Return the publication of a message to a queue by the default exchange."""
    return Publication(message=call(task_id, **fields), route=Route("", queue))


def send(broker: Broker, queue: str, *ids: str, **fields: Any) -> None:
    """Publish one message for each of *ids*."""
    broker.publish([to(queue, task_id, **fields) for task_id in ids])


def lease_of(delivery: Delivery) -> Lease:
    """Return what names *delivery* when it is settled or renewed."""
    return Lease(delivery.tag, delivery.token)


def finish(
    delivery: Delivery,
    verdict: Verdict | None = None,
    follow_ups: tuple[Publication, ...] = (),
    records: tuple[Record, ...] = (),
) -> Settlement:
    """Return the settlement of *delivery*: done, unless there is a *verdict*."""
    return Settlement(lease=lease_of(delivery), verdict=verdict or Done(), follow_ups=follow_ups, records=records)


def take(
    site: Site,
    broker: Broker,
    limit: int = 1,
    *,
    settle: Sequence[Settlement] = (),
    lease: float = 1000.0,
    owner: str = "node-1",
) -> list[Delivery]:
    """Claim *limit* messages that are there; fewer come only when there are no more."""
    turn = broker.settle(settle, Claim(limit=limit, lease=lease * site.second, owner=owner))
    assert turn.refused == ()
    deliveries = list(turn.deliveries)
    patience = time.monotonic() + site.grace
    more = bool(deliveries)  # who was given less than there is asks again
    while len(deliveries) < limit and (more or time.monotonic() < patience):
        if not more:
            is_woken(broker, patience - time.monotonic())
        wish = Claim(limit=limit - len(deliveries), lease=lease * site.second, owner=owner)
        found = broker.settle((), wish).deliveries
        deliveries += found
        more = bool(found)
    assert len(deliveries) <= limit
    return deliveries


def nothing_comes(site: Site, broker: Broker) -> bool:
    """Tell whether a claim brings nothing, and leaves the descriptor unreadable."""
    deliveries = take(site, broker, 10)
    return not deliveries and not is_woken(broker, 0.0)


def is_woken(broker: Broker, patience: float | None = None) -> bool:
    """Wait until the broker's descriptor is readable, and tell whether it came to that."""
    poller = select.poll()
    poller.register(broker.fileno(), select.POLLIN)
    return bool(poller.poll(max(0.0, PATIENCE if patience is None else patience) * 1000))
