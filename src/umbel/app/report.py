"""Say for people, in a bug report or before a worker starts, what an app is made of."""

from __future__ import annotations

import importlib
import platform
import sys
from typing import Any

from umbel import current
from umbel._repr import mask_url
from umbel.app.version import VERSION_BANNER

__all__ = ["bugreport"]


def bugreport(app: Any = None) -> str:
    """Return versions, places and settings of *app* (None = the current one); secrets are masked."""
    app = current.app_or_default(app)
    facts = {
        "software": f"umbel:{VERSION_BANNER} py:{platform.python_version()}",
        "platform": f"system:{platform.system()} arch:{platform.machine()} imp:{platform.python_implementation()}",
        "libraries": " ".join(f"{name}:{_version(name)}" for name in ("msgspec", "click", "rich")),
        "loader": f"{type(app.loader).__module__}.{type(app.loader).__qualname__}",
        "broker": mask_url(app.shown_url(app.broker_url())),
        "results": mask_url(app.shown_url(app.backend_url() or "disabled")),
    }
    lines = [f"{name + ':':<10} {value}" for name, value in facts.items()]
    return "\n".join([*lines, "", app.conf.humanize()])


def _version(name: str) -> str:
    metadata = importlib.import_module("importlib.metadata")  # 10 ms that only a report is worth
    try:
        return metadata.version(name)  # type: ignore[no-any-return]  # imported by name
    except metadata.PackageNotFoundError:
        return "missing" if name not in sys.modules else "unknown"
