"""Tell monitors what becomes of tasks: gather events, to travel with the worker's next exchange."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from umbel import states
from umbel.brokers.base import Delivery, Publication, Settlement
from umbel.execution.outcome import Outcome
from umbel.wire.event import call_fields
from umbel.worker.orders import Ending, Why

__all__ = ["Event", "Teller"]

Event: TypeAlias = dict[str, Any]
"""An event; whoever packs it fills in the clock."""

_NOTICE: Final = 0.1  # seconds; a task that has run for so long is told of as started, a shorter one with its end
_LINGER: Final = 0.05  # seconds that news wait for other business with the broker
_PAGE: Final = 500  # events in one message
_KEPT: Final = 50_000  # events kept while the broker is away; the oldest go first


class Teller:
    """The events of one worker's tasks. Used by the loop's thread alone.

    *pack* makes publications of events, which all have what *common* says; *wants_events* says of a task's name
    whether it may be told of, *running* what runs and since when (monotonic), *busy* how many the pool has. The pool
    itself could say when a job begins, but that costs each job another message between processes: 10 µs of 80.
    """

    def __init__(
        self,
        pack: Callable[[list[Event]], Publication],
        common: Event,
        *,
        wants_events: Callable[[str], bool],
        running: Callable[[], Sequence[tuple[Delivery, float]]],
        busy: Callable[[], int],
        enabled: bool,
    ) -> None:
        self.enabled = enabled
        self._running = running
        self._busy = busy
        self._begun: set[int | str] = set()  # tags of those that were told of as started
        self._looked = 0.0  # monotonic: when that was last looked after
        self._is_stale = False  # some of them may have gone without an end
        self._pack = pack
        self._common = common
        self._wants_events = wants_events
        self._events: list[Event] = []
        self._since = 0.0  # monotonic: when the first of them was made
        self._why: dict[str, int] = {}  # task id -> the signal it was terminated with

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """Tell that these arrived."""
        for delivery in deliveries:
            if delivery.invalid is None and self._wants_events(delivery.message.task):
                self._keep({**self._common, **call_fields(delivery.message)}, "task-received")

    def begun(self, delivery: Delivery, *, ago: float = 0.0) -> None:
        """Tell that this one runs since so many seconds."""
        self._begun.add(delivery.tag)
        self._tell(delivery, "task-started", ago=ago)

    def cancelled(self, delivery: Delivery) -> None:
        """Tell that this one was ended here before its time, and runs again elsewhere."""
        self._begun.discard(delivery.tag)
        self._tell(delivery, "task-cancelled")

    def ended(self, endings: Iterable[Ending]) -> None:
        """Tell what became of these."""
        for ending in endings:
            tag = ending.delivery.tag
            if tag not in self._begun and ending.runtime is not None:
                self.begun(ending.delivery, ago=ending.runtime)
            self._begun.discard(tag)
            if ending.delivery.message.id and (told := _ending(ending, self._why)) is not None:
                self._tell(ending.delivery, *told)

    def sent(self, events: Iterable[Event]) -> None:
        """Tell that follow-ups are sent, with the settlement that sends them."""
        for event in events:
            self._keep(event, "task-sent")

    def will_terminate(self, ids: Iterable[str], signum: int) -> None:
        """Remember the signal with which these are about to be stopped, for the event of their end."""
        self._why.update(dict.fromkeys(ids, signum))

    def look_again(self) -> None:
        """Forget what was told of as started and does not run any more."""
        self._is_stale = bool(self._begun)

    def due(self) -> float | None:
        """Return when to tell at the latest, in monotonic seconds; None = there is nothing to tell."""
        due = self._since + _LINGER if self._events else None
        if self.enabled and (self._is_stale or self._busy() > len(self._begun)):
            look = self._looked + _NOTICE
            return look if due is None else min(due, look)
        return due

    def news(self) -> Settlement | None:
        """Return all that is to be told, once."""
        if self.enabled:
            self._notice(time.monotonic())
        if not self._events:
            return None
        events, self._events = self._events, []
        pages = [events[i : i + _PAGE] for i in range(0, len(events), _PAGE)]
        return Settlement(lease=None, follow_ups=tuple(self._pack(page) for page in pages))

    def _notice(self, now: float) -> None:
        if now - self._looked < _NOTICE:
            return
        self._looked = now
        self._is_stale = False
        running = self._running()
        for delivery, since in running:
            if delivery.tag not in self._begun and now - since >= _NOTICE / 2:
                self.begun(delivery, ago=now - since)
        self._begun.intersection_update([delivery.tag for delivery, _ in running])

    def _tell(
        self, delivery: Delivery, kind: str, fields: Mapping[str, Any] | None = None, *, ago: float = 0.0
    ) -> None:
        message = delivery.message
        if self._wants_events(message.task):
            self._keep({**self._common, "uuid": message.id, **(fields or {})}, kind, ago=ago)

    def _keep(self, event: Event, kind: str, *, ago: float = 0.0) -> None:
        if not self._events:
            self._since = time.monotonic()
        elif len(self._events) >= _KEPT:
            del self._events[: _KEPT // 10]
        event["timestamp"], event["type"] = time.time() - ago, kind
        self._events.append(event)


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
        case Why.INVALID | Why.CANCELLED:
            return None  # of the latter `cancelled` has told
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
