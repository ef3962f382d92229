"""Answer commands and say that the worker lives: its desk, a thread with a connection of its own.

So a slow command or a slow answer never keeps the loop from renewing leases.
"""

from __future__ import annotations

import logging
import os
import platform
import select
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final, Protocol

from umbel import signals
from umbel.app.version import __version__
from umbel.brokers.base import Broker, Publication
from umbel.brokers.ledger import ledger_of
from umbel.brokers.listener import Listener
from umbel.exceptions import BrokerUnusable, CeleryError, EncodeError, OperationalError
from umbel.wire.command import Command, Reply, is_for, read_command, reply_message
from umbel.wire.message import Message, Route
from umbel.worker.control import CommandState, NoReply, Panel
from umbel.worker.core import WorkerState
from umbel.worker.ledger import Ledger

__all__ = ["Desk"]

_logger: Final = logging.getLogger("celery.worker.control")

_LOOK: Final = 5.0  # seconds between looks into the mailbox without having been woken
_BACKOFF: Final = (0.5, 1.0, 2.0, 5.0)  # seconds between attempts to get the broker back
_STEADY: Final = 15.0  # seconds after which an outage is a new one
_BOOK: Final = "revoked-stamps"  # where the broker remembers what `revoke_by_stamped_headers` forbade


class Node(Protocol):
    """What a desk must know of its worker."""

    app: Any
    hostname: str
    ledger: Ledger

    @property
    def core(self) -> WorkerState:
        """What the worker knows of its deliveries; only the loop changes it."""


