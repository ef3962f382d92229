"""Open the ways by which an app tells and hears what happens: ``app.events``."""

# ruff: noqa: FBT001, FBT002, N802 - Celery's names and signatures
from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

from umbel._names import anon_nodename
from umbel.app.sending import NO_RETRY, RetryPolicy
from umbel.brokers.base import Publication
from umbel.events.dispatcher import EventDispatcher
from umbel.events.receiver import EventReceiver
from umbel.events.state import State
from umbel.wire.event import call_fields, event_message
from umbel.wire.message import Route
from umbel.wire.topology import Exchange, Topology

__all__ = ["Events"]

_FANOUT: Final = frozenset({"redis", "rediss", "redis+socket", "valkey", "valkeys", "sentinel", "rediscluster"})
# Redis has topics of its own kind, and kombu uses it by a fanout exchange; the same on Google's Pub/Sub.


class Events:
    """Events of one app."""

    receiver_cls: Any = EventReceiver
    dispatcher_cls: Any = EventDispatcher
    state_cls: Any = State

    def __init__(self, app: Any = None) -> None:
        self.app = app

    @property
    def exchange(self) -> Exchange:
        """Where events go, of the kind that the broker's peers expect."""
        scheme = self.app.broker_url().partition(":")[0]
        fans_out = scheme in _FANOUT or scheme.startswith(("sentinel", "redis", "gcpubsub"))
        return Exchange(self.app.conf.event_exchange, "fanout" if fans_out else "topic")

    @property
    def topology(self) -> Topology:
        """Return what must be declared before events are sent."""
        return Topology.of(self.exchange)

    @cached_property
    def Receiver(self) -> Any:
        """Return the class of receivers, bound to this app."""
        return self.app.subclass_with_self(self.receiver_cls)

    @cached_property
    def Dispatcher(self) -> Any:
        """Return the class of dispatchers, bound to this app."""
        return self.app.subclass_with_self(self.dispatcher_cls)

    @cached_property
    def State(self) -> Any:
        """Return the class that keeps what events say of a cluster."""
        return self.app.subclass_with_self(self.state_cls)

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """Lend a dispatcher for a block."""
        with self.Dispatcher(hostname=hostname, enabled=enabled, buffer_while_offline=buffer_while_offline) as lent:
            yield lent

    def send(
        self,
        publications: Sequence[Publication],
        *,
        over: Any = None,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand events to the broker, *over* a connection the app made or one of its own; may raise OperationalError."""
        policy = RetryPolicy.of(self.app.conf.task_publish_retry_policy, retry_policy) if retry else NO_RETRY
        self.app.sender.send(publications, self.needs, policy=policy, over=over)

    @property
    def needs(self) -> dict[Route, Topology]:
        """Return what must be declared before an event can be sent, as `Sender.send` takes it."""
        return {Route(self.app.conf.event_exchange): self.topology}

    @property
    def utcoffset(self) -> int:
        """Return how many hours local time lies behind UTC; west is positive."""
        return (time.altzone if time.localtime().tm_isdst > 0 else time.timezone) // 3600

    def common(self, hostname: str) -> dict[str, Any]:
        """Return the fields that all events of one node share; `packed` fills in the clock."""
        return {"hostname": hostname, "utcoffset": self.utcoffset, "pid": os.getpid(), "clock": 0}

    def packed(self, events: Sequence[Any], *, gathered: bool = True) -> Publication:
        """Count *events*, of numbers and texts, on the clock; return them as one publication.

        Each is a dict, or a struct of the same fields.

        Without *gathered* there must be one, and it travels as such.
        """
        clock = self.app.clock.forward(len(events)) - len(events)
        for event in events:
            clock += 1
            if type(event) is dict:
                event["clock"] = clock
            else:
                event.clock = clock
        return self.publication(events if gathered else events[0], simple=True)

    def of_sending(self, publications: Sequence[Publication]) -> list[Publication]:
        """Return what tells monitors that these tasks are sent, to travel with them."""
        return [self.packed([event], gathered=False) for event in self.sent(publications)]

    def sent(self, publications: Sequence[Publication]) -> list[dict[str, Any]]:
        """Return the events that these tasks are sent."""
        common = self.common(anon_nodename())
        told = []
        for message, route in ((each.message, each.route) for each in publications):
            task = dict.get(self.app.tasks, message.task)
            if message.task and getattr(task, "send_events", True):
                event = {
                    **common,
                    **call_fields(message),
                    "queue": route.routing_key,
                    "exchange": route.exchange,
                    "routing_key": route.routing_key,
                    "timestamp": time.time(),
                    "type": "task-sent",
                }
                told.append(event)
        return told

    def publication(
        self, events: Any, *, serializer: str | None = None, delivery_mode: int = 1, simple: bool = False
    ) -> Publication:
        """Return the message of one event (a dict) or of several, and its way; *simple* as for `event_message`."""
        conf = self.app.conf
        message, route = event_message(
            events,
            codecs=self.app.codecs,
            serializer=serializer or conf.event_serializer,
            exchange=conf.event_exchange,
            delivery_mode=delivery_mode,
            simple=simple,
        )
        return Publication(message=message, route=route)
