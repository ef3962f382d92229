"""Give users a connection to hold: what Celery's users know as a connection, a pool of them, and a producer."""

# ruff: noqa: FBT001, FBT002 - Celery's signatures
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

from umbel._repr import mask_url
from umbel._time import pauses
from umbel.app.connections import Connections
from umbel.app.sending import Line
from umbel.brokers.base import Broker
from umbel.exceptions import BrokerUnavailable, OperationalError, QueueNotFound

__all__ = ["Declared", "Link", "LinkPool", "url_with"]


class Declared(NamedTuple):
    """What declaring a queue answers; Celery's users read how much waits from it."""

    queue: str
    message_count: int
    consumer_count: int  # umbel's brokers do not count consumers: 0


class Link:
    """A connection to the broker of one user and one thread, opened when it is first needed.

    Pass it to `Task.apply_async` as ``connection=`` or ``producer=`` to send several tasks over it. It may be closed
    more than once, and opens anew when it is used again.
    """

    connection_errors = recoverable_connection_errors = (OperationalError,)
    channel_errors = recoverable_channel_errors = (OperationalError,)

    def __init__(self, open: Callable[[], Broker], url: str, *, pool: Connections[Line] | None = None) -> None:
        """Have *open* connect to *url*; with a *pool* the connection is taken from there and goes back to it."""
        self._open = open
        self._url = url
        self._pool = pool
        self._line: Line | None = None

    # -- for `Sender`, as `Connections` has them

    def take(self) -> Line:
        """Return the connection, opened now if need be."""
        if self._line is None:
            self._line = Line(self._open()) if self._pool is None else self._pool.take()
        return self._line

    def give(self, line: Line) -> None:
        """Keep the connection for the next use."""

    def drop(self, line: Line) -> None:
        """Close the connection, which may be broken; the next use opens another."""
        if self._line is line:
            self._line = None
        if self._pool is None:
            line.close()
        else:
            self._pool.drop(line)

    # -- for users

    @property
    def broker(self) -> Broker:
        """What umbel itself speaks to the broker with."""
        return self.take().broker

    @property
    def connected(self) -> bool:
        """Whether it is open."""
        return self._line is not None

    @property
    def connection(self) -> Link:
        """Itself: a producer's connection."""
        return self

    channel = default_channel = connection

    def connect(self) -> Link:
        """Open it."""
        self.take()
        return self

    def ensure_connection(
        self,
        errback: Callable[[BaseException, float], object] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
        **_: Any,
    ) -> Link:
        """Open it, trying *max_retries* times more (None = for ever) with growing pauses of *interval_start* … seconds.

        Raises:
            OperationalError: the broker does not answer.
        """
        further = pauses(interval_start, interval_step, interval_max, max_retries)
        while True:
            try:
                return self.connect()
            except BrokerUnavailable as exc:
                pause = next(further, None)
                if pause is None:
                    raise
                if errback is not None:
                    errback(exc, pause)
                time.sleep(pause)

    def queue_declare(self, queue: str = "", passive: bool = False, **_: Any) -> Declared:
        """Say how many messages wait in *queue*; only *passive* asking is possible here.

        Raises:
            QueueNotFound: there is no such queue.
            NotImplementedError: it is to be created; put it into ``task_queues`` instead.
        """
        if not passive:
            raise NotImplementedError(f"declare the queue {queue!r} in the setting 'task_queues'; umbel creates it")
        sizes = self.broker.sizes([queue])
        if queue not in sizes:
            raise QueueNotFound(f"the broker at {self.as_uri()} has no queue {queue!r}")
        return Declared(queue, sizes[queue].ready, 0)

    def queue_purge(self, queue: str) -> int:
        """Drop what waits in *queue*; return how many messages that were."""
        return self.broker.purge(queue)

    def as_uri(self, include_password: bool = False, mask: str = "**") -> str:
        """Return where the broker is."""
        return self._url if include_password else mask_url(self._url, mask)

    def info(self) -> dict[str, Any]:
        """Return where the broker is, in parts."""
        parts = urlsplit(self._url)
        return {
            "transport": parts.scheme,
            "hostname": parts.hostname,
            "port": parts.port,
            "userid": parts.username,
            "virtual_host": parts.path.lstrip("/"),
        }

    def clone(self) -> Link:
        """Return another connection to the same broker."""
        return Link(self._open, self._url)

    def release(self) -> None:
        """End the use of it: one from a pool goes back there, another is closed."""
        line, self._line = self._line, None
        if line is None:
            return
        if self._pool is None:
            line.close()
        else:
            self._pool.give(line)

    close = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        if exc_type is not None and self._line is not None:
            self.drop(self._line)
        self.release()

    def __repr__(self) -> str:
        return f"<Connection: {self.as_uri()} at {id(self):#x}>"


class LinkPool:
    """The app's own connections, to be borrowed: ``with app.pool.acquire() as connection``."""

    def __init__(self, connections: Connections[Line], url: str) -> None:
        self._connections = connections
        self._url = url

    @property
    def limit(self) -> int | None:
        """How many may be in use; None = any number."""
        return self._connections.limit

    def acquire(self, block: bool = False, timeout: float | None = None) -> Link:
        """Lend a connection, open; `Link.release`, or the end of a ``with`` block, gives it back.

        However *block* and *timeout* are, the setting ``broker_pool_acquire_timeout`` bounds the wait.

        Raises:
            OperationalError: all are in use, or the broker cannot be reached.
        """
        return Link(_never, self._url, pool=self._connections).connect()

    def force_close_all(self) -> None:
        """Close those that nobody uses."""
        self._connections.close_idle()


def _never() -> Broker:
    raise AssertionError("a pool opens its connections itself")


def url_with(
    url: str,
    *,
    hostname: str | None = None,
    userid: str | None = None,
    password: str | None = None,
    virtual_host: str | None = None,
    port: int | None = None,
    transport: str | None = None,
) -> str:
    """Return *url* with the parts that are given; *hostname* may be a whole URL."""
    if hostname is not None and "://" in hostname:
        url, hostname = hostname, None
    if (hostname, userid, password, virtual_host, port, transport) == (None,) * 6:
        return url
    parts = urlsplit(url)
    user = parts.username if userid is None else quote(userid, safe="")
    word = parts.password if password is None else quote(password, safe="")
    login = "" if user is None and word is None else f"{user or ''}{'' if word is None else ':' + word}@"
    host = hostname or parts.hostname or ""
    at = port if port is not None else parts.port
    path = parts.path if virtual_host is None else "/" + quote(virtual_host, safe="")
    query = f"?{parts.query}" if parts.query else ""
    return f"{transport or parts.scheme}://{login}{host}{'' if at is None else f':{at}'}{path}{query}"
