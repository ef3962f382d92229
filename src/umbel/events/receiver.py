"""Receive events."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from umbel._names import uuid
from umbel.brokers.base import Broker
from umbel.brokers.listener import Listener
from umbel.exceptions import CeleryError, ImproperlyConfigured
from umbel.wire.event import monitor_topology, read_events

__all__ = ["EventReceiver"]

_AHEAD: Final = 1  # a task is sent before it is received, whatever the clocks say
_PATIENCE: Final = 1.0  # seconds between looks whether to stop


class EventReceiver:
    """Hears the events of a cluster, and gives each to its handler.

    Used by one thread. *handlers* maps types such as ``task-failed``, or ``*`` for all others, to functions of one
    argument: the event, a dict.
    """

    app: Any = None

    def __init__(
        self,
        channel: Any = None,
        handlers: Mapping[str, Callable[[dict[str, Any]], object]] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Any = None,
        queue_prefix: str | None = None,
        accept: Collection[str] | None = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        """Take what to hear, over a connection that the app made (*channel*; None = one of its own).

        Args:
            channel: see above.
            handlers: see above.
            routing_key: which events: ``worker.#`` is all of workers, ``task.#`` all of tasks, on brokers with topics.
            node_id: names the queue; None = a new id.
            app: the app; None = the class's own.
            queue_prefix: what the queue's name begins with; this and the following are settings if they are None.
            accept: serializers that are read.
            queue_ttl: seconds until an event that nobody hears is dropped.
            queue_expires: seconds until a queue that nobody hears is dropped.
            queue_exclusive: only this connection may use the queue.
            queue_durable: the queue survives the broker's restart.

        Raises:
            ImproperlyConfigured: the queue is to be exclusive and durable.
        """
        self.app = app or self.app
        conf = self.app.conf
        self.channel = channel
        self.handlers = dict(handlers or {})
        self.routing_key = routing_key
        self.node_id = node_id or uuid()
        self.queue_prefix = queue_prefix or conf.event_queue_prefix
        exclusive = conf.event_queue_exclusive if queue_exclusive is None else queue_exclusive
        durable = conf.event_queue_durable if queue_durable is None else queue_durable
        if exclusive and durable:
            raise ImproperlyConfigured(
                "a queue of events cannot be exclusive and durable: set one of 'event_queue_exclusive' and "
                "'event_queue_durable' to False"
            )
        exchange = self.app.events.exchange
        self._topology = monitor_topology(
            f"{self.queue_prefix}.{self.node_id}",
            key=routing_key,
            exchange=exchange.name,
            exchange_type=exchange.type,
            expires=conf.event_queue_expires if queue_expires is None else queue_expires,
            message_ttl=conf.event_queue_ttl if queue_ttl is None else queue_ttl,
            exclusive=exclusive,
            durable=durable,
        )
        codecs = self.app.codecs
        accepted = {conf.event_serializer, "json"} if accept is None else accept
        self._accept = None if accept is None and conf.accept_content is None else codecs.content_types(accepted)
        self.should_stop: Any = False  # set it, in a handler or in another thread, to end `capture`

    @property
    def connection(self) -> Any:
        """The connection it was given."""
        return self.channel

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Give events to the handlers until there were *limit*, or none came within *timeout* seconds (None = ever).

        With *wakeup* workers are asked to announce themselves. Setting `should_stop` ends it within a second.

        Raises:
            TimeoutError: no event came within *timeout* seconds.
            BrokerUnavailable: the broker is gone.
        """
        for _ in self.itercapture(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[list[dict[str, Any]]]:
        """As `capture`; yield the events of each message after they were handled."""
        broker, mine = self._open()
        try:
            listener = Listener(broker, self._topology, owner=self.node_id)
            try:
                if wakeup:
                    self.wakeup_workers()
                yield from self._heard(listener, limit, timeout)
            finally:
                listener.close()
        finally:
            if mine:
                broker.close()

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask workers to announce themselves."""
        self.app.control.broadcast("heartbeat")

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Give *event* to its handler."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def event_from_message(
        self, body: dict[str, Any], localize: bool = True, now: Callable[[], float] = time.time
    ) -> tuple[str, dict[str, Any]]:
        """Return the type of an event, and the event made ours.

        Our clock runs ahead to the sender's, and its time becomes that of our zone; ``local_received`` is when we
        heard it.
        """
        kind = body["type"]
        if kind == "task-sent":
            # A sender's clock may lag behind; the task has been sent before all that is told of it.
            clock = body["clock"] = max(self.app.clock.value - _AHEAD, 0)
            self.app.clock.adjust(clock)
        elif (clock := body.get("clock")) is not None:
            self.app.clock.adjust(clock)
        else:
            body["clock"] = self.app.clock.forward()
        if localize and (theirs := body.get("utcoffset")) is not None and body.get("timestamp") is not None:
            body["timestamp"] -= (theirs - self.app.events.utcoffset) * 3600
        body["local_received"] = now()
        return kind, body

    def _heard(self, listener: Listener, limit: int | None, timeout: float | None) -> Iterator[list[dict[str, Any]]]:
        count = 0
        until = None if timeout is None else time.monotonic() + timeout
        while not self.should_stop and (limit is None or count < limit):
            left = _PATIENCE if until is None else min(_PATIENCE, until - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"no event came within {timeout:g} s")
            for message in listener.hear(left):
                try:
                    bodies = read_events(message, codecs=self.app.codecs, accept=self._accept)
                except CeleryError as exc:
                    self.on_decode_error(message, exc)
                    continue
                events = [self.event_from_message(body) for body in bodies]
                for kind, event in events:
                    self.process(kind, event)
                count += 1
                until = None if timeout is None else time.monotonic() + timeout
                yield [event for _, event in events]
                if self.should_stop or count == limit:
                    return

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Do what is right with a *message* that holds no event: here nothing."""

    def _open(self) -> tuple[Broker, bool]:
        if self.channel is None:
            return self.app.open_broker(), True
        broker: Broker = getattr(self.channel, "broker", self.channel)
        return broker, False
