"""Let a project's own parts start and stop with a worker.

A step is a class; ``app.steps["worker"].add(MyStep)`` gives it to every worker of the app, and
``app.steps["consumer"].add(MyStep)`` to what talks to the broker, which starts later and stops earlier.
"""

# ruff: noqa: FBT001, FBT002 - Celery's signatures
from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from umbel.exceptions import ImproperlyConfigured

__all__ = [
    "CLOSE",
    "INITIALIZING",
    "RUN",
    "TERMINATE",
    "Blueprint",
    "ConsumerStep",
    "StartStopStep",
    "Step",
    "step_label",
    "step_name",
]

INITIALIZING: Final = 0
RUN: Final = 1
CLOSE: Final = 2
TERMINATE: Final = 3

_logger: Final = logging.getLogger("celery.bootsteps")

# The steps of Celery's worker: they may be required here too, since all of them are there before a project's own start.
_BUILT_IN: Final = {
    "celery.worker.components": ("Timer", "Hub", "Pool", "Beat", "StateDB", "Consumer"),
    "celery.worker.autoscale": ("WorkerComponent",),
    "celery.worker.consumer": (
        "Agent",
        "Connection",
        "Control",
        "DelayedDelivery",
        "Events",
        "Evloop",
        "Gossip",
        "Heart",
        "Mingle",
        "Tasks",
    ),
}


