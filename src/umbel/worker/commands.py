"""What every worker can be asked: the built-in commands of remote control.

They run in the thread of the worker's desk. What they look up in the worker's core they ask the loop for
(`Worker.ask`), what they change they tell it (`Worker.post`).
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import signal as signals
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from umbel import states
from umbel._repr import safe_repr
from umbel._time import parse_rate
from umbel.brokers.base import Delivery
from umbel.exceptions import CeleryError, TaskRevokedError
from umbel.worker.control import CommandState, NoReply, Panel, control_command, inspect_command
from umbel.worker.facts import Adjusted, Autoscaled, Manner, QueuesChanged, Recycled, Revoked, Scaled, Terminated

__all__ = ["BUILT_IN", "is_stamped"]

_logger: Final = logging.getLogger("celery.worker.control")


def _ok(value: Any) -> dict[str, Any]:
    return {"ok": value}


def _no(value: Any) -> dict[str, Any]:
    return {"error": value}


# -- tasks


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(
    state: CommandState, task_id: Any, *, terminate: bool = False, signal: Any = None, **_: Any
) -> dict[str, Any]:
    """Forbid tasks to run, by id."""
    ids = [task_id] if isinstance(task_id, str) else [str(each) for each in task_id]
    state.revoke(ids)
    if not terminate:
        state.worker.post(Revoked(frozenset(ids)))
        shown = "{" + ", ".join(repr(each) for each in ids) + "}"
        _logger.info("Tasks flagged as revoked: %s", ", ".join(ids))
        _mark_revoked(state, ids)
        return _ok(f"tasks {shown} flagged as revoked")
    return _terminate(state, ids, signal)


@control_command(args=[("signal", str)], variadic="task_id", signature="<signal> [id1 [id2 [... [idN]]]]")
def terminate(state: CommandState, signal: Any, task_id: Any, **_: Any) -> dict[str, Any]:
    """Forbid tasks to run, by id, and end those that do."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: CommandState, headers: Any, *, terminate: bool = False, signal: Any = None, **_: Any
) -> dict[str, Any]:
    """Forbid tasks to run, by their stamps."""
    wanted = _stamps(headers)
    state.forbid_stamps(wanted)
    ids = state.worker.ask(
        lambda: [
            held.delivery.message.id
            for held in state.worker.core.held.values()
            if is_stamped(held.delivery, wanted) and (held.submitted or not terminate)
        ]
    )
    if not terminate:
        state.worker.post(Revoked(frozenset(ids)))
        return _ok(f"headers {headers} flagged as revoked, but not terminated")
    if not ids:
        return _ok(f"headers {headers} were not terminated")
    _terminate(state, ids, signal)
    return _ok(f"headers {headers} revoked")


@control_command(
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>"
)
def rate_limit(state: CommandState, task_name: str, rate_limit: Any, **_: Any) -> dict[str, Any]:
    """Change how many of a task may start in a second, minute or hour."""
    try:
        rate = parse_rate(rate_limit)
    except ValueError as exc:
        unit = str(rate_limit).rpartition("/")[2]
        return _no(repr(KeyError(unit)) if "/" in str(rate_limit) else repr(exc))
    if task_name not in state.app.tasks:
        return _no("unknown task")
    state.app.tasks[task_name].rate_limit = rate_limit or None
    _adjust(state, task_name, interval=1 / rate if rate > 0 else 0.0)
    if rate > 0:
        _logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
        return _ok("new rate limit set successfully")
    _logger.info("Rate limits disabled for tasks of type %s", task_name)
    return _ok("rate limit disabled successfully")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)], signature="<task_name> <soft_secs> [hard_secs]"
)
def time_limit(
    state: CommandState, task_name: str | None = None, hard: float | None = None, soft: float | None = None, **_: Any
) -> dict[str, Any]:
    """Change the time limits of a task."""
    if task_name not in state.app.tasks:
        return _no("unknown task")
    task = state.app.tasks[task_name]
    task.soft_time_limit, task.time_limit = soft, hard
    _adjust(state, task.name, soft_limit=soft, hard_limit=hard)
    _logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return _ok("time limits set successfully")


def _adjust(state: CommandState, task: str, **changes: Any) -> None:
    core = state.worker.core
    policy = state.worker.ask(lambda: core.adjusted.get(task) or core.policy(task))
    if policy is not None:
        state.worker.post(Adjusted(task, msgspec.structs.replace(policy, **changes)))


