"""Make names, take them apart, and find what they name.

Names of tasks (``module.function``), of nodes (``celery@host``), of Python objects (``module:attribute``), and ids.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from umbel._later import Later

if TYPE_CHECKING:
    import difflib
    import socket
else:
    difflib, socket = Later("difflib"), Later("socket")

__all__ = [
    "anon_nodename",
    "close_match",
    "cwd_importable",
    "default_nodename",
    "did_you_mean",
    "gethostname",
    "host_format",
    "import_from_cwd",
    "node_format",
    "nodename",
    "nodesplit",
    "qualname",
    "symbol_by_name",
    "task_name",
    "uuid",
    "uuids",
    "worker_direct_name",
]


# -- Ids and suggestions -----------------------------------------------------------------------------------------------

_VARIANTS: Final = "89ab"


def uuid() -> str:
    """Return a new random id: a version 4 UUID as text, the same that `uuid.uuid4` makes."""
    # benchmarks/micro_ground.py: 1.1 µs, where uuid.uuid4 takes 3.7, and its module some 5 ms to import.
    raw = os.urandom(16)
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANTS[raw[8] & 3]}{text[17:20]}-{text[20:]}"


def uuids(at_once: int = 256) -> Iterator[str]:
    """Yield new random ids for ever; the randomness for *at_once* of them is fetched in one system call.

    benchmarks/micro_ground.py: 0.6 µs each. `uuid` spends half of its time in the system call, more in a sandbox.
    """
    while True:
        raw = os.urandom(16 * at_once)
        text = raw.hex()
        for i in range(0, 2 * len(raw), 32):
            variant = _VARIANTS[raw[i // 2 + 8] & 3]
            yield (
                f"{text[i : i + 8]}-{text[i + 8 : i + 12]}-4{text[i + 13 : i + 16]}-"
                f"{variant}{text[i + 17 : i + 20]}-{text[i + 20 : i + 32]}"
            )


def close_match(name: str, known: Iterable[str], *, cutoff: float = 0.7) -> str | None:
    """Return the one of *known* that *name* probably should have been; *cutoff* is 1 for equal, 0 for anything."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return how a sentence about the unknown *name* ends: ``; did you mean 'x'?`` or just a full stop."""
    found = close_match(name, known)
    return "." if found is None else f"; did you mean {found!r}?"


# -- Tasks -------------------------------------------------------------------------------------------------------------


def task_name(name: str, module: str | None, main: str | None = None) -> str:
    """Return the task name of the function *name* in *module*.

    The script started by the user is called *main* when the app has such a name, so that a task has one name in the
    script and in a worker that imports it.
    """
    module = module or "__main__"
    return f"{main if main and module == '__main__' else module}.{name}"


# -- Nodes -------------------------------------------------------------------------------------------------------------

_EXPANSION: Final = re.compile(r"%(.)")


def gethostname() -> str:
    """Return this host's name, as all node names use it."""
    return socket.gethostname()


def nodename(name: str, host: str) -> str:
    """Return ``name@host``."""
    return f"{name}@{host}"


def nodesplit(text: str) -> tuple[str | None, str]:
    """Return name and host of a node; the name is None when *text* has none."""
    name, separator, host = text.partition("@")
    return (name, host) if separator else (None, text)


def default_nodename(text: str | None) -> str:
    """Return a full node name from *text*, which may lack its name, its host (after ``@``), or everything."""
    name, host = nodesplit(text or "")
    return nodename(name or "celery", host or gethostname())


def anon_nodename(host: str | None = None, prefix: str = "gen") -> str:
    """Return the node name of a process that is no worker, such as ``gen123@host``."""
    return nodename(f"{prefix}{os.getpid()}", host or gethostname())


def worker_direct_name(node: str) -> str:
    """Return the name of the queue that only the worker *node* consumes."""
    return f"{node}.dq2"


def host_format(
    text: str, host: str | None = None, name: str | None = None, *, process_index: int = 0, **more: str
) -> str:
    """Expand ``%h`` host, ``%n`` name, ``%d`` domain, ``%i`` and ``%I`` process index, ``%%`` and *more* in *text*.

    Without *name*, ``%n`` is the host's first label. *process_index* is 0 in the main process, where ``%I`` is empty.

    Raises:
        ValueError: *text* has another letter behind ``%``.
    """
    host = host or gethostname()
    label, _, domain = host.partition(".")
    keys = {
        "h": host,
        "n": name or label,
        "d": domain,
        "i": str(process_index),
        "I": f"-{process_index}" if process_index else "",
        "%": "%",
        **more,
    }
    return _EXPANSION.sub(partial(_expand, keys, text), text)


def node_format(text: str, node: str, *, process_index: int = 0, **more: str) -> str:
    """Expand *text* for *node*, as `host_format` does; ``%p`` is the whole node name."""
    name, host = nodesplit(node)
    return host_format(text, host, name or "celery", process_index=process_index, p=node, **more)


def _expand(keys: Mapping[str, str], text: str, found: re.Match[str]) -> str:
    try:
        return keys[found[1]]
    except KeyError:
        known = " ".join(f"%{key}" for key in keys)
        raise ValueError(
            f"unknown format {found[0]!r} in {text!r}; known are {known}, and %% is a percent sign"
        ) from None


# -- Python objects ----------------------------------------------------------------------------------------------------


def qualname(value: Any) -> str:
    """Return ``module.name`` of a class or function, of an object's class otherwise."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    *,
    default: Any = None,
    import_module: Callable[[str], ModuleType] = importlib.import_module,
) -> Any:
    """Return the object called *name*: ``module:attribute``, ``module.attribute`` or ``module``.

    *aliases* gives short names for such paths. What is no text is returned as it is. Paths in ``celery`` are found in
    umbel first, since settings and stored schedules keep Celery's names.

    Raises:
        ImportError: the module cannot be imported, and there is no *default*.
        AttributeError: the module lacks the attribute, and there is no *default*.
    """
    if not isinstance(name, str):
        return name
    path = (aliases or {}).get(name, name)
    try:
        if path.startswith(("celery.", "celery:")):
            try:
                return _find("umbel" + path[len("celery") :], import_module)
            except (ImportError, AttributeError):
                pass  # not ours: a real Celery may be installed
        return _find(path, import_module)
    except (ImportError, AttributeError):
        if default is None:
            raise
        return default


def import_from_cwd(name: str) -> ModuleType:
    """Import the module *name*, which may lie in the current directory."""
    with cwd_importable():
        return importlib.import_module(name)


@contextmanager
def cwd_importable() -> Iterator[None]:
    """Let modules of the current directory be imported inside the block."""
    here = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _find(path: str, import_module: Callable[[str], ModuleType]) -> Any:
    module_name, colon, attribute = path.partition(":")
    if not colon:
        module_name, _, attribute = path.rpartition(".")
        if not module_name:
            return import_module(path)
    found: Any = import_module(module_name)
    if not attribute:
        return found
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        if colon:
            raise AttributeError(
                f"module {module_name!r} has no attribute {attribute!r}{did_you_mean(attribute, dir(found))}"
            ) from None
        try:
            return import_module(path)  # a submodule nobody imported yet
        except ModuleNotFoundError as exc:
            if exc.name != path:
                raise
            raise AttributeError(
                f"module {module_name!r} has no attribute {attribute!r}{did_you_mean(attribute, dir(found))}"
            ) from None
    return found
