"""Move messages that wait: to another queue, or to another broker."""

# ruff: noqa: PLR0917 - Celery's signatures
from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from umbel import current
from umbel.app.queues import direct_queue
from umbel.brokers.base import Broker, Claim, Delivery, Done, Lease, Publication, Release, Settlement
from umbel.exceptions import InvalidMessage
from umbel.wire.message import Route

__all__ = [
    "State",
    "StopFiltering",
    "Waiting",
    "migrate_task",
    "migrate_tasks",
    "move",
    "move_by_idmap",
    "move_by_taskmap",
    "move_direct",
    "move_direct_by_id",
    "move_task_by_id",
    "republish",
    "start_filter",
    "task_id_eq",
    "task_id_in",
]

_PAGE: Final = 100  # messages claimed at once
_LEASE: Final = 60.0  # seconds


class StopFiltering(Exception):
    """Raised by a filter that has seen enough."""


class State:
    """How far it is."""

    def __init__(self) -> None:
        self.count = 0  # messages that were moved
        self.filtered = 0  # messages that were looked at
        self.total_apx = 0  # messages that waited when it began

    @property
    def strtotal(self) -> str:
        """The total as text, a question mark if it is unknown."""
        return str(self.total_apx or "?")

    def __repr__(self) -> str:
        return f"{self.filtered}/{self.strtotal}"


class Waiting:
    """A message that waits, as filters see it."""

    def __init__(self, delivery: Delivery) -> None:
        message = self.message = delivery.message
        self.delivery = delivery
        self.acknowledged = False
        self.headers = {
            **message.headers,
            **{name: getattr(message, name) for name in ("id", "task", "root_id", "parent_id", "group", "retries")},
        }
        self.properties = {
            **message.properties, "correlation_id": message.correlation_id or message.id, "reply_to": message.reply_to,
            "priority": message.priority,
        }  # fmt: skip
        self.delivery_info = {
            "exchange": delivery.route.exchange, "routing_key": delivery.route.routing_key, "queue": delivery.queue,
        }  # fmt: skip

    def ack(self) -> None:
        """Have it removed from its queue."""
        self.acknowledged = True


Filter = Callable[[Any, Waiting], Any]


def move(
    predicate: Filter,
    connection: Any = None,
    exchange: str | None = None,
    routing_key: str | None = None,
    source: str | Sequence[str] | None = None,
    app: Any = None,
    callback: Callable[..., Any] | None = None,
    limit: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    **options: Any,
) -> State:
    """Move those messages that *predicate* is true of; each is in one of the two places at any time.

    Args:
        predicate: called with a body (args, kwargs, embed; None if it may not be read) and a `Waiting`; what is true
            of those to be moved may be a queue, its name, or a pair of exchange and routing key: where they go.
        connection: as of `app.connection_for_write`; None = the app's own broker.
        exchange: where they go if *predicate* does not say; None = as each came.
        routing_key: the same.
        source: a queue or several; None = all that the app knows.
        app: None = the current one.
        callback: called with the state, the body and the message of each that was moved.
        limit: move at most so many.
        transform: called with what *predicate* said; its answer is used instead.
        options: ``timeout``, ``tasks`` and ``forever`` of `start_filter`.
    """
    app = app or current.get_current_app()
    state = State()
    moved: set[str] = set()

    def decide(body: Any, waiting: Waiting) -> Publication | None:
        # One that goes back to where it came from is met again, at its end.
        said = waiting.message.id not in moved and predicate(body, waiting)
        if not said:
            return None
        moved.add(waiting.message.id)
        state.count += 1
        if callback is not None:
            callback(state, body, waiting)
        return Publication(message=waiting.message, route=route(transform(said) if transform else said, waiting))

    def route(said: Any, waiting: Waiting) -> Route:
        if isinstance(said, (tuple, list)):
            return Route(exchange=said[0], routing_key=said[1])
        if said is True:
            came = waiting.delivery.route
            return Route(exchange=exchange or came.exchange, routing_key=routing_key or came.routing_key)
        queue = app.amqp.queues[said] if isinstance(said, str) else app.amqp.queues.add(said)
        link.broker.declare(queue.topology)
        return queue.route  # type: ignore[no-any-return]  # of an app

    names = [source] if isinstance(source, str) else source
    with app.connection_or_acquire(connection, pool=False) as link:
        for _ in _sift(app, link.broker, decide, state, queues=names, **options):
            if limit is not None and state.count >= limit:
                break
    return state


