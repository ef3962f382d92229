"""Be readable while something rings, or while a connection has something to say."""

from __future__ import annotations

import selectors
import socket
from typing import Any

__all__ = ["Bell"]


class Bell:
    """A descriptor that is readable while it rings, or while the connection has something to say."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._rings = False
        self._watched = -1
        self._both: Any = selectors.DefaultSelector()  # epoll or kqueue, which have a descriptor of their own
        self._both.register(self._reader, selectors.EVENT_READ)

    def fileno(self) -> int:
        return int(self._both.fileno())

    def watch(self, descriptor: int) -> None:
        """Be readable when *descriptor* is, the connection's, instead of the earlier one's."""
        if self._watched >= 0:
            try:
                self._both.unregister(self._watched)
            except (KeyError, OSError):
                pass  # it was closed, which ends the watching of it
        self._watched = descriptor
        self._both.register(descriptor, selectors.EVENT_READ)

    def ring(self) -> None:
        if not self._rings:
            self._rings = True
            self._writer.send(b"!")

    def silence(self) -> None:
        if self._rings:
            self._rings = False
            self._reader.recv(1)

    def is_heard(self) -> bool:
        """Tell whether the descriptor is readable now."""
        return bool(self._both.select(0))

    def close(self) -> None:
        self._both.close()
        self._reader.close()
        self._writer.close()
