"""Say what a bug report needs."""

from __future__ import annotations

import click

from umbel.cli.base import Command
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("report", cls=Command)
@click.pass_obj
def command(session: Session) -> None:
    """Print what a bug report needs."""
    click.echo(session.app.bugreport())
