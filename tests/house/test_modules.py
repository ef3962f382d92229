"""One module, one idea, and it says which."""

import ast
from pathlib import PurePath

DRAWERS = {"common", "helper", "helpers", "misc", "tools", "util"}  # `utils` is Celery's public name, see below


def test_every_module_says_its_idea_in_the_first_line(modules):
    def silent(tree: ast.Module) -> bool:
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        return not first.endswith((".", "?", "!"))

    assert [name for name, tree in modules.items() if silent(tree)] == []


def test_every_module_with_public_names_lists_them(modules):
    def unlisted(tree: ast.Module) -> set[str]:
        named = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
        public = {node.name for node in named if not node.name.startswith("_")}
        return public if "__all__" not in _assigned(tree) else set()

    assert {name: found for name, tree in modules.items() if (found := unlisted(tree))} == {}


def test_there_are_no_drawers(modules):
    assert [name for name in modules if DRAWERS & {part.removesuffix(".py") for part in PurePath(name).parts}] == []
    assert "umbel/utils.py" not in modules


def _assigned(tree: ast.Module) -> set[str]:
    """Return the names assigned at the top of a module."""
    targets = [node.targets if isinstance(node, ast.Assign) else [node.target] for node in tree.body if _assigns(node)]
    return {target.id for each in targets for target in each if isinstance(target, ast.Name)}


def _assigns(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
