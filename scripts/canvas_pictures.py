#!/usr/bin/env python3
"""Draw the pictures of docs/how-to/canvas/: each work-flow of the guide is run, and the graph of its results drawn."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from umbel import Umbel, chain, chord, group, signals
from umbel.contrib.testing.worker import start_worker
from umbel.result import GroupResult, ResultGraph

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "canvas"
PATIENCE = 30.0

WIDE, HIGH, GAP_X, GAP_Y, EDGE = 176, 30, 44, 14, 10  # pixels of a box, between boxes, around all


def main() -> int:
    """Write all pictures."""
    for name, picture in pictures().items():
        (FOLDER / name).write_text(picture)
        print(FOLDER / name)
    return 0


def pictures() -> dict[str, str]:
    """Return the text of each picture by its file's name."""
    app = Umbel("pictures", broker="memory://pictures", backend="memory://pictures", set_as_current=False)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task
    def twice(x: int) -> int:
        return 2 * x

    works = {
        "chain": add.s(2, 2) | twice.s() | add.s(1),
        "group": group(add.s(i, i) for i in range(3)),
        "chord": chord([add.s(i, i) for i in range(3)], total.s()),
        "steps": chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s(), twice.s()),
        "nested": chord([twice.s(1), chord([twice.s(2), twice.s(3)], total.s()), twice.s(4) | twice.s()], total.s()),
        "links": add.s(2, 2).set(link=[twice.s(), add.s(1)]),
    }
    told: dict[str, str] = {}
    lock = threading.Lock()

    def note(task_id: str, task: Any, args: Any, retval: Any, **_: Any) -> None:
        with lock:
            told[task_id] = f"{task.name.rpartition('.')[2]}({', '.join(map(repr, args))}) → {retval!r}"

    signals.task_postrun.connect(note)
    drawn = {}
    with start_worker(app, perform_ping_check=False):
        for name, work in works.items():
            result = work.apply_async()
            result.get(timeout=PATIENCE)
            graph = graph_of(result) if name != "links" else followed(result)
            drawn[f"{name}.svg"] = draw(graph, told)
    signals.task_postrun.disconnect(note)
    app.close()
    return drawn


def graph_of(result: Any) -> ResultGraph:
    """Return what led to *result*: the parents of results, and the members of groups."""
    graph = ResultGraph()
    _walk(graph, result)
    return graph


def _walk(graph: ResultGraph, result: Any) -> tuple[list[Any], list[Any]]:
    """Add *result* and what is before it; return what comes first and what comes last in it."""
    if isinstance(result, GroupResult):
        members = [_walk(graph, member) for member in result.results]
        first = [node for begin, _ in members for node in begin]
        last = [node for _, end in members for node in end]
    else:
        graph.add_arc(result)
        first = last = [result]
    if result.parent is None:
        return first, last
    begin, end = _walk(graph, result.parent)
    for before in end:
        for node in first:
            graph.add_edge(before, node)
    return begin, last


def followed(result: Any) -> ResultGraph:
    """Return what came of *result*, once all of it has ended."""
    callbacks = result.children[0] if len(result.children) == 1 else result.children
    for each in callbacks:
        each.get(timeout=PATIENCE)
    graph = ResultGraph()
    for parent, node in result.iterdeps():
        for each in node.results if isinstance(node, GroupResult) else [node]:
            graph.add_arc(each)
            if parent is not None and not isinstance(parent, GroupResult):
                graph.add_edge(parent, each)
    return graph


def draw(graph: ResultGraph, labels: dict[str, str]) -> str:
    """Return the picture: what waits for nothing stands at the left."""
    before: dict[Any, list[Any]] = {node: [] for node in graph}
    for node, adjacent in graph.items():
        for each in adjacent:
            before[each].append(node)
    column: dict[Any, int] = {}

    def place(node: Any) -> int:
        if node not in column:
            column[node] = max((place(each) + 1 for each in before[node]), default=0)
        return column[node]

    rows: dict[int, list[Any]] = {}
    for node in sorted(graph, key=lambda each: _position(graph, each)):
        rows.setdefault(place(node), []).append(node)
    tallest = max(len(nodes) for nodes in rows.values())
    height = tallest * (HIGH + GAP_Y) - GAP_Y
    spots = {}
    for number, nodes in rows.items():
        top = (height - (len(nodes) * (HIGH + GAP_Y) - GAP_Y)) / 2
        for i, node in enumerate(nodes):
            spots[node] = (EDGE + number * (WIDE + GAP_X), EDGE + top + i * (HIGH + GAP_Y))
    width = len(rows) * (WIDE + GAP_X) - GAP_X + 2 * EDGE
    return "".join(_svg(graph, labels, spots, width, height + 2 * EDGE))


def _position(graph: ResultGraph, node: Any) -> int:
    return list(graph).index(node)


def _svg(
    graph: ResultGraph, labels: dict[str, str], spots: dict[Any, tuple[float, float]], width: float, height: float
) -> Iterator[str]:
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
    yield 'font-family="monospace" font-size="12">\n'
    yield '<rect width="100%" height="100%" fill="white"/>\n'
    for node, adjacent in graph.items():
        x, y = spots[node]
        for each in adjacent:
            to_x, to_y = spots[each]
            a, b = y + HIGH / 2, to_y + HIGH / 2
            bend = (x + WIDE + to_x) / 2
            yield f'<path d="M{x + WIDE:g} {a:g} C{bend:g} {a:g} {bend:g} {b:g} {to_x - 5:g} {b:g}" '
            yield 'fill="none" stroke="#888"/>\n'
            yield f'<path d="M{to_x - 7:g} {b - 4:g} L{to_x:g} {b:g} L{to_x - 7:g} {b + 4:g} Z" fill="#888"/>\n'
    for node, (x, y) in spots.items():
        yield f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="4" fill="#eef" stroke="#446"/>\n'
        yield f'<text x="{x + WIDE / 2:g}" y="{y + HIGH / 2 + 4:g}" text-anchor="middle">'
        yield f"{escape(labels.get(node.id, ''))}</text>\n"
    yield "</svg>\n"


if __name__ == "__main__":
    sys.exit(main())
