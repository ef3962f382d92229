"""Say what follows from an outcome: which messages go out, and which other tasks are thereby over."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from umbel._repr import safe_repr
from umbel.brokers.base import Publication
from umbel.canvas.call import Opening
from umbel.canvas.ids import ends_of, ids_of
from umbel.exceptions import InvalidTaskError
from umbel.execution.chord_part import make_part
from umbel.execution.plan import Environment
from umbel.execution.record import make_record
from umbel.execution.request import Request
from umbel.states import FAILURE, SUCCESS
from umbel.wire.chord import ChordPart, ChordSize
from umbel.wire.links import Links
from umbel.wire.record import Record

__all__ = ["AfterFailure", "AfterSuccess", "Sent", "after_failure", "after_success", "inherited", "lost_parts", "send"]

_Signature = Mapping[str, Any]  # the dict form, as it travels (PRT-033)
_FIELDS: Final = frozenset({"task", "args", "kwargs", "options", "subtask_type", "immutable"})
_LOG: Final = logging.getLogger("celery.app.trace")


class Sent(msgspec.Struct, frozen=True, gc=False):
    """What sending one signature comes to."""

    publications: Sequence[Publication]
    sizes: Sequence[ChordSize]  # of chords whose headers these are
    child: Any  # the result tuple


class AfterSuccess(msgspec.Struct, frozen=True, gc=False):
    """What a success sends on its way."""

    publications: tuple[Publication, ...] = ()
    sizes: tuple[ChordSize, ...] = ()  # of chords whose headers these are
    parts: tuple[ChordPart, ...] = ()
    children: tuple[Any, ...] = ()  # result tuples of what is sent


class AfterFailure(msgspec.Struct, frozen=True):
    """What a failure sends on its way and takes with it."""

    publications: tuple[Publication, ...] = ()
    sizes: tuple[ChordSize, ...] = ()
    parts: tuple[ChordPart, ...] = ()  # its own, and that of the end of its chain, which will never run
    records: tuple[Record, ...] = ()  # the links of the chain that will never run
    calls: tuple[tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], ...] = ()  # errbacks to call here


def after_success(env: Environment, request: Request, value: Any) -> AfterSuccess:
    """Return what is sent because *request* succeeded with *value*: its callbacks, then the next link of its chain.

    One callback goes alone; of several, groups go one by one and the others as one group (PRT-066 to PRT-068).

    Raises:
        InvalidTaskError: the message is damaged, so that it is not known what is to follow.
        Exception: whatever `Environment.prepare` raises; then nothing is sent and the task has failed (API-187).
    """
    callbacks = _checked("callbacks", request.callbacks)
    chain = request.steps or ()
    step = _checked("chain", [chain[-1]] if type(chain) is Links else chain)[-1] if chain else None
    if len(callbacks) > 1:
        groups = [callback for callback in callbacks if callback["subtask_type"] == "group"]
        others = [callback for callback in callbacks if callback["subtask_type"] != "group"]
        callbacks = [*groups, _as_group(others)] if others else groups
    options = inherited(env, request)
    sent = [send(env, callback, (value,), options) for callback in callbacks]
    if step is not None:
        rest = chain[:-1]  # where it is more than a task, they become part of other signatures, which are plain values
        further = rest if step["subtask_type"] is None else [*rest]
        sent.append(send(env, step, (value,), {**options, "chain": further}))
    return AfterSuccess(
        tuple(publication for each in sent for publication in each.publications),
        tuple(size for each in sent for size in each.sizes),
        (make_part(env, request, SUCCESS, value),) if request.chord and request.group else (),
        tuple(each.child for each in sent),
    )


def after_failure(
    env: Environment, request: Request, exc: BaseException, traceback: str | None, *, store: bool
) -> AfterFailure:
    """Return what is sent because *request* failed with *exc*, and with *store* the records of what fails with it.

    An errback that is a task known here and takes more than one argument is called in this process with
    (request, exc, traceback); all others are published as one group with the failed id (PRT-079, PRT-080).
    Where the message is damaged a line of the log says so, and its failure stands.
    """
    called, published = [], []
    for errback in _sound("errbacks", request.errbacks, request):
        task = env.find_task(errback["task"])
        if task is not None and not errback["subtask_type"] and _takes_several(task.run):
            arguments = () if errback["immutable"] else (request, exc, traceback)
            called.append((task, (*arguments, *errback["args"]), errback["kwargs"]))
        else:
            published.append(errback)
    sent = Sent((), (), None)
    if published:
        sent = send(env, _as_group(published), (request.id,), inherited(env, request))
    records = []
    if store:
        # Damage that made the task fail has been told by its exception.
        told = isinstance(exc, InvalidTaskError)
        for link in reversed(_sound("chain", request.chain, request, told=told)):
            group = link["options"].get("group_id")
            for task_id in ids_of(link):
                lost = Request(id=task_id, task=link["task"], group=group, reply_to=link["options"].get("reply_to"))
                records.append(make_record(env, lost, FAILURE, exc, traceback=traceback))
    return AfterFailure(
        publications=tuple(sent.publications),
        sizes=tuple(sent.sizes),
        parts=lost_parts(env, request, FAILURE, exc),
        records=tuple(records),
        calls=tuple(called),
    )


def lost_parts(env: Environment, request: Request, state: str, exc: BaseException) -> tuple[ChordPart, ...]:
    """Return what the end of *request* by *exc* is to chords: its own part, and those that its chain's end would be."""
    parts = []
    if request.chord and request.group:
        parts.append(make_part(env, request, state, exc))
    if chain := _sound("chain", request.chain, request, told=True):
        for end in ends_of(chain[0]):  # in reverse: the last link
            options = end["options"]
            if options.get("chord") and options.get("group_id"):
                lost = Request(
                    id=options["task_id"],
                    chord=options["chord"],
                    group=options["group_id"],
                    group_index=options.get("group_index"),
                    root_id=request.root_id,
                    message=request.message,
                )
                parts.append(make_part(env, lost, state, exc))
    return tuple(parts)


