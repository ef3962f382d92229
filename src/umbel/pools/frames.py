"""Carry one value in one datagram, or in a file handed over with it when it is too big for one.

Jobs travel to a child and reports back over a pair of SOCK_SEQPACKET sockets. The kernel keeps datagrams whole
and gives each to exactly one reader, so any number of threads of a child, and the parent itself, may read from
the same end: a datagram is either still there, and its job has not begun, or it has been taken, and it runs.
"""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from typing import Any, Final, Generic, TypeVar

import msgspec

__all__ = [
    "NOW",
    "SLOT_ENDS",
    "Began",
    "Broken",
    "Done",
    "Grow",
    "Leaving",
    "Missed",
    "Ready",
    "Strike",
    "Unfit",
    "Work",
    "control_decoder",
    "descriptors",
    "pair",
    "receive",
    "receive_with_files",
    "report_decoder",
    "send",
    "send_with_files",
    "tag_decoder",
    "work_decoder",
]

_T = TypeVar("_T")


# -- parent to child, on the job socket ------------------------------------------------------------------------------


class Work(msgspec.Struct, Generic[_T], array_like=True, gc=False):
    """A job to run."""

    tag: int
    announce: bool
    payload: _T


SLOT_ENDS: Final = msgspec.msgpack.encode(None)  # whoever reads this takes no more jobs; the end of file says it to all


# -- parent to child, on the control socket --------------------------------------------------------------------------


class Strike(msgspec.Struct, array_like=True, tag=0, gc=False):
    """Raise an exception inside the job *tag*."""

    tag: int
    cancel: bool  # Terminated; False = SoftTimeLimitExceeded


class Grow(msgspec.Struct, array_like=True, tag=1, gc=False):
    """Open so many more slots."""

    by: int


# -- child to parent -------------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, array_like=True, tag=0, gc=False):
    """`Runner.enter` has returned: jobs may come."""


class Began(msgspec.Struct, array_like=True, tag=1, gc=False):
    """The job begins now."""

    tag: int


class Done(msgspec.Struct, Generic[_T], array_like=True, tag=2, gc=False):
    """The job ran to its end."""

    tag: int
    runtime: float  # seconds
    report: _T


class Broken(msgspec.Struct, array_like=True, tag=3, gc=False):
    """The job ended without a report, though its process lives on."""

    tag: int
    evidence: str
    interrupted: bool


class Leaving(msgspec.Struct, array_like=True, tag=4, gc=False):
    """This child takes no more jobs and ends with those that run."""

    reason: str


class Missed(msgspec.Struct, array_like=True, tag=6, gc=False):
    """The `Strike` came just before its job began, or just after it ended: try again if it has not."""

    tag: int
    cancel: bool


class Unfit(msgspec.Struct, array_like=True, tag=5, gc=False):
    """`Runner.enter` has raised: this child ends without having taken a job."""

    traceback: str


def work_decoder(payload_type: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return what reads `Work`, or None for `SLOT_ENDS`."""
    return msgspec.msgpack.Decoder(Work[payload_type] | None)


def tag_decoder() -> msgspec.msgpack.Decoder[Work[msgspec.Raw] | None]:
    """Return what reads `Work` without looking at its payload."""
    return msgspec.msgpack.Decoder(Work[msgspec.Raw] | None)


def report_decoder(report_type: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return what reads anything that a child says."""
    return msgspec.msgpack.Decoder(Ready | Began | Done[report_type] | Broken | Leaving | Missed | Unfit)


def control_decoder() -> msgspec.msgpack.Decoder[Strike | Grow]:
    """Return what reads the control socket of a child."""
    return msgspec.msgpack.Decoder(Strike | Grow)


# -- datagrams -------------------------------------------------------------------------------------------------------

_INLINE: Final = 1 << 16  # bytes; beyond it a file is cheaper than copying, and beyond some 200 KiB Linux refuses
_IN_A_FILE: Final = 0xC1  # the one byte that no msgpack value starts with; the size follows
_MARKER: Final = struct.Struct("<BQ")
_FD: Final = struct.Struct("i")
_ROOM: Final = socket.CMSG_SPACE(_FD.size)
_CLOEXEC: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))  # int: the enum's own | costs more than a system call

NOW: Final = int(socket.MSG_DONTWAIT)  # flag for `receive`: do not wait, whatever the socket does


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, frame: bytes) -> None:
    """Send *frame* whole.

    Raises:
        BlockingIOError: *sock* does not block and has no room; nothing was sent.
        OSError: no memory or space for a big frame.
    """
    if len(frame) <= _INLINE:
        sock.send(frame)
        return
    fd = _open_file()
    try:
        rest = memoryview(frame)
        while rest:
            rest = rest[os.write(fd, rest) :]
        send_with_files(sock, _MARKER.pack(_IN_A_FILE, len(frame)), fd)
    finally:
        os.close(fd)


def receive(sock: socket.socket, flags: int = 0) -> bytes:
    """Return the next frame; empty = the other side sends no more.

    Raises:
        BlockingIOError: nothing is there, and *sock* or *flags* do not block.
    """
    data, ancillary, _, _ = sock.recvmsg(_INLINE, _ROOM, flags | _CLOEXEC)
    if not data or data[0] != _IN_A_FILE:
        return data
    (fd,) = descriptors(ancillary)
    try:
        size = _MARKER.unpack(data)[1]
        frame = bytearray()
        while len(frame) < size:
            # By position: the sender shares the file's offset with us.
            frame += os.pread(fd, size - len(frame), len(frame))
        return bytes(frame)
    finally:
        os.close(fd)


def send_with_files(sock: socket.socket, data: bytes, *fds: int) -> None:
    """Send *data* together with descriptors, which the receiver gets copies of."""
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))])


def receive_with_files(sock: socket.socket, limit: int) -> tuple[bytes, list[int]]:
    """Return the next datagram and its descriptors, at most *limit*."""
    data, ancillary, _, _ = sock.recvmsg(_INLINE, socket.CMSG_SPACE(_FD.size * limit), _CLOEXEC)
    return data, descriptors(ancillary)


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a datagram; they are the caller's to close."""
    return [
        fd
        for level, kind, data in ancillary
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
        for (fd,) in _FD.iter_unpack(data[: len(data) - len(data) % _FD.size])
    ]


def _open_file() -> int:
    try:
        return os.memfd_create("umbel-frame")
    except (AttributeError, OSError):  # not Linux, or forbidden
        with tempfile.TemporaryFile(buffering=0) as file:
            return os.dup(file.fileno())
