"""Hold queues."""

from __future__ import annotations

from contextlib import closing

import click

from umbel.cli.base import Command
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("pause", cls=Command)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.pass_obj
def command(session: Session, /, *, queues: tuple[str, ...]) -> None:
    """Let no worker take tasks from queues, until umbel resume; without names, show which are paused."""
    with closing(session.app.open_broker()) as broker:
        if not queues:
            paused = sorted(broker.paused())
            click.echo("\n".join(paused) if paused else "No queue is paused.")
            return
        for queue in queues:
            broker.pause(queue)
            click.echo(f"{queue} is paused: what is sent to it waits. What already runs goes on.")