def _terminate(state: CommandState, ids: Sequence[str], signal: Any) -> dict[str, Any]:
    number = _signal_number(signal)
    running = state.worker.ask(lambda: [each for each in _held(state) if each.submitted])
    found = [held.delivery.message.id for held in running if held.delivery.message.id in set(ids)]
    state.worker.teller.will_terminate(found, number)
    state.worker.post(Terminated(frozenset(ids), number))
    if not found:
        _mark_revoked(state, ids)
        return _ok("terminate: tasks unknown")
    _logger.info("Terminating %s (%s)", ", ".join(found), signals.Signals(number).name)
    return _ok(f"terminate: {', '.join(found)}")


def _signal_number(signal: Any) -> int:
    if signal is None:
        return int(signals.SIGTERM)
    if isinstance(signal, int) or str(signal).isdigit():
        return int(signal)
    name = str(signal).upper()
    return int(signals.Signals[name if name.startswith("SIG") else f"SIG{name}"])


def _mark_revoked(state: CommandState, ids: Sequence[str]) -> None:
    """Let those who wait for these results know at once, unless a task runs or has ended (API-467)."""
    running = set(state.worker.ask(lambda: [each.delivery.message.id for each in _held(state) if each.submitted]))
    for task_id in ids:
        if task_id in running:
            continue
        try:
            if state.app.backend.get_state(task_id) in _NOT_BEGUN:
                state.app.backend.store_result(task_id, TaskRevokedError("revoked"), states.REVOKED)
        except (CeleryError, NotImplementedError) as exc:
            _logger.warning("cannot store that task %s is revoked: %s. It will not run all the same.", task_id, exc)
            return


_NOT_BEGUN: Final = frozenset({states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})


def _stamps(headers: Any) -> dict[str, list[Any]]:
    """Return names of stamps with the values that are forbidden."""
    if isinstance(headers, Mapping):
        pairs = list(headers.items())
    else:
        words = [headers] if isinstance(headers, str) else headers
        pairs = [word.partition("=")[::2] for word in words]
    return {str(name): list(value) if isinstance(value, (list, tuple, set)) else [value] for name, value in pairs}


