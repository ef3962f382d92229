"""Hold the only state that belongs to the whole process: which app, which running task, which shared tasks.

The app is per thread with a default for all threads; the running task is per context, so that threads, coroutines and
greenlets each see their own. Objects from higher floors are held without being known: an *app* is whatever
`register_app` got, a *task* whatever `enter` got.
"""

from __future__ import annotations

import os
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final

from umbel.local import Proxy

__all__ = [
    "Frame",
    "app_or_default",
    "app_or_none",
    "current_app",
    "current_frame",
    "current_task",
    "enter",
    "forget_app",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "join_will_block",
    "joining",
    "leave",
    "live_apps",
    "make_default_app_with",
    "process_id",
    "register_app",
    "request_of",
    "run_coroutines_by",
    "set_current_app",
    "set_default_app",
    "share",
    "shared_constructors",
    "thread_for_coroutines",
]

# -- The process -------------------------------------------------------------------------------------------------------


class _Process:
    id = 0  # 0 = not known yet


def process_id() -> int:
    """Return `os.getpid()`, asked once in each process: a message needs it twice (1 to 4 µs each in a sandbox)."""
    if not _Process.id:
        os.register_at_fork(after_in_child=_forget_process)
        _Process.id = os.getpid()
    return _Process.id


def _forget_process() -> None:
    _Process.id = os.getpid()


# -- The app -----------------------------------------------------------------------------------------------------------


class _ThreadApp(threading.local):
    app: Any = None


class _Apps:
    """All that is known of the apps of this process."""

    def __init__(self) -> None:
        self.lock: Final = threading.RLock()
        self.of_thread: Final = _ThreadApp()
        self.default: Any = None  # set_default_app, or made on first need
        self.latest: Any = None  # made current last, in any thread
        self.factory: Callable[[], Any] | None = None  # makes the default app
        self.live: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
        self.shared: Final[dict[Callable[[Any], object], None]] = {}  # ordered set


_APPS: Final = _Apps()
# Read once, as Celery does: C_STRICT_APP forbids looking for the current app, C_WARN_APP shows who does.
_STRICT: Final = bool(os.environ.get("C_STRICT_APP"))
_WARN: Final = bool(os.environ.get("C_WARN_APP"))


def get_current_app() -> Any:
    """Return this thread's app, else the default app, else the app made current last; else make a default app.

    Celery would make an empty default app for a thread that has none even when the process has a real one; then
    ``shared_task.delay()`` in a web server's thread goes to a broker nobody configured.

    Raises:
        RuntimeError: C_STRICT_APP is set, so every use must name its app.
    """
    if _STRICT or _WARN:
        _complain()
    app = _APPS.of_thread.app
    if app is not None:
        return app
    return _APPS.default or _APPS.latest or _make_default()


def app_or_none() -> Any:
    """Return this thread's app, or None."""
    return _APPS.of_thread.app


def app_or_default(app: Any = None) -> Any:
    """Return *app* when there is one, else the current app.

    Raises:
        RuntimeError: no app was given and CELERY_TRACE_APP is set.
    """
    if app is not None:
        return app
    if os.environ.get("CELERY_TRACE_APP"):
        raise RuntimeError("the current app was used implicitly, which CELERY_TRACE_APP forbids; pass app=")
    return get_current_app()


def set_current_app(app: Any) -> None:
    """Make *app* the app of this thread (None: the thread has none)."""
    _APPS.of_thread.app = app
    if app is not None:
        _APPS.latest = app


def set_default_app(app: Any) -> None:
    """Make *app* the app of all threads that have none of their own."""
    _APPS.default = app


def make_default_app_with(factory: Callable[[], Any]) -> None:
    """Remember how to make the default app when none exists and one is needed."""
    _APPS.factory = factory


def register_app(app: Any) -> None:
    """Count *app* among the live ones until it is forgotten or collected."""
    with _APPS.lock:
        _APPS.live.add(app)


def forget_app(app: Any) -> None:
    """Drop *app* everywhere it is known here (it was closed); other threads keep it as theirs."""
    with _APPS.lock:
        _APPS.live.discard(app)
        if _APPS.of_thread.app is app:
            _APPS.of_thread.app = None
        if _APPS.default is app:
            _APPS.default = None
        if _APPS.latest is app:
            _APPS.latest = None


