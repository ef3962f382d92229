"""Bring the fixtures into every test run, unless the project has named them itself."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_configure"]

if os.environ.get("UMBEL_AS_CELERY", "0") not in {"", "0"}:
    importlib.import_module("umbel.compat").install_as_celery()  # before a conftest imports Celery


def pytest_configure(config: pytest.Config) -> None:
    """Register `umbel.contrib.pytest`; by now, whoever wanted it under another name has it."""
    manager = config.pluginmanager
    plugin = importlib.import_module("umbel.contrib.pytest")
    if not manager.is_registered(plugin):
        manager.register(plugin, "umbel.contrib.pytest")