class Desk:
    """One worker's desk. `start` and `stop` may be called twice."""

    def __init__(self, worker: Node, *, every: float | None, answers: bool) -> None:
        """Send a heartbeat *every* so many seconds (None = never), and answer commands if it *answers*."""
        self.stamps: dict[str, list[Any]] = {}  # what is forbidden: values by the names of stamps
        self._worker = worker
        self._app: Any = worker.app
        self._every = every
        self._answers = answers
        self._state = CommandState(worker, self)
        self._broker: Broker | None = None
        self._wake_read, self._wake_write = -1, -1  # a pipe, while it runs
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._common = self._app.events.common(worker.hostname)

    @property
    def broker(self) -> Broker:
        """The connection; for the desk's own thread."""
        assert self._broker is not None, "a command runs while the desk is connected"
        return self._broker

    def start(self) -> None:
        """Begin to answer."""
        if self._thread is None and (self._every is not None or self._answers):
            self._wake_read, self._wake_write = os.pipe()
            self._thread = threading.Thread(target=self._run, name="umbel-desk", daemon=True)
            self._thread.start()

    def stop(self, deadline: float = 5.0) -> None:
        """Say good-bye and end, within *deadline* seconds."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread is None:
            return
        os.write(self._wake_write, b"\0")
        self._thread.join(deadline)
        if not self._thread.is_alive():  # else a command of the user's takes its time
            os.close(self._wake_read)
            os.close(self._wake_write)

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._tell("worker-heartbeat")
        signals.heartbeat_sent.send(sender=self)

    def forbid_stamps(self, stamps: Mapping[str, Sequence[Any]]) -> None:
        """Forbid tasks with these stamps, for all workers where the broker remembers it."""
        known = {name: list(values) for name, values in self.stamps.items()}
        for name, values in stamps.items():
            mine = known.setdefault(name, [])
            mine += [value for value in values if value not in mine]
        self.stamps = known  # replaced, not changed: the loop reads it
        ledger = ledger_of(self.broker)
        if ledger is not None:
            json = self._app.codecs.json
            ledger.note(_BOOK, {name: json.encode(values) for name, values in known.items()})

    # -- the thread

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with closing(self._app.open_broker()) as broker:
                    self._broker = broker
                    self._remember_stamps(broker)
                    self._serve(broker)
            except OperationalError as exc:
                failures = 0 if time.monotonic() - began > _STEADY else failures
                if failures == 0 and isinstance(exc, BrokerUnusable):
                    _logger.error(
                        "commands are not heard: %s Is another worker called %s? Each needs a name of its own.",
                        exc,
                        self._worker.hostname,
                    )
                elif failures == 0:
                    # The loop says for people that the broker is lost, and once is enough.
                    _logger.info("commands are not heard, the broker cannot be reached: %s Trying again.", exc)
                failures += 1
                select.select([self._wake_read], [], [], _BACKOFF[min(failures, len(_BACKOFF)) - 1])
            except Exception:
                _logger.exception("the worker's desk failed; it begins anew")
                select.select([self._wake_read], [], [], _BACKOFF[-1])
            finally:
                self._broker = None

    def _serve(self, broker: Broker) -> None:
        listener = None
        broker.declare(self._app.events.topology)
        if self._answers:
            mailbox = self._app.control.office.of_node(self._worker.hostname)
            listener = Listener(broker, mailbox, owner=self._worker.hostname, look=_LOOK)
        beat_at = float("inf")
        if self._every is not None:
            self._tell("worker-online")
            beat_at = time.monotonic() + self._every
        while not self._stopping.is_set():
            left = max(0.0, min(beat_at - time.monotonic(), 3600.0))
            if listener is None:
                select.select([self._wake_read], [], [], left)
            else:
                for message in listener.hear(left, unless=self._wake_read):
                    self._obey(message)
            if time.monotonic() >= beat_at:
                self.beat()
                beat_at += self._every or 0.0
                beat_at = max(beat_at, time.monotonic())
        if self._every is not None:
            self._tell("worker-offline")
        if listener is not None:
            listener.close()

    def _tell(self, kind: str) -> None:
        worker = self._worker
        event = {
            **self._common,
            "freq": self._every or 5.0,
            "active": min(worker.core.submitted, worker.core.slots),  # the pool may hold a few that wait
            "processed": worker.ledger.processed,
            "loadavg": [round(load, 2) for load in os.getloadavg()],
            "sw_ident": "py-celery",
            "sw_ver": __version__,
            "sw_sys": platform.system(),
            "timestamp": time.time(),
            "type": kind,
        }
        self.broker.publish([self._app.events.packed([event], gathered=False)])

    def _remember_stamps(self, broker: Broker) -> None:
        ledger = ledger_of(broker)
        if ledger is not None:
            json = self._app.codecs.json
            self.stamps = {name: json.decode(text) for name, text in ledger.notes(_BOOK).items()}

    # -- commands

    def _obey(self, message: Message) -> None:
        office = self._app.control.office
        try:
            command = read_command(message, codecs=office.codecs, accept=office.accept)
            self._app.clock.adjust(command.clock)
            if not is_for(command, self._worker.hostname):
                return
        except CeleryError as exc:
            _logger.error("a command cannot be read: %s", exc)
            return
        try:
            value = self._value(command)
        except NoReply:
            return
        if command.ticket is not None and command.reply_to is not None:
            self._reply(command, command.reply_to, value)

    def _value(self, command: Command) -> Any:
        handler = Panel.data.get(command.method)
        if handler is None:
            _logger.error("No such control command: %s", command.method)
            return {"error": repr(KeyError(command.method))}
        try:
            return handler(self._state, **command.arguments)
        except (NoReply, OperationalError):
            raise
        except Exception as exc:
            _logger.exception("Error while handling control command %s", command.method)
            return {"error": repr(exc)}

    def _reply(self, command: Command, to: Route, value: Any) -> None:
        office = self._app.control.office

        def reply(value: Any) -> Publication:
            told = Reply(values={self._worker.hostname: value}, ticket=command.ticket, clock=self._app.clock.forward())
            message, route = reply_message(told, to, codecs=office.codecs, serializer=office.serializer)
            return Publication(message=message, route=route)

        try:
            publication = reply(value)
        except EncodeError as exc:
            publication = reply({"error": f"the answer cannot be sent: {exc}"})
        self.broker.publish([publication])
