"""The source of the house, parsed once."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="session")
def modules() -> dict[str, ast.Module]:
    """Every module of umbel by its file's name, such as ``umbel/wire/message.py``."""
    return {str(path.relative_to(SRC)): ast.parse(path.read_bytes()) for path in sorted(SRC.rglob("*.py"))}
