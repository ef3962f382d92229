"""Watch workers, queues and tasks in the terminal."""

from __future__ import annotations

import importlib
from typing import Any

import click

from umbel.cli.base import Command
from umbel.cli.session import Session
from umbel.cli.top_watch import Watch
from umbel.exceptions import MissingExtra

__all__ = ["command", "watch"]


@click.command("top", cls=Command)
@click.option("-e", "--enable-events", is_flag=True, help="Have workers tell of tasks, as the key e does.")
@click.pass_obj
def command(session: Session, /, *, enable_events: bool) -> None:
    """Watch workers, queues and tasks in the terminal."""
    watch(session.app, enable_events=enable_events)


def watch(app: Any, *, enable_events: bool = False) -> None:
    """Show the live view of *app*'s cluster until it is left.

    Raises:
        MissingExtra: textual is not installed.
    """
    try:
        importlib.import_module("textual")
    except ImportError:
        raise MissingExtra("umbel top", "tui") from None
    screen = importlib.import_module("umbel.cli.top_screen")  # needs textual, which only this command does
    seen = Watch(app)
    seen.start()
    try:
        if enable_events:
            app.control.enable_events()
        screen.Top(seen).run()
    finally:
        seen.stop()
