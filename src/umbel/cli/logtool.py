"""Read logs of workers: what became of tasks, and what went wrong."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TextIO

import click

from umbel.cli.base import Command, Group

__all__ = ["Entry", "command", "entries"]

_START: Final = re.compile(r"\[(?P<time>[^\]]*?): (?P<level>[A-Z]+)/(?P<process>[^\]]*)\] (?P<text>.*)")
_TASK: Final = re.compile(
    r"Task (?P<name>[^\s\[]+)\[(?P<id>[^\]]+)\] (?P<what>received|succeeded|raised|retry|ignored|reject|is not run)"
)
_ENDS: Final = frozenset({"succeeded", "raised", "ignored", "reject", "is not run"})


class Entry(NamedTuple):
    """One record of a log, with the lines that belong to it."""

    level: str
    lines: tuple[str, ...]
    task: str = ""  # its name, if it is about one
    id: str = ""
    what: str = ""  # what happened to that

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Yield what *lines* of a log record, in order."""
    pending: list[str] = []
    for line in (line.rstrip("\n") for line in lines):
        if _START.match(line) and pending:
            yield _entry(pending)
            pending = []
        pending.append(line)
    if pending:
        yield _entry(pending)


def _entry(lines: list[str]) -> Entry:
    start = _START.match(lines[0])
    if start is None:
        return Entry("", tuple(lines))
    task = _TASK.match(start["text"])
    about = () if task is None else (task["name"], task["id"], task["what"])
    return Entry(start["level"], tuple(lines), *about)


@click.group("logtool", cls=Group)
def command() -> None:
    """Read logs of workers, given as files or on the standard input."""


def _reading(function: Callable[[Iterator[Entry]], None]) -> Callable[[Iterator[Entry]], None]:
    """Make a command of what looks at the entries of logs."""

    def read(files: tuple[TextIO, ...]) -> None:
        streams = files or (sys.stdin,)
        function(entry for stream in streams for entry in entries(stream))

    files = click.Argument(["files"], nargs=-1, type=click.File())
    command.add_command(Command(function.__name__.strip("_"), callback=read, params=[files], help=function.__doc__))
    return function


@_reading
def _stats(found: Iterator[Entry]) -> None:
    """Count tasks, and how they ended."""
    names: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for entry in found:
        if entry.what == "received":
            names[entry.task] += 1
        elif entry.what:
            ends[entry.what] += 1
    click.echo("\nReport\n======")
    click.echo(f"Task total: {names.total()}")
    click.echo(f"Task errors: {ends['raised']}")
    click.echo(f"Task success: {ends['succeeded']}")
    click.echo(f"Task completed: {sum(ends[what] for what in _ENDS)}")
    click.echo("\nTasks\n=====")
    for name, count in names.most_common():
        click.echo(f"{name}: {count}")


@_reading
def _traces(found: Iterator[Entry]) -> None:
    """Show what was logged with a traceback."""
    for entry in found:
        if any(line.startswith("Traceback (") for line in entry.lines):
            click.echo(entry.text)


@_reading
def _errors(found: Iterator[Entry]) -> None:
    """Show errors."""
    for entry in found:
        if entry.level in {"ERROR", "CRITICAL"}:
            click.echo(entry.text)


@_reading
def _incomplete(found: Iterator[Entry]) -> None:
    """Show the ids of tasks that were received and did not end."""
    left: dict[str, str] = {}
    for entry in found:
        if entry.what == "received":
            left[entry.id] = entry.task
        elif entry.what in _ENDS:
            left.pop(entry.id, None)
    for task_id, name in left.items():
        click.echo(f"Did not complete: {task_id} ({name})")


@_reading
def _debug(found: Iterator[Entry]) -> None:
    """Show what is not about a task."""
    for entry in found:
        if not entry.what:
            click.echo(entry.text)
