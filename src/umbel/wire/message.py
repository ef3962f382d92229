"""One task call as it travels from a sender to a worker, free of any broker's dialect."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

__all__ = ["Message", "Route"]


class Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One task call as it travels.

    The neutral form of task message protocol 2 (and of protocol 1 once read). Whatever a peer put into
    the headers survives a round trip: known names are fields, the rest is `headers`.

    Array-like so that it crosses a socket to a child as a bare msgpack array; never stored in that form.
    """

    id: str
    task: str  # registered name
    body: bytes  # encoded (args, kwargs, embed), compressed if `compression`; read only where the task runs
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    compression: str | None = None  # MIME name of the body's compression; None = not compressed
    eta: datetime | None = None  # aware; None = as soon as possible
    expires: datetime | None = None  # aware; None = never
    retries: int = 0  # attempts already made
    hard_limit: int | float | None = None  # seconds, a peer's 10 stays 10; None = the task's own
    soft_limit: int | float | None = None  # seconds; None = the task's own
    root_id: str | None = None  # first task of the work-flow; None in foreign messages means unknown
    parent_id: str | None = None  # the task that sent this one
    group: str | None = None
    group_index: int | None = None
    shadow: str | None = None  # display name
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None  # "gen<pid>@<host>"
    ignore_result: bool | None = None  # None = the task's own
    replaced_task_nesting: int = 0
    stamped_headers: tuple[str, ...] | None = None  # names of stamps
    stamps: dict[str, Any] = {}
    headers: dict[str, Any] = {}  # the sender's own headers, never the known ones
    reply_to: str | None = None  # where rpc results go
    correlation_id: str | None = None  # None = `id`
    priority: int | None = None  # None = unset (0 on virtual transports)
    delivery_mode: int = 2  # 2 persistent, 1 transient
    properties: dict[str, Any] = {}  # unknown publish options, sent as message properties


class Route(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where one message goes: an exchange and a key, as AMQP means them.

    The default exchange "" delivers to the queue named by the key.
    """

    exchange: str = ""
    routing_key: str = ""