def start_filter(
    app: Any,
    conn: Any,
    filter: Filter,
    limit: int | None = None,
    timeout: float = 1.0,
    ack_messages: bool = False,  # noqa: FBT001, FBT002
    tasks: str | Iterable[str] | None = None,
    queues: str | Iterable[str] | None = None,
    callback: Callable[[State, Any, Waiting], Any] | None = None,
    forever: bool = False,  # noqa: FBT001, FBT002
    state: State | None = None,
    **__: Any,
) -> State:
    """Call *filter* with body and message of each message that waits at *conn*.

    All stay, but those that the filter acknowledges (`Waiting.ack`), and with *ack_messages* all that it saw.

    Args:
        app: whose queues and serializers these are.
        conn: a connection, as of `app.connection_for_read`.
        filter: may raise `StopFiltering`.
        limit: look at so many at the most.
        timeout: seconds to wait for more.
        ack_messages: remove what *filter* has seen.
        tasks: look only at tasks of these names; several, or a comma-separated text.
        queues: look only there; None = all that the app knows.
        callback: called with the state, the body and the message afterwards.
        forever: do not end when nothing waits.
        state: is counted on.
    """
    state = state or State()

    def decide(body: Any, waiting: Waiting) -> None:
        filter(body, waiting)
        state.count += 1
        waiting.acknowledged = waiting.acknowledged or ack_messages
        if callback is not None:
            callback(state, body, waiting)

    for _ in _sift(
        app, conn.broker, decide, state, queues=_names(queues), timeout=timeout, tasks=_names(tasks), forever=forever
    ):
        if limit is not None and state.count >= limit:
            break
    return state


def _sift(
    app: Any,
    broker: Broker,
    decide: Callable[[Any, Waiting], Publication | None],
    state: State,
    *,
    queues: Iterable[str] | None = None,
    timeout: float = 1.0,
    tasks: Iterable[str] | None = None,
    forever: bool = False,
) -> Iterator[None]:
    """Hand all that waits to *decide*, and yield behind each; what it returns replaces the message, in one write.

    What stays is held until the end, so that it is seen once, and is then where it was.
    """
    # Only what is there: `consume` would create the others.
    sizes = broker.sizes(list(queues or app.amqp.queues))
    state.total_apx = sum(size.ready for size in sizes.values())
    broker.consume(list(sizes))
    wanted = None if tasks is None else set(tasks)
    kept: list[Lease] = []
    taken: list[Delivery] = []
    renewed = time.monotonic()
    try:
        while True:
            taken = [*broker.settle([], Claim(limit=_PAGE, lease=_LEASE, owner="umbel migrate")).deliveries]
            if not taken and not _has_more(broker, timeout) and not forever:
                return
            while taken:
                delivery = taken[0]
                waiting = Waiting(delivery)
                instead = None
                is_seen = delivery.invalid is None and (wanted is None or delivery.message.task in wanted)
                if is_seen:
                    state.filtered += 1
                    instead = decide(_body(app, delivery), waiting)
                if instead is not None or waiting.acknowledged:
                    follow_ups = () if instead is None else (instead,)
                    broker.settle([Settlement(lease=_lease_of(delivery), verdict=Done(), follow_ups=follow_ups)])
                else:
                    kept.append(_lease_of(delivery))
                del taken[0]
                if is_seen:
                    yield
                if time.monotonic() - renewed > _LEASE / 3:
                    renewed = time.monotonic()
                    broker.renew([*kept, *map(_lease_of, taken)], _LEASE)
    except StopFiltering:
        return
    finally:
        broker.settle([Settlement(lease=each, verdict=Release()) for each in (*map(_lease_of, taken), *reversed(kept))])


