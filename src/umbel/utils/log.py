"""Give tasks and libraries their loggers, whose records show the running task."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["get_logger", "get_task_logger"]

_BASE: Final = "celery"  # loggers keep Celery's names, since a project's logging configuration knows them
_TASKS: Final = "celery.task"


def get_logger(name: str) -> logging.Logger:
    """Return the logger *name*, below ``celery`` unless it is there already or is the root logger."""
    return _below(_BASE, name)


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger *name* for use in tasks: a worker shows with each record which task it came from.

    Raises:
        RuntimeError: *name* is that of a parent, whose settings are not a task's to change.
    """
    if name in {_BASE, _TASKS}:
        raise RuntimeError(f"a task's logger cannot be called {name!r}; use get_task_logger(__name__)")
    return _below(_TASKS, name)


def _below(parent: str, name: str) -> logging.Logger:
    logger = logging.getLogger(name)
    above: logging.Logger | None = logger
    while above is not None:
        if above.name == parent:
            return logger
        above = above.parent
    if logger is not logging.getLogger():
        logger.parent = logging.getLogger(parent)
    return logger
