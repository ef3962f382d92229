"""Send outcomes straight back to whoever called: a message in the caller's reply queue, as Celery's `rpc://` does."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from umbel.backends.base import BackendFeatures
from umbel.backends.told import ToldWatch
from umbel.brokers.amqp_address import Dialling
from umbel.brokers.amqp_link import ChannelClosed, Link, connect, refusal
from umbel.brokers.amqp_outlet import Outlet, Parcel
from umbel.exceptions import BackendStoreError, BrokerUnavailable, OperationalError
from umbel.wire import amqp
from umbel.wire.amqp import Incoming, decode_properties, encode_properties
from umbel.wire.record import Record

__all__ = ["Replies", "RpcBackend"]

_logger: Final = logging.getLogger("celery.backends.rpc")

_CHANNEL: Final = 1
_STORE_TIMEOUT: Final = 10.0  # seconds for the confirms of a batch
_KEPT: Final = 100_000  # results nobody has forgotten yet; older ones are
_TOLD: Final = 600.0  # seconds after which a reply queue is declared again


class RpcBackend:
    """A connection for sending outcomes, and a view of the `Replies` that came to this process."""

    features = BackendFeatures(push=True, expires=True, groups=False, readable_anywhere=False)

    def __init__(
        self, dialling: Dialling, replies: Replies, *, content: tuple[str, str], persistent: bool = False
    ) -> None:
        """Say by *content* what payloads are (type and encoding); *persistent* ones survive the broker."""
        self._dialling = dialling
        self._replies = replies
        self._content = content
        self._mode = 2 if persistent else 1
        self._outlet: Outlet | None = None
        self._closed = False

    def store(self, records: Sequence[Record]) -> None:
        self._check_open()
        parcels = [self._parcel(record) for record in records if record.reply_to]
        if not parcels:
            return
        try:
            if self._outlet is None or self._outlet.link.is_stale():
                self._outlet = Outlet(connect(self._dialling, heartbeat=False), confirm=True)
            self._outlet.publish(parcels, timeout=_STORE_TIMEOUT)
        except OperationalError as exc:
            self._drop()
            raise BackendStoreError(f"results could not be sent back: {exc}", task_id=records[0].id) from exc

    def _parcel(self, record: Record) -> Parcel:
        content_type, encoding = self._content
        properties = {
            "content_type": content_type,
            "content_encoding": encoding,
            "headers": {},
            "delivery_mode": self._mode,
            "priority": 0,
            "correlation_id": record.id,
        }
        return Parcel("", record.reply_to or "", encode_properties(properties), record.payload)

    def fetch(self, ids: Collection[str]) -> dict[str, bytes]:
        self._check_open()
        return self._replies.fetch(ids) if ids else {}

    def forget(self, ids: Iterable[str]) -> None:
        self._check_open()
        self._replies.forget(ids)

    def watch(self, ids: Collection[str]) -> ToldWatch:
        self._check_open()
        return self._replies.watch(frozenset(ids))

    def save_group(self, group_id: str, payload: bytes, *, expires: float | None = None) -> None:
        self._check_open()
        raise NotImplementedError("the result backend 'rpc' keeps no groups: nothing is stored anywhere")

    def fetch_group(self, group_id: str) -> bytes | None:
        self._check_open()
        raise NotImplementedError("the result backend 'rpc' keeps no groups: nothing is stored anywhere")

    def forget_group(self, group_id: str) -> None:
        self._check_open()
        raise NotImplementedError("the result backend 'rpc' keeps no groups: nothing is stored anywhere")

    def cleanup(self) -> int:
        self._check_open()
        return self._replies.cleanup()

    def close(self) -> None:
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._outlet is not None:
            self._outlet.link.close()
            self._outlet = None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this rpc backend is closed: open another one")


class Replies:
    """What came to the reply queues of this process, read by a thread of its own; safe in any thread.

    A reply queue is declared when its first call is sent, and read from the first time somebody asks: until then
    results wait in the broker. It goes with its last reader, and unread when unused for *expires* seconds.
    """

    def __init__(
        self, dialling: Dialling, *, expires: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._dialling = dialling
        self._expires = expires
        self._clock = clock
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()  # over the link and all below; held while the broker answers
        self._link: Link | None = None
        self._queues: dict[str, float] = {}  # name: when it was declared
        self._reading = False
        self._results: dict[str, tuple[float, bytes]] = {}  # task id: when it came, payload; oldest first
        self._fresh: set[str] = set()  # task ids of results that came and nobody has fetched
        self._watches: dict[str, list[ToldWatch]] = {}

    # -- what a sender does

    def open(self, queue: str) -> None:
        """Have the reply queue called *queue*.

        Raises:
            BrokerUnavailable: the broker cannot be reached.
        """
        if self._pid != os.getpid():
            self._start_over()
        declared = self._queues.get(queue)
        if declared is not None and self._clock() - declared < _TOLD and not self._gone():
            return
        with self._lock:
            self._queues[queue] = self._clock()
            self._connected(queue)

    # -- what a reader does

    def fetch(self, ids: Collection[str]) -> dict[str, bytes]:
        """Return what is known of *ids* when all that was sent before has arrived; of those that are watched, now."""
        if self._pid != os.getpid():
            self._start_over()
        with self._lock:
            if any(task_id not in self._fresh and task_id not in self._watches for task_id in ids):
                self._read_all()
            self._fresh.difference_update(ids)
            now = self._clock()
            found = {task_id: self._results[task_id] for task_id in ids if task_id in self._results}
            return {task_id: payload for task_id, (came, payload) in found.items() if not self._is_over(came, now)}

    def watch(self, ids: frozenset[str]) -> ToldWatch:
        """Watch *ids*."""
        if self._pid != os.getpid():
            self._start_over()
        with self._lock:
            self._read()
            watch = ToldWatch(ids, self.unwatch, threading.Condition())
            for task_id in ids:
                self._watches.setdefault(task_id, []).append(watch)
            return watch

    def unwatch(self, watch: ToldWatch) -> None:
        """End a watch."""
        with self._lock:
            for task_id in watch.ids:
                watching = self._watches.get(task_id, [])
                if watch in watching:
                    watching.remove(watch)
                if not watching:
                    self._watches.pop(task_id, None)

    def forget(self, ids: Iterable[str]) -> None:
        """Forget what came for *ids*."""
        with self._lock:
            self._read_all()
            for task_id in ids:
                self._drop(task_id)

    def cleanup(self) -> int:
        """Forget what came too long ago; return how many."""
        with self._lock:
            now = self._clock()
            old = [task_id for task_id, (came, _) in self._results.items() if self._is_over(came, now)]
            for task_id in old:
                self._drop(task_id)
            return len(old)

    def close(self) -> None:
        """Stop reading: what has not been read goes with the queues."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._link is not None:
                self._link.close()
                self._link = None

    # -- the link, with the lock held

    def _drop(self, task_id: str) -> None:
        self._results.pop(task_id, None)
        self._fresh.discard(task_id)

    def _is_over(self, came: float, now: float) -> bool:
        return self._expires is not None and now - came > self._expires

    def _gone(self) -> bool:
        return self._link is None or self._link.closed

    def _connected(self, queue: str | None = None) -> Link:
        """Return the link, new if need be, with *queue* (None = all) declared and read if anything is read."""
        names = list(self._queues) if queue is None else [queue]
        if self._link is None or self._link.closed:
            self._link = connect(self._dialling, heartbeat=True)
            names = list(self._queues)
        link = self._link
        arguments = {} if self._expires is None else {"x-expires": int(self._expires * 1000)}
        try:
            for name in names:
                link.call(_CHANNEL, "queue.declare", 0, name, False, True, False, True, False, arguments)
                if self._reading:
                    self._consume(link, name)
        except ChannelClosed as exc:
            link.drop()
            raise refusal(link.address, exc, f"declaring reply queue {names!r}") from exc
        return link

    def _consume(self, link: Link, name: str) -> None:
        link.send(amqp.method_frame(_CHANNEL, "basic.consume", 0, name, name, False, True, False, True, {}))

    def _read(self) -> Link | None:
        """Read from now on what is sent to us; return the link, None = nothing can be."""
        if not self._queues:
            return None
        link = self._link
        if link is None or link.closed:
            link = self._connected()
        if not self._reading:
            self._reading = True
            for name in self._queues:
                self._consume(link, name)
            threading.Thread(target=self._run, name="umbel-replies", daemon=True).start()
        return link

    def _read_all(self) -> None:
        """Read what has been sent to us until now, and from now on."""
        link = self._read()
        if link is None:
            return
        try:
            left = True
            while left:  # a queue answers behind what it has sent, and our channel behind that
                left = sum(self._left(link, name) for name in self._queues) > 0
                link.call(_CHANNEL, "channel.flow", True)
        except ChannelClosed as exc:
            link.drop()
            raise BrokerUnavailable(f"{link.address} closed the channel of our reply queues: {exc}") from exc
        self._take(link)

    def _left(self, link: Link, name: str) -> int:
        """Return how many messages *name* has not sent yet."""
        answer = link.call(_CHANNEL, "queue.declare", 0, name, True, False, False, False, False, {})
        return int(answer.arguments[1])

    def _take(self, link: Link) -> None:
        while link.inbox:
            incoming = link.inbox.popleft()
            if incoming.name == "basic.deliver":
                self._put(incoming)

    def _put(self, incoming: Incoming) -> None:
        task_id = decode_properties(incoming.properties).get("correlation_id")
        if not task_id:
            return
        self._results.pop(task_id, None)
        self._results[task_id] = (self._clock(), incoming.body)
        self._fresh.add(task_id)
        if len(self._results) > _KEPT:
            self._drop(next(iter(self._results)))
        for watch in self._watches.get(task_id, ()):
            watch.tell(task_id)

    def _run(self) -> None:
        """Read for ever; while the broker is away, try to have it back."""
        down = False
        lock, pid = self._lock, self._pid
        while pid == os.getpid():
            with lock:
                link = self._link
            if link is None:
                with lock:
                    self._reading = False
                return
            try:
                if not link.closed and not _readable(link.fileno(), 5.0):
                    with lock:
                        link.keep_alive()
                    continue
                with lock:
                    if self._link is None:
                        continue
                    link = self._connected() if self._link.closed else self._link
                    link.receive()
                    self._take(link)
                if down:
                    down = False
                    _logger.warning("the broker is back: results come in again")
            except (OperationalError, ChannelClosed, OSError, ValueError) as exc:
                if not down:
                    down = True
                    _logger.error("no results come in: %s. Trying to get the broker back.", exc)
                time.sleep(0.5)


def _readable(descriptor: int, seconds: float) -> bool:
    poller = select.poll()  # unlike select it takes any descriptor
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
