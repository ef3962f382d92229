"""Speak RESP3 with one Redis server: packed commands out, parsed replies in, and what it pushes by itself."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha1
from typing import Any, Final, TypeAlias

import msgspec

from umbel.brokers.redis_address import Address
from umbel.exceptions import (
    BrokerFull,
    BrokerUnavailable,
    BrokerUnusable,
    MissingExtra,
    OperationalError,
)

__all__ = ["Argument", "Link", "LinkLost", "Script"]

Argument: TypeAlias = bytes | str | int | float
"""One word of a command."""

_PIECE: Final = 65536  # bytes read at once; from 128 kB on the allocator asks the kernel for each, 14 µs a reply
_MORE: Final = object()  # what the parser says when a reply is not all there yet


class LinkLost(BrokerUnavailable):
    """Say that the connection broke; what was *sent* may have been done."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class Script:
    """A Lua script; the server keeps it under its digest."""

    __slots__ = ("digest", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest().encode()


class Link:
    """A connection to a server, made when it is needed; used by one thread.

    Redis needs no library for this: hiredis parses (3 ms and 0.4 MB to import, where redis-py takes 140 ms and 15 MB),
    and the handshake is below. Every method raises what `_refused` and `_lost` say.
    """

    def __init__(self, address: Address, *, on_open: Callable[[Link], None] | None = None) -> None:
        """Call *on_open* when a connection was made, before anything else is said on it."""
        try:
            import hiredis
        except ImportError as exc:
            raise MissingExtra(f"speaking to {address.shown}", "redis") from exc
        self.address = address
        self.server: tuple[str, int] | str = ""  # where we really are
        self.on_push: Callable[[Sequence[Any]], None] = _ignore
        self._on_open = on_open
        self._hiredis = hiredis
        self._pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command
        self._error: type[Exception] = hiredis.ReplyError
        self._push = hiredis.PushNotification
        self._socket: socket.socket | None = None
        self._reader: Any = None
        self._first = 0  # of the servers, which is tried first: one behind a replica
        self._loaded: set[bytes] = set()  # digests of scripts that the server has been told on this connection
        self._pid = os.getpid()
        self._readable = select.poll()
        self._pending: Callable[[], int] | None = None  # of TLS: bytes that are decrypted and not read
        self._deadline = address.timeout

    # -- commands

    def call(self, *command: Argument, timeout: float | None = None) -> Any:
        """Send a command and return its reply."""
        return self.send(self._pack(command), 1, timeout=timeout)[0]

    def pipeline(self, commands: Iterable[tuple[Argument, ...]], *, timeout: float | None = None) -> list[Any]:
        """Send *commands* at once and return their replies; the first error among them is raised at the end."""
        packed = [self._pack(command) for command in commands]
        return self.send(b"".join(packed), len(packed), timeout=timeout) if packed else []

    def announce(self, commands: Iterable[tuple[Argument, ...]]) -> None:
        """Send *commands* that are answered by pushes, and wait until they were."""
        self.announce_and_call(commands, b"PING")

    def announce_and_call(self, commands: Iterable[tuple[Argument, ...]], *command: Argument) -> Any:
        """Send *commands* that are answered by pushes, and one behind them; return its reply."""
        return self.send(b"".join([*map(self._pack, commands), self._pack(command)]), 1)[0]

    def post(self, *command: Argument) -> None:
        """Send a command that is answered by a push, and do not wait for it."""
        self.send(self._pack(command), 0)

    def run(self, script: Script, keys: Sequence[Argument], *args: Argument, timeout: float | None = None) -> Any:
        """Run *script* and return its reply."""
        reply = self.run_packed(script, (len(keys), *keys, *args), timeout=timeout)[0]
        self.drain()
        return reply

    def run_packed(
        self, script: Script, rest: Sequence[Argument], *more: tuple[Argument, ...], timeout: float | None = None
    ) -> list[Any]:
        """Run *script* with what follows its name (number of keys, keys, arguments), and *more* commands behind it.

        The caller calls `drain` after that.
        """
        tail = b"".join([self._pack(command) for command in more])
        if script.digest not in self._loaded or not self.is_open:
            self.load(script)
        while True:
            packed = self._pack((b"EVALSHA", script.digest, *rest)) + tail
            try:
                return self.send(packed, 1 + len(more), timeout=timeout, drain=False)
            except _NoScript:
                # Somebody made the server forget it. It has run nothing, so all is sent again.
                self._loaded.clear()
                self.load(script)

    def load(self, *scripts: Script) -> None:
        """Make sure that the server knows *scripts*."""
        self.open()
        new = [script for script in scripts if script.digest not in self._loaded]
        self.pipeline([(b"SCRIPT", b"LOAD", script.source) for script in new])
        self._loaded.update(script.digest for script in new)

    def send(self, data: bytes, replies: int, *, timeout: float | None = None, drain: bool = True) -> list[Any]:
        """Send packed commands and return their *replies*; without *drain* the caller calls `drain` after that."""
        connection = self._ready(timeout)
        try:
            connection.sendall(data)
            found = [self._reply(connection) for _ in range(replies)]
            if drain:
                self.drain()  # or a push that came with the replies would be heard no sooner than the next
        except OSError as exc:
            raise self._lost(exc, sent=True) from exc
        except self._hiredis.ProtocolError as exc:
            raise self._stranger(exc) from exc
        except BaseException:
            self.close()  # a reply is still on its way, and would be taken for that of the next command
            raise
        for reply in found:
            if isinstance(reply, self._error):
                raise self._refused(str(reply))
        return found

    def listen(self, timeout: float | None = 0.0) -> bool:
        """Hear what the server has pushed, waiting *timeout* seconds (None = for ever); tell whether there was any."""
        connection = self._ready(None)
        heard = self.drain()
        if heard:
            return True
        try:
            connection.settimeout(timeout)
            try:
                self._feed(connection)
            finally:
                if connection.fileno() >= 0:
                    connection.settimeout(self._deadline)
        except OSError as exc:
            if _is_mere_silence(exc):
                return False
            raise self._lost(exc, sent=False) from exc
        return self.drain()

    def drain(self) -> bool:
        """Hear the pushes that have been received already; tell whether there were any."""
        heard = False
        while self._reader is not None and (reply := self._reader.gets()) is not _MORE:
            if type(reply) is self._push:
                heard = True
                self.on_push(reply)
        return heard

    # -- the connection

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._socket is not None and self._pid == os.getpid()

    def fileno(self) -> int:
        """Return the descriptor of the connection; what is there to be read stays there."""
        connection = self._socket if self.is_open else None
        return (connection or self._ready(None)).fileno()

    def open(self) -> None:
        """Make sure that there is a connection."""
        if not self.is_open:
            self._ready(None)

    def close(self) -> None:
        """End the connection; the next command makes another."""
        connection, self._socket, self._reader = self._socket, None, None
        if connection is not None:
            connection.close()

    def _ready(self, timeout: float | None) -> socket.socket:
        connection = self._socket
        if connection is not None and self._pid != os.getpid():
            self.close()  # it is our parent's; here only the descriptor goes
            connection = None
        if connection is not None and self._readable.poll(0) and not self._is_alive(connection):
            self.close()
            connection = None
        if connection is None:
            self._pid = os.getpid()
            self._loaded.clear()
            connection = self._connect()
            if self._on_open is not None:
                self._on_open(self)
        deadline = timeout or self.address.timeout
        if deadline != self._deadline:
            self._deadline = deadline
            connection.settimeout(deadline)
        return connection

    def _is_alive(self, connection: socket.socket) -> bool:
        """Tell whether the other end has not hung up: what is sent into a closed connection may be lost unseen."""
        try:
            connection.settimeout(0.0)
            self._feed(connection)
        except OSError as exc:
            return _is_mere_silence(exc)
        finally:
            if connection.fileno() >= 0:
                connection.settimeout(self._deadline)
        return True

    def _reply(self, connection: socket.socket) -> Any:
        gets = self._reader.gets
        while True:
            reply = gets()
            if reply is _MORE:
                self._feed(connection)
            elif type(reply) is self._push:
                self.on_push(reply)
            else:
                return reply

    def _feed(self, connection: socket.socket) -> None:
        data = connection.recv(_PIECE)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._reader.feed(data)
        while self._pending is not None and self._pending():  # decrypted already, so no descriptor would tell of it
            self._reader.feed(connection.recv(_PIECE))

    def _connect(self) -> socket.socket:
        address = self.address
        if address.path is not None:
            return self._greet(address.path, address)
        if address.cluster:
            return self._find_node(address)
        if address.master is None:
            return self._try_each(address.hosts, address)
        last: OperationalError | None = None
        for host in address.hosts:
            try:
                return self._greet(self._ask_sentinel(host, address), address)
            except OperationalError as exc:
                last = exc
        raise last or BrokerUnavailable(f"{address.shown} names no sentinel")

    def _try_each(self, hosts: Sequence[tuple[str, int]], address: Address) -> socket.socket:
        *others, last = (*hosts[self._first :], *hosts[: self._first])
        for host in others:
            try:
                return self._greet(host, address)
            except BrokerUnavailable:
                pass  # the last one's error is told
        return self._greet(last, address)

    def _find_node(self, address: Address) -> socket.socket:
        """Connect to the node of a cluster that owns our keys."""
        connection = self._try_each(address.hosts, address)
        slot = self._ask(b"CLUSTER", b"KEYSLOT", address.tag)
        for first, last, (host, port, *_), *_ in self._ask(b"CLUSTER", b"SLOTS"):
            if first <= slot <= last:
                owner = (host.decode() if host else str(self.server[0]), int(port))
                if owner == self.server:
                    return connection
                self.close()
                return self._greet(owner, address)
        self.close()
        raise BrokerUnavailable(f"no node of the cluster at {address.shown} owns the slot {slot} of {address.tag}")

    def _ask_sentinel(self, host: tuple[str, int], address: Address) -> tuple[str, int]:
        own = msgspec.structs.replace(
            address,
            username=address.sentinel_username,
            password=address.sentinel_password,
            database=0,
            client_name=None,
        )
        self._greet(host, own, hello=False)
        try:
            name = str(address.master)
            if address.quorum:
                others = self._ask(b"SENTINEL", b"SENTINELS", name)
                if len(others) < address.quorum:
                    raise BrokerUnavailable(
                        f"the sentinel at {host[0]}:{host[1]} knows {len(others)} others, "
                        f"which is less than min_other_sentinels={address.quorum}"
                    )
            found = self._ask(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name)
            if found is None:
                raise BrokerUnavailable(f"the sentinel at {host[0]}:{host[1]} knows no master called {name!r}")
            return found[0].decode(), int(found[1])
        finally:
            self.close()

    def _greet(self, server: tuple[str, int] | str, address: Address, *, hello: bool = True) -> socket.socket:
        """Connect to *server* and say who we are."""
        self.server = server
        try:
            connection = _dial(server, address)
        except OSError as exc:
            raise self._lost(exc, sent=False) from exc
        connection.settimeout(address.timeout)
        self._deadline = address.timeout
        self._reader = self._hiredis.Reader(notEnoughData=_MORE)
        self._socket = connection
        self._pending = getattr(connection, "pending", None)
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        try:
            login: tuple[Argument, ...] = ()
            if address.password is not None:
                login = (b"AUTH", address.username or "default", address.password)
            if hello:
                self._ask(b"HELLO", b"3", *login)
            elif address.password is not None:
                self._ask(b"AUTH", *((address.username,) if address.username else ()), address.password)
            if address.client_name:
                self._ask(b"CLIENT", b"SETNAME", address.client_name)
            if address.database and not address.cluster:
                self._ask(b"SELECT", address.database)
        except OSError as exc:
            raise self._lost(exc, sent=False) from exc
        except self._hiredis.ProtocolError as exc:
            raise self._stranger(exc) from exc
        except BaseException:
            self.close()
            raise
        return connection

    def _ask(self, *command: Argument) -> Any:
        """Send a command on the connection as it is."""
        connection = self._socket
        if connection is None:
            raise BrokerUnavailable(f"the connection to {self.address.shown} is closed")
        connection.sendall(self._pack(command))
        reply = self._reply(connection)
        if isinstance(reply, self._error):
            raise self._refused(str(reply))
        return reply

    # -- errors

    def _lost(self, exc: OSError, *, sent: bool) -> LinkLost:
        self.close()
        where = f"Redis at {self.address.shown}"
        if isinstance(exc, TimeoutError):
            return LinkLost(f"{where} did not answer within {self._deadline:g} s", sent=sent)
        return LinkLost(f"{where} cannot be reached: {exc.strerror or exc}", sent=sent)

    def _stranger(self, exc: Exception) -> OperationalError:
        self.close()
        return BrokerUnusable(f"what answers at {self.address.shown} is no Redis server: {exc}")

    def _refused(self, text: str) -> OperationalError:
        """Return what an error reply means, and whose move it is."""
        code = text.partition(" ")[0]
        where = f"Redis at {self.address.shown}"
        if code == "NOSCRIPT":
            return _NoScript(text)
        match code:
            case "OOM":
                return BrokerFull(
                    f"{where} is full: it has reached its maxmemory. Nothing was stored. Raise the limit, or see what "
                    "fills it; with a maxmemory-policy other than noeviction it would drop tasks instead."
                )
            case "MISCONF":
                return BrokerFull(f"{where} cannot write to its disk and takes nothing: {text}")
            case "READONLY":
                self.close()  # perhaps another server is the master by now
                hosts = self.address.hosts
                if self.server in hosts:
                    self._first = (hosts.index(self.server) + 1) % len(hosts)
                return BrokerUnavailable(f"{where} is a read-only replica: give the address of the master ({text})")
            case "LOADING":
                return BrokerUnavailable(f"{where} is starting, and still loads its data")
            case "MOVED" | "ASK":
                self.close()  # the next connection asks who owns our keys now
                return BrokerUnavailable(f"{where} has given our keys to another node: {text}")
            case "CROSSSLOT":
                return BrokerUnusable(f"{where} keeps our keys on several nodes: use one global_keyprefix for all")
            case "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY":
                return BrokerUnavailable(f"{where} cannot serve now: {text}")
            case "NOAUTH":
                self.close()
                return BrokerUnusable(f"{where} wants a password: put it into the URL, redis://:password@host/0")
            case "WRONGPASS":
                self.close()
                return BrokerUnusable(f"{where} refuses our user name or password")
            case "NOPERM":
                return BrokerUnusable(f"{where} does not let our user do this: {text}")
        if "max number of clients" in text:
            self.close()
            return BrokerUnavailable(f"{where} has as many clients as its maxclients allows")
        if "DB index is out of range" in text:
            return BrokerUnusable(f"{where} has no database {self.address.database}")
        if "called without any password configured" in text or "invalid password" in text:
            return BrokerUnusable(f"{where} refuses our user name or password: {text}")
        if "unknown command" in text and "HELLO" in text.upper():
            return BrokerUnusable(f"{where} is older than Redis 6.2, which umbel needs")
        return BrokerUnusable(f"{where} refuses: {text}")


class _NoScript(OperationalError):
    """Say that the server does not know the script."""


def _dial(server: tuple[str, int] | str, address: Address) -> socket.socket:
    if isinstance(server, str):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(address.connect_timeout)
        try:
            connection.connect(server)
        except BaseException:
            connection.close()
            raise
        return connection
    connection = socket.create_connection(server, address.connect_timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.keepalive:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if address.tls is None:
        return connection
    try:
        wrapped: socket.socket = address.tls.context().wrap_socket(connection, server_hostname=server[0])
    except BaseException:
        connection.close()
        raise
    return wrapped


def _is_mere_silence(exc: OSError) -> bool:
    """Tell whether there was just nothing to read; TLS has errors of its own to say that a record is not whole yet."""
    return isinstance(exc, BlockingIOError | TimeoutError) or type(exc).__name__ in {
        "SSLWantReadError",
        "SSLWantWriteError",
    }


def _ignore(push: Sequence[Any]) -> None:
    """Hear nothing."""
