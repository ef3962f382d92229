"""Turn a work-flow into the messages that start it, one by one and in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from umbel.canvas.call import Call
from umbel.canvas.merge import merged
from umbel.canvas.place import App, Place, header_tasks, place

__all__ = ["expand"]

_FOR_THE_RESULT = ("task_id",)
_FOR_ALL = ("root_id", "parent_id")


def expand(
    signature: Any,
    app: App,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Any, Iterator[Call]]:
    """Return the handle of what *signature* comes to, and the calls that start it, with *args* before its own.

    The calls are made as they are taken: a group of a generator's members is never held as a whole, and its handle
    grows meanwhile. *options* are those of `apply_async`. What is sent later travels inside the first messages.
    """
    options = dict(options or {})
    where = Place(
        group_id=options.pop("group_id", None),
        group_index=options.pop("group_index", None),
        chord=options.pop("chord", None),
    )
    task_id = options.pop("task_id", None)
    if signature["subtask_type"] == "group" and where == Place():
        return _stream(signature, app, args, kwargs or {}, options, task_id)
    placed = place(signature, app, where, task_id=task_id)
    return placed.result, _calls(placed.signature, args, kwargs or {}, options)


def _stream(
    group: Any, app: App, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any], task_id: str | None
) -> tuple[Any, Iterator[Call]]:
    """As `expand`, for a group that stands alone: each member is placed when its turn comes."""
    results: list[Any] = []
    empty = group.copy()
    empty["kwargs"] = {"tasks": []}
    first = place(empty, app, Place(), task_id=task_id)
    group_id = first.signature["options"]["task_id"]
    result = app.GroupResult(group_id, results)

    def calls() -> Iterator[Call]:
        index = 0
        for task in group["kwargs"]["tasks"]:
            member = place(_as_group(task), app, Place(group_id=group_id, group_index=index))
            index += member.width
            results.extend(member.result.results)
            yield from _calls(member.signature, args, kwargs, options)

    return result, calls()


def _calls(signature: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]) -> Iterator[Call]:
    """Yield the first calls of a placed signature."""
    match signature["subtask_type"]:
        case "chain":
            first, *rest = signature["kwargs"]["tasks"]
            if rest:
                options = {**options, "chain": [*(options.get("chain") or ()), *reversed(rest)]}
            yield from _calls(first, args, kwargs, options)
        case "group":
            own = {**_without(signature["options"], _FOR_THE_RESULT), **options}
            for member in signature["kwargs"]["tasks"]:
                yield from _calls(member, args, kwargs, own)
        case "chord":
            yield from _chord_calls(signature, args, kwargs, options)
        case _:
            args, kwargs, options = merged(signature, args, kwargs, options)
            yield Call(signature["task"], args, kwargs, options)


def _chord_calls(
    chord: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> Iterator[Call]:
    """Yield the header's calls, each carrying the body; of an empty header, the body's own calls with no results."""
    body = chord["kwargs"]["body"]
    rest = options.pop("chain", None) if "chain" in options else None
    if rest:
        body = _then(body, rest)
    own = {**_without(chord["options"], _FOR_THE_RESULT), **options}
    members = header_tasks(chord)
    if not members:
        yield from _calls(body, ([],), {}, own)
        return
    for member in members:
        yield from _calls(_waited_for(member, body), args, kwargs, own)


def _waited_for(member: Any, body: Any) -> Any:
    """Return a placed header member whose end tells the chord's *body*."""
    made = member.copy()
    match member["subtask_type"]:
        case "chain":
            *before, last = member["kwargs"]["tasks"]
            made["kwargs"] = {**member["kwargs"], "tasks": [*before, _waited_for(last, body)]}
        case "group":
            made["kwargs"] = {
                **member["kwargs"],
                "tasks": [_waited_for(inner, body) for inner in member["kwargs"]["tasks"]],
            }
        case "chord":
            made["kwargs"] = {**member["kwargs"], "body": _waited_for(member["kwargs"]["body"], body)}
        case _:
            made["options"] = {**member["options"], "chord": body}
    return made


def _then(body: Any, rest: Sequence[Any]) -> Any:
    """Return a chord's *body* with the steps (in reverse) that follow it."""
    made = body.copy()
    if body["subtask_type"] == "chain":
        made["kwargs"] = {**body["kwargs"], "tasks": [*body["kwargs"]["tasks"], *reversed(rest)]}
    else:
        made["options"] = {**body["options"], "chain": [*(body["options"].get("chain") or ()), *rest]}
    return made


def _as_group(task: Any) -> dict[str, Any]:
    return {
        "task": "celery.group",
        "args": (),
        "kwargs": {"tasks": [task]},
        "options": {},
        "subtask_type": "group",
        "immutable": False,
    }


def _without(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in names}
