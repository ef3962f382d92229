"""Send events."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from umbel._names import anon_nodename
from umbel.events.event import group_from
from umbel.exceptions import OperationalError
from umbel.wire.event import event

__all__ = ["EventDispatcher"]


class EventDispatcher:
    """Sends events, over *connection* or one of the app's own. May be used in any thread, and as a context."""

    app: Any = None

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Any = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Iterable[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], object] | None = None,
    ) -> None:
        """Take who speaks, and how.

        Args:
            connection: made by the app; None = the app's own are used.
            hostname: the node that speaks; None = ``gen<pid>@<host>``.
            enabled: send at all.
            channel: another name of *connection*.
            buffer_while_offline: keep what cannot be sent, until `flush`; else `send` raises.
            app: the app; None = the class's own.
            serializer: how events are encoded; None = by the setting.
            groups: send only events of these groups (``task``, ``worker``); None = all.
            delivery_mode: 1 transient, 2 persistent.
            buffer_group: groups whose events wait for each other, and travel together.
            buffer_limit: how many of them at the most.
            on_send_buffered: called after they were sent.
        """
        self.app = app or self.app
        self.connection = connection or channel
        self.hostname = hostname or anon_nodename()
        self.enabled = False
        self.buffer_while_offline = buffer_while_offline
        self.serializer = serializer or self.app.conf.event_serializer
        self.groups = frozenset(groups or ())
        self.delivery_mode = delivery_mode
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.on_enabled: set[Callable[[], object]] = set()
        self.on_disabled: set[Callable[[], object]] = set()
        self.clock = self.app.clock
        self.pid = os.getpid()
        self._unsent: deque[Any] = deque(maxlen=10_000)  # events, or lists of them
        self._grouped: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.RLock()
        if enabled:
            self.enable()

    def enable(self) -> None:
        """Begin to send."""
        self.enabled = True
        for callback in self.on_enabled:
            callback()

    def disable(self) -> None:
        """Stop sending; what waits is sent first."""
        if self.enabled:
            self.flush()
            self.enabled = False
            for callback in self.on_disabled:
                callback()

    def send(
        self,
        type: str,
        blind: bool = False,
        utcoffset: Callable[[], float] | None = None,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        Event: Any = None,  # noqa: N803 - Celery's name
        **fields: Any,
    ) -> None:
        """Send an event. *blind* ones do not count on the clock; with *retry* it is tried as ``task_publish_retry``.

        Raises:
            OperationalError: the broker has not taken it, and it is not to be kept.
        """
        if not self.enabled:
            return
        group = group_from(type)
        if self.groups and group not in self.groups:
            return
        made = self._event(type, fields, blind=blind, utcoffset=utcoffset)
        if group not in self.buffer_group:
            self._send(made, retry=retry, retry_policy=retry_policy)
            return
        with self._lock:
            waiting = self._grouped.setdefault(group, [])
            waiting.append(made)
            if len(waiting) >= self.buffer_limit:
                self.flush(errors=False)

    def publish(
        self,
        type: str,
        fields: Mapping[str, Any],
        producer: Any = None,
        blind: bool = False,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Send an event over *producer*, whatever the groups; raises as `send`."""
        made = self._event(type, fields, blind=blind)
        self._out(made, over=producer, retry=retry, retry_policy=retry_policy)

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what waits: what could not be sent before (*errors*), and what waits for its group (*groups*)."""
        with self._lock:
            if errors:
                unsent, self._unsent = self._unsent, deque(maxlen=self._unsent.maxlen)
                for made in unsent:
                    self._send(made)
            if groups:
                for waiting in self._grouped.values():
                    if waiting:
                        self._send(waiting.copy())
                        waiting.clear()
                        if self.on_send_buffered is not None:
                            self.on_send_buffered()

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what *other* could not send."""
        self._unsent.extend(other._unsent)

    def close(self) -> None:
        """Send what waits for its group."""
        if self.enabled:
            self.flush(errors=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _event(
        self,
        type: str,
        fields: Mapping[str, Any],
        *,
        blind: bool = False,
        utcoffset: Callable[[], float] | None = None,
    ) -> dict[str, Any]:
        clock = None if blind else self.clock.forward()
        made = event(
            type,
            hostname=self.hostname,
            timestamp=time.time(),
            clock=clock,
            pid=self.pid,
            fields=fields,
            utcoffset=self.app.events.utcoffset if utcoffset is None else utcoffset(),
        )
        if blind:
            del made["clock"]
        return made

    def _send(self, made: Any, *, retry: bool = False, retry_policy: Mapping[str, Any] | None = None) -> None:
        try:
            self._out(made, over=self.connection, retry=retry, retry_policy=retry_policy)
        except OperationalError:
            if not self.buffer_while_offline:
                raise
            self._unsent.append(made)

    def _out(
        self, made: Any, *, over: Any = None, retry: bool = False, retry_policy: Mapping[str, Any] | None = None
    ) -> None:
        events = self.app.events
        publication = events.publication(made, serializer=self.serializer, delivery_mode=self.delivery_mode)
        events.send([publication], over=over, retry=retry, retry_policy=retry_policy)
