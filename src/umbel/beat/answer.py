"""Answer ``inspect ping`` for a beat, as long as it ticks."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

from umbel.brokers.base import Broker, Publication
from umbel.brokers.listener import Listener
from umbel.exceptions import CeleryError, OperationalError
from umbel.wire.command import Reply, is_for, read_command, reply_message
from umbel.wire.message import Message

__all__ = ["Answerer"]

_logger: Final = logging.getLogger("celery.beat")

_LOOK: Final = 5.0  # seconds between looks into the mailbox without having been woken
_RETRY: Final = 2.0  # seconds until a broker that is gone is tried again


class Answerer:
    """A thread with a connection of its own. `start` and `stop` may be called twice."""

    def __init__(self, app: Any, hostname: str, is_alive: Callable[[], bool]) -> None:
        """Answer as the node *hostname* while *is_alive* says so; a beat that hangs is to look dead."""
        self._app = app
        self._hostname = hostname
        self._is_alive = is_alive
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to answer."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="umbel-beat-answers", daemon=True)
            self._thread.start()

    def stop(self, deadline: float = 5.0) -> None:
        """End, within *deadline* seconds."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        os.write(self._wake_write, b"\0")
        if self._thread is not None:
            self._thread.join(deadline)
        if self._thread is None or not self._thread.is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with closing(self._app.open_broker()) as broker:
                    self._serve(broker)
            except OperationalError as exc:
                _logger.warning("beat: commands are not heard, the broker cannot be reached: %s", exc)
                select.select([self._wake_read], [], [], _RETRY)

    def _serve(self, broker: Broker) -> None:
        office = self._app.control.office
        mailbox = office.of_node(self._hostname).merge(office.exchange)
        listener = Listener(broker, mailbox, owner=self._hostname, look=_LOOK)
        while not self._stopping.is_set():
            for message in listener.hear(None, unless=self._wake_read):
                answer = self._answer(message)
                if answer is not None:
                    broker.publish([answer])
        listener.close()

    def _answer(self, message: Message) -> Publication | None:
        office = self._app.control.office
        try:
            command = read_command(message, codecs=office.codecs, accept=office.accept)
            self._app.clock.adjust(command.clock)
            asked = command.method == "ping" and is_for(command, self._hostname)
        except CeleryError as exc:
            _logger.error("beat: a command cannot be read: %s", exc)
            return None
        if not asked or command.ticket is None or command.reply_to is None or not self._is_alive():
            return None
        values = {self._hostname: {"ok": "pong"}}
        told = Reply(values=values, ticket=command.ticket, clock=self._app.clock.forward())
        reply, route = reply_message(told, command.reply_to, codecs=office.codecs, serializer=office.serializer)
        return Publication(message=reply, route=route)
