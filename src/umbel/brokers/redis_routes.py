"""Know on a Redis server what an exchange reaches: kombu's binding sets, and channels for fanout."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from umbel.brokers.redis_link import Argument, Link
from umbel.brokers.redis_names import Names
from umbel.wire.message import Route
from umbel.wire.topology import QueueSpec, Topology, topic_matches

__all__ = ["Routes"]

_TEMPORARY: Final = re.compile(r"\.pidbox$|^celeryev\.|^bcast\.")  # names of queues that live as long as their reader
_WILD: Final = re.compile(r"[*#]")
_DEADLINE: Final = 3600.0  # seconds a binding of an expiring queue is kept at least (PRT-122)


class Routes:
    """The exchanges as one broker sees them."""

    def __init__(self, names: Names, database: int) -> None:
        self._names = names
        self._database = database
        self._specs: dict[str, QueueSpec] = {}  # declared here
        self._bound: dict[str, list[tuple[str, str]]] = {}  # queue -> exchange and stored binding, declared here
        self._types: dict[str, str] = {}  # of exchanges; that of one never changes
        self.heard: dict[str, tuple[str, ...]] = {}  # pattern we subscribed to -> queues

    # -- out

    def find(self, link: Link, route: Route) -> tuple[tuple[str, ...], list[str]]:
        """Return the channels that *route* means, or the queues that it reaches."""
        names, exchange, key = self._names, route.exchange, route.routing_key
        if self._types.get(exchange) == "fanout":
            return names.channels(self._database, exchange, key), []
        kind, found = link.pipeline(
            [(b"HGET", names.own("exchanges"), exchange), (b"SMEMBERS", names.bindings(exchange))]
        )
        bindings = [binding for each in found if (binding := names.read_binding(each)) is not None]
        type_ = (
            kind.decode() if kind is not None else "topic" if any(pattern for _, pattern, _ in bindings) else "direct"
        )
        if kind is not None:
            self._types[exchange] = type_
        if type_ == "fanout":
            return names.channels(self._database, exchange, key), []
        reached = [
            queue for bound, _, queue in bindings if bound == key or (type_ == "topic" and topic_matches(bound, key))
        ]
        return (), sorted(set(reached))

    def lifetime(self, queue: str) -> float | None:
        """Return the seconds after which *queue* goes when it is not used; None = never."""
        spec = self._specs.get(queue)
        if spec is not None:
            return spec.expires
        return 60.0 if queue.endswith(".reply.celery.pidbox") else None

    # -- in

    def is_temporary(self, queue: str) -> bool:
        """Tell whether *queue* lives as long as its reader, so that it may hold events, commands and replies."""
        spec = self._specs.get(queue)
        if spec is not None and (spec.auto_delete or spec.exclusive or not spec.durable):
            return True
        return _TEMPORARY.search(queue) is not None

    def channels(self, link: Link, queues: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the channel patterns that bring messages for *queues*, each with those queues."""
        names = self._names
        types = link.call(b"HGETALL", names.own("exchanges")) if queues else {}
        fanouts = [name.decode() for name, kind in _pairs(types) if kind == b"fanout"]
        wanted: dict[str, list[str]] = {}
        bindings = link.pipeline([(b"SMEMBERS", names.bindings(exchange)) for exchange in fanouts])
        for exchange, found in zip(fanouts, bindings, strict=True):
            for stored in found:
                binding = names.read_binding(stored)
                if binding is None or binding[2] not in queues:
                    continue
                key = binding[0]
                # Celery's events use keys on fanout as a topic exchange does; without a pattern all keys are meant.
                filtered = names.fanout_patterns and _WILD.search(key) is not None
                ends = [f"/{_escape(key).replace('#', '*')}"] if filtered else ["", "/*"]
                for channel in names.channels(self._database, exchange, ""):
                    for end in ends:
                        wanted.setdefault(_escape(channel) + end, []).append(binding[2])
        return {pattern: tuple(sorted(set(found))) for pattern, found in wanted.items()}

    def listen(self, link: Link, wanted: Mapping[str, tuple[str, ...]]) -> None:
        """Be subscribed to exactly these patterns."""
        gone, new = self.heard.keys() - wanted.keys(), wanted.keys() - self.heard.keys()
        self.heard = dict(wanted)
        # Subscribing is answered by a push; the reply to PING comes behind it.
        commands: list[tuple[Argument, ...]] = []
        if gone:
            commands.append((b"PUNSUBSCRIBE", *gone))
        if new:
            commands.append((b"PSUBSCRIBE", *new))
        if commands:
            link.announce(commands)

    def queues_of(self, pattern: str) -> tuple[str, ...]:
        """Return the queues that a message on a subscribed pattern is for."""
        return self.heard.get(pattern, ())

    def bring_all(self, queues: Sequence[str]) -> bool:
        """Tell whether each of *queues* hears something that is published to all."""
        return bool(queues) and {queue for found in self.heard.values() for queue in found}.issuperset(queues)

    def forget(self) -> None:
        """Know that a new connection is subscribed to nothing."""
        self.heard = {}

    # -- declaring

    def declare(self, link: Link, topology: Topology) -> None:
        """Store exchanges, and bindings as kombu does (PRT-120 to 122)."""
        names = self._names
        self._specs.update(topology.queues)
        commands: list[tuple[Argument, ...]] = []
        types = {name: exchange.type for name, exchange in topology.exchanges.items() if name}
        new = {name: kind for name, kind in types.items() if self._types.get(name) != kind}
        if new:
            commands.append((b"HSET", names.own("exchanges"), *(word for pair in new.items() for word in pair)))
        for binding in topology.bindings:
            if binding.to_exchange or not binding.source:
                continue
            kind = types.get(binding.source) or self._types.get(binding.source, "direct")
            pattern = _pattern(binding.routing_key) if kind == "topic" else ""
            stored = names.binding(binding.routing_key, pattern, binding.destination)
            known = self._bound.setdefault(binding.destination, [])
            if (binding.source, stored) not in known:
                known.append((binding.source, stored))
            commands.append((b"SADD", names.bindings(binding.source), stored))
            if self.lifetime(binding.destination) is None:
                commands.append((b"SADD", names.permanent(binding.source), stored))
        commands += self.refresh(topology.queues)
        if commands:
            link.pipeline([(b"MULTI",), *commands, (b"EXEC",)])
        self._types.update(new)

    def refresh(self, queues: Iterable[str]) -> list[tuple[Argument, ...]]:
        """Return the commands that keep what expires of *queues* while they are used."""
        names = self._names
        commands: list[tuple[Argument, ...]] = []
        for queue in queues:
            lifetime = self.lifetime(queue)
            if lifetime is None:
                continue
            until = _milliseconds_from_now(max(2 * lifetime, _DEADLINE))
            for exchange, _ in self._bound.get(queue, ()):
                commands.append((b"ZADD", names.deadlines, b"GT", until, exchange))
            commands += [(b"PEXPIRE", key, int(lifetime * 1000)) for key in names.lists(queue)]
        return commands

    def leave(self, link: Link, queues: Iterable[str]) -> None:
        """End those of *queues* that go with their reader."""
        names = self._names
        commands: list[tuple[Argument, ...]] = []
        for queue in queues:
            spec = self._specs.get(queue)
            if spec is None or not (spec.auto_delete or spec.exclusive):
                continue
            for exchange, stored in self._bound.pop(queue, ()):
                commands.append((b"SREM", names.bindings(exchange), stored))
                commands.append((b"SREM", names.permanent(exchange), stored))
            commands.append((b"DEL", *names.lists(queue), names.delayed(queue)))
            commands.append((b"ZREM", names.own("queues"), queue))
            commands.append((b"DEL", names.consumers(queue)))
        if commands:
            link.pipeline([(b"MULTI",), *commands, (b"EXEC",)])


def _pairs(found: object) -> Iterable[tuple[bytes, bytes]]:
    return found.items() if isinstance(found, dict) else ()


def _escape(name: str) -> str:
    """Return a name as it stands in a pattern of channels, `*` and `#` untouched."""
    return re.sub(r"([\[\]?\\^])", r"\\\1", name)


def _pattern(key: str) -> str:
    """Return a topic as the regular expression that kombu stores (PRT-123)."""
    words = key.replace(".", r"\.").replace("*", r"[^\.]+").replace("#", ".*?")
    return f"^{words}$"


def _milliseconds_from_now(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)
