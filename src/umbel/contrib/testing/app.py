"""Make an app for a test: everything in memory, nothing left behind."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from umbel import current
from umbel.app.app import Umbel

__all__ = ["DEFAULT_TEST_CONFIG", "TestApp", "setup_default_app"]

DEFAULT_TEST_CONFIG: Final[Mapping[str, Any]] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
}


def TestApp(  # noqa: N802 - Celery's name
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = None,
    backend: str | None = None,
    broker: str | None = None,
    **options: Any,
) -> Umbel:
    """Return an app over memory with *config* on top; *options* are those of `Umbel`.

    With *enable_logging* a worker sets logging up as it would in production; else it leaves it alone.
    """
    app = Umbel(
        name or "umbel.tests",
        set_as_current=set_as_current,
        log=log or (None if enable_logging else _NoLogging),
        broker=broker,
        backend=backend,
        **options,
    )
    app.add_defaults({**DEFAULT_TEST_CONFIG, **(config or {})})
    return app


class _NoLogging:
    """Leave logging to the test runner."""

    already_setup = True

    def __init__(self, app: Any) -> None:
        self.app = app

    def setup(self, *_: Any, **__: Any) -> bool:
        return True

    setup_logging_subsystem = setup


@contextmanager
def setup_default_app(app: Any, use_trap: bool = False) -> Iterator[None]:
    """Make *app* the current and the default one inside the block; with *use_trap* none is current there."""
    before = current.app_or_none()
    current.set_current_app(None if use_trap else app)
    current.set_default_app(None if use_trap else app)
    try:
        yield
    finally:
        current.set_current_app(before)
        current.set_default_app(None)


TestApp.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test
