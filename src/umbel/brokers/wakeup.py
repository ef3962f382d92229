"""Wake the processes of this machine that wait for something, by unix datagrams and a list in shared memory."""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from zlib import crc32

__all__ = ["QUEUES", "RESULTS", "Bell", "Board", "interest"]

_logger: Final = logging.getLogger("celery.brokers.wakeup")

QUEUES: Final = 0
"""The kind of bell that rings when a queue has got something."""

RESULTS: Final = 1
"""The kind of bell that rings when a result was stored."""

# The file "board", mapped by all: magic, number of slots in use, two arrays of interests (64 bits each, one array for
# each kind), one byte for each slot that says "a datagram did not fit", and the name of each slot's socket.
_MAGIC: Final = b"umbelw01"
_SLOTS: Final = 512
_USED: Final = 8
_INTERESTS: Final = (16, 16 + 8 * _SLOTS)
_LOST: Final = 16 + 16 * _SLOTS
_NAMES: Final = _LOST + _SLOTS
_NAME: Final = 16
_SIZE: Final = _NAMES + _NAME * _SLOTS
_FREE: Final = bytes(_NAME)
_PATH_LIMIT: Final = 100  # bytes; the kernel takes 107, macOS 103


def interest(names: Iterable[str]) -> int:
    """Return a set of names as 64 bits; sets with a common name have a common bit (others rarely)."""
    bits = 0
    for name in names:
        bits |= 1 << (crc32(name.encode("utf-8", "surrogatepass")) & 63)
    return bits


