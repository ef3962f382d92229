"""Let messages wait in RabbitMQ itself: in queues whose time-out leads on to where the message belongs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from umbel.brokers.amqp_link import ChannelClosed, Link, refusal
from umbel.brokers.amqp_outlet import Parcel
from umbel.wire.message import Route

__all__ = ["Delays", "span"]

_ASK: Final = 2
_LONGEST: Final = 1 << 31  # milliseconds, 25 days; what is due later comes out then and is sent on
_IDLE: Final = 600_000  # milliseconds that an unused queue stays beyond its delay
_REMEMBERED: Final = 300.0  # seconds until it is declared again, which begins its idle time anew


def span(seconds: float, *, late: bool) -> int:
    """Return the milliseconds of the queue to wait in for *seconds*: one of eight between two powers of two.

    So few queues do for all delays. The span is shorter, unless *late* or nearly exact: whoever then gets the message
    too early sends it on for the rest.
    """
    wanted = min(max(round(seconds * 1000), 1), _LONGEST)
    if wanted < 16:
        return wanted
    step = 1 << (wanted.bit_length() - 4)
    below = wanted // step * step
    above = below + step
    return below if below == wanted else above if late or above - wanted <= wanted // 200 + 1 else below


class Delays:
    """The queues to wait in: one for each span and exchange, made when needed, gone when not."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._declared: dict[str, float] = {}  # name: monotonic
        self._link: Link | None = None

    def parcel(
        self, link: Link, route: Route, seconds: float, content: bytes, body: bytes, *, late: bool = False
    ) -> Parcel:
        """Return what to publish so that a message reaches *route* in *seconds*."""
        length = span(seconds, late=late)
        name = f"umbel.delay.{length}" + (f".{route.exchange}" if route.exchange else "")
        self._declare(link, name, length, route.exchange)
        return Parcel(name, route.routing_key, content, body)

    def _declare(self, link: Link, name: str, length: int, exchange: str) -> None:
        now = time.monotonic()
        if link is not self._link:
            self._link, self._declared = link, {}
        if now - self._declared.get(name, -_REMEMBERED) < _REMEMBERED:
            return
        arguments = {"x-message-ttl": length, "x-dead-letter-exchange": exchange, "x-expires": length + _IDLE}
        try:
            # The exchange goes with its queue, and that when it is unused for long: it is empty then.
            link.call(_ASK, "exchange.declare", 0, name, "fanout", False, True, True, False, False, {})
            link.call(_ASK, "queue.declare", 0, name, False, True, False, False, False, arguments)
            link.call(_ASK, "queue.bind", 0, name, name, "", False, {})
        except ChannelClosed as exc:
            raise refusal(link.address, exc, f"making the delay queue {name!r}") from exc
        if len(self._declared) > 1000:
            self._declared = {key: at for key, at in self._declared.items() if now - at < _REMEMBERED}
        self._declared[name] = now
