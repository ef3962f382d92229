"""AMQP's rules of exchanges and bindings as one pure table: which queues does a message reach?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

import msgspec

__all__ = ["Binding", "Exchange", "ExchangeType", "QueueSpec", "Topology", "match", "task_queue", "topic_matches"]

ExchangeType = Literal["direct", "topic", "fanout", "headers"]
"""How an exchange compares a message with its bindings."""

_MEMO_LIMIT = 4096  # remembered (exchange, key) pairs of one topology; keys may be unlimited in number


class Exchange(msgspec.Struct, frozen=True):
    """A place to publish to. The default exchange "" exists always and is never declared."""

    name: str
    type: ExchangeType = "direct"
    durable: bool = True  # survives a restart of the broker
    auto_delete: bool = False  # goes when its last binding goes
    arguments: dict[str, Any] = {}


class QueueSpec(msgspec.Struct, frozen=True):
    """What a queue is to be when it is declared."""

    name: str
    durable: bool = True  # survives a restart of the broker
    exclusive: bool = False  # only its declarer's connection may use it, and it goes with that
    auto_delete: bool = False  # goes when its last consumer goes
    expires: float | None = None  # seconds unused until the queue is deleted; None = never
    message_ttl: float | None = None  # seconds a message waits at most; None = for ever
    max_priority: int | None = None  # None = the broker's default (AMQP: no priorities)
    queue_type: str | None = None  # "classic", "quorum"; None = the broker's default
    arguments: dict[str, Any] = {}  # all other arguments

    @property
    def amqp_arguments(self) -> dict[str, Any]:
        """Return the whole `arguments` table of queue.declare; times become integer milliseconds."""
        arguments = dict(self.arguments)
        if self.queue_type is not None:
            arguments["x-queue-type"] = self.queue_type
        if self.max_priority is not None:
            arguments["x-max-priority"] = self.max_priority
        if self.expires is not None:
            arguments["x-expires"] = int(self.expires * 1000)
        if self.message_ttl is not None:
            arguments["x-message-ttl"] = int(self.message_ttl * 1000)
        return arguments


class Binding(msgspec.Struct, frozen=True):
    """What *source* receives under *routing_key* goes on to *destination*."""

    source: str  # exchange
    destination: str  # a queue, or an exchange if `to_exchange`
    routing_key: str = ""  # topic: a pattern, `*` one word, `#` any number; ignored by fanout and headers
    arguments: dict[str, Any] = {}  # headers exchanges: what to compare, and `x-match`
    to_exchange: bool = False


class Topology(msgspec.Struct, frozen=True, dict=True):
    """Exchanges, queues and the bindings between them, as one value."""

    exchanges: dict[str, Exchange] = {}  # by name
    queues: dict[str, QueueSpec] = {}  # by name
    bindings: tuple[Binding, ...] = ()

    @classmethod
    def of(cls, *parts: Exchange | QueueSpec | Binding | Topology) -> Topology:
        """Gather *parts*; of two with one name the later wins, of two equal bindings one stays."""
        exchanges: dict[str, Exchange] = {}
        queues: dict[str, QueueSpec] = {}
        bindings: list[Binding] = []
        for part in parts:
            match part:
                case Exchange():
                    exchanges[part.name] = part
                case QueueSpec():
                    queues[part.name] = part
                case Binding():
                    bindings.append(part)
                case Topology():
                    exchanges |= part.exchanges
                    queues |= part.queues
                    bindings += part.bindings
        return cls(exchanges, queues, _unique(bindings))

    def merge(self, other: Topology) -> Topology:
        """Return both together; where they disagree about a name, *other* wins."""
        return Topology.of(self, other)

    def without_queue(self, name: str) -> Topology:
        """Return the table after the queue *name* was deleted, and its bindings with it."""
        queues = {key: queue for key, queue in self.queues.items() if key != name}
        bindings = tuple(b for b in self.bindings if b.to_exchange or b.destination != name)
        return Topology(self.exchanges, queues, bindings)

    def without_exchange(self, name: str) -> Topology:
        """Return the table after the exchange *name* was deleted, and its bindings with it."""
        exchanges = {key: exchange for key, exchange in self.exchanges.items() if key != name}
        bindings = tuple(b for b in self.bindings if b.source != name and not (b.to_exchange and b.destination == name))
        return Topology(exchanges, self.queues, bindings)

    @cached_property
    def _by_source(self) -> dict[str, list[Binding]]:
        by_source: dict[str, list[Binding]] = {}
        for binding in self.bindings:
            by_source.setdefault(binding.source, []).append(binding)
        return by_source

    @cached_property
    def _looks_at_headers(self) -> bool:
        return any(exchange.type == "headers" for exchange in self.exchanges.values())

    @cached_property
    def _memo(self) -> dict[tuple[str, str], tuple[str, ...]]:
        return {}


def match(
    topology: Topology, exchange: str, routing_key: str, headers: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Return the names of the queues a message reaches, each once, in the order of their bindings.

    The default exchange "" reaches the queue named by the key, declared or not. An exchange that is bound but not
    declared is taken for a direct one; one that is unknown, or has no matching binding, reaches nothing.
    """
    if not exchange:
        return (routing_key,)
    if topology._looks_at_headers:
        return _walk(topology, exchange, routing_key, headers or {})
    memo = topology._memo
    found = memo.get((exchange, routing_key))
    if found is None:
        found = _walk(topology, exchange, routing_key, {})
        if len(memo) >= _MEMO_LIMIT:
            memo.clear()
        memo[exchange, routing_key] = found
    return found


