"""Run beat: send periodic tasks when they are due."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

import umbel
from umbel._repr import mask_url
from umbel._time import humanize_seconds
from umbel.beat.service import Service
from umbel.cli.base import Command
from umbel.cli.daemon import Daemon, daemon_options, pidfile
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("beat", cls=Command)
@click.option("-s", "--schedule", metavar="FILE", help="File that remembers when each ran; makes it the only beat.")
@click.option("-S", "--scheduler", metavar="CLASS", help="Class or alias of what decides what is due.")
@click.option("--max-interval", type=click.IntRange(1), help="Longest sleep, in seconds.")
@click.option(
    "--enable-remote-control/--no-enable-remote-control", "remote_control", default=None,
    help="Answer umbel inspect ping. Default: as the setting beat_enable_remote_control.",
)  # fmt: skip
@click.option("-n", "--hostname", help="Node name. Default: celerybeat@%h.")
@click.option("--detach", is_flag=True, help="Run in the background.")
@daemon_options
@click.argument("settings", nargs=-1, metavar="[SETTING=VALUE]...")
@click.pass_obj
def command(
    session: Session,
    /,
    *,
    settings: tuple[str, ...],
    schedule: str | None,
    scheduler: str | None,
    max_interval: int | None,
    remote_control: bool | None,
    hostname: str | None,
    detach: bool,
    daemon: Daemon,
) -> int:
    """Send periodic tasks.

    With a broker that keeps a ledger (SQLite, Redis) any number may run, and each instant is sent once. With others,
    such as RabbitMQ, run exactly one.
    """
    if detach:
        return daemon.detach(session, "beat", settings)
    app, daemon = daemon.enter(session, "beat", settings)
    app.import_modules()
    app.log.setup(loglevel=daemon.loglevel, logfile=daemon.logfile, colorize=False if session.no_color else None)
    service = Service(
        app,
        max_interval=max_interval,
        schedule_filename=schedule,
        scheduler_cls=scheduler,
        remote_control=remote_control,
        hostname=hostname,
    )
    with pidfile(daemon.pidfile), _stopping(service):
        if not session.quiet:
            click.echo(f"celery beat v{umbel.__version__} is starting.")
            if service.wait_for_scheduler() is not None:
                click.echo(_banner(service, daemon.loglevel, daemon.logfile))
        service.start()
    return 0


def _banner(service: Service, loglevel: str, logfile: str | None) -> str:
    app, scheduler = service.app, service.scheduler
    lines = [
        f"LocalTime -> {time.strftime('%Y-%m-%d %H:%M:%S')}",
        "Configuration ->",
        f"    . broker -> {mask_url(app.shown_url(app.broker_url(write=True)))}",
        f"    . loader -> {type(app.loader).__module__}.{type(app.loader).__qualname__}",
        f"    . scheduler -> {type(scheduler).__module__}.{type(scheduler).__qualname__}",
        scheduler.info,
        f"    . logfile -> {logfile or '[stderr]'}@%{loglevel.upper()}",
        f"    . maxinterval -> {humanize_seconds(scheduler.max_interval)} ({scheduler.max_interval:g}s)",
    ]
    return "\n".join(line for line in lines if line)


@contextmanager
def _stopping(service: Service) -> Iterator[None]:
    """Stop *service* on TERM and INT while the block runs."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        service.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
