"""One task over many values: in one message, or in messages of some values each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from umbel.canvas.group import group
from umbel.canvas.signature import Signature, maybe_signature

__all__ = ["chunks", "xmap", "xstarmap"]


class _OverValues(Signature):
    """A task and the values it is called with."""

    kind = ""

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        app = options.pop("app", None)
        kwargs = {"task": _as_signature(task, app), "it": it if isinstance(it, list) else list(it)}
        name = f"celery.{self.kind.removeprefix('x')}"
        super().__init__(name, (), kwargs, options, subtask_type=self.kind, immutable=True, app=app)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it as one message, routed as the task itself."""
        inner = self["kwargs"]["task"]
        return super().apply_async(args, kwargs, route_name or inner["task"], **options)

    def bound_app(self) -> Any:
        return self._app or self["kwargs"]["task"].bound_app()

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: Any) -> Any:
        made = super()._from_dict(d, app)
        made["kwargs"] = {**d["kwargs"], "task": maybe_signature(d["kwargs"]["task"], app)}
        return made


@Signature.register_type("xmap")
class xmap(_OverValues):  # noqa: N801 - Celery's name
    """Call a task with each of some values, in one message; its result is the list of what it returned."""

    kind = "xmap"


@Signature.register_type("xstarmap")
class xstarmap(_OverValues):  # noqa: N801 - Celery's name
    """As `xmap`, each value being the arguments of one call."""

    kind = "xstarmap"


@Signature.register_type("chunks")
class chunks(Signature):  # noqa: N801 - Celery's name
    """Call a task with each of some values, *n* of them to a message."""

    def __init__(self, task: Any, it: Iterable[Any], n: int, **options: Any) -> None:
        app = options.pop("app", None)
        kwargs = {"task": _as_signature(task, app), "it": it, "n": n}
        super().__init__("celery.chunks", (), kwargs, options, subtask_type="chunks", immutable=True, app=app)

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: Any) -> Any:
        made = super()._from_dict(d, app)
        made["kwargs"] = {**d["kwargs"], "task": maybe_signature(d["kwargs"]["task"], app)}
        return made

    def bound_app(self) -> Any:
        return self._app or self["kwargs"]["task"].bound_app()

    def __call__(self, **options: Any) -> Any:
        """Send it."""
        return self.apply_async(**options)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it as a group of messages, each routed as the task itself; return the group's handle."""
        route_name = route_name or self["kwargs"]["task"]["task"]
        return self.group().apply_async(args, kwargs, route_name=route_name, **options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here and now."""
        return self.group().apply(args, kwargs, **options)

    def group(self) -> group:
        """Return the group of its messages (PRT-078)."""
        task, n, values = self["kwargs"]["task"], self["kwargs"]["n"], iter(self["kwargs"]["it"])
        parts = iter(lambda: list(islice(values, n)), [])
        return group((xstarmap(task, part, app=self._app) for part in parts), app=self.bound_app())

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Any = None) -> Any:
        """Send *it* in messages of *n* values at once."""
        return cls(task, it, n, app=app)()


def _as_signature(task: Any, app: Any) -> Any:
    return maybe_signature(task, app) if isinstance(task, Mapping) else Signature(task, app=app)
