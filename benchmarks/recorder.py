"""Let tasks record when they ran: one small mapped file per process, read from outside without asking anyone."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from pathlib import Path

__all__ = ["Recorder", "Span", "read"]

_CELL = struct.Struct("ddq")  # first start, last end (unix seconds), how many


class Recorder:
    """Counts the tasks of this process; a forked child gets a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = 0
        self._cell: mmap.mmap | None = None
        self._count = 0
        self._lock = threading.Lock()
        self._first = 0.0

    def mark(self) -> None:
        """Count one task that ran just now."""
        now = time.time()
        with self._lock:  # some peers run tasks in threads
            if self._pid != os.getpid():
                self._open(now)
            assert self._cell is not None
            self._count += 1
            _CELL.pack_into(self._cell, 0, self._first, now, self._count)

    def _open(self, now: float) -> None:
        self._pid, self._count, self._first = os.getpid(), 0, now
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._pid}.span"
        path.write_bytes(bytes(_CELL.size))
        with path.open("r+b") as file:
            self._cell = mmap.mmap(file.fileno(), _CELL.size)


class Span(tuple[float, float, int]):
    """First start, last end, and how many tasks."""

    __slots__ = ()

    @property
    def rate(self) -> float:
        """Tasks per second."""
        first, last, count = self
        return count / max(last - first, 1e-9)


def read(folder: Path) -> Span:
    """Return what all processes recorded in *folder* so far."""
    cells = [_CELL.unpack(path.read_bytes()) for path in folder.glob("*.span") if path.stat().st_size == _CELL.size]
    cells = [cell for cell in cells if cell[2]]
    if not cells:
        return Span((0.0, 0.0, 0))
    return Span((min(cell[0] for cell in cells), max(cell[1] for cell in cells), sum(cell[2] for cell in cells)))
