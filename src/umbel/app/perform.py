"""Run deliveries in the process they were handed to: what a pool's children do with an app."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from umbel import current, signals
from umbel._time import as_seconds
from umbel.app.task import Task
from umbel.brokers.base import Delivery
from umbel.exceptions import (
    InvalidTaskError,
    NotRegistered,
    Retry,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from umbel.execution.execute import aexecute, conclude, execute
from umbel.execution.fire import fire
from umbel.execution.outcome import Outcome
from umbel.execution.plan import Environment, TaskPlan, plan_task
from umbel.execution.record import make_record
from umbel.execution.request import Request
from umbel.pools.base import ChildInfo
from umbel.states import FAILURE, STARTED
from umbel.wire.chord import ReadyChord
from umbel.wire.record import Record

__all__ = ["Plans", "TaskRunner"]


class Plans:
    """What running each task of an app needs, read once for each."""

    def __init__(self, app: Any, hostname: str, prepare: Any = None, chords: Any = None) -> None:
        """Take the node name *hostname*, which requests and results show.

        *prepare* makes the messages of follow-ups, *chords* says how they are counted; None = as the app does.
        """
        conf, loader = app.conf, app.loader
        self._app = app
        self._tasks = app.tasks
        self._known: dict[str, TaskPlan] = {}
        coder = app.coder
        self.env = Environment(
            hostname=hostname,
            read=coder.read_to_run,
            write=coder.write,
            prepare=prepare or app.prepare,
            expand=app.expand,
            chords=chords or app.chords,
            find_task=app.tasks.get,
            result_expires=as_seconds(conf.result_expires) or None,
            failure_expires=as_seconds(conf.result_failure_expires),
            extended=conf.result_extended,
            inherit_priority=conf.task_inherit_parent_priority,
            on_task_begin=_own(loader, "on_task_init"),
            on_task_end=_own(loader, "on_process_cleanup"),
        )

    def find(self, name: str) -> TaskPlan | None:
        """Return the plan of the task *name*; None = not registered."""
        plan = self._known.get(name)
        if plan is None:
            task = self._tasks.get(name)
            if task is None:
                return None
            plan = self._known[name] = plan_task(task, self.env, base=Task)
        return plan

    def conclude(
        self, delivery: Delivery, why: str, evidence: str, aside: Callable[[Callable[[], object]], None] | None = None
    ) -> Outcome:
        """Return the outcome of a delivery that no user code will report; *why* is a value of `worker.orders.Why`.

        What users want done about it is done at once, or given to *aside*.
        """
        if not delivery.message.id:  # so damaged that nobody can be told; the dead-letter set keeps it
            return Outcome(state=FAILURE, reason=evidence or delivery.invalid or why)
        exc = _CONCLUSIONS[why](delivery, evidence)
        plan = self.find(delivery.message.task)
        retries = why == "worker-lost" and plan is not None and self._retries_lost(plan.task)
        return conclude(self.env, plan, delivery, exc, reason=evidence, retries=retries, aside=aside)

    def _retries_lost(self, task: Any) -> bool:
        own = getattr(task, "retry_on_worker_lost", None)
        return bool(self._app.conf.task_retry_on_worker_lost if own is None else own)

    def fire(self, ready: ReadyChord, aside: Callable[[Callable[[], object]], None] | None = None) -> Outcome:
        """Return what a chord comes to that is complete; *aside* as for `conclude`."""
        return fire(self.env, ready, aside)

    def started(self, delivery: Delivery, pid: int, hostname: str) -> Record | None:
        """Return the record that says a task has begun in process *pid* of *hostname*; None when it wants none."""
        plan = self.find(delivery.message.task)
        if plan is None or not plan.task.track_started or delivery.message.ignore_result:
            return None
        request = Request.of_delivery(delivery, (), {}, {}, hostname=hostname)
        return make_record(self.env, request, STARTED, {"pid": pid, "hostname": hostname})


class TaskRunner:
    """What a pool runs jobs with: a job is a delivery, its report an outcome."""

    payload_type = Delivery
    report_type = Outcome

    def __init__(self, app: Any, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._plans: Plans | None = None
        self._shared = app.chords, app.sender  # made here, before a fork: each child would import their modules anew

    def enter(self, child: ChildInfo) -> None:
        current.set_current_app(self._app)
        self._app.finalize()
        self._plans = Plans(self._app, self._hostname)
        self._app.loader.on_worker_process_init()
        signals.worker_process_init.send(sender=self._hostname)

    def perform(self, payload: Delivery) -> Outcome:
        plan = self._find(payload)
        return execute(plan, payload) if isinstance(plan, TaskPlan) else plan

    async def aperform(self, payload: Delivery) -> Outcome:
        plan = self._find(payload)
        return await aexecute(plan, payload) if isinstance(plan, TaskPlan) else plan

    def leave(self, exitcode: int) -> None:
        signals.worker_process_shutdown.send(sender=self._hostname, pid=os.getpid(), exitcode=exitcode)

    def _find(self, delivery: Delivery) -> TaskPlan | Outcome:
        assert self._plans is not None, "a pool calls enter() first"
        plan = self._plans.find(delivery.message.task)
        return self._plans.conclude(delivery, "unknown-task", "") if plan is None else plan


_CONCLUSIONS: Final[dict[str, Callable[[Delivery, str], BaseException]]] = {
    "invalid": lambda delivery, evidence: InvalidTaskError(evidence or delivery.invalid),
    "unknown-task": lambda delivery, _: NotRegistered(delivery.message.task),
    "revoked": lambda *_: TaskRevokedError("revoked"),
    "expired": lambda *_: TaskRevokedError("expired"),
    "terminated": lambda *_: TaskRevokedError("terminated"),
    "crashed": lambda _, evidence: WorkerLostError(evidence),
    "cancelled": lambda *_: Retry("cancelled: the worker was stopped"),
    "worker-lost": lambda _, evidence: WorkerLostError(evidence),
    "time-limit": lambda delivery, _: TimeLimitExceeded(delivery.message.hard_limit),
}


def _own(loader: Any, hook: str) -> Any:
    """Return a loader's *hook* if it does anything."""
    from_us = getattr(getattr(type(loader), hook, None), "__module__", "").startswith("umbel.")
    return None if from_us else getattr(loader, hook, None)