def is_stamped(delivery: Delivery, forbidden: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether a task bears one of the *forbidden* stamps."""
    stamps = delivery.message.stamps
    for name, values in forbidden.items():
        if name in stamps:
            own = stamps[name]
            if any(value in values for value in (own if isinstance(own, (list, tuple)) else [own])):
                return True
    return False


# -- the worker


@inspect_command(default_timeout=0.2)
def ping(state: CommandState, **_: Any) -> dict[str, Any]:
    """Answer."""
    return _ok("pong")


@inspect_command
def clock(state: CommandState, **_: Any) -> dict[str, Any]:
    """Get the logical clock."""
    return {"clock": state.app.clock.value}


@inspect_command(visible=False)
def hello(state: CommandState, from_node: str, revoked: Any = None, **_: Any) -> Any:
    """Meet a worker that starts."""
    if from_node == state.hostname:
        raise NoReply
    _logger.info("sync with %s", from_node)
    if revoked:
        state.revoke([str(each) for each in revoked])
    return {"revoked": list(state.broker.revoked()), "clock": state.app.clock.forward()}


@control_command
def heartbeat(state: CommandState, **_: Any) -> None:
    """Have workers say that they live, now."""
    state.beat()


@control_command
def enable_events(state: CommandState, **_: Any) -> dict[str, Any]:
    """Have workers tell of tasks."""
    return _ok("task events enabled" if state.worker.tell_of_tasks(True) else "task events already enabled")


@control_command
def disable_events(state: CommandState, **_: Any) -> dict[str, Any]:
    """Have workers tell of tasks no more."""
    return _ok("task events disabled" if state.worker.tell_of_tasks(False) else "task events already disabled")


@control_command
def election(state: CommandState, id: str, topic: str, action: Any = None, **_: Any) -> None:
    """Have one worker do something."""
    if topic == "task" and action is not None:
        state.elect(id, action)


@control_command
def shutdown(state: CommandState, msg: str = "Got shutdown from remote", **_: Any) -> None:
    """Stop workers once their tasks have ended."""
    _logger.warning("%s", msg)
    state.worker.stop(Manner.WARM)
    raise NoReply


# -- the pool


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: CommandState, n: int = 1, **_: Any) -> dict[str, Any]:
    """Give workers more slots."""
    return _resize(state, n, "pool will grow")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: CommandState, n: int = 1, **_: Any) -> dict[str, Any]:
    """Take slots from workers."""
    return _resize(state, -n, "pool will shrink")


def _resize(state: CommandState, by: int, text: str) -> dict[str, Any]:
    slots, scale = state.worker.ask(lambda: (state.worker.core.slots, state.worker.core.scale))
    if scale is not None:
        return _no("the pool scales by itself: change its bounds with the command autoscale")
    state.worker.post(Scaled(slots + by))
    return _ok(text)


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: CommandState, max: int | None = None, min: int | None = None, **_: Any) -> dict[str, Any]:
    """Change between how many slots workers scale by themselves."""
    scale = state.worker.ask(lambda: state.worker.core.scale)
    if scale is None:
        raise ValueError("Autoscale not enabled")
    most, least = scale[0] if max is None else max, scale[1] if min is None else min
    state.worker.post(Autoscaled(most, least))
    return _ok(f"autoscale now max={most} min={least}")


@control_command
def pool_restart(state: CommandState, modules: Any = None, **_: Any) -> dict[str, Any]:
    """Replace the processes of the pool."""
    if not state.app.conf.worker_pool_restarts:
        raise ValueError("Pool restarts not enabled")
    state.worker.post(Recycled())
    return _ok("reload started")


# -- queues


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(
    state: CommandState,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Have workers consume another queue."""
    queues = state.app.amqp.queues
    given = {"exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key}
    state.worker.ask(lambda: queues.select_add(queue, **{k: v for k, v in given.items() if v}))
    state.worker.post(QueuesChanged())
    return _ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: CommandState, queue: str, **_: Any) -> dict[str, Any]:
    """Have workers consume a queue no more."""
    state.worker.ask(lambda: state.app.amqp.queues.deselect(queue))
    state.worker.post(QueuesChanged())
    return _ok(f"no longer consuming from {queue}")


@inspect_command
def active_queues(state: CommandState, **_: Any) -> list[dict[str, Any]]:
    """List the queues that workers consume."""
    return [queue.as_dict() for queue in state.app.amqp.queues.consume_from.values()]


# -- what there is


@inspect_command(alias="dump_active")
def active(state: CommandState, *, safe: bool = False, **_: Any) -> list[dict[str, Any]]:
    """List the tasks that run."""
    return [_request(state, each, pid, safe=safe) for each, pid in _deliveries(state) if pid is not None]


@inspect_command(alias="dump_reserved")
def reserved(state: CommandState, **_: Any) -> list[dict[str, Any]]:
    """List the tasks that are held and have not begun, without those held for their time."""
    return [_request(state, each, pid) for each, pid in _deliveries(state) if pid is None and not _is_later(each)]


@inspect_command(alias="dump_schedule")
def scheduled(state: CommandState, **_: Any) -> list[dict[str, Any]]:
    """List the tasks that are held for their time."""
    return [
        {"eta": each.delivery.message.eta.isoformat(), "priority": 6, "request": _request(state, each, None)}
        for each, _ in _deliveries(state)
        if _is_later(each)
    ]


@inspect_command(alias="dump_revoked")
def revoked(state: CommandState, **_: Any) -> list[str]:
    """List the ids of revoked tasks."""
    return sorted(state.broker.revoked())


@inspect_command(alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]")
def registered(
    state: CommandState, taskinfoitems: Sequence[str] | None = None, *, builtins: bool = False, **_: Any
) -> list[str]:
    """List the tasks by name."""
    attributes = taskinfoitems or ("exchange", "routing_key", "rate_limit")
    lines = []
    for name in sorted(state.app.tasks):
        if builtins or not name.startswith("celery."):
            task = state.app.tasks[name]
            told = {item: value for item in attributes if (value := getattr(task, item, None)) is not None}
            shown = " ".join(f"{item}={value}" for item, value in told.items())
            lines.append(f"{name} [{shown}]" if shown else name)
    return lines


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: CommandState, ids: Any, **_: Any) -> dict[str, Any]:
    """Tell what is known of tasks, by id."""
    wanted = {ids} if isinstance(ids, str) else set(ids)
    found: dict[str, Any] = {}
    for each, pid in _deliveries(state):
        task_id = each.delivery.message.id
        if task_id in wanted:
            what = "active" if pid is not None else "scheduled" if _is_later(each) else "reserved"
            found[task_id] = [what, _request(state, each, pid)]
    return found


