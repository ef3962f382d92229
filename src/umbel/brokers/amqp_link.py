"""Speak AMQP over one socket: connect, send, wait for answers, and say in one line what went wrong."""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Final

from umbel.brokers.amqp_address import Address, Dialling, tls_context
from umbel.exceptions import BrokerUnavailable, BrokerUnusable, InvalidMessage
from umbel.wire import amqp
from umbel.wire.amqp import FrameReader, Incoming

__all__ = ["ChannelClosed", "Link", "connect", "refusal"]

_CHUNK: Final = 1 << 16  # bytes read at once; a larger buffer costs a system call of its own each time
_FRAME_MAX: Final = 131072
_CAPABILITIES: Final = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}
_REFUSALS: Final = {  # reply codes that somebody must do something about: trying again does not help
    403: "it refuses",
    405: "another connection has locked it",
    406: "it exists with other properties",
    404: "there is no such thing",
    530: "it does not allow that",
    540: "it cannot do that",
}


class ChannelClosed(Exception):
    """Say that the server closed a channel, because of one thing that was asked there."""

    def __init__(self, channel: int, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.channel = channel
        self.code = code
        self.text = text


def connect(dialling: Dialling, *, heartbeat: bool) -> Link:
    """Return a link to the first address that answers.

    Raises:
        BrokerUnavailable: none does.
        BrokerUnusable: one refuses us, for a reason that will not pass by itself.
    """
    addresses = list(dialling.addresses)
    if dialling.shuffle:
        random.shuffle(addresses)
    problems: list[str] = []
    for address in addresses:
        try:
            return Link(address, dialling, heartbeat=dialling.heartbeat if heartbeat else 0.0)
        except BrokerUnavailable as exc:
            problems.append(str(exc))
    raise BrokerUnavailable("; ".join(problems))


class Link:
    """One connection; used by one thread. An error leaves it closed: whoever has it opens another."""

    def __init__(self, address: Address, dialling: Dialling, *, heartbeat: float) -> None:
        """Connect and log in; raises as `connect`."""
        self.address = address
        self.inbox: deque[Incoming] = deque()  # what came in and was not waited for
        self.blocked: str | None = None  # why the server takes no messages now
        self.server: dict[str, Any] = {}  # its own properties
        self.closed = False
        self._pid = os.getpid()
        self.heartbeat = 0.0  # seconds between signs of life, agreed with the server
        self.frame_max = _FRAME_MAX
        self._answer_timeout = dialling.answer_timeout
        self._reader = FrameReader()
        self._channels: set[int] = set()
        self._sock = self._open_socket(dialling.connect_timeout)
        self._poller = select.poll()
        self._poller.register(self._sock, select.POLLIN)
        self._sent_at = self._heard_at = time.monotonic()
        try:
            self._log_in(dialling, heartbeat)
        except BaseException:
            self.drop()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    # -- going out and coming in

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Hand *data* to the kernel, reading meanwhile so that neither side waits for the other.

        Raises:
            BrokerUnavailable: the connection is gone, or the server takes nothing for *timeout* seconds.
        """
        view = memoryview(data)
        until = time.monotonic() + (self._answer_timeout if timeout is None else timeout)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                left = until - time.monotonic()
                if left <= 0:
                    why = f" ({self.blocked})" if self.blocked else ""
                    raise self._lost(f"takes no more data{why}") from None
                self._poller.modify(self._sock, select.POLLIN | select.POLLOUT)
                self._poller.poll(left * 1000)
                self._poller.modify(self._sock, select.POLLIN)
                self.receive()
            except OSError as exc:
                raise self._lost(f"broke off: {exc}") from exc
        self._sent_at = time.monotonic()

    def receive(self, timeout: float = 0.0) -> bool:
        """Read what is there into `inbox`, waiting at most *timeout* seconds for something; tell if something came.

        Raises:
            BrokerUnavailable: the connection is gone.
            ChannelClosed: the server closed a channel.
        """
        came = False
        while True:
            try:
                data = self._sock.recv(_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if came or timeout <= 0.0 or not self._poller.poll(timeout * 1000):
                    return came
                timeout = 0.0
                continue
            except OSError as exc:
                raise self._lost(f"broke off: {exc}") from exc
            if not data:
                raise self._lost("closed the connection")
            came = True
            self._heard_at = time.monotonic()
            self._take(data)
            if len(data) < _CHUNK and not isinstance(self._sock, ssl.SSLSocket):
                return came

    def _take(self, data: bytes) -> None:
        try:
            found = self._reader.feed(data)
        except InvalidMessage as exc:
            raise self._lost(f"does not speak AMQP: {exc}") from exc
        failure: ChannelClosed | None = None
        for incoming in found:
            if incoming.channel:
                if incoming.name == "channel.close":
                    code, text, *_ = incoming.arguments
                    self._channels.discard(incoming.channel)
                    self.send(amqp.method_frame(incoming.channel, "channel.close-ok"))
                    failure = ChannelClosed(incoming.channel, code, text)
                else:
                    self.inbox.append(incoming)
            elif incoming.name == "connection.close":
                code, text, *_ = incoming.arguments
                raise self._closed_by_server(code, text)
            elif incoming.name == "connection.blocked":
                self.blocked = f"it takes no messages now: {incoming.arguments[0]}"
            elif incoming.name == "connection.unblocked":
                self.blocked = None
            elif incoming.name:
                self.inbox.append(incoming)
        if failure is not None:
            raise failure

    def call(self, channel: int, name: str, *arguments: Any, answers: Collection[str] = ()) -> Incoming:
        """Send a method and return its answer: ``NAME-ok``, or one of *answers*.

        Raises:
            ChannelClosed: the server refuses, and has closed the channel.
            BrokerUnavailable: the connection is gone.
        """
        if channel and channel not in self._channels and name != "channel.open":
            self.call(channel, "channel.open", "")
            self._channels.add(channel)
        self.send(amqp.method_frame(channel, name, *arguments))
        return self.wait(channel, answers or (f"{name}-ok",))

    def wait(self, channel: int, names: Collection[str], *, timeout: float | None = None) -> Incoming:
        """Return the next of *names* that comes in on *channel*; raises as `call`."""
        until = time.monotonic() + (self._answer_timeout if timeout is None else timeout)
        looked = 0
        while True:
            while looked < len(self.inbox):
                incoming = self.inbox[looked]
                if incoming.channel == channel and incoming.name in names:
                    del self.inbox[looked]
                    return incoming
                looked += 1
            left = until - time.monotonic()
            if left <= 0:
                raise self._lost(f"gave no answer within {self._answer_timeout:g} s")
            try:
                self.receive(left)
            except ChannelClosed as exc:
                if exc.channel == channel:
                    raise
                raise self.lost_channel(exc) from exc

    def lost_channel(self, exc: ChannelClosed) -> BrokerUnavailable:
        """Return what it means that a channel was closed over something nobody waits for; the link is closed then."""
        if exc.code == 406 and "timed out" in exc.text:
            return self._lost(
                "took its deliveries back: one was held longer than its 'consumer_timeout' allows. Let the setting "
                "'task_lease', and 'lease_after' in 'broker_transport_options', be less than half of that. "
                f"It says: {exc.text}"
            )
        return self._lost(f"closed our channel: {exc}")

    def has_channel(self, channel: int) -> bool:
        """Tell whether *channel* is open."""
        return channel in self._channels

    def keep_alive(self) -> None:
        """Give and ask for a sign of life if one is due; to be called more often than the heartbeat.

        Raises:
            BrokerUnavailable: the server has given none for twice its time.
        """
        if not self.heartbeat:
            return
        now = time.monotonic()
        if now - self._sent_at >= self.heartbeat / 2:
            self.send(amqp.HEARTBEAT)
        if now - self._heard_at > self.heartbeat * 2:
            raise self._lost(f"gave no sign of life for {now - self._heard_at:.0f} s")

    def is_stale(self) -> bool:
        """Tell whether the connection ended while nobody looked; nothing that was sent is then lost."""
        try:
            self.receive()
        except (BrokerUnavailable, BrokerUnusable, ChannelClosed):
            return True
        return self.closed

    def close(self) -> None:
        """Say goodbye: then what was published is stored, and what was unacknowledged is back in its queues."""
        if self.closed or self._pid != os.getpid():  # in a forked child the connection is its parent's
            self.drop()
            return
        try:
            self.send(amqp.method_frame(0, "connection.close", 200, "", 0, 0), timeout=1.0)
            self.wait(0, ("connection.close-ok",), timeout=2.0)
        except (BrokerUnavailable, BrokerUnusable, ChannelClosed):
            pass
        self.drop()

    def drop(self) -> None:
        """Close the socket without a word, as a forked child or a broken link must."""
        self.closed = True
        self._sock.close()

    # -- beginning

    def _open_socket(self, timeout: float) -> socket.socket:
        address = self.address
        try:
            plain = socket.create_connection((address.host, address.port), timeout=timeout)
        except OSError as exc:
            raise BrokerUnavailable(f"{address} cannot be reached: {exc}") from exc
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock = plain
        if address.tls is not None:
            try:
                context = tls_context(address.tls)
                name = str(address.tls.get("server_hostname") or address.host)
                sock = context.wrap_socket(plain, server_hostname=name)
            except ssl.SSLCertVerificationError as exc:
                plain.close()
                raise BrokerUnusable(
                    f"the certificate of {address} is not trusted: {exc.verify_message}. Name its authority in "
                    "'broker_use_ssl' as 'ca_certs'."
                ) from exc
            except OSError as exc:
                plain.close()
                raise BrokerUnavailable(f"{address} does not answer with TLS: {exc}") from exc
            except BaseException:
                plain.close()
                raise
        sock.setblocking(False)
        return sock

    def _log_in(self, dialling: Dialling, heartbeat: float) -> None:
        address = self.address
        self.send(amqp.PROTOCOL_HEADER)
        _, _, self.server, mechanisms, _ = self.wait(0, ("connection.start",)).arguments
        if dialling.login.encode() not in mechanisms.split():
            raise BrokerUnusable(
                f"{address} does not take the login method {dialling.login!r} ('broker_login_method'); "
                f"it takes {mechanisms.decode(errors='replace')}"
            )
        ours = {
            "product": "umbel",
            "platform": "Python",
            "connection_name": f"umbel@{socket.gethostname()}",
            **dialling.client_properties,
            "capabilities": _CAPABILITIES,
        }
        self.send(
            amqp.method_frame(0, "connection.start-ok", ours, dialling.login, _secret(dialling, address), "en_US")
        )
        channels, frame_max, beat = self.wait(0, ("connection.tune",)).arguments
        frame_max = min(frame_max, _FRAME_MAX) or _FRAME_MAX
        self._reader.frame_max = frame_max
        self.frame_max = frame_max
        self.heartbeat = float(min(beat, int(heartbeat)) if beat and heartbeat else 0)
        self.send(amqp.method_frame(0, "connection.tune-ok", channels, frame_max, int(self.heartbeat)))
        self.call(0, "connection.open", address.vhost, "", False)

    # -- ends

    def _lost(self, what: str) -> BrokerUnavailable:
        self.drop()
        return BrokerUnavailable(f"{self.address} {what}")

    def _closed_by_server(self, code: int, text: str) -> BrokerUnavailable | BrokerUnusable:
        """Return what a connection.close means; somebody must act on a refusal, all others pass."""
        try:
            self.send(amqp.method_frame(0, "connection.close-ok"), timeout=1.0)
        except BrokerUnavailable:
            pass
        self.drop()
        if code == 403:
            return BrokerUnusable(
                f"{self.address} refuses to log us in: check user and password in 'broker_url'. {text}"
            )
        if code == 530:
            return BrokerUnusable(
                f"{self.address} does not let us in: is there such a vhost (rabbitmqctl add_vhost), and may the user "
                f"use it (rabbitmqctl set_permissions)? {text}"
            )
        return BrokerUnavailable(f"{self.address} closed the connection: {code} {text}")


def refusal(address: Address, exc: ChannelClosed, what: str) -> BrokerUnusable:
    """Return the error to raise because the server closed a channel over *what*."""
    return BrokerUnusable(f"{address}: {what}: {_REFUSALS.get(exc.code, 'it refuses')}. It says: {exc}")


def _secret(dialling: Dialling, address: Address) -> bytes:
    match dialling.login:
        case "PLAIN":
            return b"\0" + address.user.encode() + b"\0" + address.password.encode()
        case "AMQPLAIN":
            return amqp.encode_table({"LOGIN": address.user, "PASSWORD": address.password})[4:]
        case _:
            return b""
