"""Read once what running a task needs: from the task, and from the process around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from umbel.brokers.base import Publication
from umbel.canvas.call import Call, Opening
from umbel.wire.chord import ChordSize
from umbel.wire.message import Message

__all__ = ["Autoretry", "Body", "ChordCoder", "Environment", "RunnableTask", "TaskPlan", "Writer", "plan_task"]

Body = tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]
"""The decoded body of a message: positional arguments, named arguments, and the embedded follow-ups."""


class RunnableTask(Protocol):
    """What this room needs of a task; options it lacks (a bare test double) read as their defaults."""

    name: str
    app: Any
    max_retries: int | None  # None = unlimited
    default_retry_delay: float  # seconds
    ignore_result: bool
    store_errors_even_if_ignored: bool
    throws: tuple[type[BaseException], ...]
    resultrepr_maxsize: int  # characters

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work; plain tasks go straight to `run`."""


class Writer(Protocol):
    """Encode one result meta (protocol.md §10) with the app's `result_serializer`."""

    def __call__(
        self,
        *,
        task_id: str,
        state: str,
        result: Any,  # a value, or the exception itself
        traceback: str | None,
        children: Sequence[Any],  # result tuples
        group_id: str | None,
        parent_id: str | None,
        extended: Mapping[str, Any] | None,  # more fields, for `result_extended`
    ) -> bytes:
        """Return the payload of a `Record`.

        Raises:
            EncodeError: a plain *result* cannot be encoded. Exceptions always can.
        """


class ChordCoder(Protocol):
    """What an app does about chords."""

    expires: float | None  # seconds that an unfinished count is kept after each part; None = forever

    def open(self, opening: Opening) -> ChordSize | Call:
        """Return what makes a chord that opens be waited for: its size, or a task that polls where stores cannot count.

        Raises:
            NotImplementedError: results are not kept, or only the sender can read them.
        """

    def members(self, group: str) -> Sequence[Any] | None:
        """Return the results of a header's members as tuples, where groups are among them; None = each is one task.

        Raises:
            BackendError: the store cannot be asked.
        """

    def write_part(self, task_id: str, state: str, result: Any) -> bytes:
        """Return the payload of a part; *result* is a value, or the exception itself. Raises EncodeError."""

    def read_part(self, payload: bytes) -> tuple[str, str, Any]:
        """Return task id, state, and the value or exception of a part."""

    def write_body(self, body: Any, content_type: str) -> bytes:
        """Return a value encoded as bodies of that content type are."""

    def read_body(self, data: bytes, content_type: str) -> Any:
        """Return what `write_body` was given."""


class Environment(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What every run in this process shares."""

    hostname: str  # node name
    read: Callable[[Message], Body]  # may leave a chain as `Links`; raises InvalidMessage, InvalidTaskError
    write: Writer
    prepare: Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any]], Publication]  # name, args, kwargs,
    #                                                            options of apply_async; builds, sends nothing
    expand: Callable[..., tuple[Any, Iterable[Call | Opening]]]  # canvas.expand.expand, given the app
    chords: ChordCoder
    find_task: Callable[[str], Any]  # the registered task of that name, or None
    result_expires: float | None = None  # seconds; None = never
    failure_expires: float | None = None  # seconds; None = as result_expires
    extended: bool = False  # `result_extended`
    inherit_priority: bool = False  # `task_inherit_parent_priority`
    on_task_begin: Callable[[str, Any], object] | None = None  # loader.on_task_init(task_id, task)
    on_task_end: Callable[[], object] | None = None  # loader.on_process_cleanup()


class Autoretry(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Which exceptions send the task again by themselves, and when."""

    exceptions: tuple[type[BaseException], ...]
    but_not: tuple[type[BaseException], ...] = ()
    backoff: int = 0  # seconds before the first retry, doubled each time; 0 = no backoff
    backoff_max: float = 600.0  # seconds
    jitter: bool = True  # a random whole number of seconds up to the delay
    options: Mapping[str, Any]  # for `retry`


class TaskPlan(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One task, and all that can be known of its runs beforehand."""

    task: Any
    name: str
    env: Environment
    call: Callable[..., Any]  # `run`, or the user's own `__call__`
    calls_run: bool  # `call` is `run`
    is_async: bool
    ignore_result: bool
    store_errors: bool  # also when the result is ignored
    store_eager_result: bool = False
    throws: tuple[type[BaseException], ...] = ()
    autoretry: Autoretry | None = None
    resultrepr_maxsize: int = 1024
    # The user's hooks; None = not overridden, nothing to call.
    before_start: Callable[..., Any] | None = None
    on_success: Callable[..., Any] | None = None
    on_failure: Callable[..., Any] | None = None
    on_retry: Callable[..., Any] | None = None
    after_return: Callable[..., Any] | None = None


def plan_task(task: Any, env: Environment, *, base: type) -> TaskPlan:
    """Return the plan of *task*; hooks and `__call__` count as the user's own where they are not those of *base*."""

    def hook(name: str) -> Callable[..., Any] | None:
        own = getattr(type(task), name, None) is not getattr(base, name, None) or name in vars(task)
        return getattr(task, name, None) if own else None

    called = hook("__call__")
    return TaskPlan(
        task=task,
        name=task.name,
        env=env,
        call=called or task.run,
        calls_run=called is None,
        is_async=inspect.iscoroutinefunction(inspect.unwrap(called or task.run)),
        ignore_result=bool(getattr(task, "ignore_result", False)),
        store_errors=bool(getattr(task, "store_errors_even_if_ignored", False)),
        store_eager_result=bool(getattr(task, "store_eager_result", False)),
        throws=tuple(getattr(task, "throws", None) or ()),
        autoretry=_autoretry(task),
        resultrepr_maxsize=getattr(task, "resultrepr_maxsize", 1024),
        before_start=hook("before_start"),
        on_success=hook("on_success"),
        on_failure=hook("on_failure"),
        on_retry=hook("on_retry"),
        after_return=hook("after_return"),
    )


def _autoretry(task: Any) -> Autoretry | None:
    exceptions = tuple(getattr(task, "autoretry_for", None) or ())
    if not exceptions:
        return None
    factor = getattr(task, "retry_backoff", False)
    return Autoretry(
        exceptions=exceptions,
        but_not=tuple(getattr(task, "dont_autoretry_for", None) or ()),
        backoff=int(max(1.0, factor)) if factor else 0,
        backoff_max=getattr(task, "retry_backoff_max", 600),
        jitter=bool(getattr(task, "retry_jitter", True)),
        options=getattr(task, "retry_kwargs", None) or {},
    )
