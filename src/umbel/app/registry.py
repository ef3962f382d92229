"""Know every task of one app by its name."""

from __future__ import annotations

from typing import Any

from umbel._names import close_match
from umbel.app.task import Task
from umbel.exceptions import InvalidTaskError, NotRegistered

__all__ = ["TaskRegistry"]


class TaskRegistry(dict[str, Task[..., Any]]):
    """Tasks by name; a missing one raises `NotRegistered`."""

    NotRegistered = NotRegistered

    def __missing__(self, name: str) -> Any:
        found = close_match(str(name), self)
        raise NotRegistered(
            name,
            hint=f"no task named {name!r} is registered; did you mean {found!r}?" if found else "",
        )

    def register(self, task: Task[..., Any] | type[Task[..., Any]]) -> None:
        """Add *task* under its name; a class is instantiated.

        Raises:
            InvalidTaskError: it has no name.
        """
        instance = task() if isinstance(task, type) else task
        if not getattr(instance, "name", None):
            raise InvalidTaskError(
                f"the task class {type(instance).__qualname__!r} has no name; "
                f"give it a 'name', or register it with app.register_task()"
            )
        self[instance.name] = instance

    def unregister(self, name: str | Task[..., Any]) -> None:
        """Remove a task.

        Raises:
            NotRegistered: no such task is here.
        """
        key = name if isinstance(name, str) else name.name
        if key not in self:
            raise NotRegistered(key)
        del self[key]

    def regular(self) -> dict[str, Task[..., Any]]:
        """Return the tasks that are no periodic ones of Celery 3's kind."""
        return self.filter_types("regular")

    def periodic(self) -> dict[str, Task[..., Any]]:
        """Return the periodic tasks of Celery 3's kind."""
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> dict[str, Task[..., Any]]:
        """Return the tasks whose ``type`` attribute is *type* (``regular`` where there is none)."""
        return {name: task for name, task in self.items() if getattr(task, "type", "regular") == type}
