"""Turn a call into a publication: the road from ``delay`` to the broker, without the broker."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from umbel import current, signals
from umbel._names import anon_nodename, uuid
from umbel._repr import safe_repr
from umbel._time import as_moment, now
from umbel.app.coding import Coder
from umbel.app.queues import Queue
from umbel.app.routes import Router
from umbel.brokers.base import Publication
from umbel.exceptions import CeleryWarning
from umbel.wire.links import Links
from umbel.wire.message import Message, Route
from umbel.wire.protocol import (
    Body,
    MessageReader,
    Received,
    as_protocol_1,
    embed,
    headers_of,
    properties_of,
)
from umbel.wire.topology import Topology

__all__ = ["PUBLISH_OPTIONS", "Publisher"]

_EARLIEST: Final = -2147483648  # seconds; what peers can count back

# fmt: off
PUBLISH_OPTIONS: Final = frozenset({
    "add_to_parent", "argsrepr", "chain", "chord", "compression", "confirm_timeout", "connection", "countdown",
    "declare", "delivery_mode", "eta", "exchange", "exchange_type", "expires", "group_id", "group_index", "headers",
    "ignore_result", "immediate", "kwargsrepr", "link", "link_error", "mandatory", "origin", "parent_id", "priority",
    "producer", "publisher", "queue", "replaced_task_nesting", "reply_to", "result_cls", "retries", "retry",
    "retry_policy", "root_id", "route_name", "router", "routing_key", "serializer", "shadow", "soft_time_limit",
    "stamped_headers", "task_id", "task_type", "time_limit", "timeout",
})
"""What `apply_async` understands; every other option travels as a message property."""
# fmt: on

_DELIVERY_MODES: Final = {"persistent": 2, "transient": 1}


class Publisher:
    """Makes publications for one app, by the settings as they are; a change of settings makes a new one."""

    def __init__(self, app: Any, router: Router, coder: Coder) -> None:
        """Take the *app* for its settings and ids, and its *coder* for bodies."""
        conf = app.conf
        self._app = app
        self._router = router
        self._coder = coder
        self._protocol: int = conf.task_protocol
        self._serializer: str = conf.task_serializer
        self._compression: str | None = conf.task_compression
        # Copying this and replacing ten of its thirty fields is faster than making a message (benchmark enqueue).
        self._blank = Message(
            id="",
            task="",
            body=b"",
            ignore_result=False,
            delivery_mode=_delivery_mode(conf.task_default_delivery_mode),
        )
        self._inherits_priority: bool = conf.task_inherit_parent_priority
        self._repr_levels: int = conf.task_repr_maxlevels  # 0 = all
        self._direct: dict[str, tuple[dict[str, Any], Route, Queue | None]] = {}  # by task name
        self._origin = ""
        self._origin_pid = 0
        self._reader = MessageReader(coder.codecs, None)
        self.needs: dict[Route, Topology] = {}  # what to declare before publishing to an exchange, or a queue

    def prepare(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        *,
        task: Any = None,
        announce: bool = True,
    ) -> Publication:
        """Return the publication of a call of the task *name*, with options as `Task.apply_async` takes them.

        *task* is the registered task, for its defaults; None = unknown here. Nothing is sent; with *announce* those who
        listen to `before_task_publish` are told that it is about to be. Raises as `compose`, and EncodeError when the
        arguments cannot travel.
        """
        fields, route, body, given = self._call(name, args, kwargs, options, task)
        serializer = given.get("serializer") or getattr(task, "serializer", None) or self._serializer
        compression = given.get("compression") or getattr(task, "compression", None) or self._compression
        message: Message | None = None
        if announce and signals.before_task_publish.receivers:
            body = _read(body)
            message, fields = self._announce(replace(self._blank, **fields), route, body, given), {}
        if self._protocol == 1:
            message = replace(message or self._blank, **fields)
            return self._of_protocol_1(message, route, _read(body), serializer, compression)
        encoded = self._coder.body(body, serializer=serializer, compression=compression)
        return Publication(
            message=replace(
                message or self._blank,
                **fields,
                body=encoded.body,
                content_type=encoded.content_type,
                content_encoding=encoded.content_encoding,
                compression=encoded.compression,
            ),
            route=route,
        )

    def compose(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        *,
        task: Any = None,
    ) -> tuple[Message, Route, Body]:
        """Return the message without its body, where it goes, and what its body will be.

        Raises:
            TypeError: *args* is neither list nor tuple, *kwargs* no mapping.
            ValueError: a time or limit makes no sense.
            QueueNotFound: the route names an unknown queue.
        """
        fields, route, body, _ = self._call(name, args, kwargs, options, task)
        return replace(self._blank, **fields), route, body

    def _call(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        task: Any,
    ) -> tuple[dict[str, Any], Route, Body, Mapping[str, Any]]:
        """Return the message's fields, where it goes, what its body will be, and the options completed by routes."""
        args = () if args is None else args
        kwargs = {} if kwargs is None else kwargs
        if type(args) is not tuple and not isinstance(args, (list, tuple)):
            raise TypeError(f"task args must be a list or tuple, not {args!r}")
        if type(kwargs) is not dict and not isinstance(kwargs, Mapping):
            raise TypeError(f"task kwargs must be a mapping, not {kwargs!r}")
        given, route, queue = self._routed(name, args, kwargs, options, task)
        task_id = given.get("task_id") or uuid()
        fields: dict[str, Any] = {"id": task_id, "task": name, "root_id": task_id}
        if not given.get("reply_to"):
            fields["reply_to"] = self._app.thread_oid
        times = None
        if task is not None:
            fields["ignore_result"] = bool(task.ignore_result)
            fields["priority"] = task.priority
            fields["hard_limit"] = task.time_limit
            fields["soft_limit"] = task.soft_time_limit
            if (shadow := task.shadow_name(args, kwargs, options)) is not None:
                fields["shadow"] = shadow
            if task.expires is not None:
                times = {"expires": task.expires}
        if (frame := current.current_frame()) is not None:
            self._inherit(fields, frame.request)
        if queue is not None and queue.delivery_mode is not None:
            fields["delivery_mode"] = queue.delivery_mode

        properties: dict[str, Any] | None = None
        for option, value in given.items():
            if (field := _FIELDS.get(option)) is not None:
                if value is not None or option in _CANCELS:
                    fields[field] = value
            elif option in _TIMES:
                times = {**(times or {}), option: value}
            elif option not in PUBLISH_OPTIONS:
                properties = {**(properties or {}), option: value}

        if times is not None:
            fields["eta"], fields["expires"] = self._times(name, task_id, **times)
        if properties is not None or given.get("stamped_headers") is not None:
            _divide(fields, properties or {}, given.get("stamped_headers"))
        if "delivery_mode" in fields:
            fields["delivery_mode"] = _delivery_mode(fields["delivery_mode"])
        hard, soft = fields.get("hard_limit"), fields.get("soft_limit")
        if hard is not None and soft is not None and soft > hard:
            raise ValueError(f"soft_time_limit ({soft} s) of task {name!r} must be less than its time_limit ({hard} s)")
        shown: tuple[Sequence[Any], Mapping[str, Any]] = args, kwargs
        if task is not None and task.hidden is not None:
            shown = task.hidden.mask(args, kwargs)
        if "argsrepr" not in fields:
            fields["argsrepr"] = safe_repr(shown[0], maxlevels=self._repr_levels) if args else "()"
        if "kwargsrepr" not in fields:
            fields["kwargsrepr"] = safe_repr(shown[1], maxlevels=self._repr_levels) if kwargs else "{}"
        if "origin" not in fields:
            fields["origin"] = self._own_origin()
        follows = embed(
            _as_list(given.get("link")), _as_list(given.get("link_error")), given.get("chain"), given.get("chord")
        )
        return fields, route, Body(args, kwargs, follows), given  # type: ignore[arg-type]  # any mapping can travel

    def _of_protocol_1(
        self, message: Message, route: Route, body: Body, serializer: str, compression: str | None
    ) -> Publication:
        old = as_protocol_1(
            message, _with_links(body), codecs=self._coder.codecs, serializer=serializer, compression=compression
        )
        return Publication(message=old, route=route)

    # -- where to

    def _routed(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any
    ) -> tuple[Mapping[str, Any], Route, Queue | None]:
        """Return the options completed by routes, and where they lead."""
        name = options.get("route_name") or name
        # Most tasks always go the same way, so it is looked up once for each name (benchmark enqueue: 4 µs of 20).
        if self._router.by_name_only and _ROUTING.isdisjoint(options):
            known = self._direct.get(name)
            if known is None:
                extra = self._router.lookup(name, args, kwargs, options, task)
                known = (_without_routing(extra), *self._destination(extra, task))
                if len(self._direct) < _REMEMBERED:
                    self._direct[name] = known
            extra, route, queue = known
            return (_completed(extra, options) if extra else options), route, queue
        router = options.get("router") or self._router
        completed = _completed(router.lookup(name, args, kwargs, options, task), options)
        return completed, *self._destination(completed, task)

    def _destination(self, options: Mapping[str, Any], task: Any) -> tuple[Route, Queue | None]:
        own = {key: getattr(task, key, None) for key in ("queue", "exchange", "routing_key", "exchange_type")}
        route, queue = self._router.destination(_completed({k: v for k, v in own.items() if v is not None}, options))
        self._note(route, queue)
        return route, queue

    def _note(self, route: Route, queue: Queue | None) -> None:
        """Remember what must be declared before anything can be published to *route*."""
        # One entry for an exchange, whatever the keys: there may be any number of these.
        place = Route(route.exchange) if route.exchange else route
        if place in self.needs:
            return
        if route.exchange:  # with nothing bound to it, it would drop the message
            bound = [each for each in self._router.queues.values() if _is_bound(each, route.exchange)]
        else:
            bound = [] if queue is None or queue.exists_by_itself else [queue]
        if bound:
            self.needs[place] = Topology.of(*(each.exchange if each.broadcast else each.topology for each in bound))

    # -- when

    def _times(
        self, name: str, task_id: str, *, countdown: float | None = None, eta: Any = None, expires: Any = None
    ) -> tuple[datetime | None, datetime | None]:
        if not countdown and eta is None and expires is None:
            return None, None
        zone = self._app.timezone
        moment = now(zone)
        if countdown:
            _check_range("countdown", countdown)
            eta = as_moment(countdown, now=moment)
        elif eta is not None:
            given, eta = eta, as_moment(eta, now=moment)
            if not isinstance(given, str):  # a text keeps its own offset
                eta = eta.astimezone(zone)
        if expires is not None:
            if isinstance(expires, (int, float)):
                _check_range("expires", expires)
            expires = as_moment(expires, now=moment)
            if expires <= moment:
                warnings.warn(
                    f"task {name}[{task_id}] expires at {expires.isoformat()}, which has passed: it will not run",
                    CeleryWarning,
                    stacklevel=_USER_CODE,
                )
        return eta, expires

    # -- from whom

    def _inherit(self, fields: dict[str, Any], request: Any) -> None:
        """Take root, parent and priority from the running task."""
        if request.called_directly and request.id is None:
            return
        fields["root_id"] = request.root_id or request.id
        fields["parent_id"] = request.id
        if self._inherits_priority and (priority := (request.delivery_info or {}).get("priority")) is not None:
            fields["priority"] = priority

    def _own_origin(self) -> str:
        if self._origin_pid != current.process_id():
            self._origin_pid = current.process_id()
            self._origin = anon_nodename()
        return self._origin

    # -- who listens

    def _announce(self, message: Message, route: Route, body: Body, options: Mapping[str, Any]) -> Message:
        """Tell listeners what is about to be published; they may change headers, properties and body in place."""
        headers = headers_of(message)
        properties = properties_of(message, now())
        if message.priority is not None:
            properties["priority"] = message.priority
        need = self.needs.get(Route(route.exchange) if route.exchange else route)
        signals.before_task_publish.send(
            sender=message.task,
            body=body,
            exchange=route.exchange,
            routing_key=route.routing_key,
            headers=headers,
            properties=properties,
            declare=[] if need is None else list(need.queues.values()),
            retry_policy=options.get("retry_policy") or self._app.conf.task_publish_retry_policy,
        )
        changed = Received(headers, properties, b"", message.content_type, message.content_encoding)
        return self._reader.read(changed)

    def tell_published(self, publications: Sequence[Publication]) -> None:
        """Tell those who listen that *publications* were sent."""
        for message, route in ((each.message, each.route) for each in publications if each.message.task):
            body = self._coder.read(message)
            signals.after_task_publish.send(
                sender=message.task,
                headers=headers_of(message),
                body=body,
                exchange=route.exchange,
                routing_key=route.routing_key,
            )
            signals.task_sent.send(
                sender=message.task,
                task_id=message.id,
                task=message.task,
                args=body.args,
                kwargs=body.kwargs,
                eta=message.eta,
                taskset=message.group,
            )


