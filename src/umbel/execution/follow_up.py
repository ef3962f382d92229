"""Say what follows from an outcome: which messages go out, and which other tasks are thereby over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from umbel.brokers.base import Publication
from umbel.canvas.ids import ids_of
from umbel.execution.plan import Environment
from umbel.execution.record import make_record
from umbel.execution.request import Request
from umbel.states import FAILURE
from umbel.wire.record import Record

__all__ = ["AfterFailure", "AfterSuccess", "after_failure", "after_success"]

_Signature = Mapping[str, Any]  # the dict form, as it travels (PRT-033)


class AfterSuccess(msgspec.Struct, frozen=True, gc=False):
    """What a success sends on its way."""

    publications: tuple[Publication, ...] = ()
    children: tuple[Any, ...] = ()  # result tuples of what is sent


class AfterFailure(msgspec.Struct, frozen=True):
    """What a failure sends on its way and takes with it."""

    publications: tuple[Publication, ...] = ()
    records: tuple[Record, ...] = ()  # the links of the chain that will never run
    calls: tuple[tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], ...] = ()  # errbacks to call here


def after_success(env: Environment, request: Request, value: Any) -> AfterSuccess:
    """Return what is sent because *request* succeeded with *value*: its callbacks, then the next link of its chain.

    One callback goes alone; of several, groups go one by one and the others as one group (PRT-066 to PRT-068).

    Raises:
        Exception: whatever `Environment.prepare` raises; then nothing is sent and the task has failed (API-187).
    """
    callbacks: Sequence[_Signature] = request.callbacks or ()
    chain: Sequence[_Signature] = request.chain or ()
    if len(callbacks) > 1:
        groups = [callback for callback in callbacks if callback["subtask_type"] == "group"]
        others = [callback for callback in callbacks if callback["subtask_type"] != "group"]
        callbacks = [*groups, _as_group(others)] if others else groups
    options = _inherited(env, request)
    sent = [_send(env, callback, (value,), options) for callback in callbacks]
    if chain:
        sent.append(_send(env, chain[-1], (value,), {**options, "chain": chain[:-1]}))
    return AfterSuccess(
        tuple(publication for publications, _ in sent for publication in publications),
        tuple(child for _, child in sent),
    )


def after_failure(
    env: Environment, request: Request, exc: BaseException, traceback: str | None, *, store: bool
) -> AfterFailure:
    """Return what is sent because *request* failed with *exc*, and with *store* the records of what fails with it.

    An errback that is a task known here and takes more than one argument is called in this process with
    (request, exc, traceback); all others are published as one group with the failed id (PRT-079, PRT-080).
    """
    called, published = [], []
    for errback in request.errbacks or ():
        task = env.find_task(errback["task"])
        if task is not None and not errback["subtask_type"] and _takes_several(task.run):
            arguments = () if errback["immutable"] else (request, exc, traceback)
            called.append((task, (*arguments, *errback["args"]), errback["kwargs"]))
        else:
            published.append(errback)
    publications: Iterable[Publication] = ()
    if published:
        publications, _ = _send(env, _as_group(published), (request.id,), _inherited(env, request))
    records = []
    if store:
        for link in reversed(request.chain or ()):
            group = link["options"].get("group_id")
            for task_id in ids_of(link):
                lost = Request(id=task_id, task=link["task"], group=group, reply_to=link["options"].get("reply_to"))
                records.append(make_record(env, lost, FAILURE, exc, traceback=traceback))
    return AfterFailure(tuple(publications), tuple(records), tuple(called))


def _inherited(env: Environment, request: Request) -> dict[str, Any]:
    """Return the options that what follows has from what was before."""
    message = request.message
    options = {"parent_id": request.id, "root_id": request.root_id or request.id}
    if env.inherit_priority and message is not None and message.priority is not None:
        options["priority"] = message.priority
    return options


def _send(
    env: Environment, signature: _Signature, args: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[Sequence[Publication], Any]:
    """Return the publications of *signature* with *args* before its own, and its result tuple."""
    if signature["subtask_type"] is None:
        own: Mapping[str, Any] = signature["options"]
        given = signature["args"] if signature["immutable"] else (*args, *signature["args"])
        publication = env.prepare(signature["task"], given, signature["kwargs"], {**own, **options})
        return (publication,), ((publication.message.id, None), None)
    result, calls = env.expand(signature, args, options)
    return [env.prepare(call.task, call.args, call.kwargs, call.options) for call in calls], result


def _as_group(signatures: Sequence[_Signature]) -> _Signature:
    return {
        "task": "celery.group",
        "args": (),
        "kwargs": {"tasks": signatures},
        "options": {},
        "subtask_type": "group",
        "immutable": False,
    }


def _takes_several(function: Callable[..., Any]) -> bool:
    """Return whether *function* can take more than one positional argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) > 1
