"""Find the app that a command is for: by name, by pyproject.toml, or by looking around."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from umbel._names import did_you_mean
from umbel.app.app import Umbel
from umbel.cli.session import CannotStart

__all__ = ["find_app"]

# An app made at the top of a module: `app = Umbel("shop")`, `app: Celery = celery.Celery(`.
_MAKES_APP: Final = re.compile(rb"^\w+(?:\s*:[^=\n]+)?\s*=\s*(?:\w+\.)*(?:Umbel|Celery)\(", re.MULTILINE)
_SKIPPED: Final = re.compile(r"test_.*|.*_test|conftest|setup|__main__")


def find_app(name: str | None, folder: Path, *, may_be_default: bool = False) -> Umbel:
    """Return the app called *name*; None: the one that *folder* is about.

    A name is ``module``, ``module:attribute``, ``module.attribute`` or a package. Modules in *folder* can be imported
    from now on. Without a name, ``[tool.umbel] app`` of a pyproject.toml in *folder* or above is the name, else the
    only module in *folder* that makes an app; else, if it *may_be_default*, an empty app.

    Raises:
        CannotStart: there is none, there are several, or it cannot be imported.
    """
    _make_importable(folder)
    if name is None:
        name = _named_in_pyproject(folder)
    if name is None:
        found = sorted(_modules_with_apps(folder))
        if len(found) > 1:
            raise CannotStart(f"several modules here make an app: {', '.join(found)}. Choose one: umbel -A {found[0]}")
        if not found and may_be_default:
            return Umbel("default", set_as_current=False)
        if not found:
            raise CannotStart(
                f"no app was named, and no module in {folder} makes one. Name it: umbel -A module, "
                f'or in pyproject.toml: [tool.umbel] app = "module:app"'
            )
        name = found[0]
    return _load(name)


def _named_in_pyproject(folder: Path) -> str | None:
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            name = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("umbel", {}).get("app")
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise CannotStart(f"{file} cannot be read: {exc}") from exc
        if name is not None:
            if not isinstance(name, str):
                raise CannotStart(f'{file}: app in [tool.umbel] is {name!r}; it must be text such as "module:app"')
            _make_importable(place)
            return name
    return None


def _modules_with_apps(folder: Path) -> Iterator[str]:
    """Yield the names of modules in *folder*, and in packages there, whose text makes an app."""
    packages = (path.parent for path in folder.glob("*/__init__.py"))
    for place in (folder, *packages):
        for file in place.glob("*.py"):
            if _SKIPPED.fullmatch(file.stem) is None and _MAKES_APP.search(file.read_bytes()):
                parts = file.relative_to(folder).with_suffix("").parts
                yield ".".join(part for part in parts if part != "__init__")


def _load(name: str) -> Umbel:
    module_name, colon, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or name.endswith((".py", ":")):
        stem = Path(module_name).stem
        hint = (
            f"; -A takes a module, not a file: umbel -A {stem}" if name.endswith(".py") and stem.isidentifier() else "."
        )
        raise CannotStart(f"{name!r} names no module{hint}")
    if colon:
        return _as_app(_attribute(_import(module_name), attribute, name), name)
    parent, dot, last = name.rpartition(".")
    if dot:
        value = getattr(_import(parent), last, None)
        if value is not None and not isinstance(value, ModuleType):
            return _as_app(value, name)
    return _as_app(_import(name), name)


def _as_app(found: Any, name: str) -> Umbel:
    if isinstance(found, Umbel):
        return found
    if isinstance(found, ModuleType):
        return _app_in(found, name)
    if type(found).__module__.partition(".")[0] == "celery":
        raise CannotStart(f"{name!r} is an app of the installed Celery; make it with umbel: from umbel import Celery")
    raise CannotStart(f"{name!r} is {_kind(found)}, no app")


def _app_in(module: ModuleType, name: str) -> Umbel:
    named = [getattr(module, usual, None) for usual in ("app", "celery")]
    for value in (*named, *vars(module).values()):
        if isinstance(value, Umbel):
            return value
        if value is named[1] and hasattr(module, "__path__"):
            # A package without an app of its own: `proj/celery.py` is where Celery's projects have it.
            submodule = f"{module.__name__}.celery"
            if importlib.util.find_spec(submodule) is not None:
                return _app_in(_import(submodule), name)
    foreign = next((value for value in vars(module).values() if type(value).__module__ == "celery.app.base"), None)
    if foreign is not None:
        return _as_app(foreign, name)
    raise CannotStart(f"module {module.__name__!r} makes no app; it needs a line such as: app = Umbel({name!r})")


def _attribute(module: ModuleType, path: str, name: str) -> Any:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = did_you_mean(part, [word for word in dir(found) if not word.startswith("_")])
            raise CannotStart(f"module {module.__name__!r} has no {path!r} (from -A {name}){hint}") from None
    return found


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module == exc.name or module.startswith(exc.name + ".")):
            parent, _, last = module.rpartition(".")
            if exc.name == module and parent in sys.modules:
                hint = did_you_mean(last, [word for word in dir(sys.modules[parent]) if not word.startswith("_")])
                raise CannotStart(f"there is neither a module {module!r} nor {last!r} in {parent!r}{hint}") from exc
            here = [path.stem for path in Path.cwd().glob("*.py")] + [p.parent.name for p in Path.cwd().glob("*/*.py")]
            raise CannotStart(
                f"there is no module {exc.name!r} in {Path.cwd()} or on sys.path{did_you_mean(exc.name, here)}"
            ) from exc
        raise _broken(module, exc) from exc
    except Exception as exc:
        raise _broken(module, exc) from exc


def _broken(module: str, exc: Exception) -> CannotStart:
    """Return the news that *module* raised *exc* when it was imported, and where."""
    if isinstance(exc, SyntaxError):
        where = f"{exc.filename}:{exc.lineno}"
        what = f"{type(exc).__name__}: {exc.msg}"
    else:
        frames = [
            frame
            for frame in traceback.extract_tb(exc.__traceback__)
            if "importlib" not in frame.filename and not frame.filename.startswith(str(Path(__file__).parent))
        ]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
        what = f"{type(exc).__name__}: {exc}"
    return CannotStart(f"module {module!r} cannot be imported: {what} (at {where})")


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _kind(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