def live_apps() -> list[Any]:
    """Return the apps of this process that were neither closed nor collected, in no order."""
    with _APPS.lock:
        return list(_APPS.live)


def share(constructor: Callable[[Any], object]) -> None:
    """Have ``constructor(app)`` called for each app when it is finalised; each constructor counts once."""
    with _APPS.lock:
        _APPS.shared[constructor] = None


def shared_constructors() -> list[Callable[[Any], object]]:
    """Return the constructors of shared tasks in the order they came."""
    with _APPS.lock:
        return list(_APPS.shared)


def _make_default() -> Any:
    with _APPS.lock:
        if _APPS.default is None:
            if _APPS.factory is None:
                raise RuntimeError("no app exists; create one with umbel.Umbel(...)")
            _APPS.default = _APPS.factory()
        return _APPS.default


def _complain() -> None:
    if _STRICT:
        raise RuntimeError("the current app was used, which C_STRICT_APP forbids; pass app=")
    traceback.print_stack()


# -- The running task --------------------------------------------------------------------------------------------------


class Frame:
    """One task being run, and the one around it when a task calls another in its own process."""

    __slots__ = ("outer", "request", "task")

    def __init__(self, task: Any, request: Any, outer: Frame | None) -> None:
        self.task = task
        self.request = request
        self.outer = outer


_frame: Final[ContextVar[Frame | None]] = ContextVar("umbel_frame", default=None)
_may_join: Final[ContextVar[bool | None]] = ContextVar("umbel_may_join", default=None)  # None = ask the frames


def enter(task: Any, request: Any) -> Token[Frame | None]:
    """Note that *task* begins to run with *request* in this context; give the token to `leave` when it ends."""
    return _frame.set(Frame(task, request, _frame.get()))


def leave(token: Token[Frame | None]) -> None:
    """Note that the task entered with *token* has ended; call it in the same context."""
    _frame.reset(token)


def current_frame() -> Frame | None:
    """Return the innermost running task with its request, or None outside of tasks."""
    return _frame.get()


def request_of(task: Any) -> Any:
    """Return the request with which *task* runs in this context, or None when it does not run."""
    frame = _frame.get()
    while frame is not None:
        if frame.task is task:
            return frame.request
        frame = frame.outer
    return None


def get_current_task(app: Any = None) -> Any:
    """Return the task running in this context, only those of *app* when one is given; None outside of tasks."""
    frame = _frame.get()
    while frame is not None:
        if app is None or frame.task.app is app:
            return frame.task
        frame = frame.outer
    return None


def get_current_worker_task(app: Any = None) -> Any:
    """Return the innermost task that a worker runs (not one called as a function by another); else None."""
    frame = _frame.get()
    while frame is not None:
        if not frame.request.called_directly and (app is None or frame.task.app is app):
            return frame.task
        frame = frame.outer
    return None


def join_will_block() -> bool:
    """Return whether waiting for a result here must be refused: inside a worker's task it may wait for itself."""
    allowed = _may_join.get()
    if allowed is not None:
        return not allowed
    frame = _frame.get()
    while frame is not None:
        if not (frame.request.called_directly or frame.request.is_eager):
            return True
        frame = frame.outer
    return False


@contextmanager
def joining(*, allowed: bool) -> Iterator[None]:
    """Allow or refuse waiting for results inside the block, whatever runs there."""
    token = _may_join.set(allowed)
    try:
        yield
    finally:
        _may_join.reset(token)


# -- Coroutines in a process of greenlets ------------------------------------------------------------------------------


class _Elsewhere:
    run: Callable[[Callable[[], Any]], Any] | None = None


def run_coroutines_by(in_thread: Callable[[Callable[[], Any]], Any] | None) -> None:
    """Have coroutines of tasks run in real threads by *in_thread*: one thread cannot run an event loop per greenlet."""
    _Elsewhere.run = in_thread


def thread_for_coroutines() -> Callable[[Callable[[], Any]], Any] | None:
    """Return what runs a function in a real thread and waits for it; None where each task has a thread anyway."""
    return _Elsewhere.run


current_app: Any = Proxy(get_current_app)
current_task: Any = Proxy(get_current_task)
