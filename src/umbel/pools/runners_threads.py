"""Run the slots of a child as threads, each of which takes its jobs from the socket by itself."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Final

from umbel.pools.child import Desk, serve_slot, strike_of
from umbel.pools.frames import Grow, Strike
from umbel.pools.interrupts import Slot

__all__ = ["serve_threads"]

_logger: Final = logging.getLogger("celery.pool")


def serve_threads(desk: Desk) -> None:
    """Run jobs in threads; the main thread obeys the control socket meanwhile."""
    crew = _Crew(desk)
    crew.grow(desk.info.slots)
    while crew.slots:
        match desk.next_order():
            case Strike() as order:
                tag, exception = strike_of(order)
                crew.strike(tag, exception)
            case Grow() as order:
                crew.grow(order.by)
            case _:
                # The parent is gone, or the last slot has ended. Its jobs end with the process.
                return


class _Crew:
    """The slots that live, by thread."""

    def __init__(self, desk: Desk) -> None:
        self.slots: list[Slot] = []
        self._desk = desk
        self._lock = threading.Lock()
        self._named = 0

    def grow(self, by: int) -> None:
        for _ in range(by):
            slot = Slot()
            with self._lock:
                self.slots.append(slot)
                self._named += 1
            threading.Thread(target=self._serve, args=(slot,), name=f"slot-{self._named}", daemon=True).start()

    def strike(self, tag: int, exception: type[BaseException]) -> None:
        for slot in list(self.slots):
            if slot.coming == tag and not slot.strike(tag, exception):
                self._desk.miss(tag, exception)

    def _serve(self, slot: Slot) -> None:
        try:
            serve_slot(self._desk, slot)
        except ConnectionError:
            pass  # the parent is gone; the control socket says so to the main thread
        except Exception:
            _logger.exception("a slot ended by an error of the pool itself")
            self._desk.leave("an error of the pool itself")
        finally:
            with self._lock:
                self.slots.remove(slot)
                last = not self.slots
            if last:
                self._desk.control.shutdown(socket.SHUT_RD)  # wakes the main thread
