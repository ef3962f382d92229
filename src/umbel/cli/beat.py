"""Run beat: send periodic tasks when they are due."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import click

import umbel
from umbel._repr import mask_url
from umbel._time import humanize_seconds
from umbel.app.settings import parse_assignments
from umbel.beat.service import Service
from umbel.cli import daemon
from umbel.cli.base import Command
from umbel.cli.daemon import daemon_options, drop_privileges
from umbel.cli.session import Session
from umbel.exceptions import ImproperlyConfigured

__all__ = ["command"]

_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


@click.command("beat", cls=Command)
@click.option("-s", "--schedule", metavar="FILE", help="File that remembers when each ran; makes it the only beat.")
@click.option("-S", "--scheduler", metavar="CLASS", help="Class or alias of what decides what is due.")
@click.option("--max-interval", type=click.IntRange(1), help="Longest sleep, in seconds.")
@click.option(
    "--enable-remote-control/--no-enable-remote-control", "remote_control", default=None,
    help="Answer umbel inspect ping. Default: as the setting beat_enable_remote_control.",
)  # fmt: skip
@click.option("-n", "--hostname", help="Node name. Default: celerybeat@%h.")
@click.option(
    "-l", "--loglevel", type=click.Choice(_LEVELS, case_sensitive=False), default="WARNING", show_default=True,
    help="What is logged.",
)  # fmt: skip
@click.option("-f", "--logfile", help="File to log to. Default: stderr.")
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
    loglevel: str,
    logfile: str | None,
    detach: bool,
    pidfile: str | None,
    uid: str | None,
    gid: str | None,
    umask: str | None,
    executable: str | None,
) -> int:
    """Send periodic tasks.

    With a broker that keeps a ledger (SQLite, Redis) any number may run, and each instant is sent once. With others,
    such as RabbitMQ, run exactly one.
    """
    if detach:
        return daemon.detach(session.argv, held=pidfile, umask=umask, executable=executable)
    drop_privileges(uid, gid)
    app = session.app
    try:
        app.conf.update(parse_assignments(settings, namespace="celery"))
    except (ImproperlyConfigured, TypeError, ValueError) as exc:
        raise click.UsageError(str(exc)) from exc
    daemon.follow_settings(app.conf, "beat", uid=uid, gid=gid, umask=umask)
    app.import_modules()
    app.log.setup(loglevel=loglevel, logfile=logfile or app.conf.beat_logfile,
                  colorize=False if session.no_color else None)  # fmt: skip
    service = Service(
        app,
        max_interval=max_interval,
        schedule_filename=schedule,
        scheduler_cls=scheduler,
        remote_control=remote_control,
        hostname=hostname,
    )
    with daemon.pidfile(pidfile or app.conf.beat_pidfile), _stopping(service):
        if not session.quiet:
            click.echo(f"celery beat v{umbel.__version__} is starting.")
            if service.wait_for_scheduler() is not None:
                click.echo(_banner(service, loglevel, logfile))
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
