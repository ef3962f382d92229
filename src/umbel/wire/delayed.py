"""Celery's native delayed delivery on AMQP: a countdown written in binary into the routing key.

One topic exchange with its queue stands for each binary digit of the delay, the highest first. Where the digit is 1 the
message waits in the queue for that power of two in seconds, where it is 0 it passes by; then it goes on to the next.
"""

from __future__ import annotations

from typing import Any, Final

from umbel.wire.message import Route
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology

__all__ = ["DELIVERY_EXCHANGE", "LONGEST_DELAY", "delay_topology", "delayed_route", "target_topology", "undelayed_key"]

DELIVERY_EXCHANGE: Final = "celery_delayed_delivery"
_LEVELS: Final = 28
LONGEST_DELAY: Final = (1 << _LEVELS) - 1
"""Seconds, eight and a half years. What is due later comes out then, and is delayed again."""


def delayed_route(seconds: float, route: Route) -> Route:
    """Return where to publish so that a message reaches *route* after *seconds*, rounded down (PRT-152).

    Under one second that is *route* itself. The delay a key carries already is replaced (PRT-154).
    """
    if seconds < 1:
        return Route(route.exchange, undelayed_key(route.routing_key))
    digits = format(int(min(seconds, LONGEST_DELAY)), f"0{_LEVELS}b")
    return Route(_level(_LEVELS - 1), f"{'.'.join(digits)}.{undelayed_key(route.routing_key)}")


def undelayed_key(routing_key: str) -> str:
    """Return the key without the delay in front of it, if there is one."""
    digits = routing_key.split(".", _LEVELS)
    if len(digits) > _LEVELS and all(digit in {"0", "1"} for digit in digits[:_LEVELS]):
        return digits[_LEVELS]
    return routing_key


def delay_topology(queue_type: str = "quorum") -> Topology:
    """Return the exchanges and queues through which delayed messages fall (PRT-149 to 151)."""
    parts: list[Exchange | QueueSpec | Binding] = [Exchange(DELIVERY_EXCHANGE, "topic")]
    for level in range(_LEVELS - 1, -1, -1):
        name = _level(level)
        after = _level(level - 1) if level else DELIVERY_EXCHANGE
        arguments: dict[str, Any] = {"x-overflow": "reject-publish", "x-dead-letter-exchange": after}
        if queue_type == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        skip = "*." * (_LEVELS - 1 - level)
        parts += [
            Exchange(name, "topic"),
            QueueSpec(name, queue_type=queue_type, message_ttl=float(1 << level), arguments=arguments),
            Binding(name, name, f"{skip}1.#"),
            Binding(name, after, f"{skip}0.#", to_exchange=True),
        ]
    return Topology.of(*parts)


def target_topology(exchange: str, queue: str, routing_key: str) -> Topology:
    """Return what lets delayed messages for *routing_key* reach *queue* (PRT-153).

    The *exchange* of the queue must not be a direct one: a direct one does not know the key with the delay in front.
    """
    key = f"#.{routing_key}"
    return Topology.of(Binding(DELIVERY_EXCHANGE, exchange, key, to_exchange=True), Binding(exchange, queue, key))


def _level(level: int) -> str:
    return f"celery_delayed_{level}"
