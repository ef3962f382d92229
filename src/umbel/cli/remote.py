"""Call commands of workers by words, and show what they answer; for inspect, control and status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from umbel._names import did_you_mean
from umbel.cli.session import Session
from umbel.exceptions import OperationalError
from umbel.worker.commands import BUILT_IN
from umbel.worker.control import Panel, RemoteCommand

__all__ = ["NobodyAnswers", "ask", "call", "call_options", "find", "list_commands", "remote_options", "show_node"]

F = TypeVar("F", bound=Callable[..., Any])


class NobodyAnswers(click.ClickException):
    """No worker replied, or the broker cannot be reached."""

    exit_code = 69


def remote_options(function: F) -> F:
    """Add the options that all remote commands share."""
    function = click.option(
        "-t", "--timeout", type=float, default=None, help="Seconds to wait for replies. Default: 1, or the command's."
    )(function)
    function = click.option("-d", "--destination", metavar="A,B", help="Names of the nodes to ask. Default: all.")(
        function
    )
    return click.option("-j", "--json", "as_json", is_flag=True, help="Replies as JSON.")(function)


def call_options(function: F) -> F:
    """Add what `call` needs beside the *remote_options*: the command's name, its words, and the list of all."""
    function = click.option("--list", "lists", is_flag=True, help="Show all commands.")(function)
    function = click.argument("words", nargs=-1, metavar="[ARGUMENT]...")(function)
    return click.argument("name", required=False, metavar="COMMAND")(function)


def call(
    session: Session,
    kind: str,
    *,
    name: str | None,
    words: tuple[str, ...],
    lists: bool,
    timeout: float | None,
    destination: str | None,
    as_json: bool,
) -> list[dict[str, Any]] | None:
    """Return what workers replied to a command of *kind*, shown as it came but with *as_json*; None = they were listed.

    Raises:
        UsageError, NobodyAnswers: as `find` and `ask`.
    """
    app = session.app
    app.import_modules()
    if lists:
        click.echo(list_commands(kind), nl=False)
        return None
    if name is None:
        raise click.UsageError(f"name a command; umbel {kind} --list shows them")
    return ask(
        app,
        find(kind, name),
        words,
        timeout=timeout,
        destination=destination,
        callback=None if as_json else lambda reply: show_node(session, reply),
    )


def list_commands(kind: str) -> str:
    """Return the visible commands of a *kind* as lines, with their words and what they do."""
    rows = [
        (f"{each.name} {each.signature or ''}".rstrip(), each.help)
        for each in sorted(Panel.meta.values(), key=lambda each: each.name)
        if each.type == kind and each.visible
    ]
    formatter = click.HelpFormatter(width=100)
    with formatter.section(f"{kind.capitalize()} commands"):
        formatter.write_dl(rows)
    return formatter.getvalue()


def find(kind: str, name: str) -> RemoteCommand:
    """Return the command *name*.

    Raises:
        UsageError: there is none of that *kind*.
    """
    command = Panel.meta.get(name)
    if command is None or command.type != kind:
        names = [each.name for each in Panel.meta.values() if each.type == kind] or BUILT_IN
        other = f" It is a command of umbel {command.type}." if command is not None else ""
        raise click.UsageError(
            f"there is no {kind} command {name!r}{did_you_mean(name, names)}{other} umbel {kind} --list shows them."
        )
    return command


def ask(
    app: Any,
    command: RemoteCommand,
    words: Sequence[str],
    *,
    timeout: float | None,
    destination: str | None,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> list[dict[str, Any]]:
    """Return the replies to *command*, called with *words*.

    Raises:
        UsageError: the words do not fit.
        NobodyAnswers: no worker replied in time, or the broker cannot be reached.
    """
    nodes = destination.split(",") if destination else None
    if timeout is None:
        timeout = max(1.0, command.default_timeout)
    try:
        replies = app.control.broadcast(
            command.name,
            arguments=_arguments(command, words),
            destination=nodes,
            timeout=timeout,
            reply=True,
            callback=callback,
        )
    except OperationalError as exc:
        raise NobodyAnswers(str(exc)) from exc
    if not replies:
        raise NobodyAnswers("No nodes replied within time constraint")
    return replies  # type: ignore[no-any-return]  # an app's


def show_node(session: Any, reply: dict[str, Any]) -> None:
    """Print what one node replied."""
    for node, value in reply.items():
        failed = isinstance(value, dict) and "error" in value
        mark = click.style("ERROR", fg="red", bold=True) if failed else click.style("OK", fg="green", bold=True)
        click.echo(f"->  {node}: {mark}", color=False if session.no_color else None)
        body = value.get("error", value.get("ok", value)) if isinstance(value, dict) and len(value) == 1 else value
        text = _text(body)
        if text:
            click.echo("\n".join(f"    {line}" for line in text.splitlines()))


def _arguments(command: RemoteCommand, words: Sequence[str]) -> dict[str, Any]:
    named = {}
    for (name, kind), word in zip(command.args, words, strict=False):
        try:
            named[name] = kind(word)
        except (TypeError, ValueError) as exc:
            raise click.UsageError(
                f"{word!r} is no {name} for {command.name} {command.signature or ''}: {exc}"
            ) from exc
    rest = list(words[len(command.args) :])
    if rest and command.variadic is None:
        raise click.UsageError(f"{command.name} takes no more words: {' '.join(rest)}")
    if command.variadic is not None and (rest or not command.args):
        named[command.variadic] = rest
    return named


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(f"* {_inline(each)}" for each in value) or "- empty -"
    if isinstance(value, dict):
        return _lines(value)
    return str(value)


def _lines(value: dict[str, Any]) -> str:
    if not value:
        return "- empty -"
    lines = []
    for name, each in value.items():
        if isinstance(each, dict) and each:
            lines += [f"{name}:", *(f"    {line}" for line in _lines(each).splitlines())]
        else:
            lines.append(f"{name}: {_inline(each)}")
    return "\n".join(lines)


def _inline(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
