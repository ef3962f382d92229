"""Write docs/reference/coverage.md: which rows of the contract with Celery's users and peers are held by a test."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "coverage.md"
AREAS = {
    "API": "Public names",
    "CFG": "Settings",
    "CLI": "Command line",
    "PRT": "Bytes between peers",
    "TB": "Transports and result backends",
    "ALB": "The alias",
    "ALI": "What other packages import",
}


class Row(NamedTuple):
    """One row of the contract."""

    id: str
    title: str
    left: str  # why it is not held, on purpose; empty = it is to be

    @property
    def area(self) -> str:
        """What it belongs to."""
        return self.id.partition("-")[0]


def rows() -> list[Row]:
    """Return all rows, in order."""
    why = left()
    known = (line.split(" | ", 1) for line in _lines("coverage.txt"))
    return [Row(row, title, why.get(row, "")) for row, title in known]


def left() -> dict[str, str]:
    """Return why rows are left on purpose, by their ids."""
    return dict(line.split(": ", 1) for line in _lines("coverage_left.txt"))


def _lines(name: str) -> list[str]:
    lines = (ROOT / "scripts" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def held() -> dict[str, set[str]]:
    """Return the test files that hold each row, by the row's id."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for row in _marks(ast.parse(path.read_bytes())):
            found.setdefault(row, set()).add(str(path.relative_to(ROOT)))
    return found


def _marks(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.row":
            # Ids are written out, or counted off by range(): nothing else has a value here.
            expression = ast.Expression(ast.Tuple(node.args, ast.Load()))
            yield from eval(compile(ast.fix_missing_locations(expression), "row", "eval"), {"range": range})


def page() -> str:
    """Return the page."""
    tests = held()
    every = rows()
    lines = [
        "# Coverage of Celery's contract",
        "",
        "What a user of Celery, or a peer on the wire, can observe is written down in numbered rows. Tests name the",
        'rows they hold umbel to (`@pytest.mark.row("API-001")`); this page is made by `scripts/coverage.py`.',
        "*Left* means on purpose, see below; *open* that no test shows it yet, whether it works or not.",
        "",
        "| area | rows | held | left | open |",
        "|---|---|---|---|---|",
    ]
    for area, name in AREAS.items():
        own = [row for row in every if row.area == area]
        has = sum(row.id in tests for row in own)
        left = sum(bool(row.left) and row.id not in tests for row in own)
        lines.append(f"| [{name}](#{area.lower()}) | {len(own)} | {has} | {left} | {len(own) - has - left} |")
    lines += ["", "## Left on purpose", "", "| row | about | why |", "|---|---|---|"]
    lines += [f"| {row.id} | {_cell(row.title)} | {_cell(row.left)} |" for row in every if row.left]
    for area, name in AREAS.items():
        lines += ["", f'<a id="{area.lower()}"></a>', "", f"## {name}", "", "| row | about | state |", "|---|---|---|"]
        for row in (row for row in every if row.area == area):
            state = "held" if row.id in tests else "left" if row.left else "open"
            lines.append(f"| {row.id} | {_cell(row.title)} | {state} |")
    return "\n".join(lines) + "\n"


def _cell(title: str) -> str:
    return title.replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_")


if __name__ == "__main__":
    PAGE.write_text(page())