class Board:
    """Who waits for what, in a folder beside the database.

    Ringing costs a fraction of a microsecond while nobody waits. A waiting process first writes down its interest,
    then looks, then sleeps; a writer first commits, then reads the board: one of the two sees the other.
    """

    def __init__(self, folder: Path) -> None:
        """Open the board in *folder*, which is made if need be.

        Raises:
            OSError: the folder cannot be made or written.
        """
        self.folder = folder
        folder.mkdir(exist_ok=True)
        file = os.open(folder / "board", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.fstat(file).st_size < _SIZE:
                os.ftruncate(file, _SIZE)
            self._map = mmap.mmap(file, _SIZE)
            self._inode = os.fstat(file).st_ino
        finally:
            os.close(file)
        self._map[: len(_MAGIC)] = _MAGIC
        self._prefix = f"{folder}/"
        self._folder_fd = -1
        if len(os.fsencode(self._prefix)) + _NAME > _PATH_LIMIT:
            # A socket's path may not be longer; the kernel's own link to the open folder is short.
            self._folder_fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            self._prefix = f"/proc/self/fd/{self._folder_fd}/"
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._complained = False

    def is_current(self) -> bool:
        """Tell whether the file is still the one that others would open."""
        try:
            return os.stat(self.folder / "board").st_ino == self._inode  # noqa: PTH116 - no Path in a frequent check
        except OSError:
            return False

    def ring(self, kind: int, names: Iterable[str], data: Callable[[], bytes] = bytes, *, but: int = -1) -> None:
        """Wake whoever of *kind* is interested in one of *names*, except the slot *but*. Never fails, never blocks.

        *data* makes the datagram, and is only called when there is somebody to read it.
        """
        (used,) = struct.unpack_from("I", self._map, _USED)
        start = _INTERESTS[kind]
        interests = self._map[start : start + 8 * used]
        if not int.from_bytes(interests, "little"):
            return
        bits = interest(names)
        datagram: bytes | None = None
        for slot, wanted in enumerate(struct.unpack(f"{used}Q", interests)):
            if wanted & bits and slot != but:
                datagram = data() if datagram is None else datagram
                self._send(slot, datagram)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._map.closed

    def is_alive(self, name: str) -> bool:
        """Tell whether the process that made the bell called *name* still has it."""
        return _accepts(self._prefix + name)

    def close(self) -> None:
        """Let go of the files."""
        self._map.close()
        self._sender.close()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def _send(self, slot: int, datagram: bytes) -> None:
        name = self._name(slot)
        if name == _FREE:
            return
        try:
            try:
                self._sender.sendto(datagram, self._prefix + name.decode("ascii"))
            except OSError as exc:
                if exc.errno not in {errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE}:
                    raise
                # Its queue is full, so it is readable. Say that something was left out; and once more knock, in case
                # it has emptied its queue and read that word before we wrote it.
                self._map[_LOST + slot] = 1
                self._sender.sendto(b"", self._prefix + name.decode("ascii"))
        except (ConnectionRefusedError, FileNotFoundError):
            self._free(slot, name)  # its process was killed
        except BlockingIOError:
            pass
        except OSError as exc:
            if not self._complained:
                self._complained = True
                _logger.warning(
                    "cannot wake a process that waits for %s: %s. It will look by itself some seconds later; "
                    "let all users of the queue belong to one group that may write there.",
                    self.folder,
                    exc,
                )

    def _name(self, slot: int) -> bytes:
        start = _NAMES + _NAME * slot
        return self._map[start : start + _NAME]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep others from taking and freeing slots; the kernel unlocks for a process that is killed."""
        file = os.open(self.folder / "board", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _take(self, name: bytes) -> int:
        """Give *name* a slot."""
        with self._locked():
            (used,) = struct.unpack_from("I", self._map, _USED)
            for slot in range(used):
                taken = self._name(slot)
                if taken != _FREE and not _accepts(self._prefix + taken.decode("ascii", "replace")):
                    self._clear(slot, taken)
            slot = next((slot for slot in range(_SLOTS) if self._name(slot) == _FREE), -1)
            if slot < 0:
                raise OSError(errno.EUSERS, f"{_SLOTS} processes wait already", str(self.folder))
            self._map[_LOST + slot] = 0
            start = _NAMES + _NAME * slot
            self._map[start : start + _NAME] = name
            self._count()
            return slot

    def _free(self, slot: int, name: bytes) -> None:
        try:
            with self._locked():
                if self._name(slot) == name:
                    self._clear(slot, name)
                    self._count()
        except OSError:
            pass  # the folder is gone, and everything in it

    def _clear(self, slot: int, name: bytes) -> None:
        for start in _INTERESTS:
            struct.pack_into("Q", self._map, start + 8 * slot, 0)
        start = _NAMES + _NAME * slot
        self._map[start : start + _NAME] = _FREE
        try:
            # Names are random and used once, so this never hits the socket of a living process.
            os.unlink(self._prefix + name.decode("ascii", "replace"))  # noqa: PTH108
        except OSError:
            pass

    def _count(self) -> None:
        used = max((slot + 1 for slot in range(_SLOTS) if self._name(slot) != _FREE), default=0)
        struct.pack_into("I", self._map, _USED, used)


class Bell:
    """A descriptor that is readable when somebody rang; used by one thread.

    Without a board, or when its folder takes no socket, it is *deaf*: only `poke` makes it readable.
    """

    def __init__(self, board: Board | None, kind: int) -> None:
        self.name = os.urandom(_NAME // 2).hex()
        self.slot = -1
        self._board = board
        self._start = _INTERESTS[kind]
        self._pid = os.getpid()
        self._poked = False
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        if board is not None and self._listen(board):
            return
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    @property
    def deaf(self) -> bool:
        """Whether others cannot ring it."""
        return self._board is None or self.slot < 0 or self._board.is_closed

    def fileno(self) -> int:
        return self._reader.fileno()

    def arm(self, bits: int) -> None:
        """From now on be interested in *bits*."""
        if self._board is not None and not self.deaf:
            struct.pack_into("Q", self._board._map, self._start + 8 * self.slot, bits)

    def poke(self) -> None:
        """Make it readable, until `drain`."""
        if not self._poked:
            self._poked = True
            try:
                self._writer.send(b"")
            except BlockingIOError:
                pass  # full, thus readable

    def drain(self) -> tuple[list[bytes], bool]:
        """Make it unreadable; return what was sent, and whether something else was left out."""
        self._poked = False
        datagrams: list[bytes] = []
        while True:
            try:
                datagrams.append(self._reader.recv(65536))
            except BlockingIOError:
                break
        if self._board is None or self.deaf or not self._board._map[_LOST + self.slot]:
            return datagrams, False
        self._board._map[_LOST + self.slot] = 0
        return datagrams, True

    def wait(self, timeout: float | None) -> bool:
        """Sleep until it is readable, at most *timeout* seconds; tell whether it is."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))

    def close(self) -> None:
        """Stop listening. In a forked child only the descriptors are closed: the bell is its parent's."""
        if self._board is not None and not self.deaf and self._pid == os.getpid():
            self._board._free(self.slot, self.name.encode("ascii"))
        self.slot = -1
        self._reader.close()
        self._writer.close()

    def _listen(self, board: Board) -> bool:
        path = board._prefix + self.name
        reader = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        writer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            reader.bind(path)
            os.chmod(path, (board.folder / "board").stat().st_mode & 0o777)  # noqa: PTH101 - may be a path in /proc
            writer.connect(path)
            self.slot = board._take(self.name.encode("ascii"))
        except OSError as exc:
            reader.close()
            writer.close()
            Path(path).unlink(missing_ok=True)
            _logger.warning(
                "%s takes no sockets (%s): this process looks for news ten times a second instead of being woken.",
                board.folder,
                exc,
            )
            return False
        for end in (self._reader, self._writer):
            end.close()
        self._reader, self._writer = reader, writer
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        return True


def _accepts(path: str) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        probe.connect(path)
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        return True  # not ours to judge
    finally:
        probe.close()
    return True
