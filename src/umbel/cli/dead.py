"""Look at dead letters, and send them back or throw them away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import click

from umbel.brokers.base import Broker, DeadLetter
from umbel.cli.base import Group
from umbel.cli.console import ago, show_json, show_table
from umbel.cli.session import Session

__all__ = ["command"]

_PAGE = 500  # letters read at once
F = TypeVar("F", bound=Callable[..., Any])


@click.group("dead", cls=Group)
def command() -> None:
    """Look at tasks that will not run by themselves any more, and decide about them."""


def _chosen(function: F) -> F:
    """Add the options by which letters are chosen."""
    function = click.option("--reason", help="Only those that died for this reason, such as crashed.")(function)
    return click.option("--task", help="Only those of the task with this name.")(function)


@command.command("list")
@_chosen
@click.option("-n", "--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON, with everything that is known of each.")
@click.pass_obj
def _list(session: Session, /, *, task: str | None, reason: str | None, limit: int, as_json: bool) -> None:
    """Show them, oldest first."""
    with closing(session.app.open_broker()) as broker:
        letters = list(islice(_letters(broker, task, reason), limit + 1))
    shown = letters[:limit]
    if as_json:
        show_json([_facts(letter) for letter in shown])
        return
    if not shown:
        click.echo("No dead letters.")
        return
    rows = [
        (
            letter.id,
            letter.task,
            letter.queue,
            letter.reason,
            ago(letter.died_at),
            letter.evidence[-1] if letter.evidence else "",
        )
        for letter in shown
    ]
    show_table(["Id", "Task", "Queue", "Reason", "Died", "Evidence"], rows, color=not session.no_color)
    if len(letters) > limit:
        click.echo(f"There are more than {limit}; --limit shows more.", err=True)


@command.command("show")
@click.argument("task_id")
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def _show(session: Session, /, *, task_id: str, as_json: bool) -> None:
    """Show one with all its evidence."""
    with closing(session.app.open_broker()) as broker:
        letter = broker.find_dead(task_id)
    if letter is None:
        raise click.ClickException(f"no dead letter has the task id {task_id!r}; umbel dead list shows those there are")
    facts = _facts(letter)
    if as_json:
        show_json(facts)
        return
    evidence = facts.pop("evidence")
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' ') + ':':<10} {value}")
    click.echo("evidence:")
    for i, line in enumerate(evidence, 1):
        click.echo(f"  {i}. {line}")


@command.command("retry")
@click.argument("task_ids", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="All of them, or all that --task and --reason choose.")
@_chosen
@click.pass_obj
def _retry(
    session: Session, /, *, task_ids: tuple[str, ...], all_of_them: bool, task: str | None, reason: str | None
) -> int:
    """Send tasks back to their queues; their crashes are forgotten."""
    with closing(session.app.open_broker()) as broker:
        chosen = _choose(broker, task_ids, task, reason, all_of_them=all_of_them)
        done = broker.revive(chosen)
    return _tell(done, "went back to their queues", "went back to its queue", missing=len(task_ids) - done)


@command.command("discard")
@click.argument("task_ids", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="All of them, or all that --task and --reason choose.")
@_chosen
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_obj
def _discard(
    session: Session,
    /,
    *,
    task_ids: tuple[str, ...],
    all_of_them: bool,
    task: str | None,
    reason: str | None,
    force: bool,
) -> int:
    """Delete tasks for good."""
    with closing(session.app.open_broker()) as broker:
        chosen = _choose(broker, task_ids, task, reason, all_of_them=all_of_them)
        if chosen and not force:
            click.confirm(
                f"Delete {len(chosen)} dead {'letter' if len(chosen) == 1 else 'letters'} for good?", abort=True
            )
        done = broker.discard(chosen)
    return _tell(done, "are deleted", "is deleted", missing=len(task_ids) - done)


def _choose(
    broker: Broker, task_ids: tuple[str, ...], task: str | None, reason: str | None, *, all_of_them: bool
) -> list[str]:
    if bool(task_ids) == (all_of_them or task is not None or reason is not None):
        raise click.UsageError("name the task ids, or choose by --all, --task or --reason")
    return list(task_ids) or [letter.id for letter in _letters(broker, task, reason)]


def _letters(broker: Broker, task: str | None, reason: str | None) -> Iterator[DeadLetter]:
    after: int | str | None = None
    while page := broker.dead(limit=_PAGE, after=after):
        yield from (letter for letter in page if task in {None, letter.task} and reason in {None, letter.reason})
        after = page[-1].tag


def _tell(done: int, many: str, one: str, *, missing: int) -> int:
    click.echo(f"{done} {'task ' + one if done == 1 else 'tasks ' + many}.")
    if missing > 0:
        click.echo(f"{missing} of the ids named no dead letter; umbel dead list shows those there are.", err=True)
        return 1
    return 0


def _facts(letter: DeadLetter) -> dict[str, Any]:
    message = letter.message
    return {
        "id": letter.id,
        "task": letter.task,
        "queue": letter.queue,
        "reason": letter.reason,
        "died_at": datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="seconds"),
        "args": message.argsrepr,
        "kwargs": message.kwargsrepr,
        "retries": message.retries,
        "evidence": list(letter.evidence),
    }
