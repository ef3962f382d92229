"""Add events up to a picture of the cluster: its workers, and the tasks of late."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, ClassVar, Final, Generic, TypeVar

from umbel import states
from umbel.states import precedence

__all__ = ["TASK_EVENT_TO_STATE", "State", "Task", "Worker", "heartbeat_expires"]

_logger: Final = logging.getLogger("celery.events.state")

HEARTBEAT_EXPIRE_WINDOW: Final = 200  # per cent of the interval between heartbeats until a worker counts as gone
HEARTBEAT_DRIFT_MAX: Final = 16  # seconds that a worker's clock may differ from ours unremarked
TASK_EVENT_TO_STATE: Final[dict[str, str]] = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}

_HEARTBEATS: Final = 4  # kept of each worker
_COMPLAINTS: Final = 100  # nodes whose clocks are complained of, at the most

K = TypeVar("K")
V = TypeVar("V")


def heartbeat_expires(timestamp: float, freq: float = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW) -> float:
    """Return when a worker counts as gone, whose heartbeat of *timestamp* comes every *freq* seconds."""
    return timestamp + float(freq or 60) * expire_window / 100


class Worker:
    """What is known of one node."""

    _fields: ClassVar = (
        "hostname", "pid", "freq", "heartbeats", "clock", "active", "processed", "loadavg", "sw_ident", "sw_ver",
        "sw_sys",
    )  # fmt: skip
    heartbeat_max = _HEARTBEATS
    expire_window = HEARTBEAT_EXPIRE_WINDOW

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: Iterable[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq  # seconds between heartbeats
        self.heartbeats = list(heartbeats or ())  # when we heard the last ones, unix seconds
        self.clock = clock or 0
        self.active = active  # tasks that run
        self.processed = processed  # tasks that came to an end since it started
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys

    def event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Learn from an event; *type_* is ``online``, ``offline``, ``heartbeat``, or None for one of its tasks."""
        for name, value in (fields or {}).items():
            setattr(self, name, value)
        if type_ == "offline":
            self.heartbeats.clear()
            return
        heard = local_received or timestamp
        if heard and (not self.heartbeats or heard > self.heartbeats[-1]):
            self.heartbeats.append(heard)
            del self.heartbeats[: -self.heartbeat_max]

    def update(self, f: Mapping[str, Any] = {}, **kw: Any) -> None:
        """Set attributes."""
        for name, value in {**f, **kw}.items():
            setattr(self, name, value)

    @property
    def heartbeat_expires(self) -> float:
        """When it counts as gone, in unix seconds."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window) if self.heartbeats else 0.0

    @property
    def alive(self) -> bool:
        """Whether it was heard of late."""
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def status_string(self) -> str:
        """``ONLINE`` or ``OFFLINE``."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        """Its name and its process."""
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, Worker) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string} clock:{self.clock})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._fields)


class Task:
    """What is known of one task; for each event there is the time of it, such as `received`."""

    name: str | None = None
    received: float | None = None
    sent: float | None = None
    started: float | None = None
    succeeded: float | None = None
    failed: float | None = None
    retried: float | None = None
    revoked: float | None = None
    rejected: float | None = None
    args: str | None = None
    kwargs: str | None = None
    eta: str | None = None
    expires: str | None = None
    retries: int | None = None
    worker: Worker | None = None
    result: str | None = None
    exception: str | None = None
    timestamp: float | None = None
    runtime: float | None = None
    traceback: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    client: str | None = None  # who sent it
    state: str = states.PENDING
    clock: int = 0

    _fields: ClassVar = (
        "uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried",
        "revoked", "args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception", "timestamp",
        "runtime", "traceback", "exchange", "routing_key", "clock", "client", "root", "root_id", "parent",
        "parent_id", "children",
    )  # fmt: skip
    _info_fields: ClassVar = (
        "args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange", "routing_key",
        "root_id", "parent_id",
    )  # fmt: skip
    # An event that comes late tells what the task is, not how it is.
    merge_rules: ClassVar = {
        states.RECEIVED: ("name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires")
    }

    def __init__(
        self,
        uuid: str | None = None,
        cluster_state: State | None = None,
        children: Iterable[Any] | None = None,
        **fields: Any,
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children: set[Task] = {known[child] for child in children or () if child in known}
        for name, value in fields.items():
            if name not in _TOLD_BY_OTHERS:
                setattr(self, name, value)

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Learn from the event ``task-<type_>``."""
        said = dict(fields or {})
        state = TASK_EVENT_TO_STATE.get(type_, type_.upper())
        if type_ in TASK_EVENT_TO_STATE:
            setattr(self, type_, timestamp)
        is_late = states.RETRY not in {state, self.state} and precedence(state) > precedence(self.state)
        if is_late:
            keep = self.merge_rules.get(state)
            if keep is not None:
                said = {name: value for name, value in said.items() if name in keep}
        else:
            said |= {"state": state, "timestamp": timestamp}
        for name, value in said.items():
            setattr(self, name, value)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] | None = None) -> dict[str, Any]:
        """Return *fields* (None = those worth showing) and *extra* ones, of which something is known."""
        names = [*(self._info_fields if fields is None else fields), *(extra or ())]
        found = ((name, getattr(self, name, None)) for name in names)
        return {name: value for name, value in found if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return all that is known; other tasks by their ids."""
        return {name: getattr(self, name) if name not in _BY_ID else _id_of(self, name) for name in self._fields}

    @property
    def id(self) -> str | None:
        """Its id, under the name it has elsewhere."""
        return self.uuid

    @property
    def origin(self) -> str | None:
        """Who said so: the client until a worker has it."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether it will not change any more."""
        return self.state in states.READY_STATES

    @property
    def parent(self) -> Task | None:
        """The task that sent it, if it is known."""
        return self._other(self.parent_id)

    @property
    def root(self) -> Task | None:
        """The first task of its work-flow, if it is known."""
        return self._other(self.root_id)

    def _other(self, uuid: str | None) -> Task | None:
        if not uuid or self.cluster_state is None:
            return None
        other: Task | None = self.cluster_state.tasks.get(uuid)
        return other

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored_task, (type(self), self.as_dict())


_TOLD_BY_OTHERS: Final = frozenset({"parent", "root", "children"})
_BY_ID: Final = _TOLD_BY_OTHERS


def _id_of(task: Task, name: str) -> Any:
    if name == "children":
        return [child.uuid for child in task.children]
    other = getattr(task, name)
    return None if other is None else other.uuid


def _restored_task(cls: type[Task], fields: dict[str, Any]) -> Task:
    return cls(**fields)


class _Recent(OrderedDict[K, V], Generic[K, V]):
    """A dict of at most *limit* entries; the one that was set first goes first."""

    def __init__(self, limit: int | None = None, items: Any = ()) -> None:
        self.limit = limit
        super().__init__(items)

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if self.limit:
            while len(self) > self.limit:
                self.popitem(last=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit, list(self.items()))


class State:
    """A cluster as its events tell of it. May be used in several threads."""

    Worker: Any = Worker
    Task: Any = Task
    app: Any = None
    event_count = 0  # events learnt from
    task_count = 0  # tasks received
    heap_multiplier = 4

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], object] | None = None,
        workers: Mapping[str, Any] | None = None,
        tasks: Mapping[str, Any] | None = None,
        taskheap: Any = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10_000,
        on_node_join: Callable[[Any], object] | None = None,
        on_node_leave: Callable[[Any], object] | None = None,
        tasks_by_type: Any = None,
        tasks_by_worker: Any = None,
    ) -> None:
        """Keep the last *max_workers_in_memory* and *max_tasks_in_memory*.

        *callback* is told each event before it is learnt from, *on_node_join* and *on_node_leave* each worker. What
        comes from another state may be given as *workers* and *tasks*; the rest follows from these.
        """
        self.event_callback = callback
        self.workers: Any = _Recent(max_workers_in_memory, workers or {})
        self.tasks: Any = _Recent(max_tasks_in_memory, tasks or {})
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        self.handlers: dict[str, Callable[..., Any]] = {}
        self._drifted: set[str] = set()  # nodes whose clocks were complained of
        self._mutex = threading.RLock()
        self._types: set[str] = {task.name for task in self.tasks.values() if task.name}

    # -- learning

    def event(self, event: dict[str, Any]) -> Any:
        """Learn from *event*; return ((worker or task, whether it is new), what happened to it)."""
        with self._mutex:
            return self._event(event)

    def task_event(self, type_: str, fields: dict[str, Any]) -> Any:
        """Learn from the event ``task-<type_>``."""
        return self._event({**fields, "type": f"task-{type_}"})[0]

    def worker_event(self, type_: str, fields: dict[str, Any]) -> Any:
        """Learn from the event ``worker-<type_>``."""
        return self._event({**fields, "type": f"worker-{type_}"})[0]

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback is not None:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        if group in self.handlers:
            return self.handlers[group](subject, event), subject
        if group == "worker":
            return self._worker_event(subject, event), subject
        if group == "task":
            return self._task_event(subject, event), subject
        return None

    def _worker_event(self, subject: str, event: dict[str, Any]) -> tuple[Any, bool]:
        hostname = event["hostname"]
        fields = {name: event[name] for name in Worker._fields if name in event}
        if subject == "offline":
            worker, is_new = self.workers.pop(hostname, None), False
            if worker is None:
                worker, is_new = self.Worker(hostname), True
        else:
            worker, is_new = self.get_or_create_worker(hostname)
        timestamp, received = event.get("timestamp"), event.get("local_received")
        worker.event(subject, timestamp, received, fields)
        if timestamp and received and abs(received - timestamp) > HEARTBEAT_DRIFT_MAX:
            self._warn_of_drift(hostname, received, timestamp)
        if is_new and subject != "offline" and self.on_node_join is not None:
            self.on_node_join(worker)
        if subject == "offline":
            if self.on_node_leave is not None:
                self.on_node_leave(worker)
            self.workers[hostname] = worker
        return worker, is_new

    def _task_event(self, subject: str, event: dict[str, Any]) -> tuple[Any, bool]:
        hostname, timestamp, received = event.get("hostname"), event.get("timestamp"), event.get("local_received")
        task, is_new = self.get_or_create_task(event["uuid"])
        if subject == "sent":
            task.client = hostname
        elif hostname is not None:
            worker, _ = self.get_or_create_worker(hostname)
            task.worker = worker
            if received:
                worker.event(None, timestamp, received)
        if subject == "received":
            self.task_count += 1
        said = {name: value for name, value in event.items() if name not in _NOT_OF_THE_TASK}
        task.event(subject, timestamp, received, said)
        if task.name:
            self._types.add(task.name)
        if task.parent_id and (parent := self.tasks.get(task.parent_id)) is not None:
            parent.children.add(task)
        return task, is_new

    def _warn_of_drift(self, hostname: str, received: float, timestamp: float) -> None:
        if hostname in self._drifted or len(self._drifted) >= _COMPLAINTS:
            return
        self._drifted.add(hostname)
        here, there = (datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") for at in (received, timestamp))
        _logger.warning(
            "Substantial drift from %s may mean clocks are out of sync. Current drift is %d seconds. "
            "[orig: %s recv: %s] Let both machines keep time by NTP.",
            hostname,
            abs(received - timestamp),
            there,
            here,
        )

    # -- looking

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[Any, bool]:
        """Return the worker of that name, and whether it was made now."""
        worker = self.workers.get(hostname)
        if worker is not None:
            worker.update(kwargs)
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname, **kwargs)
        return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[Any, bool]:
        """Return the task of that id, and whether it was made now."""
        task = self.tasks.get(uuid)
        if task is not None:
            return task, False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, Any]]:
        """Yield the first *limit* tasks with their ids, as they became known."""
        return islice(iter(list(self.tasks.items())), limit)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, Any]]:
        """Yield tasks with their ids, by clock and time; the newest first."""
        return islice(((task.uuid, task) for task in self._sorted(reverse)), limit)

    tasks_by_timestamp = tasks_by_time

    def tasks_by_type(self, name: str, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, Any]]:
        """Yield the tasks called *name* with their ids, the newest first."""
        return islice(((task.uuid, task) for task in self._sorted(reverse) if task.name == name), limit)

    def tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, Any]]:
        """Yield the tasks of a worker with their ids, the newest first."""
        return islice(
            ((task.uuid, task) for task in self._sorted(reverse) if task.worker and task.worker.hostname == hostname),
            limit,
        )

    def task_types(self) -> list[str]:
        """Return the names of all tasks that were seen, sorted."""
        return sorted(self._types)

    def alive_workers(self) -> Iterator[Any]:
        """Yield the workers that were heard of late."""
        return (worker for worker in list(self.workers.values()) if worker.alive)

    def _sorted(self, reverse: bool) -> list[Any]:
        return sorted(self.tasks.values(), key=_moment, reverse=reverse)

    # -- forgetting

    def freeze_while(self, fun: Callable[..., V], *args: Any, **kwargs: Any) -> V:
        """Return *fun(...)*, during which nothing changes; with ``clear_after=True`` forget what is over, then."""
        clear_after = kwargs.pop("clear_after", False)
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget all tasks that are over, or (*ready* false) all."""
        with self._mutex:
            self._clear_tasks(ready)

    def clear(self, ready: bool = True) -> None:
        """Forget the workers and what was counted, and tasks as `clear_tasks` does."""
        with self._mutex:
            self._clear(ready)

    def _clear_tasks(self, ready: bool = True) -> None:
        gone = [uuid for uuid, task in self.tasks.items() if not ready or task.ready]
        for uuid in gone:
            del self.tasks[uuid]

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = self.task_count = 0

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            type(self),
            (
                self.event_callback,
                dict(self.workers),
                dict(self.tasks),
                None,
                self.max_workers_in_memory,
                self.max_tasks_in_memory,
                self.on_node_join,
                self.on_node_leave,
            ),
        )


_NOT_OF_THE_TASK: Final = frozenset({"type", "hostname", "timestamp", "local_received", "utcoffset", "pid", "uuid"})


def _moment(task: Any) -> tuple[int, float]:
    return task.clock or 0, task.timestamp or 0.0
