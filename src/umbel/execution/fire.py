"""Say what follows from a chord that is complete: its body runs, or fails because a part did."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from umbel._repr import safe_repr
from umbel.canvas.ids import ids_of
from umbel.exceptions import ChordError
from umbel.execution.chord_part import Body
from umbel.execution.follow_up import AfterFailure, after_failure, inherited, send
from umbel.execution.outcome import Outcome
from umbel.execution.plan import Environment
from umbel.execution.request import Request
from umbel.states import FAILURE, PROPAGATE_STATES, SUCCESS
from umbel.wire.chord import ReadyChord

__all__ = ["fire", "fire_with"]

_LOG: Final = logging.getLogger("celery.chord")

Aside = Callable[[Callable[[], object]], None]
"""Makes a call soon, elsewhere."""

_Signature = Mapping[str, Any]
_Part = tuple[str, str, Any]  # task id, state, and its value or exception
_decode: Final = msgspec.msgpack.Decoder(Body).decode


def fire(env: Environment, ready: ReadyChord, aside: Aside | None = None) -> Outcome:
    """Return what a complete chord comes to. What goes wrong here is the failure of the chord.

    Errbacks that are called instead of sent are called here, or given to *aside*.

    Raises:
        BackendError: the store cannot be asked for the header; somebody is to try again.
    """
    try:
        body = _decode(ready.body)
        signature = env.chords.read_body(body.signature, body.content_type)
    except Exception as exc:  # noqa: BLE001 - bytes of a stranger; nobody can be told, for nothing says who waits
        _LOG.critical("chord %s is complete, but its body cannot be read and is lost: %r", ready.group, exc)
        return Outcome(state=FAILURE, reason=safe_repr(exc))
    source = Request(id=body.parent_id, root_id=body.root_id)
    options = inherited(env, source)
    if env.inherit_priority and body.priority is not None:
        options["priority"] = body.priority

    members = env.chords.members(ready.group)

    def parts() -> Sequence[_Part]:
        found = [env.chords.read_part(part) for part in ready.parts]
        return found if members is None else _nested(members, found)

    return fire_with(env, ready.group, signature, parts, options, aside=aside)


def fire_with(
    env: Environment,
    group: str,
    signature: _Signature,
    read: Callable[[], Sequence[_Part]],
    options: Mapping[str, Any],
    *,
    aside: Aside | None = None,
) -> Outcome:
    """Return what a complete chord with this body *signature* comes to; *read* returns its parts in order.

    If a part failed, the body fails with `ChordError`: whatever waits for it learns so, its errbacks and those of its
    chain's rest as after the failure of a task, and the chord around it too (API-274, PRT-201).
    """
    try:
        parts = read()
        for task_id, state, value in parts:
            if state in PROPAGATE_STATES:
                raise _because(task_id, value)
        sent = send(env, signature, ([value for _, _, value in parts],), options)
    except Exception as exc:  # noqa: BLE001 - also what user code in a pickle, or a route, raises
        error = exc if isinstance(exc, ChordError) else ChordError(f"the body cannot be sent: {exc!r}")
        _LOG.error("Chord %s raised: %r", group, error, exc_info=None if error is exc else exc)
        follows = _failed(env, signature, error, options)
        for call in follows.calls:
            errback = partial(_call, *call)
            (errback if aside is None else partial(aside, errback))()
        return Outcome(
            state=FAILURE,
            reason=str(error),
            follow_ups=follows.publications,
            sizes=follows.sizes,
            parts=follows.parts,
            records=follows.records,
        )
    return Outcome(state=SUCCESS, follow_ups=tuple(sent.publications), sizes=tuple(sent.sizes))


def _nested(members: Sequence[Any], parts: Sequence[_Part]) -> Sequence[_Part]:
    """Return *parts* in the order of *members*, the values of a group as one list; what joined later comes behind."""
    if any(state in PROPAGATE_STATES for _, state, _ in parts):
        return parts
    left = {part[0]: part for part in parts}

    def value(result: Any) -> Any:
        (task_id, _), inner = result
        return left.pop(task_id)[2] if inner is None else [value(each) for each in inner]

    try:
        values = [value(each) for each in members]
    except (KeyError, TypeError, ValueError):  # not what is known of this chord
        return parts
    return [*(("", SUCCESS, each) for each in values), *left.values()]


def _because(task_id: str, exc: Any) -> ChordError:
    error = ChordError(f"Dependency {task_id} raised {exc!r}")
    error.__cause__ = exc if isinstance(exc, BaseException) else None
    return error


def _failed(env: Environment, signature: _Signature, exc: ChordError, options: Mapping[str, Any]) -> AfterFailure:
    own = signature["options"]
    lost = Request(
        id=own.get("task_id") or next(ids_of(signature), None),
        task=signature["task"],
        errbacks=_errbacks(signature),
        chain=[*(own.get("chain") or ()), signature],
        root_id=options.get("root_id"),
        parent_id=options.get("parent_id"),
        reply_to=own.get("reply_to"),
    )
    try:
        follows = after_failure(env, lost, exc, None, store=True)
    except Exception as internal:  # noqa: BLE001 - say, an errback's queue is not allowed; the others must learn it
        _LOG.critical("errbacks of the body of a chord cannot be sent: %r", internal, exc_info=internal)
        lost.errbacks = None
        follows = after_failure(env, lost, exc, None, store=True)
    return follows


def _call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    try:
        function(*args, **kwargs)
    except Exception as raised:  # noqa: BLE001 - user code
        _LOG.error("errback %r of a chord raised: %r", function, raised, exc_info=raised)


def _errbacks(signature: _Signature) -> list[_Signature]:
    """Return what is linked to the failure of a body: its own, and of a chain that of the step which would begin.

    A group fails with all its members, a chord with its body.
    """
    own = signature["options"].get("link_error") or ()
    errbacks = [own] if isinstance(own, Mapping) else list(own)
    kwargs = signature["kwargs"]
    match signature["subtask_type"]:
        case "chain":
            inner = kwargs["tasks"][:1]
        case "group":
            inner = kwargs["tasks"]
        case "chord":
            inner = [kwargs["body"]]
        case _:
            inner = []
    errbacks += [each for part in inner for each in _errbacks(part) if each not in errbacks]
    return errbacks
