"""Tasks side by side."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from umbel._names import uuid
from umbel.canvas.place import members_of
from umbel.canvas.send import is_eager, send
from umbel.canvas.signature import Signature, maybe_signature

__all__ = ["Members", "group"]


class Members(Sequence[Any]):
    """Signatures that a generator gives when they are first needed; then they stay."""

    def __init__(self, source: Iterable[Any], app: Any = None) -> None:
        self._known: list[Any] = []
        self._source = iter(source)
        self._app = app

    def __iter__(self) -> Iterator[Any]:
        i = 0
        while i < len(self._known) or self._take():
            yield self._known[i]
            i += 1

    def _take(self) -> bool:
        for task in self._source:
            self._known.append(maybe_signature(task, self._app))
            return True
        return False

    def _all(self) -> list[Any]:
        while self._take():
            pass
        return self._known

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # grows

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self._all(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [task.clone() for task in self._all()]

    def __json__(self) -> list[Any]:
        return self._all()


@Signature.register_type("group")
class group(Signature):  # noqa: N801 - Celery's name
    """Run tasks side by side: ``group(a, b)``, ``group([a, b])`` or ``group(a(i) for i in many)``."""

    def __init__(self, *tasks: Any, app: Any = None, **options: Any) -> None:
        """Take signatures, or one iterable of them; a generator is used when the group is first sent."""
        given: Any = tasks
        if len(tasks) == 1:
            given = tasks[0]
            if isinstance(given, group):
                given, app = given.tasks, app or given.bound_app()
            elif isinstance(given, Mapping):
                given = [given]
        if isinstance(given, (list, tuple)):
            members: Any = type(given)(maybe_signature(task, app) for task in given if task is not None)
        else:
            members = given if isinstance(given, Members) else Members(given, app)
        super().__init__("celery.group", (), {"tasks": members}, options, subtask_type="group", app=app)

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: Any) -> Any:
        made = super()._from_dict(d, app)
        tasks = d["kwargs"].get("tasks") or []
        if not isinstance(tasks, Members):
            tasks = [maybe_signature(task, app) for task in tasks]
        made["kwargs"] = {**d["kwargs"], "tasks": tasks}
        return made

    @property
    def tasks(self) -> Any:
        """The members in order."""
        return self["kwargs"]["tasks"]

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self["kwargs"]["tasks"] = tasks

    @property
    def type(self) -> Any:
        """The task ``celery.group``, which stands for groups."""
        return self._type or self.app.tasks["celery.group"]

    def bound_app(self) -> Any:
        return self._app or next((app for app in (task.bound_app() for task in self.tasks) if app), None)

    def __len__(self) -> int:
        """Return how many members it has."""
        return len(self.tasks) if "kwargs" in self else dict.__len__(self)

    def __bool__(self) -> bool:
        return True

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send it, with *args* before those of each member."""
        return self.apply_async(args, **options)

    def apply_async(  # type: ignore[override]  # a group has no route of its own
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        add_to_parent: bool = True,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Send all members, with *args* before those of each; return the group's handle.

        Raises:
            TypeError: *link* or *link_error* was given: a group has no moment at which it has succeeded.
        """
        if link is not None:
            raise TypeError("cannot add a link to a group: use a chord instead")
        if link_error is not None:
            raise TypeError("cannot add an error link to a group: do that on individual tasks")
        app = self.app
        if is_eager(app):
            return self.apply(args, kwargs, **options)
        options = {**self["options"], **options, "add_to_parent": add_to_parent, "producer": producer}
        return send(self, app, args or (), kwargs or {}, options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run all members here and now, in order."""
        app = self.app
        options.pop("add_to_parent", None)
        members = (member for task in self.tasks for member in members_of(task))
        results = [maybe_signature(member, app).apply(args, kwargs, **options) for member in members]
        return app.GroupResult(self.id or uuid(), results)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Any:
        """Have members start one after the other, *step* seconds apart, from *start* up to *stop*; return itself."""
        countdown = start
        for task in self.tasks:
            task.set(countdown=countdown)
            if stop is None or countdown + step <= stop:
                countdown += step
        return self

    def link(self, callback: Any) -> Any:
        """Link an immutable copy of *callback* to the first member (API-266)."""
        return self.tasks[0].link(callback.clone().set(immutable=True))

    def link_error(self, errback: Any) -> Any:
        """Link *errback* to every member; return it."""
        for task in self.tasks:
            task.link_error(errback)
        return errback

    def clone(self, *args: Any, **options: Any) -> Any:
        """Return a copy with copies of its members."""
        made = super().clone(*args, **options)
        tasks = self.tasks
        made["kwargs"]["tasks"] = (
            type(tasks)(task.clone() for task in tasks)
            if isinstance(tasks, (list, tuple))
            else (Members(task.clone() for task in tasks))
        )
        return made

    def set_immutable(self, immutable: bool) -> None:
        """Say for every member whether it ignores arguments given later."""
        for task in self.tasks:
            task.set_immutable(immutable)
