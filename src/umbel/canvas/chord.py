"""Tasks side by side, and one after all of them."""

# ruff: noqa: FBT001, PLR0917 - Celery's signatures

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from umbel.canvas.group import Members, group
from umbel.canvas.place import width_of
from umbel.canvas.send import is_eager, send
from umbel.canvas.signature import Signature, maybe_signature

__all__ = ["chord"]


@Signature.register_type("chord")
class chord(Signature):  # noqa: N801 - Celery's name
    """Run a header of tasks side by side, then the body with the list of their values."""

    def __init__(
        self, header: Any, body: Any = None, task: str = "celery.chord", app: Any = None, **options: Any
    ) -> None:
        """Take the header (a group, signatures or their dicts, a generator) and the body."""
        if isinstance(header, Mapping) and not isinstance(header, group):
            header = maybe_signature(header, app)
        if isinstance(header, group):
            members, app = header.tasks, app or header.bound_app()
        elif isinstance(header, Mapping):
            members = [header]
        elif isinstance(header, (list, tuple)):
            members = type(header)(maybe_signature(each, app) for each in header)
        else:
            members = Members(header, app)
        kwargs = {"header": members, "body": maybe_signature(body, app)}
        super().__init__(task, (), kwargs, options, subtask_type="chord", app=app)

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: Any) -> Any:
        made = super()._from_dict(d, app)
        header = d["kwargs"].get("header") or []
        if isinstance(header, Mapping):
            header = maybe_signature(header, app)
        elif not isinstance(header, Members):
            header = [maybe_signature(each, app) for each in header]
        made["kwargs"] = {**d["kwargs"], "header": header, "body": maybe_signature(d["kwargs"].get("body"), app)}
        return made

    @property
    def tasks(self) -> Any:
        """The members of the header in order."""
        header = self["kwargs"]["header"]
        return header.tasks if isinstance(header, group) else header

    @property
    def body(self) -> Any:
        """What runs after the header."""
        return self["kwargs"]["body"]

    @body.setter
    def body(self, body: Any) -> None:
        self["kwargs"]["body"] = body

    @property
    def type(self) -> Any:
        """The task ``celery.chord``, which stands for chords."""
        return self._type or self.app.tasks["celery.chord"]

    def bound_app(self) -> Any:
        if self._app is not None:
            return self._app
        parts = itertools.chain(self.tasks, [] if self.body is None else [self.body])  # a generator gives its first
        return next((app for app in (part.bound_app() for part in parts) if app), None)

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with *body* where one is given."""
        return self.apply_async((), {"body": body} if body is not None else {}, **options)

    def apply_async(  # type: ignore[override]  # its own arguments
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        **options: Any,
    ) -> Any:
        """Send the header, with *args* before those of its members; return the handle of the body.

        ``body`` in *kwargs* replaces the body. *task_id*, ``link`` and ``link_error`` are the body's; other options,
        such as ``countdown``, are the header's (API-270, API-271).
        """
        kwargs = dict(kwargs or {})
        made = self.clone()
        body = kwargs.pop("body", None)
        if body is not None:
            made.body = maybe_signature(body, self._app).clone()
        app = self.app
        if is_eager(app):
            return made.apply(args, kwargs, task_id=task_id, **options)
        for name, link in (("link", made.link), ("link_error", made.link_error)):
            given = options.pop(name, None)
            for each in [given] if isinstance(given, Mapping) else given or ():
                link(each)
        options = {**options, "task_id": task_id, "producer": producer, "connection": connection}
        return send(made, app, args or (), kwargs, options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the header and then the body, here and now."""
        kwargs = dict(kwargs or {})
        body = maybe_signature(kwargs.pop("body", None) or self.body, self._app)
        header = group(self.tasks, app=self.app)
        done = header.apply(args, kwargs)
        result = body.apply(args=(done.get(disable_sync_subtasks=False),), **options)
        result.parent = done
        return result

    def link(self, callback: Any) -> Any:
        """Link *callback* to the body; return it."""
        return self.body.link(callback)

    def link_error(self, errback: Any) -> Any:
        """Link *errback* to the body, and with ``task_allow_error_cb_on_chord_header`` to the header too; return it."""
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for task in self.tasks:
                task.link_error(errback.clone().set(immutable=True))
        return self.body.link_error(errback)

    def clone(self, *args: Any, **options: Any) -> Any:
        """Return a copy with copies of header and body."""
        made = super().clone(*args, **options)
        header = self["kwargs"]["header"]
        if isinstance(header, Mapping):
            header = maybe_signature(header, self._app)  # a dict form, within what was frozen
        if isinstance(header, group):
            copied: Any = header.clone()
        elif isinstance(header, (list, tuple)):
            copied = type(header)(task.clone() for task in header)
        else:
            copied = Members(task.clone() for task in header)
        made["kwargs"] = {**self["kwargs"], "header": copied, "body": self.body.clone() if self.body else None}
        return made

    def freeze(self, *args: Any, **kwargs: Any) -> Any:
        """Give it, its header and its body the ids they will have when sent; return the body's handle."""
        result = super().freeze(*args, **kwargs)
        self["kwargs"] = {**self["kwargs"], "header": maybe_signature(self["kwargs"]["header"], self._app)}
        return result

    _freeze = freeze

    def set_immutable(self, immutable: bool) -> None:
        """Say for header and body whether they ignore arguments given later."""
        for task in self.tasks:
            task.set_immutable(immutable)
        self.body.set_immutable(immutable)

    def __length_hint__(self) -> int:
        """Return how many results the body waits for (API-279)."""
        return sum(width_of(task) for task in self.tasks)
