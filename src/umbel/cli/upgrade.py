"""Bring settings to their names of today."""

from __future__ import annotations

import io
import shutil
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click

from umbel.app.settings_table import BY_OLD_NAME
from umbel.cli.base import Group
from umbel.cli.session import CannotStart, Session

__all__ = ["command", "upgraded"]


@click.group("upgrade", cls=Group)
def command() -> None:
    """Change files to what is written today."""


@command.command("settings")
@click.argument("filename", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--django", is_flag=True, help="A Django settings module, with names such as CELERY_BROKER_URL.")
@click.option("--compat", is_flag=True, help="The same as --django.")
@click.option("--no-backup", is_flag=True, help="Do not keep the file as FILENAME.orig.")
@click.pass_obj
def _settings(session: Session, /, *, filename: Path, django: bool, compat: bool, no_backup: bool) -> None:
    """Write the lower-case names of settings in a Python file; strings and comments stay as they are."""
    if not session.quiet:
        click.echo(f"processing {filename}...", err=True)
    try:
        text = filename.read_bytes().decode()
        new = upgraded(text, prefix="CELERY_" if django or compat else "")
    except (UnicodeDecodeError, SyntaxError, tokenize.TokenError) as exc:
        raise CannotStart(f"{filename} is no Python source in UTF-8: {exc}") from exc
    if new == text:
        click.echo("Does not seem to require any changes.")
        return
    if not no_backup:
        click.echo(f"writing backup to {filename}.orig...", err=True)
        shutil.copy2(filename, f"{filename}.orig")
    filename.write_bytes(new.encode())
    click.echo("Changes to your setting have been made!")


def upgraded(text: str, *, prefix: str = "") -> str:
    """Return the Python source *text* with the old names of settings replaced: lower case, or *prefix* and upper case.

    Raises:
        SyntaxError, tokenize.TokenError: it is no Python.
    """
    lines = text.splitlines(keepends=True)
    for row, start, name in reversed([*_old_names(text)]):
        new = BY_OLD_NAME[name].name
        new = f"{prefix}{new.upper()}" if prefix else new
        line = lines[row - 1]
        lines[row - 1] = line[:start] + new + line[start + len(name) :]
    return "".join(lines)


def _old_names(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield row, column and name of each; attributes of a ``conf`` are some, those of other things are not."""
    before = ["", ""]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        attribute = before[1] == "." and before[0] not in {"conf", "settings"}
        if token.type == tokenize.NAME and token.string in BY_OLD_NAME and not attribute:
            yield *token.start, token.string
        before = [before[1], token.string]
