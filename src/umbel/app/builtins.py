"""Define the tasks that every app has, under the names that peers send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from umbel.result import result_from_tuple

__all__ = ["add_builtin_tasks"]


def add_builtin_tasks(app: Any) -> None:
    """Give *app* the tasks called ``celery.…``."""

    def backend_cleanup() -> None:
        """Delete results that have expired."""
        app.backend.cleanup()

    def xmap(task: Mapping[str, Any], it: Iterable[Any]) -> list[Any]:
        """Call a task with each item, here."""
        function = app.tasks[task["task"]]
        return [function(item) for item in it]

    def xstarmap(task: Mapping[str, Any], it: Iterable[Sequence[Any]]) -> list[Any]:
        """Call a task with each item as its arguments, here."""
        function = app.tasks[task["task"]]
        return [function(*item) for item in it]

    def run_canvas(name: str) -> Any:
        def run(**kwargs: Any) -> Any:
            """Send a work-flow that somebody sent as one task."""
            return app.signature(
                {
                    "task": f"celery.{name}",
                    "args": (),
                    "kwargs": kwargs,
                    "options": {},
                    "subtask_type": name,
                    "immutable": False,
                }
            ).apply_async()

        return run

    def look_after_chord(  # noqa: PLR0917 - as peers send it
        self: Any,
        group_id: str,
        callback: Any,
        interval: float | None = None,
        max_retries: int | None = None,
        result: Iterable[Any] = (),
        **_: Any,
    ) -> None:
        """Send the body of a chord once its header has ended, and look again later until then (PRT-206)."""
        header = app.GroupResult(group_id, [result_from_tuple(each, app) for each in result])
        if not header.ready():
            seconds = app.conf.result_chord_retry_interval if interval is None else interval
            raise self.retry(countdown=seconds, max_retries=max_retries)
        request = self.request
        request.outbox.extend(
            app.chords.fire(group_id, callback, header, {"parent_id": request.id, "root_id": request.root_id})
        )

    app.add_task(look_after_chord, name="celery.chord_unlock", bind=True, max_retries=None, ignore_result=True)
    app.add_task(_accumulate, name="celery.accumulate")
    app.add_task(backend_cleanup, name="celery.backend_cleanup")
    app.add_task(_chain, name="celery.chain", ignore_result=True)
    app.add_task(xmap, name="celery.map")
    app.add_task(xstarmap, name="celery.starmap")
    for name in ("chord", "chunks", "group"):
        app.add_task(run_canvas(name), name=f"celery.{name}", ignore_result=True)


def _accumulate(*args: Any, index: int | None = None) -> Any:
    """Return the arguments, or one of them."""
    return args if index is None else args[index]


def _chain(*args: Any, **kwargs: Any) -> None:
    """Refuse: a chain is not one task."""
    raise NotImplementedError("chain is not a real task")
