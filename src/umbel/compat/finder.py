"""Make ``import celery`` and its submodules give umbel's own modules.

A module that umbel has under the same name *is* Celery's; which names stand elsewhere is said in `compat.table`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from types import CodeType, ModuleType
from typing import Any, Final

from umbel import signals
from umbel._names import symbol_by_name
from umbel.app.app import Umbel
from umbel.compat import pieces
from umbel.compat.table import ELSEWHERE, FACTS, GONE, PACKAGES, VERSION

__all__ = ["install_as_celery"]

_OURS_ALONE: Final = ("umbel.compat", "umbel.cli", "umbel.dashboard")  # no place in Celery


def install_as_celery() -> None:
    """Let ``import celery`` mean umbel in this process and in those it starts; may be called twice.

    The few defaults that differ become Celery's for apps made from now on; above all, tasks are acknowledged before
    they run (``task_acks_late=False``), so that one may be lost with its worker but never runs twice.

    Raises:
        RuntimeError: the real Celery has been imported already.
    """
    root = sys.modules.get("celery")
    if root is not None and not isinstance(root, _Named):
        raise RuntimeError("the real celery has been imported already; call umbel.install_as_celery() before that")
    Umbel.as_celery = True
    os.environ["UMBEL_AS_CELERY"] = "1"
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name, module in list(sys.modules.items()):
        if name.startswith("umbel."):
            _note(module)
    signals.worker_process_init.connect(_show_tasks, weak=False)


def _show_tasks(**_: Any) -> None:
    build = getattr(sys.modules.get("celery.app.trace"), "build_tracer", pieces.build_tracer)
    if build is not pieces.build_tracer:
        pieces.show_tasks(build)


class _Named(ModuleType):
    """A module without code of its own: its names are those of the table, looked up when they are first used."""

    def __init__(self, name: str, names: Mapping[str, str], facts: Mapping[str, Any]) -> None:
        super().__init__(name, f"Offer the names of {name}, which umbel has elsewhere.")
        self.__path__: list[str] = []  # so that modules below it are asked for
        self.__all__ = [*names, *facts]
        self.__dict__.update(facts)
        self.__dict__["__getattr__"] = _finding(name, names, None)


class _Finder(MetaPathFinder):
    """Answers for everything called ``celery``, and notes what of umbel is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith("umbel."):
            return _noting(PathFinder.find_spec(fullname, path, target))
        if fullname != "celery" and not fullname.startswith("celery."):
            return None
        if not _is_there(fullname):
            raise ModuleNotFoundError(_missing(fullname), name=fullname)
        return ModuleSpec(fullname, _Alias(), is_package=True)

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """Say that Celery is installed, in the version umbel is compatible with."""
        return [_Celery()] if context is None or context.name in {None, "celery"} else []


class _Celery(Distribution):
    """What ``importlib.metadata`` is told of Celery."""

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            return f"Metadata-Version: 2.1\nName: celery\nVersion: {'.'.join(map(str, VERSION[:3]))}\n"
        return None

    def locate_file(self, path: Any) -> Any:
        return path


class _Alias(Loader):
    """Puts umbel's module in the place of the one that is being imported."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return _Named(spec.name, ELSEWHERE.get(spec.name, {}), FACTS.get(spec.name, {}))

    def exec_module(self, module: ModuleType) -> None:
        # Only now: the machinery writes into a module that it creates, and into this one it should not.
        name = module.__name__
        if name != "celery" and _has(_ours(name)):
            sys.modules[name] = importlib.import_module(_ours(name))
            _note(sys.modules[name])

    def get_code(self, fullname: str) -> CodeType:
        """Return the code with which ``runpy`` runs a module: only the program itself has some."""
        return compile("import sys; from umbel.cli.main import main; sys.exit(main())", fullname, "exec")


def _is_there(name: str) -> bool:
    return name == "celery" or name in ELSEWHERE or name in PACKAGES or name in FACTS or _has(_ours(name))


def _has(name: str) -> bool:
    if name.startswith(_OURS_ALONE):
        return False
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even what stands before the last dot
        return False


def _ours(name: str) -> str:
    return "umbel" + name.removeprefix("celery")


def _noting(spec: ModuleSpec | None) -> ModuleSpec | None:
    """Have the module of *spec* noted when it has been loaded."""
    if spec is not None and spec.loader is not None:
        run = spec.loader.exec_module

        def run_and_note(module: ModuleType) -> None:
            run(module)
            _note(module)

        spec.loader.exec_module = run_and_note  # type: ignore[method-assign]  # of this one loader
    return spec


def _note(module: ModuleType) -> None:
    """Let a module of umbel be found under Celery's name too."""
    if module.__name__.startswith(_OURS_ALONE):
        return
    name = "celery" + module.__name__.removeprefix("umbel")
    known = sys.modules.get(name)
    if known is not None and not isinstance(known, _Named) and known is not module:
        return
    sys.modules[name] = module
    lacking = ELSEWHERE.get(name)
    if lacking and "_offers_celerys_names" not in module.__dict__:
        module.__dict__["_offers_celerys_names"] = True
        module.__dict__["__getattr__"] = _finding(name, lacking, module.__dict__.get("__getattr__"))
    root = sys.modules.get("celery")
    if root is not None and name.count(".") == 1:
        setattr(root, name.rpartition(".")[2], module)


def _finding(module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a *module* which offers *names* that stand elsewhere."""

    def find(name: str) -> Any:
        if name in names:
            return symbol_by_name(names[name])
        if otherwise is not None:
            return otherwise(name)
        if not name.startswith("__"):
            if module == "celery" and _is_there(f"celery.{name}"):
                return importlib.import_module(f"celery.{name}")
            if (why := GONE.get(f"{module}.{name}")) is not None:
                raise ImportError(f"umbel has no {module}.{name}: {why}", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def _missing(name: str) -> str:
    """Return what to say of a module that does not exist, with what to use instead where that is known."""
    above = name
    while above:
        if above in GONE:
            return f"umbel has no {name}: {GONE[above]}"
        above = above.rpartition(".")[0]
    return f"No module named {name!r}"
