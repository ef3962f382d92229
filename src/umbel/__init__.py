"""Run functions later and elsewhere: a distributed task queue that speaks Celery's API and wire.

Importing this loads nothing but names; each part is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from umbel.app.version import SERIES, VERSION, VERSION_BANNER, __version__, version_info

if TYPE_CHECKING:
    from umbel._names import uuid
    from umbel.app.app import Celery, Umbel, shared_task
    from umbel.app.report import bugreport
    from umbel.app.secret import Secret
    from umbel.app.task import Task
    from umbel.canvas.chain import chain
    from umbel.canvas.chord import chord
    from umbel.canvas.group import group
    from umbel.canvas.maps import chunks, xmap, xstarmap
    from umbel.canvas.signature import Signature, maybe_signature, signature, subtask
    from umbel.compat.finder import install_as_celery
    from umbel.current import current_app, current_task

__all__ = [
    "SERIES",
    "VERSION",
    "VERSION_BANNER",
    "Celery",
    "Secret",
    "Signature",
    "Task",
    "Umbel",
    "__version__",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "install_as_celery",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "uuid",
    "version_info",
    "xmap",
    "xstarmap",
]


# fmt: off
_HOME: Final = {
    **dict.fromkeys(("Celery", "Umbel", "shared_task"), "umbel.app.app"),
    **dict.fromkeys(
        ("Signature", "chain", "chord", "chunks", "group", "maybe_signature", "signature", "subtask", "xmap",
         "xstarmap"),
        "umbel.canvas",
    ),
    **dict.fromkeys(("current_app", "current_task"), "umbel.current"),
    "Secret": "umbel.app.secret",
    "Task": "umbel.app.task",
    "bugreport": "umbel.app.report",
    "install_as_celery": "umbel.compat",
    "uuid": "umbel._names",
}
# fmt: on


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
