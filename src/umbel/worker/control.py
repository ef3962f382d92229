"""Register what workers can be asked to do; a user's own commands too."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar, overload

import msgspec

from umbel.brokers.base import Broker
from umbel.brokers.ledger import ledger_of
from umbel.exceptions import CeleryError

__all__ = ["CommandState", "NoReply", "Panel", "RemoteCommand", "control_command", "inspect_command"]


F = TypeVar("F", bound=Callable[..., Any])

_SAMPLES: Final = 1000  # of memory


class NoReply(CeleryError):
    """Raise this in a command that is not to be answered."""


class RemoteCommand(msgspec.Struct, frozen=True, kw_only=True):
    """One command: a function of the worker's `state` and named arguments, and how it is called by hand."""

    name: str
    type: str  # "control": changes something, "inspect": only looks
    handler: Callable[..., Any]
    alias: str | None = None  # another name, on the wire
    args: Sequence[tuple[str, Callable[[str], Any]]] = ()  # names and types of positional words
    variadic: str | None = None  # the argument that takes all further words
    signature: str | None = None  # how to show the words
    default_timeout: float = 1.0  # seconds to wait for replies
    visible: bool = True  # shown by --list

    @property
    def help(self) -> str:
        """The first line of its docstring."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0]


class CommandState:
    """What a command is given first."""

    tset = set

    def __init__(self, worker: Any, desk: Any) -> None:
        self.worker = worker
        self.consumer = worker  # Celery's name
        self.app: Any = worker.app
        self.hostname = worker.hostname
        self.samples: deque[int] = deque(maxlen=_SAMPLES)  # KiB; see `memsample`
        self._desk = desk

    @property
    def broker(self) -> Broker:
        """The desk's own connection."""
        broker: Broker = self._desk.broker
        return broker

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._desk.beat()

    def revoke(self, ids: Sequence[str]) -> None:
        """Forbid these ids, durably where the broker can."""
        self.broker.revoke(ids)

    def forbid_stamps(self, stamps: Mapping[str, Sequence[Any]]) -> None:
        """Forbid tasks with these stamps, durably where the broker can."""
        self._desk.forbid_stamps(stamps)

    def elect(self, id: str, action: Any) -> None:
        """Send the signature *action*, if no other worker has done so for this *id*.

        Raises:
            NotImplementedError: the broker cannot tell who was first.
        """
        ledger = ledger_of(self.broker)
        if ledger is None:
            raise NotImplementedError("this broker cannot decide elections; send the task itself instead")
        if ledger.publish_once(f"election-{id}", (), expires=3600.0):
            self.app.signature(action).apply_async()


class Panel:
    """All commands by name; filled when the modules that define them are imported."""

    data: ClassVar[dict[str, Callable[..., Any]]] = {}  # by name and alias
    meta: ClassVar[dict[str, RemoteCommand]] = {}  # by name

    @classmethod
    def register(cls, handler: Callable[..., Any] | None = None, *, type: str = "control", **options: Any) -> Any:
        """Add *handler*, as a decorator with or without *options* (those of `RemoteCommand`, and ``name``)."""
        if handler is None:
            return lambda function: cls.register(function, type=type, **options)
        name = options.pop("name", None) or getattr(handler, "__name__", str(handler))
        known: Mapping[str, Any] = {key: value for key, value in options.items() if key in _OPTIONS}
        command = RemoteCommand(name=name, type=type, handler=handler, **{**known, "args": known.get("args") or ()})
        cls.meta[name] = command
        cls.data[name] = handler
        if command.alias:
            cls.data[command.alias] = handler
        return handler


_OPTIONS: Final = frozenset(RemoteCommand.__struct_fields__) - {"name", "type", "handler"}


@overload
def control_command(handler: F, /) -> F: ...
@overload
def control_command(handler: None = None, /, **options: Any) -> Callable[[F], F]: ...


def control_command(handler: Any = None, **options: Any) -> Any:
    """Make a function of (state, ...) a command that changes something: ``umbel control NAME``."""
    return Panel.register(handler, type="control", **options)


@overload
def inspect_command(handler: F, /) -> F: ...
@overload
def inspect_command(handler: None = None, /, **options: Any) -> Callable[[F], F]: ...


def inspect_command(handler: Any = None, **options: Any) -> Any:
    """Make a function of (state, ...) a command that looks: ``umbel inspect NAME``."""
    return Panel.register(handler, type="inspect", **options)