def inherited(env: Environment, request: Request) -> dict[str, Any]:
    """Return the options that what follows has from what was before."""
    message = request.message
    options = {"parent_id": request.id, "root_id": request.root_id or request.id}
    if env.inherit_priority and message is not None and message.priority is not None:
        options["priority"] = message.priority
    return options


def send(env: Environment, signature: _Signature, args: tuple[Any, ...], options: Mapping[str, Any]) -> Sent:
    """Return the publications of *signature* with *args* before its own, the chords they open, and its result tuple."""
    if signature["subtask_type"] is None:
        own: Mapping[str, Any] = signature["options"]
        given = signature["args"] if signature["immutable"] else (*args, *signature["args"])
        publication = env.prepare(signature["task"], given, signature["kwargs"], {**own, **options})
        return Sent((publication,), (), ((publication.message.id, None), None))
    result, calls = env.expand(signature, args, options)
    publications, sizes = [], []
    for each in calls:
        call = env.chords.open(each) if isinstance(each, Opening) else each
        if isinstance(call, ChordSize):
            sizes.append(call)
        else:
            publications.append(env.prepare(call.task, call.args, call.kwargs, call.options))
    return Sent(publications, sizes, result)


def _checked(what: str, found: Any) -> Sequence[_Signature]:
    """Return the signatures *found* under the name *what* in a message; raise InvalidTaskError where one is none."""
    if not found:
        return ()
    for each in found if isinstance(found, (list, tuple)) else (found,):
        if each is found or not (isinstance(each, dict | Mapping) and each.keys() >= _FIELDS):
            raise InvalidTaskError(
                f"the message is damaged: its {what} hold {safe_repr(each)}, which is no signature; look at its sender"
            )
    return found  # type: ignore[no-any-return]  # just looked at


def _sound(what: str, found: Any, request: Request, *, told: bool = False) -> Sequence[_Signature]:
    """As `_checked`, but nothing where it is damaged, which a line of the log says unless it is *told* already."""
    try:
        return _checked(what, found)
    except InvalidTaskError as exc:
        if not told:
            _LOG.error("Task %s[%s]: %s", request.display_name, request.id, exc)
        return ()


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
