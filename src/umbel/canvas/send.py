"""Hand the calls of a work-flow to the app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umbel import current
from umbel.canvas.expand import expand

__all__ = ["is_eager", "send"]

_HOW = ("producer", "connection", "retry", "retry_policy", "timeout", "confirm_timeout")  # of sending, not of a task


def is_eager(app: Any) -> bool:
    """Return whether calls are run where they are made."""
    return bool(app.conf.task_always_eager)


def send(signature: Any, app: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Send what starts *signature*, and return the handle of what it comes to.

    ``app.send_calls`` takes the calls as they are made and may send them in batches; it returns when the broker has
    them all. Inside a task the handle becomes one of its children (API-153).
    """
    options = {key: value for key, value in options.items() if value is not None}
    add_to_parent = options.pop("add_to_parent", True)
    how = {name: options.pop(name) for name in _HOW if name in options}
    result, calls = expand(app, signature, args, options, kwargs)
    app.send_calls(calls, **how)
    if add_to_parent and result is not None:
        parent = current.get_current_worker_task()
        if parent is not None:
            parent.add_trail(result)
    return result
