"""Tell monitors what becomes of tasks: gather events, to travel with the worker's next exchange."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from umbel import states
from umbel.brokers.base import Delivery, Publication, Settlement
from umbel.execution.outcome import Outcome
from umbel.worker.orders import Ending, Why

__all__ = ["Note", "Teller"]

Note: TypeAlias = tuple[str, dict[str, Any], float]
"""What is to be told: the type of an event, its own fields, and when it happened, in unix seconds."""

_LINGER: Final = 0.05  # seconds that news wait for other business with the broker
_PAGE: Final = 500  # events in one message
_KEPT: Final = 50_000  # events kept while the broker is away; the oldest go first


class Teller:
    """The events of one worker's tasks. Used by the loop's thread alone.

    *pack* makes publications of notes, *wants_events* says of a task's name whether it may be told of.
    """

    def __init__(
        self, pack: Callable[[Sequence[Note]], Publication], *, wants_events: Callable[[str], bool], enabled: bool
    ) -> None:
        self.enabled = enabled
        self._pack = pack
        self._wants_events = wants_events
        self._notes: list[Note] = []
        self._since = 0.0  # monotonic: when the first of them was made
        self._why: dict[str, int] = {}  # task id -> the signal it was terminated with

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """Tell that these arrived."""
        for delivery in deliveries:
            message = delivery.message
            if delivery.invalid is not None or not self._wants_events(message.task):
                continue
            self._note(
                "task-received",
                {
                    "uuid": message.id,
                    "name": message.shadow or message.task,
                    "args": message.argsrepr,
                    "kwargs": message.kwargsrepr,
                    "root_id": message.root_id,
                    "parent_id": message.parent_id,
                    "retries": message.retries,
                    "eta": None if message.eta is None else message.eta.isoformat(),
                    "expires": None if message.expires is None else message.expires.isoformat(),
                },
            )

    def begun(self, delivery: Delivery) -> None:
        """Tell that this one runs now."""
        if self._wants_events(delivery.message.task):
            self._note("task-started", {"uuid": delivery.message.id})

    def ended(self, endings: Iterable[Ending]) -> None:
        """Tell what became of these."""
        for ending in endings:
            message = ending.delivery.message
            if message.id and self._wants_events(message.task) and (told := _ending(ending, self._why)) is not None:
                kind, fields = told
                self._note(kind, {"uuid": message.id, **fields})

    def will_terminate(self, ids: Iterable[str], signum: int) -> None:
        """Remember the signal with which these are about to be stopped, for the event of their end."""
        self._why.update(dict.fromkeys(ids, signum))

    def due(self) -> float | None:
        """Return when to tell at the latest, in monotonic seconds; None = there is nothing to tell."""
        return self._since + _LINGER if self._notes else None

    def news(self) -> Settlement | None:
        """Return all that is to be told, once."""
        if not self._notes:
            return None
        notes, self._notes = self._notes, []
        pages = [notes[i : i + _PAGE] for i in range(0, len(notes), _PAGE)]
        return Settlement(lease=None, follow_ups=tuple(self._pack(page) for page in pages))

    def _note(self, kind: str, fields: dict[str, Any]) -> None:
        if not self._notes:
            self._since = time.monotonic()
        elif len(self._notes) >= _KEPT:
            del self._notes[: _KEPT // 10]
        self._notes.append((kind, fields, time.time()))


def _ending(ending: Ending, signals: dict[str, int]) -> tuple[str, Mapping[str, Any]] | None:
    outcome, why = ending.outcome, ending.why
    if why is None:
        return _told(outcome, ending.runtime)
    match why:
        case Why.REVOKED | Why.EXPIRED | Why.TERMINATED:
            signum = signals.pop(ending.delivery.message.id, signal.SIGTERM) if why is Why.TERMINATED else None
            return "task-revoked", {
                "terminated": why is Why.TERMINATED,
                "signum": None if signum is None else int(signum),
                "expired": why is Why.EXPIRED,
            }
        case Why.INVALID:
            return None
        case _:
            return _failed("task-failed", outcome)


def _told(outcome: Outcome, runtime: float | None) -> tuple[str, Mapping[str, Any]] | None:
    match outcome.state:
        case states.SUCCESS:
            return "task-succeeded", {"result": outcome.shown, "runtime": runtime}
        case states.FAILURE:
            return _failed("task-failed", outcome)
        case states.RETRY:
            return _failed("task-retried", outcome)
        case states.REVOKED:
            return "task-revoked", {"terminated": True, "signum": None, "expired": False}
        case states.REJECTED:
            return "task-rejected", {"requeue": outcome.requeue}
        case _:
            return None  # ignored: the task itself wanted silence


def _failed(kind: str, outcome: Outcome) -> tuple[str, Mapping[str, Any]]:
    return kind, {"exception": outcome.shown or outcome.reason, "traceback": outcome.traceback}
