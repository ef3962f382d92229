"""An underscore is a wall: a module opens only what it built itself."""

import ast

# Documented although underscored.
PUBLIC = {"_asdict", "_exit", "_fields", "_get_current_object", "_getframe", "_make", "_replace"}


def test_no_module_reaches_into_anothers_private_attributes(modules):
    def reached(tree: ast.Module) -> list[str]:
        own = _built(tree)
        return [
            f"line {node.lineno}: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and _private(node.attr) and node.attr not in own
            if not (isinstance(node.value, ast.Name) and node.value.id in {"cls", "self"})
            if not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super")
        ]

    assert {name: found for name, tree in modules.items() if (found := reached(tree))} == {}


def test_no_module_imports_anothers_private_names(modules):
    def taken(tree: ast.Module) -> list[str]:
        inside = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        return [
            f"line {node.lineno}: {alias.name}"
            for node in inside
            for alias in node.names
            if node.module.startswith("umbel") and _private(alias.name)
        ]

    assert {name: found for name, tree in modules.items() if (found := taken(tree))} == {}


def _private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def _built(tree: ast.Module) -> set[str]:
    """Return the names that a module gives to something: functions, classes, attributes, fields, slots."""
    built: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                built.add(node.name)
            case ast.Attribute(ctx=ast.Store()):
                built.add(node.attr)
            case ast.Name(ctx=ast.Store()):
                built.add(node.id)
            case ast.Constant(value=str(text)):
                built.add(text)
    return built
