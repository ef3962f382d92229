"""Move what waits at one broker to another."""

from __future__ import annotations

from typing import Any

import click

from umbel.app.migrate import State, Waiting, migrate_tasks
from umbel.cli.base import Command
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("migrate", cls=Command)
@click.argument("source", metavar="SOURCE_URL")
@click.argument("destination", metavar="DESTINATION_URL")
@click.option("-n", "--limit", type=click.IntRange(1), help="At most so many.")
@click.option("-t", "--timeout", type=float, default=1.0, show_default=True, help="Seconds to wait for more.")
@click.option("-a", "--ack-messages", is_flag=True, help="Remove them at the source once they are stored; else copy.")
@click.option("-T", "--tasks", metavar="A,B", help="Only tasks of these names.")
@click.option("-Q", "--queues", metavar="A,OLD:NEW", help="Only these queues; OLD:NEW gives one another name.")
@click.option("-F", "--forever", is_flag=True, help="Go on until Ctrl+C, also with what comes later.")
@click.pass_obj
def command(session: Session, /, *, source: str, destination: str, **options: Any) -> None:
    """Copy what waits at one broker to another, or move it.

    A task that waits for its ETA goes when it is due: leave --forever on until none is left.
    """
    app = session.app

    def tell(state: State, _body: Any, waiting: Waiting) -> None:
        if not session.quiet:
            click.echo(f"Migrating task {state.count}/{state.strtotal}: {waiting.message.task}[{waiting.message.id}]")

    with app.connection_for_read(source) as here, app.connection_for_write(destination) as there:
        state = migrate_tasks(here, there, app=app, callback=tell, **options)
    click.echo(f"{'Moved' if options['ack_messages'] else 'Copied'} {state.count} of {state.strtotal} messages.")
