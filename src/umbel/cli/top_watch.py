"""Gather what a live view of a cluster shows."""

from __future__ import annotations

import ast
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import closing
from itertools import islice
from typing import Any, Final

import msgspec

from umbel import states
from umbel.brokers.base import QueueSize
from umbel.exceptions import CeleryError, OperationalError

__all__ = ["Picture", "QueueRow", "Summary", "TaskRow", "Watch", "WorkerRow"]

_SPAN: Final = 10.0  # seconds over which rates are taken
_LOOK: Final = 2.0  # seconds between looks at the queues
_ASK: Final = 10.0  # seconds between questions to the workers
_SHOWN: Final = 200  # tasks
_COUNTED: Final = ("received", "succeeded", "failed", "retried", "revoked", "rejected")
_EMPTY: Final = QueueSize(ready=0, delayed=0, claimed=0)
_FAILED: Final = frozenset({states.FAILURE, states.RETRY, states.REVOKED, states.REJECTED})


class WorkerRow(msgspec.Struct, frozen=True):
    """One node."""

    name: str
    alive: bool
    busy: int | None  # tasks that run
    slots: int | None
    done: int | None
    load: str
    age: float | None  # seconds since it was heard


class QueueRow(msgspec.Struct, frozen=True):
    """One queue."""

    name: str
    size: QueueSize
    paused: bool


class TaskRow(msgspec.Struct, frozen=True):
    """One task."""

    id: str
    state: str
    name: str
    args: str
    worker: str
    runtime: float | None
    age: float  # seconds since the last event of it


class Summary(msgspec.Struct, frozen=True):
    """What happened of late."""

    rates: Mapping[str, float]  # by kind of event, a second
    mean: float | None  # seconds that tasks ran which succeeded of late
    by_state: Mapping[str, int]  # of the tasks that are remembered


class Picture(msgspec.Struct, frozen=True):
    """All of it at one moment."""

    workers: list[WorkerRow]
    queues: list[QueueRow]
    tasks: list[TaskRow]
    summary: Summary
    trouble: str | None  # why it may be out of date
    silent: bool  # workers do something, and none tells of tasks


class Watch:
    """Hears events in one thread, and looks at queues and workers in another."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.state: Any = app.events.State()
        self.trouble: str | None = None
        self._queues: list[QueueRow] = []
        self._slots: dict[str, int] = {}
        self._moments: deque[tuple[float, str, float | None]] = deque(maxlen=100_000)  # when, kind, runtime
        self._receiver: Any = None
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to watch."""
        for work in (self._hear, self._look):
            thread = threading.Thread(target=work, name=f"umbel-top{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Watch no more."""
        self._ended.set()
        if self._receiver is not None:
            self._receiver.should_stop = True
        for thread in self._threads:
            thread.join(2.0)

    def picture(self, *, failures: bool = False) -> Picture:
        """Return what there is to see; of tasks only *failures* if that is wanted."""
        now = time.time()

        def look() -> tuple[list[WorkerRow], list[TaskRow], Counter[str]]:
            workers = [self._worker(each, now) for _, each in sorted(self.state.workers.items())]
            found = (each for _, each in self.state.tasks_by_time() if not failures or each.state in _FAILED)
            tasks = [_task(each, now) for each in islice(found, _SHOWN)]
            return workers, tasks, Counter(each.state for each in self.state.tasks.values())

        workers, tasks, by_state = self.state.freeze_while(look)
        summary = self._summary(by_state, now)
        silent = any(each.alive and (each.busy or each.done) for each in workers) and not by_state
        return Picture(workers, list(self._queues), tasks, summary, self.trouble, silent)

    def look(self) -> None:
        """Look at the queues now."""
        with closing(self.app.open_broker()) as broker:
            paused, own = broker.paused(), self.app.conf.event_queue_prefix + "."
            names = self.app.amqp.queues
            sizes = dict.fromkeys(names, _EMPTY) | broker.sizes() | broker.sizes(names)
            self._queues = [
                QueueRow(name, size, name in paused)
                for name, size in sorted(sizes.items())
                if not name.endswith(".pidbox") and not name.startswith(own)
            ]

    def ask(self) -> None:
        """Ask the workers how many slots they have, now."""
        told = self.app.control.inspect(timeout=1.0).stats() or {}
        self._slots = {node: each.get("pool", {}).get("max-concurrency") for node, each in told.items()}

    def hear(self, event: dict[str, Any]) -> None:
        """Learn from an event."""
        self.state.event(event)
        group, _, kind = event["type"].partition("-")
        if group == "task" and kind in _COUNTED:
            self._moments.append((time.time(), kind, event.get("runtime")))

    def again(self, task_id: str) -> str:
        """Send a task once more; return its new id.

        Raises:
            ValueError: what it was called with is not known in full.
        """
        task = self.state.tasks[task_id]
        try:
            args, kwargs = ast.literal_eval(task.args or "()"), ast.literal_eval(task.kwargs or "{}")
            if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict) or task.name is None:
                raise ValueError(task.args)
        except (ValueError, SyntaxError):
            raise ValueError(f"what it was called with is not known in full: {task.args} {task.kwargs}") from None
        sent: str = self.app.send_task(task.name, args, kwargs).id
        return sent

    def _hear(self) -> None:
        while not self._ended.is_set():
            try:
                self._receiver = self.app.events.Receiver(handlers={"*": self.hear})
                self._receiver.capture(limit=None)
            except OperationalError as exc:
                self.trouble = str(exc)
                self._ended.wait(_LOOK)

    def _look(self) -> None:
        ask_at = 0.0
        while not self._ended.is_set():
            try:
                self.look()
                self.trouble = None
                if time.monotonic() >= ask_at:
                    self.ask()
                    ask_at = time.monotonic() + _ASK
            except CeleryError as exc:
                self.trouble = str(exc)
            self._ended.wait(_LOOK)

    def _worker(self, worker: Any, now: float) -> WorkerRow:
        load = worker.loadavg
        return WorkerRow(
            worker.hostname,
            worker.alive,
            worker.active,
            self._slots.get(worker.hostname),
            worker.processed,
            f"{load[0]:.2f}" if load else "",
            now - worker.heartbeats[-1] if worker.heartbeats else None,
        )

    def _summary(self, by_state: Mapping[str, int], now: float) -> Summary:
        late = [each for each in list(self._moments) if now - each[0] <= _SPAN]
        counts = Counter(kind for _, kind, _ in late)
        runtimes = [runtime for _, _, runtime in late if runtime is not None]
        mean = sum(runtimes) / len(runtimes) if runtimes else None
        return Summary({kind: counts[kind] / _SPAN for kind in _COUNTED}, mean, dict(by_state))


def _task(task: Any, now: float) -> TaskRow:
    return TaskRow(
        task.uuid,
        task.state,
        task.name or "",
        f"{task.args or ''} {task.kwargs or ''}".strip(),
        task.worker.hostname if task.worker else "",
        task.runtime,
        now - (task.timestamp or now),
    )
