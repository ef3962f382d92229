"""Run the command line: find the command, and turn whatever goes wrong into one sentence and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

import umbel
from umbel.cli.base import Group, global_options
from umbel.cli.session import FindApp, Session
from umbel.exceptions import BackendError, ImproperlyConfigured, OperationalError

__all__ = ["cli", "main"]

# A command's module is imported when the command is used. What it does is repeated here, so that `umbel --help` needs
# none of them; tests/cli/test_main.py sees that both say the same.
_COMMANDS: Final = {
    "worker": ("umbel.cli.worker", "Run tasks."),
    "beat": ("umbel.cli.beat", "Send periodic tasks."),
    "schedule": ("umbel.cli.schedule", "Look at periodic tasks, and change them while beats run."),
    "multi": ("umbel.cli.multi", "Start, stop and restart several workers by their names."),
    "call": ("umbel.cli.call", "Send a task by its name, and print its id."),
    "result": ("umbel.cli.result", "Wait for a task's result, and print it."),
    "purge": ("umbel.cli.purge", "Drop all messages that wait in queues."),
    "list": ("umbel.cli.listing", "Show bindings, queues or tasks."),
    "dead": ("umbel.cli.dead", "Look at tasks that will not run by themselves any more, and decide about them."),
    "top": ("umbel.cli.top", "Watch workers, queues and tasks in the terminal."),
    "status": ("umbel.cli.status", "Show which workers are there."),
    "inspect": ("umbel.cli.inspect", "Ask workers what they do."),
    "control": ("umbel.cli.control", "Tell workers to do something."),
    "pause": (
        "umbel.cli.pause",
        "Let no worker take tasks from queues, until umbel resume; without names, show which are paused.",
    ),
    "resume": ("umbel.cli.resume", "Let workers take tasks from queues again."),
    "events": ("umbel.cli.events", "Watch a cluster by its events."),
    "report": ("umbel.cli.report", "Print what a bug report needs."),
    "migrate": ("umbel.cli.migrate", "Copy what waits at one broker to another, or move it."),
    "shell": (
        "umbel.cli.shell",
        "Open a Python shell with the app (app, celery), its tasks, and what composes them.",
    ),
    "graph": (
        "umbel.cli.graph",
        "Draw a cluster, or the steps of a worker, as Graphviz reads it: umbel graph workers | dot -Tsvg.",
    ),
    "logtool": ("umbel.cli.logtool", "Read logs of workers, given as files or on the standard input."),
    "amqp": ("umbel.cli.amqp", "Speak AMQP with RabbitMQ, one method at a time, or many in a repl."),
    "upgrade": ("umbel.cli.upgrade", "Change files to what is written today."),
}
_PLUGINS: Final = ("umbel.commands", "celery.commands")  # entry points that add commands
_UNEXPECTED: Final = 1  # exit code
_WRONG: Final = 2


class _Root(Group):
    """All commands: ours, then those that installed packages add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *sorted(_plugins())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            return importlib.import_module(_COMMANDS[name][0]).command  # type: ignore[no-any-return]  # by name
        plugin = _plugins().get(name)
        if plugin is None:
            return None
        try:
            return plugin.load()  # type: ignore[no-any-return]  # somebody else's
        except Exception as exc:
            raise click.ClickException(
                f"the command {name!r} of the installed package {plugin.value!r} cannot be loaded: {exc}"
            ) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, about) for name, (_, about) in _COMMANDS.items()]
        rows += [(name, "(installed with another package)") for name in sorted(_plugins())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def main(argv: Sequence[str] | None = None, app: Any = None) -> int:
    """Run the command line *argv* (None = that of the process) and return the exit code.

    *app* is the one that commands are for when ``-A`` does not say otherwise.
    """
    if os.environ.get("UMBEL_AS_CELERY", "0") not in {"", "0"}:
        umbel.install_as_celery()
    words = list(sys.argv if argv is None else argv)
    if words and words[0] == sys.argv[0]:
        words = words[1:]
    session = Session(_find_app, words, app)
    try:
        code = cli.main(args=words, prog_name="umbel", standalone_mode=False, obj=session, auto_envvar_prefix="CELERY")
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.Abort:
        click.echo("Aborted.", err=True)
        return _UNEXPECTED
    except click.UsageError as exc:
        _show_stack(session, exc)
        exc.show()
        return exc.exit_code
    except click.ClickException as exc:
        return _explain(session, exc, exc.format_message(), exc.exit_code)
    except ImproperlyConfigured as exc:
        return _explain(session, exc, str(exc), _WRONG)
    except (OperationalError, BackendError) as exc:
        return _explain(session, exc, str(exc), _UNEXPECTED)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is told in one line, and in full when asked
        hint = "" if session.traceback else " (umbel --traceback shows where)"
        return _explain(session, exc, f"{type(exc).__name__}: {exc}{hint}", _UNEXPECTED)
    return code if isinstance(code, int) else 0


def _explain(session: Session, exc: Exception, message: str, code: int) -> int:
    _show_stack(session, exc)
    word = click.style("Error: ", fg="red", bold=True)
    click.echo(word + message, err=True, color=False if session.no_color else None)
    return code


def _show_stack(session: Session, exc: Exception) -> None:
    if session.traceback:
        traceback.print_exception(exc)


def _find_app(name: str | None, folder: Path, *, may_be_default: bool) -> Any:
    finder: FindApp = importlib.import_module(
        "umbel.cli.find_app"
    ).find_app  # an app's parts; `umbel --help` needs none
    return finder(name, folder, may_be_default=may_be_default)


def _plugins() -> dict[str, Any]:
    entry_points = importlib.import_module("importlib.metadata").entry_points  # 10 ms that a known command saves
    return {
        point.name: point for group in _PLUGINS for point in entry_points(group=group) if point.name not in _COMMANDS
    }


@click.command(cls=_Root, name="umbel", params=global_options(at_the_top=True))
@click.version_option(umbel.VERSION_BANNER, message="%(version)s")
def cli() -> None:
    """The distributed task queue for Python."""
