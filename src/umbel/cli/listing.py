"""Show what an app has: bindings, queues, tasks."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from umbel.cli.base import Group
from umbel.cli.console import duration, show_json, show_table
from umbel.cli.session import Session

__all__ = ["command"]


@click.group("list", cls=Group)
def command() -> None:
    """Show bindings, queues or tasks."""


@command.command("bindings")
@click.pass_obj
def _bindings(session: Session) -> None:
    """Show which queue gets what: the exchange it is bound to, and the routing key."""
    queues = [session.app.amqp.queues[name] for name in sorted(session.app.amqp.queues)]
    rows = [(queue.name, queue.exchange.name, queue.routing_key) for queue in queues]
    show_table(["Queue", "Exchange", "Routing Key"], rows, color=not session.no_color)


@command.command("queues")
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def _queues(session: Session, /, *, as_json: bool) -> None:
    """Show how full the queues are, and which are paused."""
    with closing(session.app.open_broker()) as broker:
        known = None if broker.features.census else list(session.app.amqp.queues)  # RabbitMQ tells only of those
        sizes, paused = broker.sizes(known), broker.paused()
    if as_json:
        show_json({name: {**_size(size), "paused": name in paused} for name, size in sorted(sizes.items())})
        return
    rows = [
        (
            name,
            size.ready,
            size.delayed,
            size.claimed,
            "" if size.oldest is None else duration(size.oldest),
            "paused" if name in paused else "",
        )
        for name, size in sorted(sizes.items())
    ]
    show_table(["Queue", "Waiting", "Delayed", "Running", "Oldest", ""], rows, color=not session.no_color)


@command.command("tasks")
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON.")
@click.option("-a", "--all", "all_of_them", is_flag=True, help="Also those that umbel brings.")
@click.pass_obj
def _tasks(session: Session, /, *, as_json: bool, all_of_them: bool) -> None:
    """Show the tasks of the app."""
    app = session.app
    app.import_modules()
    rows = [
        (name, ((task.__doc__ or "").strip().splitlines() or [""])[0])
        for name, task in sorted(app.tasks.items())
        if all_of_them or not name.startswith("celery.")
    ]
    if as_json:
        show_json(dict(rows))
    else:
        show_table(["Task", "What it does"], rows, color=not session.no_color)


def _size(size: Any) -> dict[str, Any]:
    return {"ready": size.ready, "delayed": size.delayed, "claimed": size.claimed, "oldest": size.oldest}
