"""Be readable while something rings, or while a connection has something to say."""

from __future__ import annotations

import os
import selectors
from typing import Any

__all__ = ["Doorbell"]


class Doorbell:
    """One descriptor for a selector; made of nothing until it is needed, and used by one thread."""

    def __init__(self) -> None:
        self._ringing = False
        self._pipe: tuple[int, int] | None = None
        self._selector: Any = None  # epoll or kqueue, whose own descriptor can stand in another selector
        self._heard = -1

    def fileno(self) -> int:
        if self._pipe is None:
            self._pipe = os.pipe()
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._pipe[0], selectors.EVENT_READ)
            if self._ringing:
                os.write(self._pipe[1], b"!")
        return int(self._selector.fileno())

    def listen(self, descriptor: int) -> None:
        """Be readable when *descriptor* is, a connection's, instead of the earlier one's."""
        self.fileno()
        if self._heard >= 0:
            try:
                self._selector.unregister(self._heard)
            except (KeyError, OSError):
                pass  # it was closed, which ends the watching of it
        self._heard = descriptor
        self._selector.register(descriptor, selectors.EVENT_READ)

    def ring(self) -> None:
        """Be readable until `rest`."""
        if not self._ringing:
            self._ringing = True
            if self._pipe is not None:
                os.write(self._pipe[1], b"!")

    def rest(self) -> None:
        """Be readable no longer but for what the connection says."""
        if self._ringing:
            self._ringing = False
            if self._pipe is not None:
                os.read(self._pipe[0], 1)

    def is_heard(self) -> bool:
        """Tell whether the descriptor is readable now."""
        return self._selector is not None and bool(self._selector.select(0))

    def close(self) -> None:
        """Let go of the descriptors."""
        if self._pipe is not None:
            self._selector.close()
            for each in self._pipe:
                os.close(each)
            self._selector = self._pipe = None
