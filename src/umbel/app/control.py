"""Steer what waits and what runs, for all workers."""

# ruff: noqa: FBT001, FBT002 - Celery's signatures
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Control"]


class Control:
    """The orders of one app to its workers (``app.control``)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: str | None = "SIGTERM",
        **options: Any,
    ) -> None:
        """Forbid tasks to run, durably: also workers that start later know it.

        Raises:
            NotImplementedError: with *terminate*, which needs remote control of running workers.
        """
        if terminate:
            raise NotImplementedError("stopping tasks that run already needs remote control, which is not there yet")
        ids = [task_id] if isinstance(task_id, str) else [str(each) for each in task_id]
        with self.app.lend_broker() as broker:
            broker.revoke(ids)

    def purge(self, connection: Any = None) -> int:
        """Drop all messages that wait in the queues this app consumes; return how many."""
        with self.app.lend_broker() as broker:
            return sum(broker.purge(name) for name in self.app.amqp.queues.consume_from)

    discard_all = purge
