"""Empty queues."""

from __future__ import annotations

from contextlib import closing

import click

from umbel.cli.base import Command
from umbel.cli.session import Session

__all__ = ["command", "names"]


def names(text: str | None) -> list[str]:
    """Return the names in a comma-separated *text*."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


@click.command("purge", cls=Command)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", metavar="A,B", help="Only these queues. Default: all that the app knows.")
@click.option("-X", "--exclude-queues", metavar="A,B", help="Not these.")
@click.pass_obj
def command(session: Session, /, *, force: bool, queues: str | None, exclude_queues: str | None) -> None:
    """Drop all messages that wait in queues."""
    app = session.app
    left_out = set(names(exclude_queues))
    chosen = [name for name in names(queues) or sorted(app.amqp.queues) if name not in left_out]
    count = f"{len(chosen)} known task {'queue' if len(chosen) == 1 else 'queues'}"
    if not force:
        click.secho("WARNING: ", fg="red", bold=True, nl=False, err=True)
        click.echo(
            f"this drops all messages that wait in {', '.join(chosen) or 'no queue'}; nobody can undo it.", err=True
        )
        click.confirm("Drop them?", abort=True, err=True)
    with closing(app.open_broker()) as broker:
        there = broker.sizes(chosen)
        purged = sum(broker.purge(name) for name in chosen if name in there)
    if purged:
        click.echo(f"Purged {purged} {'message' if purged == 1 else 'messages'} from {count}.")
    else:
        click.echo(f"No messages purged from {count.replace('known task ', '')}.")
