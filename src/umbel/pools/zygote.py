"""Fork children from a process that has loaded the application and does nothing else.

It has one thread and no connections, so a child never inherits a lock that somebody holds. It is asked over a
socket, and answers who was forked and who has ended. It dies with its parent, and its children with it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import current_process
from types import FrameType
from typing import Any, Final, NoReturn, Protocol

import msgspec

from umbel.pools.frames import NOW, pair, receive, receive_with_files, send, send_with_files

__all__ = [
    "Answer",
    "Exited",
    "Failed",
    "Forked",
    "Live",
    "Order",
    "Seed",
    "Up",
    "Zygote",
    "describe_exit",
    "open_descriptors",
]

_LEAVE: Final = 2.0  # seconds that a zygote may take to end
_HELD: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_IS_LINUX: Final = sys.platform == "linux"


class Order(msgspec.Struct, array_like=True, frozen=True):
    """Fork a child; its descriptors come along: jobs, control."""

    serial: int  # names the child for ever
    index: int  # its place in the pool
    slots: int


class Up(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """The zygote has run `on_init` and waits for orders."""


class Failed(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """`on_init` raised (serial 0), or a child could not be forked."""

    serial: int
    evidence: str


class Forked(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """A child lives."""

    serial: int
    pid: int


class Exited(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A child has ended and is reaped."""

    serial: int
    exitcode: int  # negative = the signal


Answer = Up | Failed | Forked | Exited


class Live(Protocol):
    """What a child does; called in the child, its value is the exit status."""

    def __call__(self, order: Order, jobs: socket.socket, control: socket.socket, /) -> int:
        """Live one child's life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What a zygote is made of."""

    live: Live  # runs in each child
    on_init: Callable[[], None] | None = None  # runs once in the zygote, before any child
    on_fork: Callable[[], None] | None = None  # runs in the zygote before each fork
    title: str | None = None  # process title with ``{process}`` in it, if setproctitle is installed
    keep: frozenset[int] | None = None  # descriptors of the application, others are closed; None = all are its own


