"""Import a module when something of it is first used: what a program does not need costs it nothing."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Later"]


class Later:
    """Stands for the module called *name*.

    Used where `import` would take milliseconds that many programs can save. What reads the source (type checkers, the
    import contract) is shown the import itself, under ``TYPE_CHECKING``.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)
