"""Import the modules that define tasks, and let a project hook into a worker's life."""

# ruff: noqa: FBT001, FBT002 - Celery's signatures
from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from umbel._names import cwd_importable, import_from_cwd, symbol_by_name
from umbel.app.settings import parse_assignments
from umbel.signals import import_modules

__all__ = ["Loader", "NotAPackage"]


class NotAPackage(ImportError):
    """Say that the name of a file was given where that of a module is needed."""


class Loader:
    """What Celery calls a loader: subclass it and name it by ``loader=`` or CELERY_LOADER to change any of this."""

    builtin_modules: frozenset[str] = frozenset()  # imported before those of the settings

    def __init__(self, app: Any) -> None:
        self.app = app
        self._imported = False

    # -- hooks for subclasses

    def on_task_init(self, task_id: str, task: Any) -> None:
        """Be told that a task begins."""

    def on_process_cleanup(self) -> None:
        """Be told that a task has ended."""

    def on_worker_init(self) -> None:
        """Be told that a worker starts."""

    def on_worker_shutdown(self) -> None:
        """Be told that a worker has stopped."""

    def on_worker_process_init(self) -> None:
        """Be told that a process for tasks starts."""

    # -- finding settings

    def config_from_object(self, obj: Any, silent: bool = False) -> None:
        """Read the app's settings from *obj*, an object or the name of one or of a module."""
        self.app.config_from_object(obj, silent=silent)

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Mapping[str, Any]:
        """Return the settings in the module that the environment variable *env* names; none where it is not set."""
        module = os.environ.get(env)
        found = vars(self.import_from_cwd(module)) if module else {}
        return {name: value for name, value in found.items() if not name.startswith("_")}

    def cmdline_config_parser(self, args: Iterable[str], namespace: str = "celery") -> dict[str, Any]:
        """Return the settings that ``key=value`` words of a command line say."""
        return dict(parse_assignments(list(args), namespace=namespace))

    def now(self, utc: bool = True) -> datetime:
        """Return the current moment: in UTC, or in the app's time zone."""
        return datetime.now(UTC) if utc else self.app.now()

    # -- finding modules

    def import_default_modules(self) -> list[ModuleType]:
        """Import what the settings ``imports`` and ``include`` name, and what autodiscovery finds; once."""
        if self._imported:
            return []
        self._imported = True
        for _, response in import_modules.send(self.app):
            if isinstance(response, Exception):
                raise response
        return [self.import_task_module(name) for name in self.default_modules]

    @property
    def default_modules(self) -> tuple[str, ...]:
        """The modules that the settings name."""
        conf = self.app.conf
        return (*self.builtin_modules, *_several(conf.imports), *_several(conf.include))

    def import_task_module(self, module: str) -> ModuleType:
        """Import one module that defines tasks.

        Raises:
            NotAPackage: it is the name of a file.
        """
        try:
            return import_from_cwd(module)
        except ModuleNotFoundError as exc:
            if module.endswith(".py"):
                hint = module.removesuffix(".py").replace("/", ".")
                raise NotAPackage(f"{module!r} is the name of a file; the module is {hint!r}") from exc
            raise

    def import_module(self, module: str, package: str | None = None) -> ModuleType:
        """Import *module*."""
        return importlib.import_module(module, package)

    def import_from_cwd(self, module: str) -> ModuleType:
        """Import *module*, which may lie in the current directory."""
        return import_from_cwd(module)

    def find_module(self, module: str) -> Any:
        """Return where *module* is, or None."""
        with cwd_importable():
            return importlib.util.find_spec(module)

    def autodiscover_tasks(self, packages: Iterable[str], related_name: str | None = "tasks") -> list[ModuleType]:
        """Import the module *related_name* of each package that has one, or the packages themselves without it.

        Raises:
            ImportError: a module exists and cannot be imported.
        """
        with cwd_importable():
            found = [_find_related(package, related_name) for package in packages]
        return [module for module in found if module is not None]


def _find_related(package: str, related_name: str | None) -> ModuleType | None:
    if related_name is None:
        return importlib.import_module(package)
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        # It may be the path of a class (of Django): the package is what stands before that.
        parent, _, _ = package.rpartition(".")
        if not parent:
            raise
        package = parent
        importlib.import_module(package)
    name = f"{package}.{related_name}"
    if importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)


def _several(names: str | Iterable[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def make_loader(app: Any, wanted: Any) -> Any:
    """Return the loader that *wanted* (a class, a dotted path, an alias, or None) means."""
    if wanted is None or wanted in _OURS:
        return Loader(app)
    return symbol_by_name(wanted)(app=app)


_OURS = ("app", "default", "celery.loaders.app:AppLoader", "celery.loaders.default:Loader")

DiscoverPackages = Callable[[], Iterable[str]] | Iterable[str] | None
