"""Watch a cluster by its events."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from umbel.cli.base import Command
from umbel.cli.daemon import Daemon, daemon_options, pidfile
from umbel.cli.session import CannotStart, Session
from umbel.events.dumper import evdump
from umbel.events.snapshot import evcam

__all__ = ["command"]


@click.command("events", cls=Command)
@click.option("-d", "--dump", is_flag=True, help="Print each event on a line, until Ctrl+C; with --logfile there.")
@click.option("-c", "--camera", metavar="CLASS", help="Take snapshots with this class, until Ctrl+C.")
@click.option("-F", "--frequency", "--freq", type=float, default=1.0, show_default=True, help="Seconds between them.")
@click.option("-r", "--maxrate", metavar="RATE", help="No more than so many, 10/m for example.")
@click.option("-D", "--detach", is_flag=True, help="Run in the background, with --dump or --camera.")
@daemon_options
@click.pass_obj
def command(
    session: Session,
    /,
    *,
    dump: bool,
    camera: str | None,
    frequency: float,
    maxrate: str | None,
    detach: bool,
    daemon: Daemon,
) -> int:
    """Watch a cluster by its events.

    Without options as umbel top does. Workers tell of tasks with -E, or once umbel control enable_events was run.
    """
    if detach and not dump and not camera:
        raise click.UsageError("the live view needs a terminal: detach with --dump or --camera")
    if detach:
        return daemon.detach(session, "events")
    app, daemon = daemon.enter(session, "events")
    with pidfile(daemon.pidfile):
        if dump:
            with _terminable(), _appending(daemon.logfile) as out:
                evdump(app=app, out=out)
        elif camera:
            with _terminable():
                evcam(camera, frequency, maxrate, daemon.loglevel, daemon.logfile, app=app)
        else:
            importlib.import_module("umbel.cli.top").watch(app)
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Let TERM end the block as Ctrl+C does, so that the pidfile goes and the last picture is taken."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _appending(name: str | None) -> Iterator[TextIO | None]:
    if not name:
        yield None
        return
    try:
        out = Path(name).open("a", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as exc:
        raise CannotStart(f"the log file {name} cannot be written: {exc.strerror}") from exc
    with out:
        yield out
