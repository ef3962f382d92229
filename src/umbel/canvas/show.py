"""Show a call as a person would write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from umbel._repr import safe_repr

__all__ = ["show"]

_SHOWN = 100  # members of a group or iterable; the rest is counted


def show(signature: Mapping[str, Any], module: str = "") -> str:
    """Return *signature* as text (API-233 to API-236); *module* is the one named before, which is not repeated."""
    kwargs = signature["kwargs"]
    match signature["subtask_type"]:
        case "chain":
            return _chain(kwargs.get("tasks") or (), module)
        case "group":
            return f"group({_members(kwargs.get('tasks') or (), module)})"
        case "chord":
            return _chord(kwargs.get("header") or (), kwargs.get("body"), module)
        case "xmap" | "xstarmap" as kind:
            called = _name(kwargs["task"]["task"], module)
            stars = "*" if kind == "xstarmap" else ""
            return f"[{called}({stars}x) for x in {safe_repr(kwargs['it'], maxlevels=0)}]"
        case _:
            named = [f"{key}={_value(value)}" for key, value in kwargs.items()]
            shown = [_value(value) for value in signature["args"]]
            return f"{_name(signature['task'], module)}({', '.join([*shown, *named])})"


def _chain(tasks: Iterable[Any], module: str) -> str:
    shown = []
    for task in tasks:
        shown.append(show(task, module))
        module = module or _module(task)
    return " | ".join(shown) if shown else "<chain: empty>"


def _members(tasks: Any, module: str) -> str:
    if not isinstance(tasks, (list, tuple)):
        return "<lazy>"  # showing it would use it up
    if not tasks:
        return "<empty>"
    opening, closing = ("(", ")") if isinstance(tasks, tuple) else ("[", "]")
    shown = []
    for task in tasks[:_SHOWN]:
        shown.append(show(task, module))
        module = module or _module(task)
    if len(tasks) > _SHOWN:
        shown.append(f"... {len(tasks) - _SHOWN} more")
    return f"{opening}{', '.join(shown)}{',' if opening == '(' and len(shown) == 1 else ''}{closing}"


def _chord(header: Any, body: Any, module: str) -> str:
    if isinstance(header, Mapping):
        header = header["kwargs"].get("tasks") or ()
    inner = module or (_module(body) if body else "")
    members = _members(header, inner) if header or not isinstance(header, (list, tuple)) else "[]"
    if body is None:
        return f"%?({members})"
    if body["subtask_type"] == "chain":
        first, *rest = body["kwargs"]["tasks"]
        return f"%({_chord(header, first, module)[1:]} | {_chain(rest, inner)})"
    if body["subtask_type"]:
        return f"%({members} | {show(body, inner)})"
    named = [f"{key}={_value(value)}" for key, value in body["kwargs"].items()]
    shown = [_value(value) for value in body["args"]]
    return f"%{_name(body['task'], module)}({', '.join([members, *shown, *named])})"


def _value(value: Any) -> str:
    return show(value) if isinstance(value, Mapping) and "subtask_type" in value else safe_repr(value, maxlevels=0)


def _module(signature: Any) -> str:
    kwargs = signature["kwargs"]
    match signature["subtask_type"]:
        case "chain" | "group":
            tasks = kwargs.get("tasks")
            return _module(tasks[0]) if isinstance(tasks, (list, tuple)) and tasks else ""
        case "chord":
            return _module(kwargs["body"]) if kwargs.get("body") else ""
        case "xmap" | "xstarmap":
            return _module(kwargs["task"])
    return str(signature["task"]).rpartition(".")[0]


def _name(task: str, module: str) -> str:
    return task.removeprefix(f"{module}.") if module and task.rpartition(".")[0] == module else task