_TIMES: Final = frozenset({"countdown", "eta", "expires"})
_FIELDS: Final = {
    "group_id": "group",
    "time_limit": "hard_limit",
    "soft_time_limit": "soft_limit",
    **{
        name: name
        for name in (
            "argsrepr",
            "delivery_mode",
            "group_index",
            "headers",
            "ignore_result",
            "kwargsrepr",
            "origin",
            "parent_id",
            "priority",
            "replaced_task_nesting",
            "reply_to",
            "retries",
            "root_id",
            "shadow",
        )
    },
}  # options that are fields of a message
_ROUTING: Final = frozenset({"queue", "exchange", "exchange_type", "routing_key", "router"})
_REMEMBERED: Final = 10_000  # names; foreign ones given to send_task must not fill our memory
_USER_CODE: Final = 6  # frames from a warning of ours to the caller of delay


_CANCELS: Final = frozenset({"expires", "soft_time_limit", "time_limit"})  # None means none, not: as usual


def _completed(extra: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return *extra* overruled by the *options* of the call, where these say something."""
    said = {key: value for key, value in options.items() if value is not None or key in _CANCELS}
    return {**extra, **said}


def _without_routing(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in _ROUTING}


def _divide(fields: dict[str, Any], unknown: dict[str, Any], stamped_headers: Sequence[str] | None) -> None:
    """Put stamps where they belong, and the other options that nobody knows into the properties."""
    stamps = {name: unknown.pop(name, None) for name in stamped_headers or ()}
    if stamped_headers is not None:
        fields["stamped_headers"], fields["stamps"] = tuple(stamped_headers), stamps
    if unknown:
        fields["properties"] = unknown


def _read(body: Body) -> Body:
    """Return *body* with all of its chain read, for those who look at it."""
    links = body.embed["chain"]
    return body._replace(embed={**body.embed, "chain": [*links]}) if type(links) is Links else body


def _with_links(body: Body) -> Body:
    """Return *body* with its chain as callbacks of callbacks, since protocol 1 knows no chains (PRT-041)."""
    following: Any = None
    for step in body.embed["chain"] or ():  # the last step comes first
        options = dict(step["options"])
        if following is not None:
            options["link"] = [*(_as_list(options.get("link")) or ()), following]
        following = {**step, "options": options}
    if following is None:
        return body
    callbacks = [*(body.embed["callbacks"] or ()), following]
    return body._replace(embed={**body.embed, "callbacks": callbacks, "chain": None})


def _as_list(value: Any) -> list[Any] | None:
    if value is None or isinstance(value, list):
        return value or None
    return list(value) if isinstance(value, tuple) else [value]


def _delivery_mode(mode: Any) -> int:
    return _DELIVERY_MODES[mode] if isinstance(mode, str) else int(mode)


def _is_bound(queue: Queue, exchange: str) -> bool:
    return queue.exchange.name == exchange or any(binding.source == exchange for binding in queue.bindings)


def _check_range(option: str, seconds: float) -> None:
    if seconds < _EARLIEST:
        raise ValueError(f"{option} is {seconds}, which lies further back than {_EARLIEST} seconds")
