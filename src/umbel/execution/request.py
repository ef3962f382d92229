"""The call as the running task sees it: ``self.request``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from umbel.brokers.base import Delivery, Publication
from umbel.wire.chord import ChordPart, ChordSize
from umbel.wire.links import Links
from umbel.wire.message import Message
from umbel.wire.record import Record

__all__ = ["Request"]

_EMBEDDED = frozenset({"callbacks", "errbacks", "chain", "chord"})


class _OfMessage:
    """An attribute that is worked out of the message when it is first read; assigning replaces it.

    Most tasks read two or three of some thirty attributes, so they are not filled in beforehand.
    """

    def __init__(self, read: Any, default: Any = None) -> None:
        self._read = read
        self._default = default
        self.__doc__ = read.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, request: Request | None, owner: type) -> Any:
        if request is None:
            return self._default
        message = request.message
        value = self._default if message is None else self._read(message)
        request.__dict__[self._name] = value
        return value


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _properties(message: Message) -> dict[str, Any]:
    return {
        **message.properties,
        "correlation_id": message.correlation_id or message.id,
        "reply_to": message.reply_to,
        "delivery_mode": message.delivery_mode,
        "priority": message.priority,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
    }


class _Chain:
    """The chain as signatures, read when somebody asks for it; assigning replaces it."""

    def __get__(self, request: Request | None, owner: type) -> Any:
        if request is None or request.links is None:
            return None
        chain = request.__dict__["chain"] = [*request.links]
        return chain


class Request:
    """What a running task may know of its call.

    Attributes that are not set read as None or their class default; users may set any (API-194 to API-210).
    A request made without a message (`Request()`) is that of a task called as a function: attributes that a message
    would give read as their defaults.
    """

    message: Message | None = None
    delivery: Delivery | None = None

    id: str | None = None
    task: str | None = None
    args: Any = None
    kwargs: Any = None
    retries: int = 0
    hostname: str | None = None  # node name of the worker
    called_directly: bool = True  # neither by a worker nor by `apply`
    is_eager: bool = False
    callbacks: list[Any] | None = None  # signatures as dicts, to run on success
    errbacks: list[Any] | None = None  # the same, on failure
    chord: Any = None  # the body whose header this is a part of
    loglevel: int | None = None
    logfile: str | None = None
    utc: bool = True

    root_id = _OfMessage(lambda message: message.root_id or message.id)
    parent_id = _OfMessage(lambda message: message.parent_id)
    correlation_id = _OfMessage(lambda message: message.correlation_id or message.id)
    reply_to = _OfMessage(lambda message: message.reply_to)
    eta = _OfMessage(lambda message: _iso(message.eta))
    expires = _OfMessage(lambda message: _iso(message.expires))
    timelimit = _OfMessage(lambda message: [message.hard_limit, message.soft_limit])  # seconds
    time_limit = _OfMessage(lambda message: message.hard_limit)  # seconds
    soft_time_limit = _OfMessage(lambda message: message.soft_limit)  # seconds
    group = _OfMessage(lambda message: message.group)
    taskset = _OfMessage(lambda message: message.group)
    group_index = _OfMessage(lambda message: message.group_index)
    headers = _OfMessage(lambda message: dict(message.headers) if message.headers else None)  # the sender's own
    properties = _OfMessage(_properties)
    origin = _OfMessage(lambda message: message.origin)
    shadow = _OfMessage(lambda message: message.shadow)
    argsrepr = _OfMessage(lambda message: message.argsrepr)
    kwargsrepr = _OfMessage(lambda message: message.kwargsrepr)
    ignore_result = _OfMessage(lambda message: message.ignore_result)
    replaced_task_nesting = _OfMessage(lambda message: message.replaced_task_nesting, 0)
    stamped_headers = _OfMessage(
        lambda message: None if message.stamped_headers is None else list(message.stamped_headers)
    )
    stamps = _OfMessage(lambda message: message.stamps)
    chain = _Chain()  # what follows, in reverse: the next one is last

    # Kept for this room and for Task; not part of what users are promised.
    links: Links | None = None  # the chain as it came, unread
    running: bool = False  # `run` was entered by the worker: a `__call__` on the way must not begin a new request
    max_retries: int | None = None  # what a `retry` in this run asked for; None = the task's own

    def __init__(self, *args: Any, **fields: Any) -> None:
        self.__dict__.update(*args, **fields)

    @classmethod
    def of_delivery(
        cls,
        delivery: Delivery,
        args: Any,
        kwargs: Any,
        embed: Mapping[str, Any],
        *,
        hostname: str | None = None,
    ) -> Request:
        """Return the request of a *delivery* whose body holds *args*, *kwargs* and *embed*."""
        message = delivery.message
        request = cls()
        request.message = message
        request.delivery = delivery
        request.id = message.id
        request.task = message.task
        request.args = args
        request.kwargs = kwargs
        request.retries = message.retries
        request.hostname = hostname
        request.called_directly = False
        if embed:
            request.callbacks = embed.get("callbacks")
            request.errbacks = embed.get("errbacks")
            if type(chain := embed.get("chain")) is Links:
                request.links = chain
            else:
                request.__dict__["chain"] = chain
            request.chord = embed.get("chord")
            if len(embed) > len(_EMBEDDED):
                request.__dict__.update((key, embed[key]) for key in embed.keys() - _EMBEDDED)
        return request

    @property
    def steps(self) -> Sequence[Any] | None:
        """The chain, read as far as somebody did."""
        own: Sequence[Any] | None = self.__dict__.get("chain", self.links)
        return own

    @cached_property
    def delivery_info(self) -> dict[str, Any] | None:
        """How the message came: exchange, routing_key, priority and redelivered (PRT-055); None without one."""
        if self.delivery is None:
            return None
        return {
            "exchange": self.delivery.route.exchange,
            "routing_key": self.delivery.route.routing_key,
            "priority": self.delivery.message.priority or 0,
            "redelivered": self.delivery.redelivered,
        }

    @cached_property
    def children(self) -> list[Any]:
        """The results of tasks this one has sent, in order."""
        return []

    @cached_property
    def outbox(self) -> list[Publication | ChordSize | ChordPart | Record]:
        """What the task wants written when its outcome is settled, whatever the outcome: its retries, for one."""
        return []

    @cached_property
    def added(self) -> Iterator[int]:
        """Numbers for those that this run adds to its chord."""
        return itertools.count()

    @property
    def display_name(self) -> str:
        """The name for people: the shadow name where there is one."""
        return self.shadow or self.task or "???"

    @property
    def name(self) -> str | None:
        """The task's name; like the next two, what receivers of signals call it by."""
        return self.task

    task_name = name

    @property
    def task_id(self) -> str | None:
        """The same as `id`."""
        return self.id

    def get(self, key: str, default: Any = None) -> Any:
        """Return the attribute *key*, or *default* where there is none."""
        return getattr(self, key) if key in self.__dict__ or hasattr(type(self), key) else default

    def update(self, *args: Any, **fields: Any) -> None:
        """Set several attributes, given as to ``dict.update``."""
        self.__dict__.update(*args, **fields)

    def clear(self) -> None:
        """Forget everything: the attributes read as those of a task called as a function."""
        self.__dict__.clear()

    def __repr__(self) -> str:
        return f"<Context: {self.__dict__!r}>"

    def as_execution_options(self) -> dict[str, Any]:
        """Return the options with which `apply_async` sends this call once more."""
        options = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": self.soft_time_limit,
            "time_limit": self.time_limit,
            "headers": {} if self.headers is None else dict(self.headers),
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
            "ignore_result": self.ignore_result,
        }
        if self.stamped_headers:
            options["stamped_headers"] = self.stamped_headers
            options.update(self.stamps or {})
        return options