@inspect_command
def stats(state: CommandState, **_: Any) -> dict[str, Any]:
    """Tell what workers have done, and what they are made of."""
    worker, core = state.worker, state.worker.core
    pool, held, scale = worker.ask(lambda: (worker.pool.info(), len(core.held), core.scale))
    told: dict[str, Any] = {
        "total": dict(worker.ledger.received),
        "pid": os.getpid(),
        "clock": str(state.app.clock.value),
        "uptime": round(time.monotonic() - worker.began),
        "pool": {
            "implementation": f"umbel.pools:{pool.pop('kind')}",
            "max-concurrency": pool.pop("slots"),
            "processes": pool.pop("processes"),
            "max-tasks-per-child": pool.pop("max_jobs_per_child") or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [worker.soft_time_limit or 0, worker.time_limit or 0],
            **{name: value for name, value in pool.items() if name != "jobs"},
        },
        "broker": state.app.connection_for_read().info(),
        "prefetch_count": held,
        "rusage": worker.rusage(),
    }
    if scale is not None:
        told["autoscaler"] = {"current": core.slots, "max": scale[0], "min": scale[1], "qty": len(core.held)}
    return told


def _said(word: str) -> bool:
    return word.lower() in {"1", "true", "yes", "on"}


@inspect_command(alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", _said)])
def conf(state: CommandState, *, with_defaults: bool = False, **_: Any) -> dict[str, Any]:
    """List settings."""
    return {name: _plain(value) for name, value in state.app.conf.table(with_defaults).items()}


@inspect_command
def report(state: CommandState, **_: Any) -> dict[str, Any]:
    """Tell what bug reports need."""
    return _ok(state.app.bugreport())


@inspect_command
def memsample(state: CommandState, **_: Any) -> str | None:
    """Measure the memory of the worker's parent."""
    state.samples.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return f"{state.samples[-1] / 1024:.2f}MB"


@inspect_command(args=[("samples", int)], signature="[n_samples=10]")
def memdump(state: CommandState, samples: int = 10, **_: Any) -> list[str]:
    """List what memsample has measured."""
    return [f"{sample / 1024:.2f}MB" for sample in list(state.samples)[-samples:]]


@inspect_command(
    args=[("type", str), ("num", int), ("max_depth", int)],
    signature="[object_type=Request] [num=200 [max_depth=10]]",
)
def objgraph(
    state: CommandState, num: int = 200, max_depth: int = 10, type: str = "Request", **_: Any
) -> dict[str, Any]:
    """Draw a graph of objects, to find what is never freed."""
    try:
        drawer = importlib.import_module("objgraph")
    except ImportError:
        raise ImportError("this needs the package objgraph: pip install objgraph") from None
    filename = f"{tempfile.gettempdir()}/cg-{os.getpid()}-{time.time_ns()}.dot"
    drawer.show_backrefs(drawer.by_type(type)[:num], max_depth=max_depth, highlight=None, filename=filename)
    return {"filename": filename}


def _held(state: CommandState) -> list[Any]:
    return list(state.worker.core.held.values())


def _is_later(held: Any) -> bool:
    eta = held.delivery.message.eta
    return not held.submitted and eta is not None and eta.timestamp() > time.time()


def _deliveries(state: CommandState) -> list[tuple[Any, int | None]]:
    """Return what the worker holds, oldest first, and the process it runs in; None = it has not begun."""
    core, pool = state.worker.core, state.worker.pool

    def look() -> list[tuple[Any, int | None]]:
        jobs = pool.info().get("jobs", {})
        return [(held, jobs.get(tag) if held.submitted else None) for tag, held in core.held.items()]

    found: list[tuple[Any, int | None]] = state.worker.ask(look)
    return found


def _request(state: CommandState, held: Any, pid: int | None, *, safe: bool = False) -> dict[str, Any]:
    delivery = held.delivery
    message = delivery.message
    args: Any = message.argsrepr
    kwargs: Any = message.kwargsrepr
    if not safe and message.content_type == "application/json":
        try:
            args, kwargs, _ = state.app.coder.read(message)
        except CeleryError:
            pass  # the worker will say so when it runs it
    return {
        "id": message.id,
        "name": message.task,
        "args": args,
        "kwargs": kwargs,
        "type": message.task,
        "hostname": state.hostname,
        "time_start": None if pid is None else time.time() - (time.monotonic() - held.since),
        "acknowledged": held.lease is None,
        "delivery_info": {
            "exchange": delivery.route.exchange,
            "routing_key": delivery.route.routing_key,
            "priority": message.priority or 0,
            "redelivered": delivery.redelivered,
        },
        "worker_pid": pid,
    }


def _plain(value: Any) -> Any:
    """Return *value* as JSON can hold it."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    return safe_repr(value)


BUILT_IN: Final = frozenset(Panel.meta)
"""The names of the commands that every worker knows."""
