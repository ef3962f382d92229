"""Wait for a result."""

from __future__ import annotations

import sys

import click

from umbel._names import did_you_mean
from umbel.cli.base import Command
from umbel.cli.session import Session

__all__ = ["command"]


@click.command("result", cls=Command)
@click.argument("task_id")
@click.option("-t", "--task", help="Name of the task, if it keeps its results in a store of its own.")
@click.option("--traceback", is_flag=True, help="Print the traceback of a task that failed.")
@click.pass_obj
def command(session: Session, /, *, task_id: str, task: str | None, traceback: bool) -> int:
    """Wait for a task's result, and print it."""
    app = session.app
    if task is None:
        result = app.AsyncResult(task_id)
    elif task in app.tasks:
        result = app.tasks[task].AsyncResult(task_id)
    else:
        raise click.UsageError(f"this app has no task {task!r}{did_you_mean(task, app.tasks)}")
    if sys.stderr.isatty() and not session.quiet and not result.ready():
        click.echo(f"{task_id} is {result.state}; waiting (Ctrl+C gives up)", err=True)
    value = result.get(propagate=False)
    if result.successful():
        click.echo(str(value))
        return 0
    if traceback:
        click.echo(result.traceback)
        return 0
    raise click.ClickException(
        f"task {task_id} ended as {result.state}: {type(value).__name__}: {value} "
        f"(umbel result --traceback {task_id} shows where)"
    )
