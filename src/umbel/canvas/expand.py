"""Turn a work-flow into the messages that start it, one by one and in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from umbel._names import uuid, uuids
from umbel.canvas.call import Call, Opening
from umbel.canvas.ids import ends_of, result_of
from umbel.canvas.merge import merged
from umbel.canvas.place import App, Place, handle, identity, members_of, place

__all__ = ["expand"]

_ITS_OWN = frozenset({"task_id", "group_id", "group_index", "reply_to", "chord", "root_id", "parent_id"})


def expand(
    app: App,
    signature: Any,
    args: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[Any, Iterator[Call | Opening]]:
    """Return the handle of what *signature* comes to, and the calls that start it, with *args* before its own.

    Among the calls is told of each chord that opens, before those of its header. They are made as they are taken: a
    group of a generator's members is never held as a whole, and its handle grows meanwhile. *options* are those of
    `apply_async`. What is sent later travels inside the first messages.
    """
    options = dict(options or {})
    where = Place(
        group_id=options.pop("group_id", None),
        group_index=options.pop("group_index", None),
        chord=options.pop("chord", None),
    )
    if signature["subtask_type"] == "group" and where == Place():
        return _stream(signature, app, args, kwargs or {}, options)
    task_id = options.pop("task_id", None)
    placed = place(signature, app, where, task_id=task_id)
    return placed.result, _calls(placed.signature, args, kwargs or {}, options)


def _stream(
    group: Any, app: App, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> tuple[Any, Iterator[Call | Opening]]:
    """As `expand`, for a group that stands alone: each member is placed when its turn comes."""
    group_id = options.pop("task_id", None) or group["options"].get("task_id") or uuid()
    result = app.GroupResult(group_id, [])
    options = {**_own(group), **options}

    def calls() -> Iterator[Call | Opening]:
        index, new_ids = 0, uuids()
        for task in group["kwargs"]["tasks"]:
            for member in members_of(task):
                if member["subtask_type"] is None:  # as below, with less copying (benchmark enqueue in bulk)
                    own = identity(member, app, Place(group_id=group_id, group_index=index), next(new_ids))
                    index += 1
                    result.results.append(handle(member, app, own["task_id"]))
                    if args or kwargs or options:
                        yield Call(member["task"], *merged({**member, "options": own}, args, kwargs, options))
                    else:
                        yield Call(member["task"], member["args"], dict(member["kwargs"]), own)
                    continue
                placed = place(member, app, Place(group_id=group_id, group_index=index))
                if placed.width:
                    index += placed.width
                    result.results.append(placed.result)
                    yield from _calls(placed.signature, args, kwargs, options)

    return result, calls()


def _calls(
    signature: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> Iterator[Call | Opening]:
    """Yield the first calls of a placed signature."""
    match signature["subtask_type"]:
        case "chain":
            first, *rest = signature["kwargs"]["tasks"]
            if rest:
                options = {**options, "chain": [*(options.get("chain") or ()), *reversed(rest)]}
            yield from _calls(first, args, kwargs, options)
        case "group":
            own, group_id = {**_own(signature), **options}, signature["options"]["task_id"]
            for member in signature["kwargs"]["tasks"]:
                yield from _calls(_at_end(member, {"group_id": group_id}), args, kwargs, own)
        case "chord":
            yield from _chord_calls(signature, args, kwargs, options)
        case _:
            args, kwargs, options = merged(signature, args, kwargs, options)
            yield Call(signature["task"], args, kwargs, options)


def _chord_calls(
    chord: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> Iterator[Call | Opening]:
    """Yield the opening and the header's calls, each carrying the body; of an empty header, the body's own calls."""
    body = chord["kwargs"]["body"]
    own = {**_own(chord), **options}
    rest = own.pop("chain", None)
    if rest:
        body = _then(body, rest)
    header = chord["kwargs"]["header"]
    group_id = header["options"]["task_id"]
    if body["subtask_type"] is None and not body["options"].get("group_id"):
        body = _with_options(body, {"group_id": group_id})  # peers read it (PRT-071)
    members = header["kwargs"]["tasks"]
    if not members:
        yield from _calls(body, ([],), {}, own)
        return
    size = sum(1 for member in members for _ in ends_of(member))
    yield Opening(group_id, size, [result_of(member) for member in members], body, own)
    for member in members:
        yield from _calls(_at_end(member, {"group_id": group_id, "chord": body}), args, kwargs, own)


def _at_end(member: Any, options: Mapping[str, Any]) -> Any:
    """Return a placed member with *options* where its value comes from; a group it is in already stays."""
    kwargs = member["kwargs"]
    match member["subtask_type"]:
        case "chain":
            *before, last = kwargs["tasks"]
            kwargs = {**kwargs, "tasks": [*before, _at_end(last, options)]}
        case "group":
            kwargs = {**kwargs, "tasks": [_at_end(inner, options) for inner in kwargs["tasks"]]}
        case "chord":
            kwargs = {**kwargs, "body": _at_end(kwargs["body"], options)}
        case _:
            if member["options"].get("group_id"):
                options = {key: value for key, value in options.items() if key != "group_id"}
            return _with_options(member, options)
    made = member.copy()
    made["kwargs"] = kwargs
    return made


def _then(body: Any, rest: Sequence[Any]) -> Any:
    """Return a chord's *body* with the steps (in reverse) that follow it."""
    made = body.copy()
    if body["subtask_type"] == "chain":
        made["kwargs"] = {**body["kwargs"], "tasks": [*body["kwargs"]["tasks"], *reversed(rest)]}
    else:
        return _with_options(body, {"chain": [*(body["options"].get("chain") or ()), *rest]})
    return made


def _with_options(signature: Any, options: Mapping[str, Any]) -> Any:
    made = signature.copy()
    made["options"] = {**signature["options"], **options}
    return made


def _own(signature: Any) -> dict[str, Any]:
    """Return the options of a group or chord that are for its members: all but its own place and id."""
    return {key: value for key, value in signature["options"].items() if key not in _ITS_OWN}
