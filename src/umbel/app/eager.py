"""Run tasks where they are called, as a worker would run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from umbel import current, states
from umbel._names import gethostname
from umbel.app.chords import EagerChords
from umbel.app.perform import Plans
from umbel.brokers.base import Delivery, Publication
from umbel.brokers.memory_chords import ChordCounts
from umbel.execution.execute import execute_request
from umbel.execution.outcome import Outcome
from umbel.execution.request import Request
from umbel.result import EagerResult

__all__ = ["apply", "apply_async"]


def apply(
    app: Any,
    task: Any,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    throw: bool | None = None,
    logfile: str | None = None,
    loglevel: int | None = None,
    counts: ChordCounts | None = None,
) -> EagerResult[Any]:
    """Run *task* until it succeeds, fails, or has no retry left; return its result.

    *counts* are the chords under way around it.

    Raises:
        Exception: the task's own, if *throw* (None = setting ``task_eager_propagates``).
    """
    eager = app.conf.task_always_eager
    plans = Plans(app, gethostname(), partial(_follow_up, app), EagerChords(app) if eager else None)
    plan = plans.find(task.name)
    if plan is None:
        raise app.tasks.NotRegistered(task.name)
    while True:
        message, route, (args, kwargs, embed) = app.amqp.publisher.compose(task.name, args, kwargs, options, task=task)
        request = Request.of_delivery(
            Delivery(message=message, queue="", route=route, tag=0, token=0),
            args,
            kwargs,
            embed,
            hostname=plans.env.hostname,
        )
        request.is_eager = True
        request.delivery_info = {
            "is_eager": True,
            "exchange": route.exchange,
            "routing_key": route.routing_key,
            "priority": message.priority,
            "redelivered": False,
        }
        request.logfile = logfile
        request.loglevel = loglevel
        ended = execute_request(plan, request)
        if ended.outcome.state != states.RETRY:
            break
        again = ended.retval.sig
        args, kwargs, options = again.args, again.kwargs, _without_delay(again.options)
    _settle(app, plans, ended.outcome, counts or ChordCounts())
    if throw is None:
        throw = app.conf.task_eager_propagates
    if throw and ended.outcome.state in states.PROPAGATE_STATES:
        raise ended.retval
    return EagerResult(
        message.id,
        ended.retval,
        ended.outcome.state,
        traceback=ended.einfo.traceback if ended.einfo is not None else None,
        name=task.name,
        children=request.__dict__.get("children", ()),
    )


def apply_async(
    app: Any, task: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> EagerResult[Any]:
    """Run *task* instead of sending it; what it gets has gone through the serializer, as it would have."""
    publication = app.amqp.publisher.prepare(task.name, args, kwargs, options, task=task, announce=False)
    args, kwargs, _ = app.coder.read(publication.message)
    with current.joining(allowed=False):
        return apply(app, task, args, kwargs, {**options, "task_id": publication.message.id})


def _follow_up(app: Any, name: str, args: Any, kwargs: Any, options: Any) -> Publication:
    """Return the message of a follow-up, which `_settle` runs here or sends."""
    announce = not app.conf.task_always_eager
    return app.amqp.publisher.prepare(  # type: ignore[no-any-return]  # an app
        name, args, kwargs, options, task=app.tasks.get(name), announce=announce
    )


def _settle(app: Any, plans: Plans, outcome: Outcome, counts: ChordCounts) -> None:
    """Do what a worker's parent would do with the outcome."""
    if app.conf.task_always_eager:
        counts.open(outcome.sizes, 0.0)
        for publication in outcome.follow_ups:
            _run(app, publication, counts)
        for ready in counts.count(outcome.parts, 0.0):
            _settle(app, plans, plans.fire(ready), counts)
    else:
        if outcome.sizes:
            app.backend.open_chords(outcome.sizes)
        if outcome.follow_ups:
            app.publish(outcome.follow_ups)
    if outcome.records:
        app.backend.keep(outcome.records)


def _run(app: Any, publication: Publication, counts: ChordCounts) -> None:
    """Run a follow-up here."""
    message = publication.message
    args, kwargs, embed = app.coder.read(message)
    options = {
        "task_id": message.id,
        "root_id": message.root_id,
        "parent_id": message.parent_id,
        "group_id": message.group,
        "group_index": message.group_index,
        "headers": message.headers,
        "link": embed.get("callbacks"),
        "link_error": embed.get("errbacks"),
        "chain": embed.get("chain"),
        "chord": embed.get("chord"),
        "retries": message.retries,
        "ignore_result": message.ignore_result,
    }
    apply(app, app.tasks[message.task], args, kwargs, options, throw=False, counts=counts)


def _without_delay(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in {"countdown", "eta"}}
