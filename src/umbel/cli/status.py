"""Show which workers are there."""

from __future__ import annotations

import click

from umbel.app.control import flatten_reply
from umbel.cli.base import Command
from umbel.cli.console import show_json
from umbel.cli.remote import ask, find, remote_options
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("status", cls=Command)
@remote_options
@click.pass_obj
def command(session: Session, /, *, timeout: float | None, destination: str | None, as_json: bool) -> None:
    """Show which workers are there."""
    replies = flatten_reply(ask(session.app, find("inspect", "ping"), (), timeout=timeout, destination=destination))
    if as_json:
        show_json(replies)
        return
    for node in sorted(replies):
        click.echo(f"{node}: {click.style('OK', fg='green', bold=True)}", color=False if session.no_color else None)
    if not session.quiet:
        click.echo(f"\n{len(replies)} {'node' if len(replies) == 1 else 'nodes'} online.")
