"""Hold what the global options said, and the app they lead to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import click

__all__ = ["CannotStart", "FindApp", "Session"]

_EXPORTED: Final = {
    "broker": "CELERY_BROKER_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
    "loader": "CELERY_LOADER",
    "config": "CELERY_CONFIG_MODULE",
}


class FindApp(Protocol):
    """Finds an app by its name, or in a folder; see `cli.find_app`, which is loaded only when it is called."""

    def __call__(self, name: str | None, folder: Path, *, may_be_default: bool) -> Any: ...


class CannotStart(click.ClickException):
    """Say in one sentence why a command cannot begin: the app, an option or the environment is wrong."""

    exit_code = 2


class Session:
    """One run of the command line."""

    def __init__(self, find_app: FindApp, argv: Sequence[str] = (), app: Any = None) -> None:
        """Take what finds an app, the words behind the program's name, and the *app* that runs its own commands."""
        self._find_app = find_app
        self.argv = list(argv)
        self.given: dict[str, Any] = {}  # global options by name, as they were said last
        self._app = app

    @property
    def quiet(self) -> bool:
        """Whether banners are to be left out."""
        return bool(self.given.get("quiet"))

    @property
    def no_color(self) -> bool:
        """Whether colours are unwanted."""
        return bool(self.given.get("no_color") or os.environ.get("NO_COLOR"))

    @property
    def traceback(self) -> bool:
        """Whether errors are to be shown with all their stacks."""
        return bool(self.given.get("traceback") or os.environ.get("UMBEL_TRACEBACK") not in {None, "", "0"})

    @cached_property
    def app(self) -> Any:
        """The app, imported when a command first asks for it.

        Raises:
            CannotStart: there is none, or it cannot be imported.
        """
        self._export()
        app = self._app
        if app is None:
            broker_known = bool(os.environ.get("CELERY_BROKER_URL"))
            app = self._find_app(self.given.get("app"), Path.cwd(), may_be_default=broker_known)
        elif self.given.keys() & _EXPORTED.keys():
            app.conf.refresh()
        app.set_current()
        app.set_default()
        return app

    def _export(self) -> None:
        """Put options into the environment, where settings look first, in this process and in its children."""
        for name, variable in _EXPORTED.items():
            if self.given.get(name):
                os.environ[variable] = self.given[name]
        if self.given.get("skip_checks"):
            os.environ["CELERY_SKIP_CHECKS"] = "true"

    # Plugins written for Celery's command line use these.

    def echo(self, message: Any = None, **options: Any) -> None:
        """Print *message*."""
        click.echo(message, **options)

    def secho(self, message: Any = None, **options: Any) -> None:
        """Print *message* in style."""
        if self.no_color:
            options["color"] = False
        click.secho(message, **options)
