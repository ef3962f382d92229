"""Show things to people: tables on a terminal, the same facts in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

__all__ = ["ago", "duration", "show_json", "show_table"]


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, color: bool = True) -> None:
    """Print *rows* under *columns*: a table on a terminal, else words of full length that a pipe can take apart."""
    texts = [[str(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
        for row in (columns, *texts):
            click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=i == 0)
    for row in texts:
        table.add_row(*row)
    Console(color_system="auto" if color else None, highlight=False, markup=False).print(table)


def show_json(value: Any) -> None:
    """Print *value* as one JSON text."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=repr)).decode())


def ago(moment: float) -> str:
    """Return how long *moment* (unix seconds) is past, for people."""
    return duration(time.time() - moment) + " ago"


def duration(seconds: float) -> str:
    """Return *seconds* for people, in the largest unit that fits."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