def _body(app: Any, delivery: Delivery) -> Any:
    try:
        return app.coder.read(delivery.message)
    except InvalidMessage:
        return None  # it moves all the same


def _lease_of(delivery: Delivery) -> Lease:
    return Lease(delivery.tag, delivery.token)


def _has_more(broker: Broker, timeout: float) -> bool:
    due = broker.next_due()
    wait = timeout if due is None else min(timeout, due)
    return bool(select.select([broker.fileno()], [], [], wait)[0]) or (due is not None and due <= timeout)


def _names(names: str | Iterable[str] | None) -> list[str] | None:
    return (names.split(",") if isinstance(names, str) else list(names)) if names else None


# -- by id and by name


def task_id_eq(task_id: str, body: Any, message: Waiting) -> bool:
    """Return whether *message* is the task *task_id*."""
    return bool(message.headers["id"] == task_id)


def task_id_in(ids: Iterable[str], body: Any, message: Waiting) -> bool:
    """Return whether *message* is one of these tasks."""
    return message.headers["id"] in ids


def move_task_by_id(task_id: str, dest: Any, **options: Any) -> State:
    """Move the task *task_id* to the queue *dest*; *options* are those of `move`."""
    return move_by_idmap({task_id: dest}, **options)


def move_by_idmap(map: Mapping[str, Any], **options: Any) -> State:
    """Move tasks to queues by their ids."""
    return move(lambda _, message: map.get(message.headers["id"]), **{"limit": len(map), **options})


def move_by_taskmap(map: Mapping[str, Any], **options: Any) -> State:
    """Move tasks to queues by the names of the tasks."""
    return move(lambda _, message: map.get(message.headers["task"]), **options)


def move_direct(predicate: Filter, **options: Any) -> State:
    """Move tasks to workers, whose node names *predicate* says (setting ``worker_direct``)."""
    return move(predicate, transform=direct_queue, **options)


def move_direct_by_id(task_id: str, dest: str, **options: Any) -> State:
    """Move the task *task_id* to the worker *dest*."""
    return move_direct(lambda _, message: dest if message.headers["id"] == task_id else None, limit=1, **options)


# -- to another broker


def republish(producer: Any, message: Waiting, exchange: str | None = None, routing_key: str | None = None) -> None:
    """Send *message* over *producer*, a connection, as it came or to another *exchange* and *routing_key*."""
    route = message.delivery.route
    route = Route(
        exchange=route.exchange if exchange is None else exchange,
        routing_key=route.routing_key if routing_key is None else routing_key,
    )
    producer.broker.publish([Publication(message=message.message, route=route)])


def migrate_task(producer: Any, body: Any, message: Waiting, queues: Mapping[str, str] | None = None) -> None:
    """Send *message* over *producer*, a connection; *queues* gives queues other names there."""
    route, renamed = message.delivery.route, queues or {}
    exchange, key = route.exchange, route.routing_key
    republish(producer, message, renamed.get(exchange, exchange), renamed.get(key, key))


def migrate_tasks(
    source: Any,
    dest: Any,
    migrate: Callable[..., Any] = migrate_task,
    app: Any = None,
    queues: str | Iterable[str] | Mapping[str, str] | None = None,
    **options: Any,
) -> State:
    """Copy what waits at the connection *source* to *dest*; with ``ack_messages=True`` in *options*, move it.

    Each is stored there before it is removed here. *queues* are names, or pairs ``old:new``; None = all. Further
    *options* are those of `start_filter`.
    """
    app = app or current.get_current_app()
    pairs = queues if isinstance(queues, Mapping) else [name.partition(":")[::2] for name in _names(queues) or ()]
    renamed = {old: new or old for old, new in dict(pairs).items()}
    dest.broker.declare(app.amqp.queues.topology)
    return start_filter(app, source, partial(migrate, dest, queues=renamed), queues=renamed or None, **options)
