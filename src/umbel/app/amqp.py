"""Hold what the settings say of queues and routes, and read it anew when they change."""

# ruff: noqa: FBT001 - Celery's signatures
from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

from umbel.app.publish import Publisher
from umbel.app.queues import Queue, QueueDefaults, Queues
from umbel.app.routes import Router

__all__ = ["AMQP"]

_QUEUE_SETTINGS: Final = frozenset(
    {
        "task_queues",
        "task_default_queue",
        "task_default_queue_type",
        "task_default_exchange",
        "task_default_exchange_type",
        "task_default_routing_key",
        "task_queue_max_priority",
        "task_create_missing_queues",
        "task_create_missing_queue_type",
        "task_create_missing_queue_exchange_type",
    }
)


class AMQP:
    """The queues and routes of one app (``app.amqp``)."""

    def __init__(self, app: Any) -> None:
        self.app = app
        app.conf.on_change(self._forget)

    @cached_property
    def queues(self) -> Queues:
        """The queues by name; assign a mapping or list to replace them."""
        return self.Queues(self.app.conf.task_queues)

    @cached_property
    def router(self) -> Router:
        """What ``task_routes`` says."""
        return Router(self.app.conf.task_routes, self.queues)

    @cached_property
    def publisher(self) -> Publisher:
        """What turns calls into publications."""
        return Publisher(self.app, self.router, self.app.coder)

    @property
    def default_queue(self) -> Queue:
        """Where tasks go that nobody routes."""
        return self.queues[self.app.conf.task_default_queue]

    @property
    def routes(self) -> Any:
        """What ``task_routes`` holds."""
        return self.app.conf.task_routes

    def Queues(self, queues: Any, create_missing: bool | None = None) -> Queues:  # noqa: N802 - Celery's name
        """Return *queues*, in any form that ``task_queues`` may have, completed by the settings."""
        conf = self.app.conf
        defaults = QueueDefaults(
            queue=conf.task_default_queue,
            queue_type=conf.task_default_queue_type,
            exchange=conf.task_default_exchange,
            exchange_type=conf.task_default_exchange_type,
            routing_key=conf.task_default_routing_key,
            max_priority=conf.task_queue_max_priority,
            create_missing=conf.task_create_missing_queues if create_missing is None else create_missing,
            missing_type=conf.task_create_missing_queue_type,
            missing_exchange_type=conf.task_create_missing_queue_exchange_type,
        )
        return Queues(queues, defaults)

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> Router:  # noqa: N802 - Celery's
        """Return a router over *queues* (None = the app's)."""
        return Router(self.app.conf.task_routes, queues or self.queues)

    def flush_routes(self) -> None:
        """Read ``task_routes`` anew."""
        for name in ("router", "publisher"):
            self.__dict__.pop(name, None)

    def _forget(self, changed: Iterable[str]) -> None:
        if not _QUEUE_SETTINGS.isdisjoint(changed):
            self.__dict__.pop("queues", None)
        self.flush_routes()
