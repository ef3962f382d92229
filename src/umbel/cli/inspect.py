"""Ask workers what they do."""

from __future__ import annotations

import click

from umbel.app.control import flatten_reply
from umbel.cli.base import Command
from umbel.cli.console import show_json
from umbel.cli.remote import ask, find, list_commands, remote_options, show_node
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("inspect", cls=Command)
@click.argument("name", required=False, metavar="COMMAND")
@click.argument("words", nargs=-1, metavar="[ARGUMENT]...")
@click.option("--list", "lists", is_flag=True, help="Show all commands.")
@remote_options
@click.pass_obj
def command(
    session: Session,
    /,
    *,
    name: str | None,
    words: tuple[str, ...],
    lists: bool,
    timeout: float | None,
    destination: str | None,
    as_json: bool,
) -> None:
    """Ask workers what they do."""
    app = session.app
    app.import_modules()
    if lists:
        click.echo(list_commands("inspect"), nl=False)
        return
    if name is None:
        raise click.UsageError("name a command; umbel inspect --list shows them")
    asked = find("inspect", name)
    replies = ask(
        app,
        asked,
        words,
        timeout=timeout,
        destination=destination,
        callback=None if as_json else lambda reply: show_node(session, reply),
    )
    if as_json:
        show_json(flatten_reply(replies))
    elif not session.quiet:
        count = len(flatten_reply(replies))
        click.echo(f"\n{count} {'node' if count == 1 else 'nodes'} online.")
