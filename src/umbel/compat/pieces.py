"""Keep the small functions that programs import from Celery and umbel itself has no use for."""

from __future__ import annotations

import base64
import itertools
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec

from umbel import current
from umbel._names import symbol_by_name, task_name
from umbel.app.task import made
from umbel.exceptions import CeleryError
from umbel.local import Proxy

__all__ = [
    "BacklogLimitExceeded",
    "DisabledBackend",
    "b64decode",
    "b64encode",
    "base_logger",
    "build_tracer",
    "chunks",
    "dictfilter",
    "first",
    "gen_task_name",
    "get_loader_cls",
    "get_pickleable_exception",
    "handle_preload_options",
    "instantiate",
    "is_list",
    "jsonify",
    "maybe_list",
    "maybe_patch_concurrency",
    "noop",
    "pluralize",
    "qualname",
    "raise_with_context",
    "reraise",
    "send_task",
    "show_tasks",
    "str_to_list",
    "strtobool",
    "task_has_custom",
    "tasks",
    "truncate",
]

base_logger: Final = logging.getLogger("celery")
tasks: Final[Any] = Proxy(lambda: current.get_current_app().tasks)


class BacklogLimitExceeded(Exception):
    """Nothing raises this: umbel reads no backlog of results."""


class DisabledBackend:
    """What nothing is an instance of: where results are not kept, umbel's store says so when it is asked."""


def maybe_patch_concurrency(*_: Any, **__: Any) -> None:
    """Do nothing: only the children of a gevent or eventlet pool are patched, by the pool itself."""


def send_task(name: str, *args: Any, **options: Any) -> Any:
    """Send a task by its name over the current app."""
    return current.get_current_app().send_task(name, *args, **options)


def get_loader_cls(loader: Any) -> Any:
    """Return the class of the loader called *loader*."""
    return type(current.get_current_app().loader) if loader in {"app", "default"} else symbol_by_name(loader)


def handle_preload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return *command* as it is: umbel's commands handle such options themselves."""
    return command


def build_tracer(name: str, task: Any, *_: Any, **__: Any) -> Callable[..., None]:
    """Return nothing of use: a task is run elsewhere. Who replaces this is shown a worker's tasks; see `show_tasks`."""
    return noop


def show_tasks(build: Any) -> None:
    """Call what replaced `build_tracer` with each task of the current app, so that it can wrap how the task runs.

    So does Sentry, which reports exceptions from there.
    """
    app = current.get_current_app()
    for name, task in app.tasks.items():
        build(name, task, app.loader, "", app=app)


def task_has_custom(task: Any, attr: str) -> bool:
    """Return whether the class of *task* defines *attr* itself, instead of having it from umbel."""
    owner = next((cls for cls in type(made(task)).__mro__ if attr in vars(cls)), object)
    return not owner.__module__.startswith(("umbel.", "builtins"))


def reraise(tp: Any, value: BaseException, tb: Any = None) -> NoReturn:
    """Raise *value* with the traceback *tb*."""
    raise value.with_traceback(tb)


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise *exc*."""
    raise exc


def qualname(obj: Any) -> str:
    """Return module and name of a class, or of an object's class."""
    cls = obj if isinstance(obj, type) or hasattr(obj, "__qualname__") else type(obj)
    return f"{cls.__module__}.{cls.__qualname__}"


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Return an instance of the class called *name*."""
    return symbol_by_name(name)(*args, **kwargs)


def gen_task_name(app: Any, name: str, module_name: str) -> str:
    """Return the task name of the function *name* in a module."""
    return task_name(name, module_name, app.main)


def noop(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


def chunks(it: Iterator[Any], n: int) -> Iterator[list[Any]]:
    """Yield *n* items of *it* at a time."""
    while part := list(itertools.islice(it, n)):
        yield part


def first(predicate: Callable[[Any], Any] | None, it: Iterable[Any]) -> Any:
    """Return the first item for which *predicate* holds, or that is not None; else None."""
    holds = predicate or (lambda item: item is not None)
    return next((item for item in it if holds(item)), None)


def is_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str), iters: tuple[type, ...] = (Iterable,)) -> bool:
    """Return whether *obj* is a collection, text and mappings excepted."""
    return isinstance(obj, iters) and not isinstance(obj, scalars)


def maybe_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any:
    """Return *obj* as a list of itself, unless it is a collection or None."""
    return obj if obj is None or is_list(obj, scalars) else [obj]


def dictfilter(d: Mapping[str, Any] | None = None, **kw: Any) -> dict[str, Any]:
    """Return *d* (or the keywords) without the values that are None."""
    return {key: value for key, value in (kw if d is None else {**d, **kw}).items() if value is not None}


def str_to_list(s: str | Sequence[str]) -> Sequence[str]:
    """Return the parts of comma-separated text; a list as it is."""
    return s.split(",") if isinstance(s, str) else s


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """Return *s* cut to *maxlen* characters."""
    return s if len(s) <= maxlen else s[: maxlen - len(suffix)] + suffix


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """Return *text* with *suffix* unless *n* is one."""
    return text if n == 1 else text + suffix


_BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "1", "on"), True),
    **dict.fromkeys(("false", "no", "0", "off"), False),
}


def strtobool(term: Any, table: Mapping[str, bool] | None = None) -> Any:
    """Return what text like ``yes`` or ``off`` means; what is no text as it is.

    Raises:
        TypeError: nobody says that for yes or no.
    """
    if not isinstance(term, str):
        return term
    try:
        return (table or _BOOLEANS)[term.lower()]
    except KeyError:
        raise TypeError(f"cannot read {term!r} as yes or no") from None


def jsonify(obj: Any, **_: Any) -> Any:
    """Return *obj* in the types that JSON has."""
    return msgspec.json.decode(msgspec.json.encode(obj, enc_hook=str))


def b64encode(s: bytes) -> str:
    """Return bytes as base 64 text."""
    return base64.b64encode(s).decode()


def b64decode(s: str | bytes) -> bytes:
    """Return the bytes of base 64 text."""
    return base64.b64decode(s)


def get_pickleable_exception(exc: BaseException) -> BaseException:
    """Return *exc*, or one that tells of it where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(exc))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever its class does
        return CeleryError(f"{qualname(exc)}: {exc}")
    return exc