class Step:
    """One part of a worker, made when the worker is."""

    name: str | None = None  # None = module and class
    label: str | None = None  # short, for people
    requires: Iterable[Any] = ()  # steps, or their names, that start before this one
    conditional: bool = False  # used only if `enabled` is set, usually by an option in __init__
    last: bool = False  # starts after all others
    enabled: bool = True
    obj: Any = None  # what `create` returned

    def __init__(self, parent: Any, **options: Any) -> None:
        """Take the worker, and the options it was started with."""

    def include_if(self, parent: Any) -> Any:
        """Return whether this worker is to have the step."""
        return self.enabled

    def instantiate(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Return an instance of a class."""
        return name(*args, **kwargs)

    def create(self, parent: Any) -> Any:
        """Return what the step starts and stops, or None."""

    def include(self, parent: Any) -> bool:
        """Make the step part of *parent*; return whether it is."""
        if not self.include_if(parent):
            return False
        self.obj = self.create(parent)
        return True

    def info(self, obj: Any) -> Any:
        """Return facts for ``inspect stats``."""

    def __repr__(self) -> str:
        return f"<step: {step_label(self)}>"


class StartStopStep(Step):
    """A step that starts and stops; by itself, or what its `create` returned."""

    def start(self, parent: Any) -> Any:
        """Begin to work."""
        return self.obj.start() if self.obj else None

    def stop(self, parent: Any) -> Any:
        """Stop working."""
        return self.obj.stop() if self.obj else None

    def close(self, parent: Any) -> Any:
        """Get ready to be stopped: the worker takes no more tasks."""

    def terminate(self, parent: Any) -> Any:
        """Stop at once."""
        if self.obj is not None and hasattr(self.obj, "terminate"):
            return self.obj.terminate()
        return self.stop(parent)


class ConsumerStep(StartStopStep):
    """Celery's way to consume with kombu; umbel's worker has no kombu channel.

    Raises:
        ImproperlyConfigured: when it is made. Start a thread with a kombu consumer of your own in a `StartStopStep`.
    """

    requires = ("celery.worker.consumer:Connection",)

    def __init__(self, parent: Any, **options: Any) -> None:
        raise ImproperlyConfigured(
            f"the step {step_name(type(self))} consumes through a kombu channel, which umbel's worker does not have; "
            f"make it a StartStopStep that runs a consumer of its own in a thread"
        )


class Blueprint:
    """The steps of one worker in the order in which they start."""

    name: str = "blueprint"
    default_steps: Iterable[Any] = ()

    def __init__(
        self,
        steps: Iterable[Any] | None = None,
        name: str | None = None,
        on_start: Callable[[], object] | None = None,
        on_close: Callable[[], object] | None = None,
        on_stopped: Callable[[], object] | None = None,
    ) -> None:
        self.name = name or self.name
        self.types: Final = {step_name(step): step for step in (*self.default_steps, *(steps or ()))}
        self.steps: dict[str, Any] = {}  # instances by name, set by `apply`
        self.order: list[Step] = []  # those that this worker has
        self.state = INITIALIZING
        self.started = 0  # so many of `order` were started
        self._on_start = on_start
        self._on_close = on_close
        self._on_stopped = on_stopped

    def apply(self, parent: Any, **options: Any) -> Blueprint:
        """Make the steps for *parent*, in order; return self.

        Raises:
            KeyError: one requires a step that does not exist.
            ImproperlyConfigured: they require each other in a circle.
        """
        ordered = [self.types[name](parent, **options) for name in self._ordered()]
        self.steps = {step_name(type(step)): step for step in ordered}
        self.order = [step for step in ordered if step.include(parent)]
        return self

    def start(self, parent: Any) -> None:
        """Start all steps."""
        self.state = RUN
        if self._on_start is not None:
            self._on_start()
        for step in self.order:
            self.started += 1
            if hasattr(step, "start"):
                _logger.debug("starting %s", step_label(step))
                step.start(parent)

    def restart(self, parent: Any, method: str = "stop", description: str = "restarting") -> None:
        """Stop the steps; `start` may start them again."""
        self.send_all(parent, method, description)
        self.started = 0

    def close(self, parent: Any) -> None:
        """Tell the steps that they will be stopped."""
        self.send_all(parent, "close", "closing", reverse=False)

    def stop(self, parent: Any, close: bool = True, terminate: bool = False) -> None:
        """Stop the steps that were started, last first; an error of one is logged and the others are stopped."""
        if self.state in {CLOSE, TERMINATE}:
            return
        if close:
            self.close(parent)
        self.state = TERMINATE if terminate else CLOSE
        if self._on_close is not None:
            self._on_close()
        what = "terminate" if terminate else "stop"
        self.restart(parent, what, "terminating" if terminate else "stopping")
        if self._on_stopped is not None:
            self._on_stopped()

    def send_all(
        self, parent: Any, method: str, description: str | None = None, reverse: bool = True, args: Iterable[Any] = ()
    ) -> None:
        """Call *method* of all steps that were started."""
        started = self.order[: self.started]
        for step in reversed(started) if reverse else started:
            function = getattr(step, method, None)
            if function is None:
                continue
            try:
                function(parent, *args)
            except Exception:
                _logger.exception("error while %s %s", description or method, step_label(step))

    def info(self, parent: Any) -> dict[str, Any]:
        """Return what the steps say of themselves."""
        found: dict[str, Any] = {}
        for step in self.order:
            found.update(step.info(parent) or {})
        return found

    def join(self, timeout: float | None = None) -> None:
        """Return; `stop` has waited already."""

    def __getitem__(self, name: str) -> Any:
        return self.steps[name]

    def _ordered(self) -> list[str]:
        graph: dict[str, set[str]] = {}
        for name, step in self.types.items():
            needed = [step_name(each) for each in step.requires]
            graph[name] = {each for each in needed if each in self.types or self._must_exist(each, name)}
        lasts = {name for name, step in self.types.items() if step.last}
        for name in lasts:
            graph[name] |= self.types.keys() - lasts
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as exc:
            raise ImproperlyConfigured(f"steps require each other in a circle: {' → '.join(exc.args[1])}") from None

    @staticmethod
    def _must_exist(needed: str, by: str) -> bool:
        module, _, name = needed.replace(":", ".").rpartition(".")
        module = module.replace("umbel.", "celery.", 1)
        if any(module.startswith(known) and name in names for known, names in _BUILT_IN.items()):
            return False
        raise KeyError(f"unknown bootstep {needed!r}, which {by} requires")


def step_name(step: Any) -> str:
    """Return the name of a step; text is one."""
    if isinstance(step, str):
        return step
    return step.name or f"{step.__module__}.{step.__qualname__}"


def step_label(step: Any) -> str:
    """Return the short name of a step, for people."""
    return step.label or step_name(type(step)).rpartition(".")[2]
