"""Draw a cluster, or the steps of a worker, in the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import click

from umbel._repr import mask_url
from umbel.app.control import flatten_reply
from umbel.bootsteps import step_name
from umbel.cli.base import Group
from umbel.cli.remote import ask, find
from umbel.cli.session import Session

__all__ = ["command"]

_SHAPES: Final = {"broker": "circle", "backend": "folder", "node": "box", "thread": "oval", "step": "box"}


@click.group("graph", cls=Group)
def command() -> None:
    """Draw a cluster, or the steps of a worker, as Graphviz reads it: umbel graph workers | dot -Tsvg."""


@command.command("bootsteps")
@click.argument("blueprints", nargs=-1, type=click.Choice(["worker", "consumer"]))
@click.pass_obj
def _bootsteps(session: Session, /, *, blueprints: tuple[str, ...]) -> None:
    """Draw the app's own steps, and what they require; of worker and consumer, or one of them."""
    steps = [step for name in blueprints or ("worker", "consumer") for step in session.app.steps[name]]
    names = {step_name(step) for step in steps}
    edges = [(step_name(step), step_name(each)) for step in steps for each in step.requires]
    names.update(needed for _, needed in edges)
    _draw([("step", name, name) for name in sorted(names)], sorted(edges))


@command.command("workers")
@click.argument("words", nargs=-1, metavar="[nodes:A,B] [threads:N,M] [wmax:4] [tmax:3] [generic] [enumerate]")
@click.option("-t", "--timeout", type=float, help="Seconds to wait for replies. Default: 1.")
@click.option("-d", "--destination", metavar="A,B", help="Names of the nodes to ask. Default: all.")
@click.pass_obj
def _workers(session: Session, /, *, words: tuple[str, ...], timeout: float | None, destination: str | None) -> None:
    """Draw workers with their slots, broker and results: those that answer, or those that nodes: names.

    More words: broker:URL, backend:URL. With generic they have no names, with enumerate numbers; of more than wmax
    workers, or tmax slots, only so many are drawn.
    """
    said = dict(word.partition(":")[::2] for word in words)
    app = session.app
    if "nodes" in said:
        nodes = [name for name in said["nodes"].split(",") if name]
        counts = [int(count) for count in said.get("threads", "").split(",") if count]
        slots = dict(zip(nodes, [*counts, *[0] * len(nodes)], strict=False))
    else:
        replies = flatten_reply(ask(app, find("inspect", "stats"), (), timeout=timeout, destination=destination))
        slots = {name: reply["pool"].get("max-concurrency", 0) for name, reply in sorted(replies.items())}
    broker = mask_url(said.get("broker") or app.shown_url(app.broker_url()))
    backend = mask_url(said.get("backend") or str(app.conf.result_backend or "")) or None
    shown, hidden = _first(list(slots), int(said.get("wmax") or 0))
    drawn = [("broker", broker, broker), *([("backend", backend, backend)] if backend else [])]
    edges: list[tuple[str, str]] = []
    for number, name in enumerate(shown, 1):
        label = f"worker {number}" if "enumerate" in said else "worker" if "generic" in said else name
        drawn.append(("node", name, label))
        edges += [(name, broker), *([(name, backend)] if backend else [])]
        some, more = _first([str(i) for i in range(1, slots[name] + 1)], int(said.get("tmax") or 0))
        for slot in (*some, *([f"… {more} more"] if more else [])):
            drawn.append(("thread", f"{name} slot {slot}", slot))
            edges.append((f"{name} slot {slot}", name))
    if hidden:
        drawn.append(("node", "more", f"… {hidden} more"))
    _draw(drawn, edges)


def _first(names: list[str], most: int) -> tuple[list[str], int]:
    """Return the first *most* names (0 = all) and how many are left."""
    shown = names[:most] if most else names
    return shown, len(names) - len(shown)


def _draw(nodes: Iterable[tuple[Any, str, str]], edges: Iterable[tuple[str, str]]) -> None:
    click.echo("digraph umbel {")
    for kind, name, label in nodes:
        click.echo(f"    {_quoted(name)} [shape={_SHAPES[kind]}, label={_quoted(label)}]")
    for start, end in edges:
        click.echo(f"    {_quoted(start)} -> {_quoted(end)}")
    click.echo("}")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
