"""Say what one call followed by another is: the table behind ``|``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["fold", "join"]

_Types = Mapping[str, Any]  # the classes of chain, group and chord, by name


def join(left: Any, right: Any, types: _Types, *, owned: bool = False) -> Any:
    """Return *left* followed by *right*, both signatures (API-237 to API-252).

    Neither is changed, unless *left* is *owned*: a copy that nobody else knows.
    """
    right = _unwrapped(right)
    kinds = (left["subtask_type"], right["subtask_type"])
    match kinds:
        case ("chain", _):
            return _chain(types, left, _appended(types, _tasks(left), right, owned=owned))
        case ("group", "chain") if not _tasks(right):
            return _chain(types, left, [left])
        case ("group", _):
            return types["chord"](left, right, app=left.bound_app())
        case ("chord", "chain"):
            return _chain(types, left, [left, *_tasks(right)])
        case ("chord", "group"):
            return _chain(types, left, [left, right]) if _tasks(right) else left
        case ("chord", _):
            return _extended(left, right, types, owned=owned)
        case (_, "chain"):
            return _chain(types, left, [left, *_tasks(right)])
        case _:
            return _chain(types, left, [left, right])


def fold(signatures: Any, types: _Types, app: Any = None) -> Any:
    """Return *signatures* joined from left to right; a single one by itself, in a chain unless it is a group."""
    made: Any = types["chain"].of([], app)
    for signature in signatures:
        made = join(made, signature, types)
    return made


def _appended(types: _Types, tasks: list[Any], right: Any, *, owned: bool) -> Any:
    """Return the tasks of a chain with *right* behind them, or what it becomes instead of a chain."""
    kind = right["subtask_type"]
    if kind == "chain" and not _tasks(right):
        return tasks
    if not tasks:
        return _tasks(right) if kind == "chain" else right if kind in {"group", "chord"} else [right]
    *before, last = tasks
    match (last["subtask_type"], kind):
        case (_, "group") if not _tasks(right):
            return tasks
        case ("group", "group"):
            return [*tasks, right]  # becomes a chord when it is sent
        case ("group", _):
            chord = types["chord"](last, right, app=last.bound_app())
            if before and before[-1]["subtask_type"] == "chord":
                return [*before[:-1], join(before[-1], chord, types)]
            return [*before, chord]
        case ("chord", "chain"):
            return [*tasks, *_tasks(right)]
        case ("chord", _):
            return [*before, _extended(last, right, types, owned=owned)]
        case (_, "chain"):
            return [*tasks, *_tasks(right)]
        case _:
            return [*tasks, right]


def _chain(types: _Types, left: Any, tasks: Any) -> Any:
    if not isinstance(tasks, list):
        return tasks  # an empty chain before a group or chord is nothing
    options = left["options"] if left["subtask_type"] == "chain" else {}
    return types["chain"].of(tasks, left.bound_app(), options)


def _extended(chord: Any, right: Any, types: _Types, *, owned: bool) -> Any:
    """Return *chord* whose body *right* follows; what is within is copied once, however deep."""
    made = chord if owned else chord.clone()
    made["kwargs"]["body"] = join(made["kwargs"]["body"], right, types, owned=True)
    return made


def _unwrapped(right: Any) -> Any:
    """Return the only member of a group of one, else *right*."""
    while right["subtask_type"] == "group":
        members = right["kwargs"]["tasks"]
        if not isinstance(members, (list, tuple)) or len(members) != 1:
            break
        right = members[0]
    return right


def _tasks(signature: Any) -> list[Any]:
    members = signature["kwargs"]["tasks"]
    return list(members)
