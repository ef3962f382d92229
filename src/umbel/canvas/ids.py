"""Find the tasks inside a frozen signature: all of them, or those that its value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["ends_in_group", "ends_of", "ids_of", "result_of"]


def ids_of(signature: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids of the tasks that *signature* would have run, in order, as far as they are fixed already.

    Reads dict forms and never loads a generator of members: what is not fixed yet has no id anybody could wait for.
    """
    kwargs = signature.get("kwargs") or {}
    match signature.get("subtask_type"):
        case "chain" | "group":
            members = kwargs.get("tasks")
            for member in members if isinstance(members, (list, tuple)) else ():
                yield from ids_of(member)
        case "chord":
            header = kwargs.get("header")
            if isinstance(header, Mapping):
                yield from ids_of(header)
            else:
                for member in header if isinstance(header, (list, tuple)) else ():
                    yield from ids_of(member)
            body = kwargs.get("body")
            if body:
                yield from ids_of(body)
    task_id = (signature.get("options") or {}).get("task_id")
    if task_id and signature.get("subtask_type") not in {"group", "chain"}:
        yield task_id


def ends_of(signature: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the tasks whose values *signature* has in a chord or group around it, as many as `width_of` says."""
    kwargs, options = signature["kwargs"], signature["options"]
    chain = options.get("chain")
    if chain:  # what follows it, in reverse
        yield from ends_of(chain[0])
        return
    match signature["subtask_type"]:
        case "chain":
            if kwargs["tasks"]:
                yield from ends_of(kwargs["tasks"][-1])
        case "group":
            for member in kwargs["tasks"]:
                yield from ends_of(member)
        case "chord":
            yield from ends_of(kwargs["body"])
        case _:
            yield signature


def ends_in_group(signature: Mapping[str, Any]) -> bool:
    """Return whether what *signature* comes to is the values of several tasks."""
    kwargs = signature["kwargs"]
    match signature["subtask_type"]:
        case "chain":
            return bool(kwargs["tasks"]) and ends_in_group(kwargs["tasks"][-1])
        case "chord":
            return ends_in_group(kwargs["body"])
        case kind:
            return bool(kind == "group")


def result_of(signature: Mapping[str, Any]) -> Any:
    """Return the result of a placed *signature* as ``as_tuple`` has it, but for what led to it."""
    kwargs, options = signature["kwargs"], signature["options"]
    chain = options.get("chain")
    if chain:
        return result_of(chain[0])
    match signature["subtask_type"]:
        case "chain":
            return result_of(kwargs["tasks"][-1])
        case "group":
            return (options["task_id"], None), [result_of(member) for member in kwargs["tasks"]]
        case "chord":
            return result_of(kwargs["body"])
        case _:
            return (options["task_id"], None), None
