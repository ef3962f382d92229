"""A call not yet sent: the dict that travels, with methods around it.

The dict has exactly the keys of protocol.md PRT-033. How calls combine (`join`), get their ids (`place`) and become
messages (`expand`) is said once for all kinds in those modules, over the dict forms, since that is what arrives.
"""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

from umbel import current
from umbel._names import uuid
from umbel.canvas.join import join
from umbel.canvas.merge import merged
from umbel.canvas.place import Place, place
from umbel.canvas.show import show
from umbel.canvas.stamping import StampingVisitor, stamp

__all__ = ["Signature", "maybe_signature", "signature", "subtask"]

_Kind = TypeVar("_Kind", bound="type[Signature]")


class _Key:
    """An attribute that is a key of the dict."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, signature: Any, owner: type) -> Any:
        return self if signature is None else signature.get(self._name)

    def __set__(self, signature: dict[str, Any], value: object) -> None:
        signature[self._name] = value


class _Option:
    """An attribute that is an option."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, signature: Any, owner: type) -> Any:
        return self if signature is None else signature["options"].get(self._name)


class Signature(dict[str, Any]):
    """A task's name with arguments and options, to be sent or called later, here or elsewhere.

    Arguments given when it is sent come before those it has, unless it is immutable (API-218, API-219).
    """

    types: ClassVar[dict[str, type[Signature]]] = {}  # by `subtask_type`

    task = _Key()
    args = _Key()
    kwargs = _Key()
    options = _Key()
    subtask_type = _Key()
    immutable = _Key()
    id = _Option("task_id")
    parent_id = _Option("parent_id")
    root_id = _Option("root_id")

    def __init__(
        self,
        task: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Any = None,
        **more_options: Any,
    ) -> None:
        """Describe the call of *task*: a task, its name, or another signature's dict, of which this becomes a copy."""
        self._app = app
        self._type = type
        if isinstance(task, dict):
            super().__init__(task)
            return
        if not isinstance(task, str) and task is not None:
            self._type = task
            task = task.name
        super().__init__(
            task=task,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **more_options},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # -- Kinds ---------------------------------------------------------------------------------------------------------

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[_Kind], _Kind]:
        """Return a decorator that makes a subclass what dicts with its ``subtask_type`` become."""

        def register(kind: _Kind) -> _Kind:
            Signature.types[name or kind.__name__] = kind
            return kind

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """Return the signature that *d* is the dict form of: a chain, group, chord or whatever it says."""
        kind = Signature.types.get(d.get("subtask_type") or "", Signature)
        if kind is Signature:
            return Signature(dict(d) if not isinstance(d, dict) else d, app=app)
        return kind._from_dict(d, app)

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: Any) -> Any:
        made = cls.__new__(cls)
        dict.__init__(made, d)
        made._app, made._type = app, None
        return made

    @property
    def app(self) -> Any:
        """The app it, or what it is made of, is bound to; else the current one."""
        return self.bound_app() or current.get_current_app()

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    def bound_app(self) -> Any:
        """Return the app that it, or something it is made of, is bound to; None = none."""
        return self._app

    @property
    def type(self) -> Any:
        """The task; `NotRegistered` when this process does not know it."""
        return self._type if self._type is not None else self.app.tasks[self["task"]]

    @property
    def name(self) -> Any:
        """The task's name."""
        return self["task"]

    # -- Running -------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task here, as a function."""
        args, kwargs, _ = merged(self, args, kwargs)
        return self.type(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with these arguments before its own; return the result's handle."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it; return the result's handle. Options that are None are those of the signature."""
        args, kwargs, options = merged(self, args or (), kwargs or {}, _given(options))
        if route_name is not None:
            options["route_name"] = route_name
        try:
            send = self.type.apply_async
        except KeyError:  # unknown in this process
            return self.app.send_task(self["task"], args, kwargs, **options)
        return send(args, kwargs, **options)

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """As `delay`, for the running event loop, which goes on meanwhile."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """As `apply_async`, for the running event loop, which goes on meanwhile."""
        if self.app.conf.task_always_eager:
            return self.apply_async(args, kwargs, **options)  # it runs here, where a debugger expects it
        asyncio = importlib.import_module("asyncio")  # 15 ms that only who runs an event loop pays, and has paid
        return await asyncio.to_thread(self.apply_async, args, kwargs, **options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here and now; return an `EagerResult`."""
        args, kwargs, options = merged(self, args or (), kwargs or {}, options)
        return self.type.apply(args, kwargs, **options)

    def __invert__(self) -> Any:
        """Send it and wait for its value."""
        return self.apply_async().get()

    def election(self) -> Any:
        """Have exactly one of the workers run it."""
        elected = self.clone(task_id=self.id or uuid())
        self.app.control.election(elected.id, "task", elected)
        return self.app.AsyncResult(elected.id)

    # -- Changing ------------------------------------------------------------------------------------------------------

    def clone(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with *args* before its own, and *kwargs* and *options* over them."""
        if args or kwargs or options:
            args, kwargs, options = merged(self, args or (), kwargs or {}, options)
        else:
            args, kwargs, options = self["args"], self["kwargs"], self["options"]
        made = self.copy()
        made.update(args=args, kwargs=dict(kwargs), options=copy.deepcopy(options))
        return made

    partial = clone

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a copy with whole fields replaced; None keeps one."""
        made = self.clone()
        if args is not None:
            made["args"] = tuple(args)
        if kwargs is not None:
            made["kwargs"] = dict(kwargs)
        if options is not None:
            made["options"] = dict(options)
        return made

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Change options, and immutability unless None, in place; return itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether arguments given later are ignored."""
        self["immutable"] = immutable

    def link(self, callback: Any) -> Any:
        """Have *callback* sent with the value when this succeeds; return it. The same one counts once."""
        return self._append("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Have *errback* called or sent when this fails; return it. The same one counts once."""
        return self._append("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """As `link_error`, but return itself."""
        self.link_error(errback)
        return self

    def _append(self, option: str, value: Any) -> Any:
        values = self["options"].get(option)
        if not isinstance(values, list):
            values = [] if values is None else list(values) if isinstance(values, tuple) else [values]
        if value not in values:
            values = [*values, value]
        self["options"][option] = values
        return value

    def flatten_links(self) -> list[Any]:
        """Return itself and all that is linked to it, and to those, in order."""
        links = self["options"].get("link") or ()
        links = [links] if isinstance(links, dict) else links
        return [self, *(found for link in links for found in maybe_signature(link, self._app).flatten_links())]

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp it, and all that is in it or linked to it, with *headers* and what the *visitor* says."""

        def as_group(tasks: Any) -> Any:
            return maybe_signature(tasks, self._app) if isinstance(tasks, dict) else Signature.types["group"](tasks)

        def as_signature(d: Any) -> Any:
            return maybe_signature(d, self._app)

        stamp(self, visitor, headers, append=append_stamps, as_signature=as_signature, as_group=as_group)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give it, and everything in it, the ids it will have when sent; return the result's handle."""
        where = Place(group_id=group_id, chord=chord, root_id=root_id, parent_id=parent_id, group_index=group_index)
        placed = place(self, self.app, where, task_id=_id)
        self.update(placed.signature)
        return placed.result

    _freeze = freeze

    # -- As a value ----------------------------------------------------------------------------------------------------

    def __or__(self, other: Any) -> Any:
        """Return this followed by *other* (API-237 to API-253)."""
        return join(self, other, Signature.types) if isinstance(other, Signature) else NotImplemented

    def __ior__(self, other: Any) -> Any:
        """Return this followed by *other*: ``a |= b`` is not an update of the dict."""
        return self.__or__(other)

    def copy(self) -> Self:
        """Return a shallow copy."""
        made = type(self).__new__(type(self))
        dict.__init__(made, self)
        made._app, made._type = self._app, self._type
        return made

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = self.copy()
        memo[id(self)] = made
        for key, value in self.items():
            made[key] = copy.deepcopy(value, memo)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Return the call as text, as it would be with these arguments before its own."""
        args, kwargs, _ = merged(self, args, kwargs, {}, force=True)
        return show({**self, "args": args, "kwargs": kwargs})

    def __repr__(self) -> str:
        return show(self)


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the signature of a task, of a task's name, or of a signature's dict form (API-211)."""
    app = kwargs.get("app")
    if isinstance(varies, Mapping):
        if isinstance(varies, Signature):
            return varies.clone()
        return Signature.from_dict(varies, app=app)
    return Signature(varies, *args, **kwargs)


subtask = signature


def maybe_signature(d: Any, app: Any = None, clone: bool = False) -> Any:
    """Return *d* as a signature bound to *app*; None stays None, and so does what is no dict."""
    if d is None or not isinstance(d, Mapping):
        return d
    if not isinstance(d, Signature):
        return signature(d, app=app)
    made = d.clone() if clone else d
    if app is not None:
        made._app = app
    return made


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
