"""Name everything that can go wrong, by whose move it is next.

You called it wrongly (`ImproperlyConfigured`, `NotRegistered`, …), the peer sent nonsense (`InvalidMessage`), or the
world is down (`OperationalError`: try again). Names and bases are Celery's where Celery has the class, so that an
``except`` clause written for Celery keeps its meaning; on the wire and in pickles they keep Celery's modules too.
"""

# ruff: noqa: FBT001, FBT002 - the signatures of Retry and Reject are Celery's

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

__all__ = [
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "BrokerFull",
    "BrokerLocked",
    "BrokerUnavailable",
    "BrokerUnusable",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryCommandException",  # noqa: F822 - made by __getattr__ below
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "ContentDisallowed",
    "DecodeError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "EncodeError",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidMessage",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "MissingExtra",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "PublishTimeout",
    "QueueNotFound",
    "Reject",
    "Retry",
    "RetryTaskError",
    "SecurityError",
    "SecurityWarning",
    "SoftTimeLimitExceeded",
    "SystemTerminate",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "wire_class",
    "wire_module",
]


class CeleryError(Exception):
    """Stand above the errors of tasks, configuration and security."""


# -- Your move: the call or the configuration is wrong -----------------------------------------------------------------


class ImproperlyConfigured(CeleryError):
    """Say that a setting, an argument or the environment is wrong."""


class MissingExtra(ImproperlyConfigured):
    """Say that an optional dependency is not installed, and the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        """Take *what* needs it (``"the redis broker"``) and the name of the *extra* (``"redis"``)."""
        super().__init__(what, extra)
        self.what = what
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.what} needs an optional dependency; run: pip install 'umbel[{self.extra}]'"


class EncodeError(CeleryError):
    """Say that a value you gave cannot travel with the chosen serializer."""


# -- The peer's move: what arrived is nonsense, or not allowed ---------------------------------------------------------


class InvalidMessage(CeleryError):
    """Say that a message does not follow any protocol we know; trying again will not help."""


class DecodeError(InvalidMessage):
    """Say that a body cannot be decoded by the serializer it names."""


class ContentDisallowed(InvalidMessage):
    """Say that a message's content type is not in ``accept_content``."""


class SecurityError(CeleryError):
    """Say that a signature, certificate or serializer cannot be trusted."""


# -- The world's move: try again ---------------------------------------------------------------------------------------


class OperationalError(Exception):
    """Say that the broker could not do its work now; the call itself was right."""


class BrokerUnavailable(OperationalError):
    """Say that the broker cannot be reached: nothing was stored, trying again is safe."""


class BrokerFull(BrokerUnavailable):
    """Say that the broker has no room (disk, memory, queue limit): nothing was stored."""


class BrokerLocked(BrokerUnavailable):
    """Say that another process held the broker's lock longer than we may wait: nothing was stored."""


class BrokerUnusable(OperationalError):
    """Say that the broker answers but cannot serve until somebody repairs it (read-only, refused, not a database)."""


class PublishTimeout(OperationalError):
    """Say that no confirmation came in time: the task may be stored or not; sending it again may run it twice."""


class BackendError(Exception):
    """Stand above the errors of a result backend."""


class BackendGetMetaError(BackendError):
    """Say that the result of *task_id* could not be read."""

    def __init__(self, *args: object, task_id: str = "") -> None:
        super().__init__(*args)
        self.task_id = task_id

    def __repr__(self) -> str:
        return f"{super().__repr__()} task_id:{self.task_id}"


class BackendStoreError(BackendError):
    """Say that the *state* of *task_id* could not be stored."""

    def __init__(self, *args: object, state: str = "", task_id: str = "") -> None:
        super().__init__(*args)
        self.state = state
        self.task_id = task_id

    def __repr__(self) -> str:
        return f"{super().__repr__()} state:{self.state} task_id:{self.task_id}"


# -- What a task may raise to steer its own end ------------------------------------------------------------------------


class TaskPredicate(CeleryError):
    """Stand above what a task raises to steer its end; none of these is a failure."""


class Retry(TaskPredicate):
    """Say that the task was sent again, to run later."""

    message: str | None
    exc: BaseException | None  # why; None when only its text is known
    excs: str | None  # text of exc
    when: float | datetime | timedelta | None  # seconds from now, or the moment
    is_eager: bool  # the caller runs the copy itself
    sig: Any  # signature of that copy, when eager

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | timedelta | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message = message
        self.exc = None if isinstance(exc, str) else exc
        self.excs = exc if isinstance(exc, str) or exc is None else _repr_or_name(exc)
        self.when = when
        self.is_eager = is_eager
        self.sig = sig

    def humanize(self) -> str:
        """Return when the task runs again, as in ``in 3s`` or ``at 2026-01-02 00:00:00``."""
        return f"in {self.when}s" if isinstance(self.when, (int, float)) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}" + (f": {self.excs}" if self.excs else "")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exc or self.excs, self.when)


RetryTaskError = Retry


class Ignore(TaskPredicate):
    """Ask the worker to acknowledge the task and leave its state alone."""


class Reject(TaskPredicate):
    """Ask the worker to reject the message, or to put it back when *requeue*."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


# -- What can go wrong with a task -------------------------------------------------------------------------------------


class TaskError(CeleryError):
    """Stand above the errors of single tasks."""


class QueueNotFound(KeyError, TaskError):
    """Say that a route names a queue which ``task_queues`` lacks and which may not be created."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would show the repr of the sentence


class IncompleteStream(TaskError):
    """Say that the results of a tree were read before all of them were ready."""


