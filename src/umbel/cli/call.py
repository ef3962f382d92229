"""Send a task by its name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from umbel._names import did_you_mean
from umbel.cli.base import Command
from umbel.cli.params import Json
from umbel.cli.session import Session

__all__ = ["command"]


class _Moment(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A moment in ISO 8601; seconds from now, too, if they are allowed."""

    name = "iso 8601"

    def __init__(self, *, seconds: bool) -> None:
        self._seconds = seconds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if self._seconds:
            try:
                return float(value)
            except ValueError:
                pass
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            also = " or a number of seconds" if self._seconds else ""
            self.fail(f"{value!r} is no moment such as 2030-01-31T12:00:00+00:00{also}", param, ctx)


@click.command("call", cls=Command)
@click.argument("name")
@click.option("-a", "--args", type=Json(list), default="[]", help="Positional arguments, as a JSON array.")
@click.option("-k", "--kwargs", type=Json(dict), default="{}", help="Keyword arguments, as a JSON object.")
@click.option("--eta", type=_Moment(seconds=False), help="Not before this moment (ISO 8601).")
@click.option("--countdown", type=float, help="Not before so many seconds have passed.")
@click.option("--expires", type=_Moment(seconds=True), help="Not after this moment, or so many seconds.")
@click.option("--serializer", default="json", show_default=True, help="How arguments are serialized.")
@click.option("--queue", help="Queue to send to.")
@click.option("--exchange", help="Exchange to send to.")
@click.option("--routing-key", help="Routing key.")
@click.pass_obj
def command(session: Session, /, *, name: str, args: list[Any], kwargs: dict[str, Any], **options: Any) -> None:
    """Send a task by its name, and print its id."""
    app = session.app
    app.loader.import_default_modules()
    known = [task for task in app.tasks if not task.startswith("celery.")]
    if name not in app.tasks and known:
        click.echo(
            f"Note: this app has no task {name!r}{did_you_mean(name, known)} It is sent all the same.".replace(
                "?.", "?"
            ),
            err=True,
        )
    given = {key: value for key, value in options.items() if value is not None}
    click.echo(app.send_task(name, args=args, kwargs=kwargs, **given).id)
