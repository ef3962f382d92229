"""Let every command take the global options, before it or behind it, and answer mistakes with what was meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import click

from umbel import signals
from umbel._names import did_you_mean
from umbel.cli.session import CannotStart, Session

__all__ = ["Command", "Group", "global_options"]


def global_options(*, at_the_top: bool) -> list[click.Option]:
    """Return the global options; only those *at_the_top* also come from the environment and are shown in the help."""

    def option(*names: str, envvar: list[str] | None = None, **attributes: Any) -> click.Option:
        return click.Option(
            names,
            expose_value=False,
            callback=_note,
            hidden=not at_the_top,
            envvar=envvar if at_the_top else None,
            allow_from_autoenv=at_the_top,
            **attributes,
        )

    return [
        option("-A", "--app", metavar="MODULE", envvar=["APP", "CELERY_APP", "UMBEL_APP"],
               help="The app: module, module:attribute or package. Default: as in pyproject.toml, or the one here."),
        option("-b", "--broker", metavar="URL", envvar=["BROKER_URL", "CELERY_BROKER"],
               help="Where messages wait."),
        option("--result-backend", metavar="URL", envvar=["RESULT_BACKEND", "CELERY_RESULT_BACKEND"],
               help="Where results are kept."),
        option("--loader", metavar="CLASS", envvar=["LOADER", "CELERY_LOADER"], help="Class that imports tasks."),
        option("--config", metavar="MODULE", envvar=["CONFIG_MODULE", "CELERY_CONFIG"], help="Module with settings."),
        option("--workdir", is_eager=True, type=click.Path(exists=True, file_okay=False),
               envvar=["CELERY_WORKDIR"], help="Folder to work in."),
        option("-C", "--no-color", is_flag=True, default=None, envvar=["CELERY_NO_COLOR"],
               help="No colours."),
        option("-q", "--quiet", is_flag=True, default=None, envvar=["CELERY_QUIET"], help="No banners, less output."),
        option("--skip-checks", is_flag=True, default=None, envvar=["SKIP_CHECKS"], help="Skip Django's checks."),
        option("--traceback", is_flag=True, default=None,
               help="Show where errors come from."),
    ]  # fmt: skip


class Command(click.Command):
    """A command that takes the global options too, and those that an app adds (``app.user_options``)."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        return _with_global([*own, *_user_options(ctx, "preload"), *_user_options(ctx, self.name or "")])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption:
            # It may be one that the app adds; the app is only imported for this.
            if not _app_adds_options(ctx, args):
                raise
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        names = [option.name for option in _user_options(ctx, "preload") if option.name]
        if names:
            options = {name: ctx.params.pop(name, None) for name in names}
            app = _session(ctx).app
            signals.user_preload_options.send(sender=self, app=app, options=options)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text("The options of `umbel` itself, such as -A, may stand here too.")


class Group(click.Group):
    """Commands below a word; the word alone shows them."""

    command_class = Command

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **{"invoke_without_command": True, "no_args_is_help": False, **attributes})

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return _with_global(super().get_params(ctx))

    def invoke(self, ctx: click.Context) -> Any:
        result = super().invoke(ctx)
        if ctx.invoked_subcommand is None:
            click.echo(ctx.get_help())
        return result

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            ctx.fail(f"No such command {name!r}{did_you_mean(name, self.list_commands(ctx))}")
        return name, command, args[1:]


def _with_global(params: list[click.Parameter]) -> list[click.Parameter]:
    """Return *params* and those global options whose names they leave free."""
    taken = {name for param in params for name in param.opts}
    return [*params, *(option for option in global_options(at_the_top=False) if taken.isdisjoint(option.opts))]


def _session(ctx: click.Context) -> Session:
    session = ctx.find_object(Session)
    assert session is not None, "umbel.cli.main.main() gives every run one"
    return session


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep a global option; one that was not given does not hide what stood before the command."""
    if value is None:
        return
    session = _session(ctx)
    session.given[param.name or ""] = value
    if param.name == "workdir":
        os.chdir(value)


def _user_options(ctx: click.Context, command: str) -> list[click.Option]:
    session = _session(ctx)
    app = session.__dict__.get("app")  # only if it is imported already
    added: Mapping[str, Any] = getattr(app, "user_options", None) or {}
    return list(added.get(command, ()))


def _app_adds_options(ctx: click.Context, args: list[str]) -> bool:
    session = _session(ctx)
    if "app" in session.__dict__:
        return False
    named = _word_after(args, *_APP_NAMES)
    if named is not None:
        session.given["app"] = named
    try:
        return bool(session.app.user_options)
    except CannotStart:
        return False


_APP_NAMES: Final = ("-A", "--app")


def _word_after(args: list[str], *names: str) -> str | None:
    """Return the value of the option *names* in words that cannot be parsed yet."""
    short, long = names
    for i, word in enumerate(args):
        if word in names and i + 1 < len(args):
            return args[i + 1]
        if word.startswith(f"{long}="):
            return word.removeprefix(f"{long}=")
        if word.startswith(short) and len(word) > len(short):
            return word.removeprefix(short)
    return None
