"""Steer what waits and what runs, and ask workers what they do: ``app.control``."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, Final

from umbel._names import uuid
from umbel.control.mailbox import Mailbox, PostOffice
from umbel.exceptions import DuplicateNodenameWarning, ImproperlyConfigured
from umbel.wire.command import Command
from umbel.wire.message import Route

__all__ = ["Control", "Inspect", "flatten_reply"]

_SIGNAL: Final = os.environ.get("REMAP_SIGTERM", "SIGTERM")  # what ends a task that is terminated


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return several replies as one dict by node; warns when two nodes have the same name."""
    nodes: dict[str, Any] = {}
    twice: set[str] = set()
    for item in reply:
        twice |= nodes.keys() & item.keys()
        nodes |= item
    if twice:
        warnings.warn(
            f"several workers are called {', '.join(sorted(twice))}: each needs a name of its own, "
            f"see umbel worker --hostname",
            DuplicateNodenameWarning,
            stacklevel=3,
        )
    return nodes


class Inspect:
    """Questions to workers; each method returns {node: answer}, or None when nobody answered."""

    app: Any = None

    def __init__(
        self,
        destination: Sequence[str] | None = None,
        timeout: float | None = 1.0,
        callback: Callable[[dict[str, Any]], object] | None = None,
        connection: Any = None,
        app: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app = app or self.app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _request(self, command: str, **arguments: Any) -> Any:
        replies = self.app.control.broadcast(
            command,
            arguments=arguments,
            destination=self.destination,
            callback=self.callback,
            connection=self.connection,
            limit=self.limit,
            timeout=self.timeout,
            reply=True,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        return flatten_reply(replies) if replies else None

    def active(self, safe: bool | None = None) -> Any:
        """Return the tasks that run; *safe* is accepted, arguments are texts in any case."""
        return self._request("active", safe=safe)

    def reserved(self, safe: bool | None = None) -> Any:
        """Return the tasks that workers hold and that have not begun."""
        return self._request("reserved")

    def scheduled(self, safe: bool | None = None) -> Any:
        """Return the tasks that workers hold until their time comes."""
        return self._request("scheduled")

    def revoked(self) -> Any:
        """Return the ids of revoked tasks."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Return the names of tasks, with the attributes *taskinfoitems*."""
        return self._request("registered", taskinfoitems=list(taskinfoitems))

    registered_tasks = registered

    def query_task(self, *ids: Any) -> Any:
        """Return what workers know of the tasks of these ids."""
        if len(ids) == 1 and isinstance(ids[0], (list, tuple)):
            ids = tuple(ids[0])
        return self._request("query_task", ids=list(ids))

    def stats(self) -> Any:
        """Return what workers have done, and what they are made of."""
        return self._request("stats")

    def active_queues(self) -> Any:
        """Return the queues that workers consume."""
        return self._request("active_queues")

    def conf(self, with_defaults: bool = False) -> Any:
        """Return the settings of workers, secrets masked."""
        return self._request("conf", with_defaults=with_defaults)

    def clock(self) -> Any:
        """Return the logical clocks of workers."""
        return self._request("clock")

    def ping(self, destination: Sequence[str] | None = None) -> Any:
        """Return a pong of each worker."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def report(self) -> Any:
        """Return what bug reports need."""
        return self._request("report")

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """Return the clock and revoked ids of workers, and tell them ours."""
        return self._request("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Any:
        """Return how much memory the workers' parents use."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """Return the last *samples* of `memsample`."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """Return the name of a file with a graph of objects in a worker's parent."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)


class Control:
    """The orders of one app to its workers.

    Most methods are commands, which share some keywords: *destination* (node names), *pattern* with *matcher*
    (``glob`` or ``pcre``), *reply* (wait for answers and return them), *timeout* (seconds without an answer), *limit*
    (of answers) and *callback* (is given each).
    """

    inspect_cls: Any = Inspect

    def __init__(self, app: Any = None) -> None:
        self.app = app

    @cached_property
    def inspect(self) -> Any:
        """The class of questions to workers, bound to this app."""
        return self.app.subclass_with_self(self.inspect_cls)

    @property
    def office(self) -> PostOffice:
        """How commands travel, by the settings as they are.

        Raises:
            ImproperlyConfigured: mailboxes are to be exclusive and durable.
        """
        conf, codecs = self.app.conf, self.app.codecs
        if conf.control_queue_exclusive and conf.control_queue_durable:
            raise ImproperlyConfigured(
                "a mailbox cannot be exclusive and durable: set one of 'control_queue_exclusive' and "
                "'control_queue_durable' to False"
            )
        return PostOffice(
            codecs=codecs,
            accept=None if conf.accept_content is None else codecs.content_types(conf.accept_content),
            serializer=conf.task_serializer,
            namespace=conf.control_exchange,
            queue_expires=conf.control_queue_expires,
            queue_ttl=conf.control_queue_ttl,
            exclusive=conf.control_queue_exclusive,
            durable=conf.control_queue_durable,
        )

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Any:
        """Send *command* to all workers, or to some; return their replies with *reply*, else None.

        *extra_kwargs* are further *arguments* of the command.

        Raises:
            ValueError: *destination* is neither list nor tuple.
            OperationalError: the broker cannot be reached.
        """
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise ValueError(f"destination must be a list or tuple of node names, not {destination!r}")
        office = self.office
        asked = Command(
            method=command,
            arguments={**(arguments or {}), **extra_kwargs},
            destination=None if destination is None else list(destination),
            pattern=pattern,
            matcher=matcher,
            ticket=uuid() if reply else None,
            clock=self.app.clock.forward(),
            expires=time.time() + timeout if reply and timeout else 0.0,
        )
        if not reply:
            needs = {Route(f"{office.namespace}.pidbox"): office.exchange}
            self.app.sender.send([office.publication(asked)], needs)
            return None
        if limit is None and destination:
            limit = len(destination)
        if timeout is None and limit is None:
            timeout = 1.0  # nobody knows how many there are, so it would never end
        with closing(self.app.open_broker()) as broker:
            mailbox = Mailbox(office, broker, oid=self.app.thread_oid, hear_clock=self.app.clock.adjust)
            return mailbox.ask(asked, timeout=timeout, limit=limit, callback=callback)

    # -- tasks

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = _SIGNAL,
        **kwargs: Any,
    ) -> Any:
        """Forbid tasks to run, durably: also workers that start later know it. With *terminate* end those that run.

        *wait* is another word for *reply*.
        """
        if kwargs.pop("wait", False):
            kwargs["reply"] = True
        ids = [task_id] if isinstance(task_id, str) else [str(each) for each in task_id]
        with self.app.lend_broker() as broker:
            if broker.features.durable_revokes:
                broker.revoke(ids)
        arguments = {"task_id": task_id if isinstance(task_id, str) else ids, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke", destination=destination, arguments=arguments, **kwargs)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = _SIGNAL,
        **kwargs: Any,
    ) -> Any:
        """Forbid tasks with these stamps to run: {name: value, or a list of values}; the rest as `revoke`."""
        arguments = {"headers": dict(headers), "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", destination=destination, arguments=arguments, **kwargs)

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Sequence[str] | None = None,
        signal: str | int | None = _SIGNAL,
        **kwargs: Any,
    ) -> Any:
        """Forbid tasks to run, and end those that do."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def purge(self, connection: Any = None) -> int:
        """Drop all messages that wait in the queues this app consumes; return how many."""
        with self.app.lend_broker() as broker:
            return sum(broker.purge(name) for name in self.app.amqp.queues.consume_from)

    discard_all = purge

    def pause(self, queue: str) -> None:
        """Let no worker take tasks from *queue* until `resume`, durably; sending to it goes on."""
        with self.app.lend_broker() as broker:
            broker.pause(queue)

    def resume(self, queue: str) -> None:
        """End a `pause`."""
        with self.app.lend_broker() as broker:
            broker.resume(queue)

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Let each worker start no more than so many of a task: ``10/m``; 0 or None = any number."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", destination=destination, arguments=arguments, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Set the time limits of a task, in seconds; None = none."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", destination=destination, arguments=arguments, **kwargs)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:
        """Have one of the workers do *action*: the topic ``task`` sends a signature once."""
        arguments = {"id": id, "topic": topic, "action": action}
        self.broadcast("election", connection=connection, destination=None, arguments=arguments)

    # -- workers

    def ping(self, destination: Sequence[str] | None = None, timeout: float = 1.0, **kwargs: Any) -> Any:
        """Return the pongs of workers."""
        return self.broadcast("ping", reply=True, arguments={}, destination=destination, timeout=timeout, **kwargs)

    def shutdown(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers stop once their tasks have ended."""
        return self.broadcast("shutdown", arguments={}, destination=destination, **kwargs)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers consume *queue* too."""
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", destination=destination, arguments=arguments, **kwargs)

    def cancel_consumer(self, queue: str, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers consume *queue* no more."""
        return self.broadcast("cancel_consumer", destination=destination, arguments={"queue": queue}, **kwargs)

    def enable_events(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers tell of tasks."""
        return self.broadcast("enable_events", arguments={}, destination=destination, **kwargs)

    def disable_events(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers tell of tasks no more."""
        return self.broadcast("disable_events", arguments={}, destination=destination, **kwargs)

    def heartbeat(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers say that they live, now."""
        return self.broadcast("heartbeat", arguments={}, destination=destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Give workers *n* more slots."""
        return self.broadcast("pool_grow", arguments={"n": n}, destination=destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Take *n* slots from workers."""
        return self.broadcast("pool_shrink", arguments={"n": n}, destination=destination, **kwargs)

    def autoscale(self, max: int, min: int, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Set between how many slots workers scale by themselves."""
        return self.broadcast("autoscale", arguments={"max": max, "min": min}, destination=destination, **kwargs)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers replace the processes of their pool, if ``worker_pool_restarts`` is on."""
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments=arguments, destination=destination, **kwargs)
