"""Let go of queues that were paused."""

from __future__ import annotations

from contextlib import closing

import click

from umbel.cli.base import Command
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("resume", cls=Command)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--all", "all_of_them", is_flag=True, help="All that are paused.")
@click.pass_obj
def command(session: Session, /, *, queues: tuple[str, ...], all_of_them: bool) -> int:
    """Let workers take tasks from queues again."""
    if bool(queues) == all_of_them:
        raise click.UsageError("name the queues, or say --all")
    with closing(session.app.open_broker()) as broker:
        paused = broker.paused()
        for queue in sorted(paused) if all_of_them else queues:
            broker.resume(queue)
            click.echo(f"{queue} goes on." if queue in paused else f"{queue} was not paused.")
    return 0
