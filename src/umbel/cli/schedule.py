"""Look at periodic tasks, and change them while beats run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, get_args

import click

from umbel._time import humanize_seconds
from umbel.beat.book import Book, Entry, plan_to_json
from umbel.cli.base import Group
from umbel.cli.console import show_json, show_table
from umbel.cli.params import Json
from umbel.cli.session import Session
from umbel.schedules import ParseException, crontab, schedule, solar
from umbel.schedules.local_times import Dst

__all__ = ["command"]


@click.group("schedule", cls=Group)
def command() -> None:
    """Look at periodic tasks, and change them while beats run."""


@command.command("list")
@click.option("--next", "count", type=click.IntRange(1), default=1, show_default=True, help="So many coming runs.")
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def _list(session: Session, /, *, count: int, as_json: bool) -> None:
    """Show them, with when they run next."""
    with _book(session) as book:
        now = book.app.now()
        entries = list(book.entries().values())
    if as_json:
        show_json([_facts(entry, now, count) for entry in entries])
        return
    if not entries:
        click.echo("No periodic tasks.")
        return
    rows = [
        (
            entry.name,
            entry.task,
            _plan(entry.schedule),
            "paused" if entry.paused else "\n".join(_shown(each) for each in entry.coming(now, count)) or "?",
            _shown(entry.run.last) if entry.run and entry.run.count else "never",
            entry.run.count if entry.run else 0,
            "settings" if entry.from_settings else "added",
        )
        for entry in entries
    ]
    columns = ["Name", "Task", "Schedule", "Next", "Last", "Runs", "From"]
    show_table(columns, [row for each in rows for row in _lines(each)], color=not session.no_color)


@command.command("add")
@click.argument("name")
@click.argument("task")
@click.option("--every", type=float, metavar="SECONDS", help="Run every so many seconds.")
@click.option("--crontab", "line", metavar="'M H D MON DOW'", help="Run when these five fields match.")
@click.option("--tz", help="Time zone of the crontab. Default: the app's.")
@click.option("--dst", type=click.Choice(get_args(Dst)), help="What becomes of times that a clock change hits.")
@click.option("--solar", "sun", nargs=3, metavar="EVENT LAT LON", help="Run at an event of the sun.")
@click.option("-a", "--args", type=Json(list), default="[]", help="Positional arguments, as a JSON array.")
@click.option("-k", "--kwargs", type=Json(dict), default="{}", help="Keyword arguments, as a JSON object.")
@click.option("-o", "--options", type=Json(dict), default="{}", help="Options for sending, as a JSON object.")
@click.option("--queue", help="Queue to send to.")
@click.option("--misfire", metavar="POLICY", help="Missed runs: skip, run_once or catch_up(n).")
@click.pass_obj
def _add(
    session: Session,
    /,
    *,
    name: str,
    task: str,
    every: float | None,
    line: str | None,
    tz: str | None,
    dst: str | None,
    sun: tuple[str, str, str] | None,
    queue: str | None,
    misfire: str | None,
    args: list[Any],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Have TASK sent from now on, or change the one added as NAME."""
    if sum(each is not None for each in (every, line, sun)) != 1:
        raise click.UsageError("say when it runs by one of --every, --crontab and --solar")
    try:
        plan = _read_plan(every, line, sun, {key: value for key, value in (("tz", tz), ("dst", dst)) if value})
    except (ParseException, ValueError, TypeError) as exc:
        raise click.UsageError(str(exc)) from exc
    options = {**options, **({"queue": queue} if queue else {})}
    with _book(session) as book:
        if task not in book.app.tasks:
            click.echo(f"Note: this app has no task {task!r}. It is sent all the same.", err=True)
        book.add(name, task, plan, args, kwargs, options=options, misfire=misfire)
        coming = book.get(name).coming(book.app.now(), 1)
    click.echo(f"{name} runs {_plan(plan)}" + (f", next at {_shown(coming[0])}." if coming else "."))


def _read_plan(
    every: float | None, line: str | None, sun: tuple[str, str, str] | None, options: dict[str, Any]
) -> schedule | crontab | solar:
    if line is not None:
        return crontab.from_string(line, **options)
    if options:
        raise ValueError("--tz and --dst belong to --crontab")
    if sun is not None:
        return solar(sun[0], float(sun[1]), float(sun[2]))
    assert every is not None
    if every <= 0:
        raise ValueError(f"--every {every:g}: an interval is longer than nothing")
    return schedule(every)


def _verb(name: str, about: str) -> Callable[[Callable[[Book, str], str]], click.Command]:
    """Make a command of what is done to one entry; it returns what is said about it."""

    def make(action: Callable[[Book, str], str]) -> click.Command:
        @command.command(name, help=about)
        @click.argument("name")
        @click.pass_obj
        def run(session: Session, /, *, name: str) -> None:
            with _book(session) as book:
                click.echo(action(book, name))

        return run

    return make


@_verb("pause", "Send it no more until it is resumed.")
def _pause(book: Book, name: str) -> str:
    book.pause(name)
    return f"{name} is paused."


@_verb("resume", "Send it again; what it missed stays unsent.")
def _resume(book: Book, name: str) -> str:
    book.resume(name)
    return f"{name} runs again."


@_verb("run", "Send it now, besides its schedule, and print the task's id.")
def _run(book: Book, name: str) -> str:
    return str(book.run(name).id)


@_verb("remove", "Forget one that was added.")
def _remove(book: Book, name: str) -> str:
    book.remove(name)
    return f"{name} is removed."


@contextmanager
def _book(session: Session) -> Iterator[Book]:
    app = session.app
    app.import_modules()
    try:
        yield Book(app)
    except KeyError as exc:
        raise click.ClickException(str(exc.args[0])) from exc
    finally:
        app.close()


def _lines(row: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return *row* as several rows where its fourth cell has several lines."""
    first, *others = str(row[3]).split("\n")
    return [(*row[:3], first, *row[4:]), *(("", "", "", other, "", "", "") for other in others)]


def _plan(plan: Any) -> str:
    """Return a schedule in the words of the options above."""
    try:
        stored = plan_to_json(plan)
    except TypeError:
        return repr(plan)
    if "every" in stored:
        return f"every {humanize_seconds(stored['every'], now='moment')}"
    first, *others = (" ".join(map(str, each)) if isinstance(each, list) else str(each) for each in stored.values())
    return f"{first} ({', '.join(others)})" if others else first


def _shown(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="seconds") if moment.tzinfo is None else f"{moment:%F %T %z}"


def _facts(entry: Entry, now: datetime, count: int) -> dict[str, Any]:
    try:
        plan: Any = plan_to_json(entry.schedule)
    except TypeError:
        plan = repr(entry.schedule)
    return {
        "name": entry.name,
        "task": entry.task,
        "schedule": plan,
        "args": list(entry.args),
        "kwargs": dict(entry.kwargs),
        "options": dict(entry.options),
        "misfire": entry.misfire,
        "paused": entry.paused,
        "from_settings": entry.from_settings,
        "next": [each.isoformat() for each in entry.coming(now, count)],
        "last": entry.run.last.isoformat() if entry.run and entry.run.count else None,
        "runs": entry.run.count if entry.run else 0,
    }
