"""Give a work-flow its ids: which task is who, whose group it belongs to, and whose result leads to whose.

Works over dict forms, keeps every id that is fixed already, and changes nothing it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from umbel._names import uuid

__all__ = ["App", "Place", "Placed", "handle", "identity", "members_of", "place", "steps_of", "width_of"]


class App(Protocol):
    """What the canvas needs of an app to name results."""

    @property
    def thread_oid(self) -> str:
        """The reply address of this thread."""

    @property
    def tasks(self) -> Any:
        """The registered tasks by name."""

    @property
    def AsyncResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of one result's handle: ``AsyncResult(id)``, with an assignable `parent`."""

    @property
    def GroupResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of a group's handle: ``GroupResult(id, results)``, with an assignable `parent`."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a signature stands in what is around it; None = nowhere in particular."""

    group_id: str | None = None  # the group it is a part of
    group_index: int | None = None  # its first place in there
    chord: Any = None  # the body that waits for it
    root_id: str | None = None
    parent_id: str | None = None


class Placed(msgspec.Struct, frozen=True):
    """A signature with all its ids."""

    signature: Any  # of the type that came in
    result: Any  # an AsyncResult or GroupResult, linked to its parents
    width: int = 1  # places it takes in the group around it: 1, or the members of a group at its end


def place(signature: Any, app: App, where: Place, *, task_id: str | None = None) -> Placed:
    """Return *signature* with its ids; *task_id* is the one its result gets unless it has one."""
    match signature["subtask_type"]:
        case "chain":
            return _place_chain(signature, app, where, task_id)
        case "group":
            return _place_group(signature, app, where, task_id)
        case "chord":
            return _place_chord(signature, app, where, task_id)
        case _:
            return _place_task(signature, app, where, task_id)


def steps_of(tasks: Sequence[Any]) -> list[Any]:
    """Return the steps of a chain as they are run: flat, each group that something follows being a chord's header.

    A chord whose body is a chain hands all but the first of it to the chain around (PRT-068).
    """
    steps: list[Any] = []
    for flat in reversed([step for task in tasks for step in _flat(task)]):
        step, steps = _closed(flat, steps)
        if step["subtask_type"] == "chord" and _is_chain(step["kwargs"]["body"]):
            body = step["kwargs"]["body"]
            first, *rest = _with_ends(body, steps_of(body["kwargs"]["tasks"]))
            steps[:0] = rest
            step = _changed(step, {}, body=first)
        steps.insert(0, step)
    return steps


def _closed(step: Any, steps: list[Any]) -> tuple[Any, list[Any]]:
    """Return *step* and those of *steps* that are left once a group at its end is the header of what follows."""
    if not steps:
        return step, steps
    match step["subtask_type"]:
        case "group":
            return _closed(_chord(step, steps[0]), steps[1:])
        case "chord":
            body, left = _closed(step["kwargs"]["body"], steps)
            return (step if left is steps else _changed(step, {}, body=body)), left
        case "chain" if step["kwargs"]["tasks"]:
            *before, last = step["kwargs"]["tasks"]
            last, left = _closed(last, steps)
            return (step if left is steps else _changed(step, {}, tasks=[*before, last])), left
    return step, steps


def members_of(task: Any) -> Any:
    """Return what *task* is within a group: itself, or the members of a group at any depth."""
    if task["subtask_type"] != "group":
        return (task,)
    return (member for each in task["kwargs"]["tasks"] for member in members_of(each))


def width_of(signature: Mapping[str, Any]) -> int:
    """Return how many results *signature* has in a group around it: one, or the members of a group at its end."""
    match signature["subtask_type"]:
        case "group":
            return sum(width_of(task) for task in signature["kwargs"]["tasks"])
        case "chain":
            steps = steps_of(signature["kwargs"]["tasks"])
            return width_of(steps[-1]) if steps else 0
        case "chord":
            return width_of(signature["kwargs"]["body"])
        case _:
            return 1


# -- Each kind ---------------------------------------------------------------------------------------------------------


def _place_task(signature: Any, app: App, where: Place, task_id: str | None) -> Placed:
    options = identity(signature, app, where, task_id)
    return Placed(_changed(signature, options), handle(signature, app, options["task_id"]))


def handle(signature: Any, app: App, task_id: str) -> Any:
    """Return the result of the call of a task, which will be that of *task_id*."""
    try:
        make = (getattr(signature, "_type", None) or app.tasks[signature["task"]]).AsyncResult
    except KeyError:
        make = app.AsyncResult
    return make(task_id)


def _place_chain(signature: Any, app: App, where: Place, task_id: str | None) -> Placed:
    steps = steps_of(signature["kwargs"]["tasks"])
    if not steps:
        return Placed(signature, None, 0)
    steps = _with_ends(signature, steps)
    last = place(steps[-1], app, where, task_id=signature["options"].get("task_id") or task_id)
    placed, node = [last.signature], last.result
    for step in reversed(steps[:-1]):
        before = place(step, app, Place())
        placed.insert(0, before.signature)
        node = _first_of(node)
        node.parent = before.result
        node = before.result
    return Placed(_changed(signature, {"task_id": _result_id(last)}, tasks=placed), last.result, last.width)


