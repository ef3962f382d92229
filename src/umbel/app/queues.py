"""Say what each queue is: how it is declared, and under which exchange and key it is reached."""

# ruff: noqa: FBT001, FBT002 - Celery's signatures
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from umbel._names import uuid, worker_direct_name
from umbel.exceptions import ImproperlyConfigured
from umbel.wire.message import Route
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology

__all__ = ["Broadcast", "Queue", "QueueDefaults", "Queues", "direct_queue", "queue_of"]

_TYPES: Final = ("classic", "quorum")


class Queue(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A queue with the exchange and the key that lead to it."""

    name: str
    exchange: Exchange
    routing_key: str = ""
    spec: QueueSpec
    bindings: tuple[Binding, ...] = ()  # beside the one of `exchange` and `routing_key`
    alias: str | None = None  # another name for looking it up (broadcast queues have names of their own)
    delivery_mode: int | None = None  # of its exchange; None = the app's default
    broadcast: bool = False  # every worker has its own queue on the exchange

    @property
    def topology(self) -> Topology:
        """Return what must be declared for it."""
        parts: list[Exchange | QueueSpec | Binding] = [self.spec]
        if self.exchange.name:
            parts += [self.exchange, Binding(self.exchange.name, self.name, self.routing_key)]
        return Topology.of(*parts, *(Exchange(b.source) for b in self.bindings if b.source), *self.bindings)

    @property
    def route(self) -> Route:
        """Return where to publish for it: straight to the queue unless its exchange has rules of its own."""
        if self.exchange.type == "direct":
            return Route("", self.name)
        return Route(self.exchange.name, self.routing_key)

    @property
    def exists_by_itself(self) -> bool:
        """Return whether publishing to it creates just this queue, so that a sender need not declare it."""
        return self.exchange.type == "direct" and self.spec == QueueSpec(self.name)

    def as_dict(self) -> dict[str, Any]:
        """Return it as remote control shows it."""
        return {
            "name": self.name,
            "exchange": {
                "name": self.exchange.name,
                "type": self.exchange.type,
                "arguments": self.exchange.arguments or None,
                "durable": self.exchange.durable,
                "passive": False,
                "auto_delete": self.exchange.auto_delete,
                "delivery_mode": self.delivery_mode,
                "no_declare": False,
            },
            "routing_key": self.routing_key,
            "queue_arguments": self.spec.amqp_arguments or None,
            "binding_arguments": None,
            "consumer_arguments": None,
            "durable": self.spec.durable,
            "exclusive": self.spec.exclusive,
            "auto_delete": self.spec.auto_delete,
            "no_ack": False,
            "alias": self.alias,
            "bindings": [[b.source, b.routing_key] for b in self.bindings],
            "no_declare": None,
            "expires": self.spec.expires,
            "message_ttl": self.spec.message_ttl,
            "max_length": self.spec.arguments.get("x-max-length"),
            "max_length_bytes": self.spec.arguments.get("x-max-length-bytes"),
            "max_priority": self.spec.max_priority,
        }


class QueueDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say of queues that do not say it themselves."""

    queue: str = "celery"
    queue_type: str = "classic"  # of the default queue
    exchange: str | None = None  # None = as the queue
    exchange_type: str = "direct"
    routing_key: str | None = None  # None = as the queue
    max_priority: int | None = None
    create_missing: bool = True
    missing_type: str = "classic"
    missing_exchange_type: str | None = None  # None = direct

    def default_exchange(self) -> Exchange:
        """Return the exchange of queues that name none."""
        return Exchange(self.exchange or self.queue, self.exchange_type)  # type: ignore[arg-type]  # checked by brokers


def queue_of(name: str, options: Mapping[str, Any]) -> Queue:
    """Return the queue *name* as *options* describe it, in the words of ``task_queues``.

    Raises:
        ImproperlyConfigured: an option has no meaning here.
    """
    given = dict(options)
    exchange = _exchange(given.pop("exchange", None), given.pop("exchange_type", None))
    delivery_mode = given.pop("delivery_mode", None)
    binding_key = given.pop("binding_key", None)
    routing_key = given.pop("routing_key", None)
    arguments = dict(given.pop("queue_arguments", None) or given.pop("arguments", None) or {})
    for option, argument in _LIMITS.items():
        if given.get(option) is not None:
            arguments[argument] = given[option]
        given.pop(option, None)
    spec = QueueSpec(
        name,
        durable=given.pop("durable", True),
        exclusive=given.pop("exclusive", False),
        auto_delete=given.pop("auto_delete", False),
        expires=given.pop("expires", None),
        message_ttl=given.pop("message_ttl", None),
        max_priority=given.pop("max_priority", None) or arguments.pop("x-max-priority", None),
        queue_type=given.pop("queue_type", None) or arguments.pop("x-queue-type", None),
        arguments=arguments,
    )
    bindings = tuple(_binding(each, name) for each in given.pop("bindings", None) or ())
    alias = given.pop("alias", None)
    unknown = set(given) - _IGNORED
    if unknown:
        raise ImproperlyConfigured(f"queue {name!r} has the unknown options {sorted(unknown)}")
    return Queue(
        name=name,
        exchange=exchange,
        routing_key=next((key for key in (routing_key, binding_key) if key is not None), name),
        spec=spec,
        bindings=bindings,
        alias=alias,
        delivery_mode=delivery_mode,
    )


def Broadcast(  # noqa: N802 - kombu's name
    name: str | None = None, queue: str | None = None, unique: bool = False, auto_delete: bool = True, **options: Any
) -> Queue:
    """Return a queue of this process on the fanout exchange *name*: every worker that has one gets a copy."""
    own = f"{queue}.{uuid()}" if queue and unique else queue or f"bcast.{uuid()}"
    exchange = options.pop("exchange", None) or Exchange(name or own, "fanout")
    described = queue_of(own, {**options, "exchange": exchange, "routing_key": "", "auto_delete": auto_delete})
    return msgspec.structs.replace(described, alias=options.get("alias", name), broadcast=True)


def direct_queue(node: str) -> Queue:
    """Return the queue that only the worker *node* consumes."""
    name = worker_direct_name(node)
    return Queue(name=name, exchange=Exchange("C.dq2"), routing_key=node, spec=QueueSpec(name))


class Queues(dict[str, Queue]):
    """The queues an app knows by name, and those of them a worker consumes."""

    def __init__(self, queues: Any, defaults: QueueDefaults) -> None:
        """Take what ``task_queues`` holds: a mapping or an iterable of queues (ours or kombu's), or None.

        Raises:
            ValueError: a queue type is neither classic nor quorum.
        """
        super().__init__()
        self.defaults = defaults
        self.aliases: dict[str, Queue] = {}
        self._consumed: dict[str, Queue] | None = None  # None = all
        for setting, kind in (
            ("task_default_queue_type", defaults.queue_type),
            ("task_create_missing_queue_type", defaults.missing_type),
        ):
            if kind not in _TYPES:
                raise ValueError(f"the setting {setting!r} is {kind!r}; it must be one of {', '.join(_TYPES)}")
        if queues is None:
            self.add(self._default())
        elif isinstance(queues, Mapping):
            for name, options in queues.items():
                self.add(options if hasattr(options, "exchange") else name, **_mapping(options))
        else:
            for queue in [queues] if isinstance(queues, str) else queues:
                self.add(queue)

    def __missing__(self, name: str) -> Queue:
        if name in self.aliases:
            return self.aliases[name]
        if name == self.defaults.queue:
            return self.add(self._default())
        if not self.defaults.create_missing:
            raise KeyError(name)
        return self.add(self._made(name))

    def add(self, queue: Any, **options: Any) -> Queue:
        """Add *queue*: a name with *options*, a `Queue`, or one of kombu's; return it."""
        added = self._complete(queue_of(queue, options) if isinstance(queue, str) else _adopt(queue))
        self[added.name] = added
        if added.alias:
            self.aliases[added.alias] = added
        return added

    def select(self, include: str | Iterable[str] | None) -> None:
        """Consume only these queues; None or nothing = all."""
        names = _names(include)
        if names:
            self._consumed = {queue.name: queue for queue in (self[name] for name in names)}

    def deselect(self, exclude: str | Iterable[str] | None) -> None:
        """Consume all that are consumed now but these."""
        for name in _names(exclude):
            if self._consumed is None:
                self._consumed = dict(self)
            found = self.aliases.get(name)
            self._consumed.pop(found.name if found else name, None)

    def select_add(self, queue: Any, **options: Any) -> Queue:
        """Consume *queue* too, adding it first; return it."""
        added = self.add(queue, **options)
        if self._consumed is not None:
            self._consumed[added.name] = added
        return added

    @property
    def consume_from(self) -> dict[str, Queue]:
        """Return the queues that a worker consumes."""
        return dict(self) if self._consumed is None else self._consumed

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """Return the consumed queues for people, one a line."""
        lines = [
            f".> {name:<16} exchange={queue.exchange.name}({queue.exchange.type}) key={queue.routing_key}"
            for name, queue in sorted(self.consume_from.items())
        ]
        text = ("\n" + " " * indent).join(lines)
        return " " * indent + text if indent_first else text

    @property
    def topology(self) -> Topology:
        """Return what must be declared for the consumed queues."""
        return Topology.of(*(queue.topology for queue in self.consume_from.values()))

    def _default(self) -> Queue:
        defaults = self.defaults
        return Queue(
            name=defaults.queue,
            exchange=defaults.default_exchange(),
            routing_key=defaults.routing_key or defaults.queue,
            spec=QueueSpec(defaults.queue, queue_type=_named_type(defaults.queue_type)),
        )

    def _made(self, name: str) -> Queue:
        kind = self.defaults.missing_exchange_type or "direct"
        spec = QueueSpec(name, queue_type=_named_type(self.defaults.missing_type))
        exchange = Exchange(name, kind)  # type: ignore[arg-type]  # checked by brokers
        return Queue(name=name, exchange=exchange, routing_key=name, spec=spec)

    def _complete(self, queue: Queue) -> Queue:
        """Fill in what the settings say of queues that do not say it themselves."""
        replace = msgspec.structs.replace
        if not queue.exchange.name:
            queue = replace(queue, exchange=self.defaults.default_exchange())
        if not queue.routing_key and not queue.broadcast:
            queue = replace(queue, routing_key=self.defaults.routing_key or self.defaults.queue)
        if queue.spec.max_priority is None and self.defaults.max_priority is not None:
            queue = replace(queue, spec=replace(queue.spec, max_priority=self.defaults.max_priority))
        return queue


_LIMITS: Final = {"max_length": "x-max-length", "max_length_bytes": "x-max-length-bytes"}
_IGNORED: Final = {"name", "no_ack", "no_declare", "binding_arguments", "consumer_arguments", "on_declared"}


def _adopt(queue: Any) -> Queue:
    """Return *queue* as ours; kombu's are read by their attributes, so that kombu need not be there."""
    if isinstance(queue, Queue):
        return queue
    if not hasattr(queue, "name") or not hasattr(queue, "exchange"):
        raise ImproperlyConfigured(f"{queue!r} in 'task_queues' is neither a name nor a queue with name and exchange")
    options = {
        option: value
        for option in ("durable", "exclusive", "auto_delete", "expires", "message_ttl", "queue_arguments", *_LIMITS)
        if (value := getattr(queue, option, None)) is not None
    }
    described = queue_of(
        queue.name,
        {
            **options,
            "max_priority": getattr(queue, "max_priority", None),
            "exchange": queue.exchange,
            "routing_key": getattr(queue, "routing_key", "") or "",
            "bindings": getattr(queue, "bindings", None),
            "alias": getattr(queue, "alias", None),
            "delivery_mode": getattr(queue.exchange, "delivery_mode", None),
        },
    )
    broadcast = described.exchange.type == "fanout" and type(queue).__name__ == "Broadcast"
    return msgspec.structs.replace(described, broadcast=broadcast)


def _exchange(exchange: Any, kind: str | None) -> Exchange:
    if isinstance(exchange, Exchange):
        return exchange
    if exchange is None or isinstance(exchange, str):
        return Exchange(exchange or "", kind or "direct")  # type: ignore[arg-type]  # checked by brokers
    return Exchange(
        exchange.name or "",
        kind or getattr(exchange, "type", None) or "direct",  # type: ignore[arg-type]  # checked by brokers
        durable=bool(getattr(exchange, "durable", True)),
        auto_delete=bool(getattr(exchange, "auto_delete", False)),
        arguments=dict(getattr(exchange, "arguments", None) or {}),
    )


def _binding(binding: Any, queue: str) -> Binding:
    if isinstance(binding, Binding):
        return binding
    if isinstance(binding, Mapping):
        return Binding(_exchange(binding.get("exchange"), None).name, queue, binding.get("routing_key") or "")
    arguments = dict(getattr(binding, "arguments", None) or {})
    return Binding(_exchange(binding.exchange, None).name, queue, binding.routing_key or "", arguments)


def _mapping(options: Any) -> dict[str, Any]:
    return dict(options) if isinstance(options, Mapping) else {}


def _names(names: str | Iterable[str] | None) -> Sequence[str]:
    if names is None:
        return ()
    found = names.split(",") if isinstance(names, str) else names
    return [name.strip() for name in found]


def _named_type(kind: str) -> str | None:
    return None if kind == "classic" else kind  # classic is what brokers make unasked; peers declare it so
