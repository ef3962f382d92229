"""Run a worker."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import sys
import warnings
from typing import Any, Final

import click

from umbel import signals
from umbel._names import default_nodename, host_format, node_format
from umbel._repr import mask_url
from umbel.cli.banner import banner
from umbel.cli.base import Command
from umbel.cli.daemon import Daemon, daemon_options, pidfile
from umbel.cli.purge import names
from umbel.cli.reload import keep_running
from umbel.cli.session import CannotStart, Session
from umbel.exceptions import ImproperlyConfigured, SecurityWarning
from umbel.pools.kinds import POOLS
from umbel.worker.worker import Worker, bounds

__all__ = ["command"]

_logger: Final = logging.getLogger("celery.worker")


class _Pool(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """The name of a pool."""

    name = "pool"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(POOLS)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in (*POOLS, "processes"):
            self.fail(f"{value!r} is no pool; choose one of {', '.join(POOLS)}", param, ctx)
        return value


class _Concurrency(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A number of tasks, or ``auto``."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto" or isinstance(value, int):
            return value
        if not (value.isascii() and value.isdigit()):
            self.fail(f"{value!r} is neither a number of tasks nor auto", param, ctx)
        return int(value)


class _Bounds(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """The most and the least slots of a pool."""

    name = "max,min"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return bounds(value)
        except ValueError:
            self.fail(f"{value!r} is not of the form MAX,MIN or MAX, such as 10,3", param, ctx)


@click.command("worker", cls=Command)
@click.option("-n", "--hostname", help="Node name, w1@%h for example; %h is the host, %n the name, %d the domain.")
@click.option("-c", "--concurrency", type=_Concurrency(), help="Tasks that run at once. Default: one for each core.")
@click.option("--autoscale", type=_Bounds(), metavar="MAX,MIN", help="Let the pool grow and shrink with its load.")
@click.option("-P", "--pool", type=_Pool(), help="How tasks run at once. Default: prefork.")
@click.option("--processes", type=click.IntRange(1), help="Processes that share the slots of threads or asyncio.")
@click.option("-Q", "--queues", metavar="A,B", help="Queues to consume. Default: all that the app knows.")
@click.option("-X", "--exclude-queues", metavar="A,B", help="Queues not to consume.")
@click.option("-E", "--task-events", "--events", is_flag=True, default=None, help="Tell monitors of each task.")
@click.option("--http", metavar="[HOST]:PORT", help="Serve /live, /ready and /metrics there, :9100 for example.")
@click.option(
    "--without-gossip", is_flag=True, expose_value=False,
    help="Accepted. Workers do not gossip: the broker knows who lives, and the clocks follow the commands.",
)  # fmt: skip
@click.option(
    "--without-mingle", is_flag=True, expose_value=False,
    help="Accepted. Workers need not ask each other for revoked ids: the broker knows these.",
)  # fmt: skip
@click.option("--without-heartbeat", is_flag=True, help="Do not tell monitors that the worker lives.")
@click.option("--heartbeat-interval", type=click.IntRange(1), help="Seconds between heartbeats. Default: 2.")
@click.option("-I", "--include", metavar="A,B", help="More modules to import.")
@click.option("--prefetch-multiplier", type=int, help="Messages held for each slot, at the most.")
@click.option("--disable-prefetch", is_flag=True, help="Hold no message for which no slot is free.")
@click.option(
    "-O", "--optimization", type=click.Choice(("default", "fair"), case_sensitive=False), expose_value=False,
    help="Accepted. A task never waits behind a long one: a message goes to a slot that is free.",
)  # fmt: skip
@click.option("--time-limit", type=float, help="Seconds after which a task is stopped.")
@click.option("--soft-time-limit", type=float, help="Seconds after which SoftTimeLimitExceeded is raised in a task.")
@click.option("--max-tasks-per-child", type=int, help="Tasks after which a process is replaced.")
@click.option("--max-memory-per-child", type=int, metavar="KIB", help="Memory beyond which a process is replaced.")
@click.option("--purge", "--discard", is_flag=True, help="Drop all messages that wait in the queues first.")
@click.option("-B", "--beat", is_flag=True, help="Send periodic tasks as well; see umbel beat.")
@click.option("-s", "--schedule-filename", "--schedule", metavar="FILE", help="As umbel beat --schedule.")
@click.option("--scheduler", metavar="CLASS", help="As umbel beat --scheduler.")
@click.option("-D", "--detach", is_flag=True, help="Run in the background.")
@daemon_options
@click.option(
    "-S", "--statedb", metavar="FILE", expose_value=False,
    help="Accepted. Revoked ids are kept by the broker, for all workers.",
)  # fmt: skip
@click.option(
    "--pool-start-method", type=click.Choice(("fork",)), expose_value=False,
    help="Accepted. Children are forked from a process that has imported the app and does nothing else.",
)  # fmt: skip
@click.option("--reload", is_flag=True, help="Restart when a source file changes; for development.")
@click.argument("settings", nargs=-1, metavar="[SETTING=VALUE]...")
@click.pass_obj
def command(
    session: Session,
    /,
    *,
    settings: tuple[str, ...],
    hostname: str | None,
    include: str | None,
    reload: bool,
    detach: bool,
    daemon: Daemon,
    beat: bool,
    schedule_filename: str | None,
    scheduler: str | None,
    disable_prefetch: bool,
    **options: Any,
) -> int:
    """Run tasks.

    Settings may be given behind all options, such as task_acks_late=false or worker.prefetch_multiplier=1.
    """
    if reload:
        return keep_running(session.argv)
    try:
        node = host_format(default_nodename(hostname))
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--hostname") from exc
    if detach:
        return daemon.detach(session, "worker", settings, node=node)
    app, daemon = daemon.enter(session, "worker", settings)
    if include:
        app.conf.include = [*(app.conf.include or ()), *names(include)]
    if disable_prefetch:
        app.conf.worker_disable_prefetch = True
    _check_user(app.conf.accept_content)
    clock = None
    if beat:
        # 25 ms that only who wants a beat pays
        service = importlib.import_module("umbel.beat.service")
        clock = service.EmbeddedService(app, thread=True, schedule_filename=schedule_filename, scheduler_cls=scheduler)
    worker = _make_worker(app, session, clock, hostname=node, loglevel=daemon.loglevel, **options)
    out, err = sys.stdout, sys.stderr
    try:
        _set_up_logging(app, session, node, daemon)
        if app.as_celery and not app.conf.value_set_for("task_acks_late"):
            _logger.warning(_EARLY)
        if not session.quiet:
            click.echo(banner(worker, daemon.loglevel, color=_color(session)), file=sys.__stdout__)
        with pidfile(node_format(daemon.pidfile, node) if daemon.pidfile else None):
            code = worker.start()
    finally:
        if clock is not None and clock.is_alive():
            clock.stop()
        sys.stdout, sys.stderr = out, err  # what went wrong is for the terminal, not for the log
    if worker.restarts:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - as it was started
    return code


_EARLY: Final = (
    "as in Celery, tasks are acknowledged before they run: one is lost with its worker. Set task_acks_late=True to "
    "have it run again, or task_acks_late=False to say that you mean it."
)


def _make_worker(app: Any, session: Session, clock: Any, **options: Any) -> Worker:
    def ready(worker: Worker) -> None:
        if worker.purged:
            count = f"{worker.purged} {'message' if worker.purged == 1 else 'messages'}"
            click.echo(f"purge: Erased {count} from the queue.\n", file=sys.__stdout__)
        _logger.info("Connected to %s", mask_url(app.shown_url(app.broker_url())))
        _logger.info("%s ready.", worker.hostname)
        if clock is not None:
            clock.start()  # now that children are forked, a thread does no harm
        if not session.quiet and not _logger.isEnabledFor(logging.INFO):
            click.echo(f"{worker.hostname} ready.", file=sys.__stdout__)

    try:
        return Worker(app, on_ready=ready, **options)
    except KeyError as exc:
        raise ImproperlyConfigured(
            f"there is no queue {exc.args[0]!r}, and 'task_create_missing_queues' is off. "
            f"Known are: {', '.join(sorted(app.amqp.queues))}."
        ) from exc
    except ImportError as exc:
        raise CannotStart(f"a module that the settings 'imports' or 'include' name cannot be imported: {exc}") from exc


def _set_up_logging(app: Any, session: Session, node: str, daemon: Daemon) -> None:
    """Set logging up, and again in each child if each is to have a file of its own."""
    logfile = daemon.logfile

    def set_up(index: int) -> bool:
        file = node_format(logfile, node, process_index=index) if logfile else None
        return bool(
            app.log.setup(
                loglevel=daemon.loglevel,
                logfile=file,
                redirect_stdouts=app.conf.worker_redirect_stdouts,
                redirect_level=app.conf.worker_redirect_stdouts_level,
                colorize=False if session.no_color else None,
                hostname=node,
            )
        )

    handled = set_up(0)
    if handled or logfile is None or node_format(logfile, node, process_index=1) == node_format(logfile, node):
        return

    def in_child(**_: Any) -> None:
        number = multiprocessing.current_process().name.rpartition("-")[2]
        type(app.log).already_setup = False
        set_up(int(number) if number.isdigit() else 0)

    signals.worker_process_init.connect(in_child, weak=False)


def _check_user(accept_content: Any) -> None:
    """Warn of a worker that may do everything; one that also reads pickles must be wanted.

    Raises:
        CannotStart: it runs as root, and pickles are accepted, which may hold any code.
    """
    if not hasattr(os, "geteuid") or 0 not in {os.getuid(), os.geteuid(), os.getgid(), os.getegid()}:
        return
    pickles = {"pickle", "application/x-python-serialize"} & {str(name) for name in accept_content or ()}
    if pickles and not os.environ.get("C_FORCE_ROOT"):
        raise CannotStart(
            "this worker runs as root and accepts pickles: whoever can send it a message owns this machine. "
            "Start it as another user, or set C_FORCE_ROOT=1 if you mean it"
        )
    text = "this worker runs as root, and so does every task; start it as another user"
    warnings.warn_explicit(text, SecurityWarning, "umbel worker", 1)  # no line of ours would tell anybody more


def _color(session: Session) -> bool:
    return (
        not session.no_color
        and sys.__stdout__ is not None
        and sys.__stdout__.isatty()
        and os.environ.get("TERM") != "dumb"
    )
