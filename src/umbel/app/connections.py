"""Lend connections to whoever needs one for a moment, in any thread and after any fork."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from umbel.exceptions import OperationalError

__all__ = ["Connections"]


class _Closes(Protocol):
    def close(self) -> None: ...


Kept = TypeVar("Kept", bound=_Closes)


class Connections(Generic[Kept]):
    """Open connections as they are needed and keep them for the next user; the last one returned goes first.

    A connection is used by one thread at a time. A forked child starts without any: those it inherited are its
    parent's, and are left alone without being closed.
    """

    def __init__(
        self,
        open: Callable[[], Kept],
        *,
        limit: int | None = None,
        timeout: float | None = None,
        keep: int = 10,
        setting: str = "broker_pool_limit",
    ) -> None:
        """Have at most *limit* (None or 0 = any number) in use; wait *timeout* seconds (None = for ever) for one.

        At most *keep* are kept idle. *setting* is the name under which people know the limit.
        """
        self._open = open
        self._keep = keep
        self.limit = limit or None
        self.timeout = timeout
        self._setting = setting
        self._inherited: list[Any] = []  # never closed: closing would speak on the parent's connection
        self._closed = False
        self._idle: deque[Kept] = deque()
        self._pid = os.getpid()
        self._returned = threading.Condition()
        self._out = 0  # opened and not closed
        self._waiting = 0  # threads that wait for one to come back

    def take(self) -> Kept:
        """Return a connection, opened when none is idle; give it back with `give`, or `drop` it.

        Raises:
            OperationalError: all are in use, and none came back in time; or whatever opening one raises.
        """
        if self._pid != os.getpid():
            self._start_over()
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def give(self, connection: Kept) -> None:
        """Give back a connection that works."""
        if self._closed or len(self._idle) >= self._keep or self._pid != os.getpid():
            self.drop(connection)
            return
        self._idle.append(connection)
        if self._waiting:
            with self._returned:
                self._returned.notify()

    def drop(self, connection: Kept) -> None:
        """Give back a connection that may be broken, or is not needed again: it is closed."""
        with self._returned:
            self._out -= 1
            self._returned.notify()
        connection.close()

    @contextmanager
    def lend(self) -> Iterator[Kept]:
        """Lend a connection for the block; an exception of the block closes it."""
        connection = self.take()
        try:
            yield connection
        except BaseException:
            self.drop(connection)
            raise
        self.give(connection)

    def close(self) -> None:
        """Close the idle ones now, and those in use when they come back."""
        self._closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close the idle ones now."""
        if self._pid != os.getpid():
            return
        idle, self._idle = self._idle, deque()
        for connection in idle:
            self.drop(connection)

    def _start_over(self) -> None:
        self._inherited += self._idle
        self._idle = deque()
        self._pid = os.getpid()
        self._returned = threading.Condition()
        self._out = 0
        self._waiting = 0

    def _new(self) -> Kept:
        with self._returned:
            if self.limit is not None:
                self._waiting += 1
                try:
                    found = self._wait_for_room(self.limit)
                finally:
                    self._waiting -= 1
                if found is not None:
                    return found
            self._out += 1
        try:
            return self._open()
        except BaseException:
            with self._returned:
                self._out -= 1
                self._returned.notify()
            raise

    def _wait_for_room(self, limit: int) -> Kept | None:
        """Return one that came back, or None when another may be opened."""
        until = None if self.timeout is None else time.monotonic() + self.timeout
        while True:
            try:
                return self._idle.pop()
            except IndexError:
                if self._out < limit:
                    return None
            left = None if until is None else until - time.monotonic()
            if (left is not None and left <= 0) or not self._returned.wait(left):
                raise OperationalError(
                    f"all {limit} connections ({self._setting!r}) are in use, and none came back within "
                    f"{self.timeout} s. Raise that limit, or use fewer threads at once."
                )
