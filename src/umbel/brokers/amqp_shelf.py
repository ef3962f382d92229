"""Look through a whole queue as if it were a table, alone: what is not taken out is back in its place afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from umbel.brokers.amqp_link import ChannelClosed, Link, refusal
from umbel.exceptions import BrokerUnavailable
from umbel.wire import amqp
from umbel.wire.amqp import Incoming

__all__ = ["Shelf", "browse"]

_CHANNEL: Final = 4
_ASK: Final = 2
_PATIENCE: Final = 5.0  # seconds to wait for others who look


class Shelf:
    """What is in the queue, oldest first; what is `taken` out is gone at the end."""

    def __init__(self) -> None:
        self.items: list[Incoming] = []
        self.taken: list[Incoming] = []


@contextmanager
def browse(link: Link, queue: str) -> Iterator[Shelf]:
    """Give all messages of *queue*, which is made if need be; nobody else looks meanwhile.

    Raises:
        BrokerUnavailable: others look all the time.
        BrokerUnusable: we may not.
    """
    shelf = Shelf()
    try:
        link.call(_ASK, "queue.declare", 0, queue, False, True, False, False, False, {})
        _lock(link, queue)
        _read(link, queue, shelf)
    except ChannelClosed as exc:
        raise refusal(link.address, exc, f"reading queue {queue!r}") from exc
    try:
        yield shelf
    finally:
        if not link.closed:
            link.call(_CHANNEL, "basic.cancel", "shelf", False)  # first, or what goes back comes to us again
            frames = [amqp.ack(_CHANNEL, incoming.arguments[1]) for incoming in shelf.taken]
            if len(shelf.items) > len(shelf.taken):
                frames.append(amqp.nack(_CHANNEL, 0, multiple=True))
            link.send(b"".join(frames))
            link.call(_CHANNEL, "channel.flow", True)


def _lock(link: Link, queue: str) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            link.call(_CHANNEL, "basic.consume", 0, queue, "shelf", False, False, True, False, {})
            return
        except ChannelClosed as exc:
            if exc.code != 403 or "exclusive" not in exc.text:
                raise
            if time.monotonic() > until:
                raise BrokerUnavailable(f"{link.address}: others read queue {queue!r} all the time") from exc
        time.sleep(0.005)


def _read(link: Link, queue: str, shelf: Shelf) -> None:
    """Wait until the queue has sent us all; it answers behind that, and our channel behind what it was sent."""
    while True:
        _, left, _ = link.call(_ASK, "queue.declare", 0, queue, True, False, False, False, False, {}).arguments
        link.call(_CHANNEL, "channel.flow", True)
        others: list[Incoming] = []
        while link.inbox:
            incoming = link.inbox.popleft()
            mine = incoming.channel == _CHANNEL and incoming.name == "basic.deliver"
            (shelf.items if mine else others).append(incoming)
        link.inbox.extend(others)
        if not left:
            return
