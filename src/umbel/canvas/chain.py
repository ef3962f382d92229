"""One task after the other."""

# ruff: noqa: FBT001 - Celery's signatures

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from umbel.canvas.join import fold
from umbel.canvas.place import steps_of
from umbel.canvas.send import is_eager, send
from umbel.canvas.signature import Signature, maybe_signature
from umbel.states import IGNORED, REJECTED

__all__ = ["chain"]


class _Folding(type):
    """Let ``chain(a, b)`` be ``a | b``, which may be no chain at all (API-254)."""

    def __call__(cls, *tasks: Any, **options: Any) -> Any:
        app = options.pop("app", None)
        if len(tasks) == 1 and (isinstance(tasks[0], Mapping) or not isinstance(tasks[0], Iterable)):
            made = cls.of([maybe_signature(tasks[0], app)], app)  # type: ignore[attr-defined]  # chain's
        else:
            steps = tasks[0] if len(tasks) == 1 else tasks
            made = fold((maybe_signature(step, app) for step in steps if step is not None), Signature.types, app)
        return made.set(**options) if options else made


@Signature.register_type("chain")
class chain(Signature, metaclass=_Folding):  # noqa: N801 - Celery's name
    """Run tasks one after the other, each with the value of the one before.

    ``chain(a, b)`` is ``a | b``; a chain by itself comes of one task, of a list, or of nothing.
    """

    @classmethod
    def of(cls, tasks: list[Any], app: Any = None, options: Mapping[str, Any] | None = None) -> Any:
        """Return the chain of just these *tasks*, whatever they are."""
        d = {
            "task": "celery.chain",
            "args": (),
            "kwargs": {"tasks": tasks},
            "options": dict(options or {}),
            "subtask_type": "chain",
            "immutable": False,
        }
        return cls._from_dict(d, app)

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: Any) -> Any:
        made = super()._from_dict(d, app)
        tasks = [maybe_signature(task, app) for task in d["kwargs"].get("tasks") or ()]
        made["kwargs"] = {**d["kwargs"], "tasks": tasks}
        return made

    @property
    def tasks(self) -> Any:
        """The steps in order."""
        return self["kwargs"]["tasks"]

    @tasks.setter
    def tasks(self, tasks: list[Any]) -> None:
        self["kwargs"]["tasks"] = tasks

    @property
    def type(self) -> Any:
        """The task ``celery.chain``, which stands for chains and is never run."""
        return self._type or self.app.tasks["celery.chain"]

    def bound_app(self) -> Any:
        return self._app or next((app for app in (step.bound_app() for step in self.tasks) if app), None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it; None when it is empty."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it, *args* before those of its first step; return the last step's handle, None when it is empty."""
        if not self.tasks:
            return None
        if is_eager(self.app):
            return self.apply(args, kwargs, **options)
        return send(self, self.app, args or (), kwargs or {}, options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here and now; stop at a step that was ignored or rejected (API-282)."""
        last = None
        given: Sequence[Any] = args or ()
        for step in self._steps_to_apply():
            done = step.apply(given, kwargs if last is None else None, **options)
            done.parent, last = last, done
            if getattr(done, "state", None) in {IGNORED, REJECTED}:  # a group has none
                break
            given = (done.get(disable_sync_subtasks=False),)  # it is there
        return last

    def _steps_to_apply(self) -> list[Any]:
        return [maybe_signature(step, self._app) for step in steps_of(self.tasks)]

    def clone(self, *args: Any, **options: Any) -> Any:
        """Return a copy with copies of its steps."""
        made = super().clone(*args, **options)
        made["kwargs"]["tasks"] = [step.clone() for step in self.tasks]
        return made

    def set_immutable(self, immutable: bool) -> None:
        """Say for every step whether it ignores arguments given later."""
        for step in self.tasks:
            step.set_immutable(immutable)

    def unchain_tasks(self) -> list[Any]:
        """Return copies of its steps with what was linked to the chain: links on the last, error links on all."""
        steps = [step.clone() for step in self.tasks]
        for errback in self["options"].get("link_error") or ():
            for step in steps:
                step.link_error(errback)
        for callback in self["options"].get("link") or ():
            steps[-1].link(callback)
        return steps
