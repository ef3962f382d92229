"""Tell monitors what becomes of tasks: gather events, to travel with the worker's next exchange."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from umbel import states
from umbel.brokers.base import Delivery, Publication, Settlement
from umbel.execution.outcome import Outcome
from umbel.wire.event import call_values
from umbel.worker.orders import Ending, Why

__all__ = ["Event", "Teller"]


class _Received(msgspec.Struct, gc=False):
    """As `call_values` says. The three events that every task has are structs: dicts cost twice as much."""

    hostname: str
    utcoffset: int
    pid: int
    clock: int
    uuid: str
    name: str
    args: str | None
    kwargs: str | None
    root_id: str | None
    parent_id: str | None
    retries: int
    eta: str | None
    expires: str | None
    timestamp: float
    type: str = "task-received"


class _Started(msgspec.Struct, gc=False):
    hostname: str
    utcoffset: int
    pid: int
    clock: int
    uuid: str
    timestamp: float
    type: str = "task-started"


class _Succeeded(msgspec.Struct, gc=False):
    hostname: str
    utcoffset: int
    pid: int
    clock: int
    uuid: str
    result: str
    runtime: float | None
    timestamp: float
    type: str = "task-succeeded"


Event: TypeAlias = dict[str, Any] | _Received | _Started | _Succeeded
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
        common: dict[str, Any],
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
        # As the first fields of all events.
        self._sender: tuple[str, int, int, int] = common["hostname"], common["utcoffset"], common["pid"], 0
        self._wants_events = wants_events
        self._events: list[Event] = []
        self._since = 0.0  # monotonic: when the first of them was made
        self._why: dict[str, int] = {}  # task id -> the signal it was terminated with

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """Tell that these arrived."""
        sender, now = self._sender, time.time()
        wanted = _Wanted(self._wants_events)
        received: Callable[..., _Received] = _Received
        self._keep(
            [
                received(*sender, *call_values(delivery.message), now)
                for delivery in deliveries
                if delivery.invalid is None and wanted[delivery.message.task]
            ]
        )

    def begun(self, delivery: Delivery, *, ago: float = 0.0) -> None:
        """Tell that this one runs since so many seconds."""
        self._begun.add(delivery.tag)
        if self._wants_events(delivery.message.task):
            self._keep([_Started(*self._sender, delivery.message.id, time.time() - ago)])

    def cancelled(self, delivery: Delivery) -> None:
        """Tell that this one was ended here before its time, and runs again elsewhere."""
        self._begun.discard(delivery.tag)
        if self._wants_events(delivery.message.task):
            said = {"uuid": delivery.message.id, "timestamp": time.time(), "type": "task-cancelled"}
            self._keep([{**self._common, **said}])

    def ended(self, endings: Iterable[Ending]) -> None:
        """Tell what became of these."""
        sender, now = self._sender, time.time()
        events: list[Event] = []
        wanted = _Wanted(self._wants_events)
        for ending in endings:
            message, tag = ending.delivery.message, ending.delivery.tag
            runtime, outcome = ending.runtime, ending.outcome
            was_told = tag in self._begun
            self._begun.discard(tag)
            if not wanted[message.task]:
                continue
            if not was_told and runtime is not None:
                events.append(_Started(*sender, message.id, now - runtime))
            if ending.why is None and outcome.state == states.SUCCESS:
                events.append(_Succeeded(*sender, message.id, outcome.shown, runtime, now))
            elif message.id and (told := _ending(ending, self._why)) is not None:
                kind, fields = told
                events.append({**self._common, "uuid": message.id, **fields, "timestamp": now, "type": kind})
        self._keep(events)

    def sent(self, events: Iterable[dict[str, Any]]) -> None:
        """Tell that follow-ups are sent, with the settlement that sends them."""
        self._keep(list(events))

    def will_terminate(self, ids: Iterable[str], signum: int) -> None:
        """Remember the signal with which these are about to be stopped, for the event of their end."""
        self._why.update(dict.fromkeys(ids, signum))

    def look_again(self) -> None:
        """Forget what was told of as started and does not run any more."""
        self._is_stale = bool(self._begun)

    def due(self) -> float | None:
        """Return when to tell at the latest, in monotonic seconds; None = there is nothing to tell."""
        due = None
        if self._events:
            due = self._since + (_LINGER if len(self._events) < _PAGE else 0.0)
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

    def _keep(self, events: list[Event]) -> None:
        if not self._events:
            self._since = time.monotonic()
        elif len(self._events) >= _KEPT:
            del self._events[: _KEPT // 10]
        self._events += events


class _Wanted(dict[str, bool]):
    """Which tasks may be told of, asked once for each of a batch."""

    def __init__(self, wants_events: Callable[[str], bool]) -> None:
        self._wants_events = wants_events

    def __missing__(self, task: str) -> bool:
        found = self[task] = self._wants_events(task)
        return found


def _ending(ending: Ending, signals: dict[str, int]) -> tuple[str, Mapping[str, Any]] | None:
    outcome, why = ending.outcome, ending.why
    if why is None:
        return _told(outcome)
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


def _told(outcome: Outcome) -> tuple[str, Mapping[str, Any]] | None:
    match outcome.state:
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
