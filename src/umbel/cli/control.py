"""Tell workers to do something."""

from __future__ import annotations

from typing import Any

import click

from umbel.cli.base import Command
from umbel.cli.console import show_json
from umbel.cli.remote import call, call_options, remote_options
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("control", cls=Command)
@call_options
@remote_options
@click.pass_obj
def command(session: Session, /, *, as_json: bool, **options: Any) -> int:
    """Tell workers to do something."""
    replies = call(session, "control", as_json=as_json, **options)
    if as_json and replies is not None:
        show_json(replies)
    return 0
