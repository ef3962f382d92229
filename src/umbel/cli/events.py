"""Watch a cluster by its events."""

from __future__ import annotations

import importlib

import click

from umbel.cli.base import Command
from umbel.cli.session import Session
from umbel.events.dumper import evdump
from umbel.events.snapshot import evcam

__all__ = ["command"]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


@click.command("events", cls=Command)
@click.option("-d", "--dump", is_flag=True, help="Print each event on a line, until Ctrl+C.")
@click.option("-c", "--camera", metavar="CLASS", help="Take snapshots with this class, until Ctrl+C.")
@click.option("-F", "--frequency", "--freq", type=float, default=1.0, show_default=True, help="Seconds between them.")
@click.option("-r", "--maxrate", metavar="RATE", help="No more than so many, 10/m for example.")
@click.option(
    "-l", "--loglevel", type=click.Choice(_LEVELS, case_sensitive=False), default="WARNING", show_default=True,
    help="What is logged.",
)  # fmt: skip
@click.option("-f", "--logfile", help="File to log to. Default: stderr.")
@click.pass_obj
def command(
    session: Session,
    /,
    *,
    dump: bool,
    camera: str | None,
    frequency: float,
    maxrate: str | None,
    loglevel: str,
    logfile: str | None,
) -> None:
    """Watch a cluster by its events.

    Without options as umbel top does. Workers tell of tasks with -E, or once umbel control enable_events was run.
    """
    if dump:
        evdump(app=session.app)
    elif camera:
        evcam(camera, frequency, maxrate, loglevel, logfile or session.app.conf.events_logfile, app=session.app)
    else:
        importlib.import_module("umbel.cli.top").watch(session.app)
