#!/usr/bin/env python3
"""Write the pages of docs/reference/ that are made from the source; with ``--check`` only say which are out of date."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from umbel.app.settings_table import SETTINGS, Setting
from umbel.cli.base import global_options
from umbel.cli.main import _COMMANDS

ROOT = Path(__file__).resolve().parent.parent
MADE = "<!-- Made by scripts/reference.py from the source: change it there. -->"


def pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    return {"settings.md": settings(), "cli.md": command_line()}


# -- settings


def settings() -> str:
    """Return the page of all settings."""
    groups: dict[str, list[Setting]] = {}
    for setting in SETTINGS:
        groups.setdefault(setting.group, []).append(setting)
    lines = [
        "# Settings",
        "",
        MADE,
        "",
        "Each is an attribute of `app.conf`, an argument of `Umbel(...)`, a name in the module that",
        "`app.config_from_object` reads, and a word behind `umbel worker`. A name that is misspelt is refused with",
        'what was probably meant. "Before" is the name from before Celery 4, which is still read.',
    ]
    for group, members in groups.items():
        lines += ["", f"## {group}", ""]
        lines += ["| setting | type | default | meaning | before |", "|---|---|---|---|---|"]
        lines += [_row(_code(s.name), s.kind, _default(s), _escaped(s.doc), _code(s.old_name)) for s in members]
    return "\n".join(lines) + "\n"


def _default(setting: Setting) -> str:
    shown = _value(setting.default)
    differs = setting.celery_default != setting.default
    return f"{shown} (as Celery: {_value(setting.celery_default)})" if differs else shown


def _value(value: Any) -> str:
    return f"`{value.total_seconds():g}` s" if isinstance(value, timedelta) else _code(repr(value))


# -- the command line


def command_line() -> str:
    """Return the page of all commands."""
    lines = ["# Command line", "", MADE, "", "`umbel [OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]`, or `python -m umbel`."]
    lines += ["", "## Options of every command", "", "They stand before the command or behind it.", ""]
    lines += _options(global_options(at_the_top=True))
    for name, (module, _) in _COMMANDS.items():
        command = importlib.import_module(module).command
        lines += _command(f"umbel {name}", command)
        if isinstance(command, click.Group):
            for below, subcommand in command.commands.items():
                lines += _command(f"umbel {name} {below}", subcommand, level=3)
    lines += [
        "",
        "## Exit codes",
        "",
        "| code | after |",
        "|---|---|",
        "| 0 | success; a worker that was stopped by SIGTERM |",
        "| 1 | the work failed: no broker, no such dead letter, a task that failed; a worker stopped by Ctrl+C |",
        "| 2 | the command line, the app or a setting is wrong |",
    ]
    return "\n".join(lines) + "\n"


def _command(path: str, command: click.Command, *, level: int = 2) -> Iterator[str]:
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    usage = " ".join([path, *(_argument(argument) for argument in arguments)])
    yield from ("", f"{'#' * level} {path}", "")
    if not isinstance(command, click.Group):
        yield from (f"`{usage}`", "")
    yield _escaped(inspect.cleandoc(command.help or ""))
    if options:
        yield ""
        yield from _options(options)


def _options(options: list[click.Option]) -> Iterator[str]:
    yield from ("| option | value | default | what it does | environment |", "|---|---|---|---|---|")
    for option in options:
        names = ", ".join(f"`{name}`" for name in option.opts)
        default = _code(str(option.default)) if option.show_default else ""
        yield _row(names, _kind(option), default, _escaped(option.help or ""), _variables(option))


def _kind(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return ", ".join(map(str, option.type.choices))
    return {"text": "text", "integer range": "integer"}.get(option.type.name, option.type.name)


def _variables(option: click.Option) -> str:
    names = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
    return ", ".join(f"`{name}`" for name in names)


def _argument(argument: click.Argument) -> str:
    if argument.metavar:
        return argument.metavar
    name = (argument.name or "").upper()
    return f"[{name}]..." if argument.nargs == -1 else name


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(text: str | None) -> str:
    return f"`{text}`".replace("|", r"\|") if text else ""


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")


def main(arguments: list[str]) -> int:
    """Write the pages, or check them; return the exit code."""
    folder = ROOT / "docs" / "reference"
    stale = [name for name, text in pages().items() if not _is(folder / name, text)]
    if "--check" in arguments:
        print(f"out of date: {', '.join(stale)}; run: python scripts/reference.py" if stale else "up to date")
        return bool(stale)
    for name in stale:
        (folder / name).write_text(pages()[name])
        print(f"wrote docs/reference/{name}")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