class Zygote:
    """The zygote as its parent sees it."""

    def __init__(self, seed: Seed) -> None:
        """Fork a zygote here and now."""
        self._sock, theirs = pair()
        parent = os.getpid()
        _flush()
        with warnings.catch_warnings():
            # A second zygote is forked from a worker that works, and may have threads. None of them is ours, and
            # the zygote touches nothing that they may hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self._sock.close()
            _be_zygote(theirs, parent, seed)
        theirs.close()
        self._decode = msgspec.msgpack.Decoder(Answer).decode
        self._reaped = False

    def fileno(self) -> int:
        """Return what is readable when `answers` might bring something."""
        return self._sock.fileno()

    def fork(self, order: Order, jobs: socket.socket, control: socket.socket) -> None:
        """Ask for a child, which gets copies of both sockets. A zygote that is gone says so by `answers`."""
        try:
            send_with_files(self._sock, msgspec.msgpack.encode(order), jobs.fileno(), control.fileno())
        except ConnectionError:
            pass

    def answers(self) -> list[Answer] | None:
        """Return what it said since the last call; None = it is gone."""
        answers: list[Answer] = []
        try:
            while frame := receive(self._sock, NOW):
                answers.append(self._decode(frame))
        except BlockingIOError:
            return answers
        except ConnectionResetError:
            return answers or None
        return answers or None  # the end is still there at the next call

    def kill(self) -> None:
        """End it at once; where the kernel helps its children end too."""
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end, and wait for that; its children are killed."""
        self._sock.close()
        deadline = time.monotonic() + _LEAVE
        while not self._reaped:
            try:
                self._reaped = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
            except ChildProcessError:  # somebody reaps all children of this process
                self._reaped = True
            if not self._reaped:
                if time.monotonic() > deadline:
                    self.kill()
                time.sleep(0.001)


def open_descriptors() -> frozenset[int]:
    """Return the descriptors that are open in this process."""
    return frozenset(int(name) for name in os.listdir("/dev/fd"))  # noqa: PTH208 - numbers, not paths


def describe_exit(exitcode: int) -> str:
    """Say in words how a process ended; *exitcode* is negative for a signal."""
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


# -- in the zygote ---------------------------------------------------------------------------------------------------


def _be_zygote(sock: socket.socket, parent: int, seed: Seed) -> NoReturn:
    status = 1
    try:
        status = _Nursery(sock, parent, seed).run()
    except ConnectionError:
        status = 0  # the parent is gone
    except BaseException:  # noqa: BLE001 - nothing may return into the parent's code that we were forked from
        traceback.print_exc()
    finally:
        _exit(status)


class _Nursery:
    """The zygote's own life."""

    def __init__(self, sock: socket.socket, parent: int, seed: Seed) -> None:
        self._sock = sock
        self._seed = seed
        self._children: dict[int, int] = {}  # pid: serial
        if threading.current_thread() is threading.main_thread():
            # The kernel means the thread that forked, not its process.
            _die_with(parent)
        if seed.keep is not None:
            _close_all_but({0, 1, 2, sock.fileno(), *seed.keep})
        _reset_signals()
        _read_nothing()
        # Handlers and not SIG_IGN, which programs started by `on_init` would inherit.
        for number in _HELD:
            signal.signal(number, _do_nothing)
        self._name("zygote")

    def run(self) -> int:
        if self._seed.on_init is not None:
            try:
                self._seed.on_init()
            except BaseException:  # noqa: BLE001 - user code of all sorts; the parent tells it
                self._say(Failed(0, traceback.format_exc()))
                return 1
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, _do_nothing)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        # What is here now is shared with the children for as long as nobody writes to it, as collecting does.
        gc.collect()
        gc.freeze()
        self._say(Up())
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            inner = (selector, woken, wake)
            while True:
                for key, _ in selector.select():
                    if key.fd == woken:
                        os.read(woken, 4096)
                        self._reap()
                    elif not self._obey(inner):
                        return 0

    def _obey(self, inner: tuple[selectors.BaseSelector, int, int]) -> bool:
        data, fds = receive_with_files(self._sock, 2)
        if not data:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
            return False
        order = msgspec.msgpack.decode(data, type=Order)
        try:
            self._fork(order, fds, inner)
        except OSError as exc:
            self._say(Failed(order.serial, f"cannot fork a child: {exc}"))
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _fork(self, order: Order, fds: list[int], inner: tuple[selectors.BaseSelector, int, int]) -> None:
        if len(fds) < 2:
            raise OSError("too many open files")
        if self._seed.on_fork is not None:
            try:
                self._seed.on_fork()
            except Exception:  # noqa: BLE001 - user code
                traceback.print_exc()
        _flush()
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(order, fds, inner, zygote)
        self._children[pid] = order.serial
        self._say(Forked(order.serial, pid))

    def _be_child(
        self, order: Order, fds: list[int], inner: tuple[selectors.BaseSelector, int, int], zygote: int
    ) -> NoReturn:
        status = 1
        try:
            _die_with(zygote)
            selector, woken, wake = inner
            signal.set_wakeup_fd(-1)
            _reset_signals()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which lets us finish
            selector.close()
            os.close(woken)
            os.close(wake)
            self._sock.close()
            _reseed()
            self._name(f"ForkPoolWorker-{order.index + 1}")
            jobs, control = (socket.socket(fileno=fd) for fd in fds)
            status = self._seed.live(order, jobs, control)
        except BaseException:  # noqa: BLE001 - nothing may return into the zygote's code
            traceback.print_exc()
        finally:
            _exit(status)

    def _reap(self) -> None:
        # One by one: children that user code has started are not ours to reap.
        for pid, serial in list(self._children.items()):
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if reaped == pid:
                del self._children[pid]
                self._say(Exited(serial, os.waitstatus_to_exitcode(status)))

    def _say(self, answer: Answer) -> None:
        send(self._sock, msgspec.msgpack.encode(answer))

    def _name(self, process: str) -> None:
        current_process().name = process  # what logging shows as processName
        if self._seed.title is None or "NOSETPS" in os.environ:
            return
        try:
            from setproctitle import setproctitle
        except ImportError:
            return
        setproctitle(self._seed.title.format(process=process))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when *parent* ends."""
    if _IS_LINUX:
        libc = ctypes.CDLL(None, use_errno=True)
        pr_set_pdeathsig = 1
        libc.prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it has ended already
            os._exit(0)


def _reset_signals() -> None:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if handler not in (None, signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _do_nothing(signum: int, frame: FrameType | None) -> None:
    """Be there, so that the signal neither ends us nor is ignored by programs we start."""


def _read_nothing() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)


def _close_all_but(keep: set[int]) -> None:
    for fd in open_descriptors() - keep:
        try:
            os.close(fd)
        except OSError:
            pass  # the one that listed them


def _reseed() -> None:
    random.seed()
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


def _exit(status: int) -> NoReturn:
    # Without atexit: what is registered there belongs to the process we were forked from.
    _flush()
    os._exit(status)


def _flush() -> None:
    # Before a fork too, or both processes write what is in the buffer.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # None, or closed
