"""Let a caller ask a running task to end, which it does when it looks."""

from __future__ import annotations

from typing import Any, Final, ParamSpec, TypeVar

from umbel.app.task import Task
from umbel.result import AsyncResult

__all__ = ["ABORTED", "AbortableAsyncResult", "AbortableTask"]

P = ParamSpec("P")
R = TypeVar("R")

ABORTED: Final = "ABORTED"


class AbortableAsyncResult(AsyncResult[R]):
    """The result of an `AbortableTask`."""

    def is_aborted(self) -> bool:
        """Return whether the task was asked to end, and has not ended since."""
        return self.state == ABORTED

    def abort(self) -> Any:
        """Ask the task to end: it finds the state ABORTED when it looks."""
        return self.backend.store_result(self.id, None, ABORTED)


class AbortableTask(Task[P, R]):
    """A task that asks `is_aborted` from time to time; use it as ``@app.task(bind=True, base=AbortableTask)``."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult[R]:  # noqa: N802 - Celery's name
        """Return the handle on the result of an earlier call, which can be aborted."""
        return AbortableAsyncResult(task_id, backend=self.backend, task_name=self.name, app=self.app, **kwargs)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Return whether the running call (or that of the keyword *task_id*) was asked to end."""
        task_id = kwargs.get("task_id", self.request.id)
        return task_id is not None and self.AsyncResult(task_id).is_aborted()