class NotRegistered(KeyError, TaskError):
    """Say that no task of this *name* is registered here."""

    def __init__(self, name: object = None, hint: str = "") -> None:
        """Take the task's *name*, and a whole sentence to show instead of ours when more is known."""
        super().__init__(name)
        self.name = name
        self.hint = hint

    def __str__(self) -> str:
        return self.hint or (
            f"no task named {self.name!r} is registered. Import the module that defines it, "
            f"or list that module in the 'include' setting."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}: no task of the kind {self.name!r} here; is its module imported?"


class AlreadyRegistered(TaskError):
    """Say that another task holds this name."""


class TimeoutError(TaskError):  # noqa: A001 - Celery's name
    """Say that a result was not ready in time."""


class MaxRetriesExceededError(TaskError):
    """Say that a task was retried as often as it may."""

    def __init__(self, *args: object, task_args: Any = (), task_kwargs: Any = None) -> None:
        super().__init__(*args)
        self.task_args = task_args
        self.task_kwargs = {} if task_kwargs is None else task_kwargs


class TaskRevokedError(TaskError):
    """Say that the task was revoked: it will not run."""


class InvalidTaskError(TaskError):
    """Say that the task's message or definition lacks something it needs."""


class ChordError(TaskError):
    """Say that a chord's body cannot run because a task of its header failed."""


class _ShownWithArguments(Exception):
    """Show class and arguments also as text, since these are mostly raised without a message."""

    def __str__(self) -> str:
        return f"{type(self).__name__}{self.args!r}"


class SoftTimeLimitExceeded(_ShownWithArguments):
    """Tell the running task that its soft limit has passed: clean up and leave."""


class TimeLimitExceeded(_ShownWithArguments):
    """Say that a task was stopped at its hard limit."""


class WorkerLostError(Exception):
    """Say that the process running the task ended before the task did."""


class Terminated(Exception):
    """Say that the running task was stopped by request."""


# -- What ends a worker ------------------------------------------------------------------------------------------------


class WorkerShutdown(SystemExit):
    """Ask the worker to end when its running tasks have ended."""


class WorkerTerminate(SystemExit):
    """Ask the worker to end at once."""


SystemTerminate = WorkerTerminate


# -- Warnings ----------------------------------------------------------------------------------------------------------


class CeleryWarning(UserWarning):
    """Stand above our warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """Warn that ``send_task`` publishes although ``task_always_eager`` is on."""


class DuplicateNodenameWarning(CeleryWarning):
    """Warn that several workers answer under one node name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Warn that two callables claim one task name."""


class FixupWarning(CeleryWarning):
    """Warn that a framework was announced but cannot be set up."""


class NotConfigured(CeleryWarning):
    """Warn that no configuration was found."""


class SecurityWarning(CeleryWarning):
    """Warn that something is unsafe, and can be made safe."""


class CDeprecationWarning(DeprecationWarning):
    """Warn that something will be removed."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Warn that something will be deprecated."""


# -- Names on the wire -------------------------------------------------------------------------------------------------

_OURS_ALONE: Final = frozenset(
    {
        BrokerFull,
        BrokerLocked,
        BrokerUnavailable,
        BrokerUnusable,
        InvalidMessage,
        MissingExtra,
        PublishTimeout,
    }
)  # Celery has no such class; a peer shows a stand-in of the same name

_BORROWED: Final[dict[type[BaseException], str]] = {
    SoftTimeLimitExceeded: "billiard.exceptions",
    TimeLimitExceeded: "billiard.exceptions",
    WorkerLostError: "billiard.exceptions",
    Terminated: "billiard.exceptions",
    OperationalError: "kombu.exceptions",
    EncodeError: "kombu.exceptions",
    DecodeError: "kombu.exceptions",
    ContentDisallowed: "kombu.exceptions",
}  # classes that Celery takes from its libraries

_WIRE_MODULES: Final[dict[type[BaseException], str]] = {
    value: _BORROWED.get(value, "celery.exceptions")
    for value in list(globals().values())
    if isinstance(value, type)
    and issubclass(value, BaseException)
    and value.__module__ == __name__
    and value not in _OURS_ALONE
    and value is not _ShownWithArguments
}
_WIRE_CLASSES: Final = {(module, cls.__name__): cls for cls, module in _WIRE_MODULES.items()} | {
    ("celery.exceptions", alias): cls
    for alias, cls in {
        "RetryTaskError": Retry,
        "SystemTerminate": WorkerTerminate,
        **{cls.__name__: cls for cls in _BORROWED},
    }.items()
}


def wire_module(cls: type[BaseException]) -> str:
    """Return the module under which peers know *cls*: Celery's name for ours, its own for all others."""
    return _WIRE_MODULES.get(cls) or cls.__module__


def wire_class(module: str | None, name: str) -> type[BaseException] | None:
    """Return our class for the *name* a peer wrote, or None when it is not one of ours."""
    if module == __name__:
        found = globals().get(name)
        return found if isinstance(found, type) and issubclass(found, BaseException) else None
    return _WIRE_CLASSES.get((module or "", name))


def _repr_or_name(exc: BaseException) -> str:
    try:
        return repr(exc)
    except Exception:  # noqa: BLE001 - a user's repr; the class is told instead of losing the retry
        return f"<{type(exc).__name__}: its repr failed>"


def __getattr__(name: str) -> Any:
    # click costs 30 ms at import, and only command-line plugins need this class.
    if name == "CeleryCommandException":
        from click import ClickException

        class CeleryCommandException(ClickException):
            """End a command with a message and an exit code."""

            def __init__(self, message: str, exit_code: int) -> None:
                super().__init__(message)
                self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class

        globals()[name] = CeleryCommandException
        return CeleryCommandException
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
