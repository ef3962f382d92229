"""Imports stand at the top of a file; what import-linter cannot see about them is checked here."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

DOORS = {"umbel/app/app.py": ("umbel.worker", "umbel.beat", "umbel.cli")}  # what an app opens on request
EARLY = {"umbel", "msgspec", *sys.stdlib_module_names}  # click and rich may come late: a producer needs neither


def test_inside_a_function_only_dependencies_that_few_need_are_imported(modules):
    def late(name: str, tree: ast.Module) -> list[str]:
        inside = [found for node in _functions(tree) for found in _imports(node)]
        return sorted(
            f"line {line}: {target}"
            for line, target in set(inside)
            if target.partition(".")[0] in EARLY and not target.startswith(DOORS.get(name, ()))
        )

    assert {name: found for name, tree in modules.items() if (found := late(name, tree))} == {}


def test_nobody_imports_from_umbel_itself(modules):
    rooms = {name.split("/")[1].removesuffix(".py") for name in modules}  # `from umbel import states` is a module

    def short(tree: ast.Module) -> list[str]:
        top = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "umbel"]
        return [f"line {node.lineno}: {alias.name}" for node in top for alias in node.names if alias.name not in rooms]

    assert {name: found for name, tree in modules.items() if (found := short(tree))} == {}


def test_contrib_is_for_users_and_tests(modules):
    def opens(tree: ast.Module) -> bool:
        return any((target + ".").startswith("umbel.contrib.") for _, target in _imports(tree))

    assert [name for name, tree in modules.items() if opens(tree) and not name.startswith("umbel/contrib/")] == []


@pytest.mark.process
def test_importing_umbel_loads_no_event_loop_no_tls_and_no_client_of_a_server():
    code = "import sys; from umbel import Umbel; print(*sorted(set(sys.modules) & {'asyncio', 'ssl', 'redis', 'http'}))"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert shown.split() == []


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything imported below *tree*."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
