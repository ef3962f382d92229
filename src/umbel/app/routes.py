"""Decide where a task goes: what ``task_routes`` says, joined with the options of the call."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from umbel._names import did_you_mean, symbol_by_name
from umbel.app.queues import Queue, Queues
from umbel.exceptions import ImproperlyConfigured, QueueNotFound
from umbel.wire.message import Route

__all__ = ["Router", "Table"]


class Table:
    """Routes by task name: exact names first, then patterns in their order."""

    def __init__(self, pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        """Take names, globs or compiled patterns, each with a queue's name or options."""
        self._exact: dict[str, Any] = {}
        self._patterns: list[tuple[re.Pattern[str], Any]] = []
        for key, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
            if isinstance(key, re.Pattern):
                self._patterns.append((key, value))
            elif "*" in key:
                self._patterns.append((re.compile(fnmatch.translate(key)), value))
            else:
                self._exact[key] = value

    def __call__(self, name: str, *_: Any, **__: Any) -> Any:
        if name in self._exact:
            return self._exact[name]
        return next((value for pattern, value in self._patterns if pattern.match(name)), None)


class Router:
    """Ask each router of ``task_routes`` in turn; the first answer counts."""

    def __init__(self, routes: Any, queues: Queues) -> None:
        """Take what ``task_routes`` holds.

        Raises:
            ImproperlyConfigured: an entry is none of the accepted forms.
        """
        self.queues = queues
        self._routers = _prepare(routes)
        self.by_name_only = all(isinstance(each, Table) for each in self._routers)  # answers may be remembered

    def lookup(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any = None
    ) -> dict[str, Any]:
        """Return the options that the routes give to this call; empty where they say nothing."""
        for router in self._routers:
            answer = router(name, args, kwargs, options, task=task)
            if answer is not None:
                return {"queue": answer} if isinstance(answer, str) else dict(answer)
        return {}

    def route(
        self,
        options: Mapping[str, Any],
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        task: Any = None,
    ) -> dict[str, Any]:
        """Return *options* of a call completed by the routes; an option of the call wins unless it is None."""
        found = self.lookup(name, args, kwargs or {}, options, task)
        found.update((key, value) for key, value in options.items() if value is not None)
        return found

    def destination(self, options: Mapping[str, Any]) -> tuple[Route, Queue | None]:
        """Return where completed *options* lead, and the queue when they name one (or nothing at all).

        Raises:
            QueueNotFound: that queue is not in ``task_queues`` and may not be created.
        """
        queue, exchange = options.get("queue"), options.get("exchange")
        exchange_name = exchange if exchange is None or isinstance(exchange, str) else exchange.name
        routing_key = options.get("routing_key")
        if queue is None and exchange_name is None and routing_key is None:
            queue = self.queues.defaults.queue
        if queue is None:
            defaults = self.queues.defaults
            fallback = defaults.routing_key or defaults.queue
            if exchange_name is None:
                exchange_name = defaults.default_exchange().name
            return Route(exchange_name, fallback if routing_key is None else routing_key), None
        found = self._queue(queue)
        kind = options.get("exchange_type") or found.exchange.type
        if not exchange_name and not routing_key and kind == "direct":
            return Route("", found.name), found
        return (
            Route(
                found.exchange.name if exchange_name is None else exchange_name,
                found.routing_key if routing_key is None else routing_key,
            ),
            found,
        )

    def _queue(self, queue: Any) -> Queue:
        if isinstance(queue, Queue):
            return queue
        if not isinstance(queue, str):
            return self.queues.add(queue)
        try:
            return self.queues[queue]
        except KeyError:
            raise QueueNotFound(
                f"Queue {queue!r} missing from task_queues{did_you_mean(queue, self.queues)} "
                f"Add it there, or switch on 'task_create_missing_queues'."
            ) from None


def _prepare(routes: Any) -> list[Callable[..., Any]]:
    if not routes:
        return []
    if isinstance(routes, str) or not isinstance(routes, (list, tuple)):
        return [_router(routes)]
    if all(_is_pair(each) for each in routes):
        return [Table(routes)]
    return [_router(each) for each in routes]


def _router(route: Any) -> Callable[..., Any]:
    if isinstance(route, str):
        route = symbol_by_name(route)
    if isinstance(route, type):
        route = route()
    if isinstance(route, (Mapping, list, tuple)):
        return Table(route)
    if hasattr(route, "route_for_task"):
        return _of_object(route)
    if callable(route):
        return route  # type: ignore[no-any-return]  # it is callable
    raise ImproperlyConfigured(
        f"{route!r} in 'task_routes' is no route: give a mapping, a list of pairs, a callable, "
        f"an object with route_for_task(), or the dotted path of one of these"
    )


def _of_object(route: Any) -> Callable[..., Any]:
    def ask(name: str, args: Any, kwargs: Any, _options: Any, task: Any = None) -> Any:
        return route.route_for_task(name, args, kwargs)

    return ask


def _is_pair(entry: Any) -> bool:
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 2
        and isinstance(entry[0], (str, re.Pattern))
        and isinstance(entry[1], (str, Mapping))
    )
