"""One descriptor that is readable when the link has something, or when we know that there is more."""

from __future__ import annotations

import os
import selectors
from typing import Any

from umbel.brokers.amqp_link import Link

__all__ = ["Doorbell"]


class Doorbell:
    """Made of nothing until somebody asks for the descriptor; used by one thread."""

    def __init__(self) -> None:
        self._ringing = False
        self._pipe: tuple[int, int] | None = None
        self._selector: Any = None  # the kernel's own: its descriptor can stand in another selector
        self._heard: int | None = None

    def fileno(self) -> int:
        if self._selector is None:
            self._pipe = os.pipe()
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._pipe[0], selectors.EVENT_READ)
            if self._ringing:
                os.write(self._pipe[1], b"!")
        return int(self._selector.fileno())

    def listen(self, link: Link) -> None:
        """Be readable when *link* is."""
        self.fileno()
        if self._heard is None:
            self._heard = link.fileno()
            self._selector.register(self._heard, selectors.EVENT_READ)

    def ring(self) -> None:
        """Be readable until `rest`."""
        if not self._ringing:
            self._ringing = True
            if self._pipe is not None:
                os.write(self._pipe[1], b"!")

    def rest(self) -> None:
        """Be readable no longer for what is known."""
        if self._ringing:
            self._ringing = False
            if self._pipe is not None:
                os.read(self._pipe[0], 1)

    def close(self) -> None:
        """Let go of the descriptors."""
        if self._selector is not None and self._pipe is not None:
            self._selector.close()
            for each in self._pipe:
                os.close(each)
            self._selector = self._pipe = None
