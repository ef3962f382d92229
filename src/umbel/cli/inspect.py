"""Ask workers what they do."""

from __future__ import annotations

from typing import Any

import click

from umbel.app.control import flatten_reply
from umbel.cli.base import Command
from umbel.cli.console import show_json
from umbel.cli.remote import call, call_options, remote_options
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("inspect", cls=Command)
@call_options
@remote_options
@click.pass_obj
def command(session: Session, /, *, as_json: bool, **options: Any) -> None:
    """Ask workers what they do."""
    replies = call(session, "inspect", as_json=as_json, **options)
    if replies is None:
        return
    if as_json:
        show_json(flatten_reply(replies))
    elif not session.quiet:
        count = len(flatten_reply(replies))
        click.echo(f"\n{count} {'node' if count == 1 else 'nodes'} online.")