def topic_matches(pattern: str, routing_key: str) -> bool:
    """Tell whether a topic *pattern* covers *routing_key*: `*` is exactly one word, `#` zero or more.

    Linear in both for one `#`, never worse than their product.
    """
    tokens = pattern.split(".") if pattern else []
    words = routing_key.split(".") if routing_key else []
    at = word = 0
    resume_at = resume_word = -1  # behind the last `#`, and the words it has swallowed so far
    while word < len(words):
        token = tokens[at] if at < len(tokens) else None
        if token == "#":
            resume_at, resume_word = at + 1, word
            at += 1
        elif token == "*" or token == words[word]:
            at, word = at + 1, word + 1
        elif resume_at >= 0:
            resume_word += 1
            at, word = resume_at, resume_word
        else:
            return False
    return all(token == "#" for token in tokens[at:])


def task_queue(name: str, queue_type: str | None = None, max_priority: int | None = None) -> Topology:
    """Return an ordinary task queue with its direct exchange of the same name (PRT-136)."""
    queue = QueueSpec(name, queue_type=queue_type, max_priority=max_priority)
    return Topology.of(Exchange(name), queue, Binding(name, name, name))


def _walk(topology: Topology, exchange: str, routing_key: str, headers: Mapping[str, Any]) -> tuple[str, ...]:
    queues: dict[str, None] = {}
    seen = {exchange}
    waiting = [exchange]
    for source in waiting:  # grows while it is walked; `seen` ends circles of exchanges
        known = topology.exchanges.get(source)
        kind: ExchangeType = known.type if known else "direct"
        for binding in topology._by_source.get(source, ()):
            if not _passes(kind, binding, routing_key, headers):
                continue
            if not binding.to_exchange:
                queues[binding.destination] = None
            elif binding.destination not in seen:
                seen.add(binding.destination)
                waiting.append(binding.destination)
    return tuple(queues)


def _passes(kind: ExchangeType, binding: Binding, routing_key: str, headers: Mapping[str, Any]) -> bool:
    match kind:
        case "direct":
            return binding.routing_key == routing_key
        case "fanout":
            return True
        case "topic":
            return topic_matches(binding.routing_key, routing_key)
        case "headers":
            return _headers_match(binding.arguments, headers)


def _headers_match(wanted: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """Compare as RabbitMQ does: keys `x-…` count only for the modes `…-with-x`, a null asks for presence."""
    mode = str(wanted.get("x-match", "all"))
    with_x = mode.endswith("-with-x")
    checks = (
        key in headers and (value is None or headers[key] == value)
        for key, value in wanted.items()
        if key != "x-match" and (with_x or not key.startswith("x-"))
    )
    return any(checks) if mode.startswith("any") else all(checks)


def _unique(bindings: Iterable[Binding]) -> tuple[Binding, ...]:
    unique: list[Binding] = []
    seen: set[tuple[str, str, str, bool]] = set()
    for binding in bindings:
        key = (binding.source, binding.destination, binding.routing_key, binding.to_exchange)
        # Arguments are no hashable value, so equal ones are looked for only where the rest is equal.
        if key not in seen or binding not in unique:
            seen.add(key)
            unique.append(binding)
    return tuple(unique)
