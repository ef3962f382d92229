"""Change attributes of tasks from the settings, as ``task_annotations`` says."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from umbel._names import symbol_by_name

__all__ = ["annotate"]


def annotate(task: type[Any], annotations: Any) -> None:
    """Change the class *task* as *annotations* say: what is said of all tasks first, then what is said of it.

    A key ``@name`` wraps the method *name* with the given decorator.
    """
    entries = annotations if isinstance(annotations, (list, tuple)) else [annotations]
    for entry in [_resolved(each) for each in entries]:
        for changes in _about(entry, task):
            for key, value in changes.items():
                if key.startswith("@"):
                    _wrap(task, key[1:], value)
                else:
                    setattr(task, key, value)


def _about(entry: Any, task: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(entry, Mapping):
        found = entry.get("*"), entry.get(task.name)
    else:
        found = (
            entry.annotate_any() if hasattr(entry, "annotate_any") else None,
            entry.annotate(task) if hasattr(entry, "annotate") else None,
        )
    return (changes for changes in found if changes)


def _wrap(task: type[Any], method: str, decorator: Any) -> None:
    wrapped = decorator(getattr(task, method))
    plain = isinstance(inspect.getattr_static(task, method), staticmethod)  # `run` of a task that is not bound
    setattr(task, method, staticmethod(wrapped) if plain else wrapped)


def _resolved(entry: Any) -> Any:
    found = symbol_by_name(entry)
    return found() if isinstance(found, type) else found