def _place_group(signature: Any, app: App, where: Place, task_id: str | None) -> Placed:
    group_id = signature["options"].get("task_id") or task_id or uuid()
    # Its own id is not written into its members, which saves bytes: `expand` knows it. Within another group, its
    # members are members of that one.
    index = where.group_index or 0
    members, results = [], []
    for task in signature["kwargs"]["tasks"]:
        for member in members_of(task):
            at = msgspec.structs.replace(where, group_index=index)
            placed = place(member, app, at)
            if placed.result is None:  # an empty chain
                continue
            members.append(placed.signature)
            results.append(placed.result)
            index += placed.width
    width = index - (where.group_index or 0)
    return Placed(_changed(signature, {"task_id": group_id}, tasks=members), app.GroupResult(group_id, results), width)


def _place_chord(signature: Any, app: App, where: Place, task_id: str | None) -> Placed:
    """Its result is that of its body, whose way back leads through the header; the group id is the header's."""
    header = signature["kwargs"]["header"]
    if not isinstance(header, Mapping):
        header = _group(header)
    first = place(header, app, Place(root_id=where.root_id))
    group_id = first.signature["options"]["task_id"]
    body_id = task_id or signature["options"].get("task_id")
    last = place(signature["kwargs"]["body"], app, where, task_id=body_id)
    _first_of(last.result).parent = first.result
    changed = _changed(signature, {"task_id": group_id}, header=first.signature, body=last.signature)
    return Placed(changed, last.result, last.width)


# -- Small things in the order of use ----------------------------------------------------------------------------------


def identity(signature: Any, app: App, where: Place, task_id: str | None) -> dict[str, Any]:
    """Return the options of the call of a task, with its ids and place among them."""
    options = dict(signature["options"])
    if not options.get("task_id"):
        options["task_id"] = task_id or uuid()
    if not options.get("reply_to"):
        options["reply_to"] = app.thread_oid
    belongs = options.get("group_id") and options.get("group_index") is not None  # to another one: its place stays
    if where.group_id and not options.get("group_id"):
        options["group_id"] = where.group_id
    if where.chord is not None:
        options["chord"] = where.chord
    if where.group_index is not None and not belongs:
        options["group_index"] = where.group_index
    if where.root_id is not None:
        options["root_id"] = where.root_id
    if where.parent_id is not None:
        options["parent_id"] = where.parent_id
    return options


def _with_ends(chain: Any, steps: list[Any]) -> list[Any]:
    """Return *steps* with what was linked to the whole chain: its link on the last, its link_error on all (API-256)."""
    links, errors = (chain["options"].get(name) or () for name in ("link", "link_error"))
    if errors:
        steps = [_linked(step, "link_error", errors) for step in steps]
    if links:
        steps = [*steps[:-1], _linked(steps[-1], "link", links)]
    return steps


def _linked(step: Any, option: str, values: Any) -> Any:
    values = [values] if isinstance(values, Mapping) else list(values)
    match step["subtask_type"]:
        case "chord":
            return _changed(step, {}, body=_linked(step["kwargs"]["body"], option, values))
        case "group" if option == "link_error":
            return _changed(step, {}, tasks=[_linked(task, option, values) for task in step["kwargs"]["tasks"]])
        case "group":
            raise TypeError("a group cannot have a link: make it the header of a chord instead")
    own = step["options"].get(option) or []
    own = [own] if isinstance(own, Mapping) else list(own)
    return _changed(step, {option: [*own, *(value for value in values if value not in own)]})


def _flat(task: Any) -> list[Any]:
    if not _is_chain(task):
        return [task]
    inner = [step for each in task["kwargs"]["tasks"] for step in _flat(each)]
    return _with_ends(task, inner) if inner else []


def _first_of(result: Any) -> Any:
    """Return the far end of a result's parents."""
    while result.parent is not None:
        result = result.parent
    return result


def _result_id(placed: Placed) -> Any:
    return placed.result.id


def _is_chain(signature: Any) -> bool:
    return bool(signature["subtask_type"] == "chain")


def _changed(signature: Any, options: Mapping[str, Any], **kwargs: Any) -> Any:
    """Return a copy of *signature*, of its type, with these *options* and *kwargs* over its own."""
    made = signature.copy()
    made["options"] = {**signature["options"], **options}
    if kwargs:
        made["kwargs"] = {**signature["kwargs"], **kwargs}
    return made


def _group(tasks: Any) -> dict[str, Any]:
    return _form("celery.group", "group", {"tasks": tasks})


def _chord(header: Any, body: Any) -> Any:
    return _form("celery.chord", "chord", {"header": header, "body": body})


def _form(task: str, kind: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"task": task, "args": (), "kwargs": kwargs, "options": {}, "subtask_type": kind, "immutable": False}
