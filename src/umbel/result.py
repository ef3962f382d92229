"""The handle a caller holds on the result of a task, and on those of several.

A handle reads the store again until the task has ended, then it remembers. Waiting is one `Watch` over all ids that
are awaited, whether one or ten thousand.
"""

# ruff: noqa: FBT001, FBT002, PLR0917, ASYNC109 - Celery's signatures
from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import copy_context
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from umbel import current
from umbel.exceptions import IncompleteStream, TimeoutError  # noqa: A004 - Celery's name
from umbel.states import FAILURE, IGNORED, PENDING, PROPAGATE_STATES, READY_STATES, SUCCESS

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultGraph",
    "ResultSet",
    "Store",
    "Waiting",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]

R = TypeVar("R")
Meta = dict[str, Any]
"""What a store knows of one task (protocol.md §10), decoded: ``status``, ``result``, ``traceback``, ``children``, …"""

_UNKNOWN: Final[Meta] = {"status": PENDING, "result": None}
_NARROW: Final = 1.0  # seconds for which of a chain only the end is watched
_POLL: Final = 0.1  # seconds between looks where an event loop waits for a store that cannot wake it


class Waiting(Protocol):
    """A wait for some tasks over one connection to the store."""

    def metas(self, ids: Iterable[str]) -> dict[str, Meta]:
        """Return what is known of *ids*."""

    def wait(self, timeout: float | None) -> set[str]:
        """As `Watch.wait`."""

    def fileno(self) -> int | None:
        """As `Watch.fileno`."""


class Store(Protocol):
    """What a result needs of the place where results are kept; may be used in any thread."""

    def metas(self, ids: Iterable[str]) -> dict[str, Meta]:
        """Return what is known of *ids*; unknown ones are left out."""

    def waiting(self, ids: Iterable[str]) -> AbstractContextManager[Waiting]:
        """Wait for *ids* inside the block."""

    def forget(self, *ids: str) -> None:
        """Delete what is known of *ids*."""

    def save_group(self, group_id: str, result: GroupResult) -> None:
        """Keep a group's result."""

    def restore_group(self, group_id: str) -> Any:
        """Return a kept group's result tuple, or None."""

    def delete_group(self, group_id: str) -> None:
        """Forget a kept group."""


# -- May one wait here? ------------------------------------------------------------------------------------------------


def allow_join_result() -> AbstractContextManager[None]:
    """Allow waiting for results inside the block, although a task runs."""
    return current.joining(allowed=True)


def denied_join_result() -> AbstractContextManager[None]:
    """Refuse waiting for results inside the block."""
    return current.joining(allowed=False)


def assert_will_not_block() -> None:
    """Return where waiting is allowed.

    Raises:
        RuntimeError: a task runs here; if all slots wait for tasks that need a slot, nothing moves ever again.
    """
    if current.join_will_block():
        raise RuntimeError(
            "Never call result.get() within a task! It may wait for a task that waits for this slot. Let the other "
            "task be a callback or the next link of a chain, or, if you are sure, use allow_join_result()."
        )


# -- One result --------------------------------------------------------------------------------------------------------


class ResultBase:
    """What all results have in common."""

    parent: ResultBase | None = None  # the result of what ran before it
    app: ClassVar[Any] = None  # set by `app.AsyncResult` and its like

    def ready(self) -> bool:
        """Return whether it has ended, well or not."""
        raise NotImplementedError

    def as_tuple(self) -> Any:
        """Return it as plain values, from which `result_from_tuple` makes it again."""
        raise NotImplementedError

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        """Yield the results of single tasks in it."""
        raise NotImplementedError

    def _value(self) -> Any:
        """Return the value, once all leaves are ready."""
        raise NotImplementedError


class AsyncResult(ResultBase, Generic[R]):
    """The result of one task, wherever it runs."""

    TimeoutError = TimeoutError

    def __init__(
        self,
        id: str,
        backend: Store | None = None,
        task_name: str | None = None,
        app: Any = None,
        parent: ResultBase | None = None,
    ) -> None:
        """Take the task's *id*; *backend* is where its result is kept (None = the app's store).

        Raises:
            ValueError: *id* is None.
        """
        if id is None:
            raise ValueError(f"AsyncResult requires a valid id, not {type(id)}")
        self.id = id
        self.task_name = task_name
        self.parent = parent
        self.ignored = False  # its task does not keep results: `get` returns None at once
        self._app = app
        self._backend = backend
        self._meta: Meta | None = None  # what was stored when it had ended
        self._when_ready: list[tuple[Callable[[Any], object], Callable[[Any], object] | None]] = []

    @property
    def backend(self) -> Any:
        """Where its result is kept."""
        if self._backend is None:
            self._backend = current.app_or_default(self._app or self.app).backend
        return self._backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    @property
    def task_id(self) -> str:
        """The same as `id`."""
        return self.id

    @task_id.setter
    def task_id(self, task_id: str) -> None:
        self.id = task_id

    # -- what is known of it

    @property
    def state(self) -> str:
        """The state it is in now; PENDING also when nobody knows the id."""
        return self._look()["status"]  # type: ignore[no-any-return]  # the store's text

    status = state

    @property
    def result(self) -> Any:
        """The value, the exception of a failed task, or what `Task.update_state` said."""
        return self._look()["result"]

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task, as text."""
        return self._look().get("traceback")

    @property
    def children(self) -> list[ResultBase] | None:
        """The results of what the task sent; None while nothing is known."""
        found = self._look().get("children")
        return None if found is None else [result_from_tuple(child, self._app or self.app) for child in found]

    @property
    def date_done(self) -> datetime | None:
        """When it ended."""
        return self._look().get("date_done")

    @property
    def name(self) -> str | None:
        """The task's name; like the following, known only with the setting ``result_extended``."""
        return self._look().get("name")

    @property
    def args(self) -> Any:
        """Its positional arguments."""
        return self._look().get("args")

    @property
    def kwargs(self) -> Any:
        """Its named arguments."""
        return self._look().get("kwargs")

    @property
    def worker(self) -> str | None:
        """The node that ran it."""
        return self._look().get("worker")

    @property
    def retries(self) -> int | None:
        """How often it had been retried."""
        return self._look().get("retries")

    @property
    def queue(self) -> str | None:
        """Where it waited."""
        return self._look().get("queue")

    def ready(self) -> bool:
        """Return whether it has ended: SUCCESS, FAILURE or REVOKED."""
        return self.state in READY_STATES

    def successful(self) -> bool:
        """Return whether it has succeeded."""
        return self.state == SUCCESS

    def failed(self) -> bool:
        """Return whether it has failed."""
        return self.state == FAILURE

    def exists(self) -> bool:
        """Return whether the store knows anything of it."""
        return self._meta is not None or self.id in self.backend.metas([self.id])

    # -- waiting for it

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[Meta], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait for the task, at most *timeout* seconds, and return its value or raise its exception.

        With ``propagate=False`` the exception is returned. *on_interval* is called every *interval* seconds while
        waiting, *callback* with id and value at the end, *on_message* with whatever the store says meanwhile.

        Raises:
            TimeoutError: it has not ended in time.
            RuntimeError: this is inside a task, see `assert_will_not_block`.
            Exception: its own, or that of a task before it in its chain, unless *follow_parents* is off.
        """
        if self.ignored:
            return None  # type: ignore[return-value]  # nothing is kept of it
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._meta is None:
            also = self._ancestors() if propagate and follow_parents else ()
            wait = _Wait(
                self,
                also=also,
                timeout=timeout,
                interval=interval,
                on_interval=on_interval,
                on_message=on_message,
                raising=propagate,
            )
            _finish(wait, self.backend)
        return self.maybe_throw(propagate=propagate, callback=callback)  # type: ignore[no-any-return]  # user's value

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True, follow_parents: bool = True) -> R:
        """As `get`, for the running event loop; the task that awaits may be a task of ours itself."""
        if self.ignored:
            return None  # type: ignore[return-value]  # nothing is kept of it
        if self._meta is None:
            also = self._ancestors() if propagate and follow_parents else ()
            await _afinish(_Wait(self, also=also, timeout=timeout, raising=propagate), self.backend)
        return self.maybe_throw(propagate=propagate)  # type: ignore[no-any-return]  # the user's value

    def __await__(self) -> Generator[Any, Any, R]:
        return self.aget().__await__()

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """Raise the exception of a failed or revoked task; else return what is known."""
        meta = self._look()
        value = meta["result"]
        if propagate and meta["status"] in PROPAGATE_STATES:
            self.throw(value)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, *args: Any) -> None:
        """Raise the given exception."""
        exc = args[0]
        raise exc if isinstance(exc, BaseException) else RuntimeError(f"task {self.id} failed: {exc!r}")

    def then(
        self,
        callback: Callable[[Any], object],
        on_error: Callable[[Any], object] | None = None,
        weak: bool = False,
    ) -> AsyncResult[R]:
        """Call *callback* (*on_error* if it failed) with this result as soon as it is seen to be ready."""
        self._when_ready.append((callback, on_error))
        if self._meta is not None:
            self._tell()
        return self

    # -- acting on it

    def forget(self) -> None:
        """Delete it from the store, and those before it in its chain."""
        self._meta = None
        self.backend.forget(self.id, *(each.id for each in self._ancestors()))

    def revoke(
        self, connection: Any = None, terminate: bool = False, signal: str | None = None, **options: Any
    ) -> None:
        """Forbid the task to run; with *terminate* also stop it if it runs. *options* as for ``app.control.revoke``."""
        self._control().revoke(self.id, connection=connection, terminate=terminate, signal=signal, **options)

    def revoke_by_stamped_headers(
        self, headers: Any, connection: Any = None, terminate: bool = False, signal: str | None = None, **options: Any
    ) -> None:
        """Forbid all tasks with these stamps to run."""
        self._control().revoke_by_stamped_headers(
            headers, connection=connection, terminate=terminate, signal=signal, **options
        )

    def _control(self) -> Any:
        return current.app_or_default(self._app or self.app).control

    # -- what came of it

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield (parent, result) for this result and all that its task and their tasks sent, level by level.

        Raises:
            IncompleteStream: one is not ready; with *intermediate* it is yielded as it is.
        """
        found: deque[tuple[Any, Any]] = deque([(None, self)])
        while found:
            parent, node = found.popleft()
            yield parent, node
            if node.ready():
                found.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Yield (result, value) for what `iterdeps` finds; *kwargs* as for `get`."""
        for _, result in self.iterdeps(intermediate=intermediate):
            yield result, result.get(**kwargs)

    def get_leaf(self) -> Any:
        """Return the value of the last one that `collect` finds."""
        return deque(self.collect(), maxlen=1).pop()[1]

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> ResultGraph:
        """Return which results depend on which."""
        graph = ResultGraph(formatter)
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> ResultGraph:
        """The same as ``build_graph()``."""
        return self.build_graph()

    # -- being a value

    @property
    def supports_native_join(self) -> bool:
        """Whether several can be waited for at once: always, here."""
        return True

    def as_tuple(self) -> Any:
        """Return ``((id, parent tuple or None), None)``."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """Return its id and those of the results before it."""
        return [self.id, *(each.id for each in self._ancestors())]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(self.id == other.id)
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(self.id, self._backend, self.task_name, self._app, self.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.id, self.task_name, self.parent)

    # -- inside

    def _look(self) -> Meta:
        """Return what is known, and remember it once it cannot change."""
        if self._meta is not None:
            return self._meta
        meta = self.backend.metas([self.id]).get(self.id, _UNKNOWN)
        self._learn(meta)
        return meta  # type: ignore[no-any-return]  # backend is Any for Celery's sake

    def _learn(self, meta: Meta) -> bool:
        """Take in what the store says; return whether the task has ended."""
        if meta["status"] not in READY_STATES:
            return False
        if self._meta is None:
            self._meta = meta
            self._tell()
        return True

    def _tell(self) -> None:
        waiting, self._when_ready = self._when_ready, []
        for callback, on_error in waiting:
            if self.failed() and on_error is not None:
                on_error(self)
            else:
                callback(self)

    def _ancestors(self) -> Iterator[AsyncResult[Any]]:
        node = self.parent
        while node is not None:
            if isinstance(node, AsyncResult):
                yield node
            node = node.parent

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        yield self

    def _value(self) -> Any:
        return None if self.ignored else self._look()["result"]


def _restored(id: str, task_name: str | None, parent: ResultBase | None) -> AsyncResult[Any]:
    return AsyncResult(id, task_name=task_name, parent=parent)


class EagerResult(AsyncResult[R]):
    """The result of a task that ran where it was called."""

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
        *,
        children: Sequence[Any] = (),
    ) -> None:
        """Take what came of the task; *ret_value* is its value or its exception."""
        super().__init__(id, task_name=name)
        self._meta = {
            "status": state,
            "result": ret_value,
            "traceback": traceback,
            "name": name,
            "children": list(children),
            "task_id": id,
        }

    @property
    def children(self) -> list[ResultBase] | None:
        return self._look()["children"]  # type: ignore[no-any-return]  # results, not tuples

    def ready(self) -> bool:
        return True

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Any = None,
        on_interval: Any = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Return the value at once, or raise the exception."""
        if disable_sync_subtasks:
            assert_will_not_block()
        if self.state == IGNORED:
            return None  # type: ignore[return-value]  # it asked that nothing be kept of it
        return self.maybe_throw(propagate=propagate, callback=callback)  # type: ignore[no-any-return]  # user's value

    wait = get

    def forget(self) -> None:
        """Do nothing: it is kept nowhere but here."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Call it REVOKED from now on; it has run all the same."""
        self._meta = {**self._look(), "status": "REVOKED"}

    @property
    def supports_native_join(self) -> bool:
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        meta = self._look()
        return EagerResult, (self.id, meta["result"], meta["status"], meta["traceback"], meta["name"])

    def __copy__(self) -> EagerResult[R]:
        cls, args = self.__reduce__()
        return cls(*args)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def _look(self) -> Meta:
        return self._meta or _UNKNOWN


# -- Several results ---------------------------------------------------------------------------------------------------


class ResultSet(ResultBase):
    """Results that are waited for together."""

    results: list[Any]  # results of tasks, or further sets

    def __init__(self, results: Iterable[Any], app: Any = None, ready_barrier: Any = None, **kwargs: Any) -> None:
        self.results = list(results)
        self._app = app
        self._when_ready: list[tuple[Callable[[Any], object], Callable[[Any], object] | None]] = []

    @property
    def backend(self) -> Any:
        """Where the results are kept."""
        found = next((leaf.backend for leaf in self._leaves() if not isinstance(leaf, EagerResult)), None)
        return found or current.app_or_default(self._app or self.app).backend

    # -- as a set

    def add(self, result: Any) -> None:
        """Add *result* unless it is here already."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove *result*, given as itself or as its id.

        Raises:
            KeyError: it is not here.
        """
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Remove *result* if it is here."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add those of *results* that are not here yet."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Remove all."""
        self.results.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    # -- what is known of them

    def ready(self) -> bool:
        """Return whether all have ended."""
        self._look()
        return all(result.ready() for result in self.results)

    def waiting(self) -> bool:
        """Return whether any has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Return whether all have succeeded."""
        self._look()
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Return whether any has failed."""
        self._look()
        return any(result.failed() for result in self.results)

    def completed_count(self) -> int:
        """Return how many have succeeded."""
        self._look()
        return sum(bool(result.successful()) for result in self.results)

    # -- waiting for them

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], object] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Wait for all, at most *timeout* seconds together, and return their values in their order.

        With *callback* each is given to it instead, as id and value, and the list is empty.

        Raises:
            TimeoutError: not all have ended in time.
            Exception: that of the first seen to have failed, unless *propagate* is off: then it takes a value's place.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        wait = _Wait(
            self,
            timeout=timeout,
            interval=interval,
            on_interval=on_interval,
            on_message=on_message,
            raising=propagate,
        )
        _finish(wait, self.backend)
        return self._joined(callback)

    get = join_native = join

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> list[Any]:
        """As `get`, for the running event loop."""
        await _afinish(_Wait(self, timeout=timeout, raising=propagate), self.backend)
        return self._joined(None)

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        return self.aget().__await__()

    async def __aiter__(self) -> AsyncIterator[AsyncResult[Any]]:
        """Yield each result as it ends, for the running event loop; `AsyncResult.get` then gives its value at once."""
        for leaf in [leaf for leaf in self._leaves() if leaf._meta is not None]:
            yield leaf
        async for ended in _await_for(_Wait(self, raising=False), self.backend):
            for leaf in ended:
                yield leaf

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], object] | None = None,
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, Meta]]:
        """Yield (id, what is known) of each as it ends."""
        known = [leaf for leaf in self._leaves() if leaf._meta is not None]
        yield from ((leaf.id, leaf._look()) for leaf in known)
        wait = _Wait(
            self, timeout=timeout, interval=interval, on_interval=on_interval, on_message=on_message, raising=False
        )
        for ended in _wait_for(wait, self.backend):
            yield from ((leaf.id, leaf._look()) for leaf in ended)

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> None:
        """Raise the exception of the first that has failed."""
        for result in self.results:
            result.maybe_throw(propagate=propagate, callback=callback)

    maybe_reraise = maybe_throw

    def then(
        self, callback: Callable[[Any], object], on_error: Callable[[Any], object] | None = None, weak: bool = False
    ) -> ResultSet:
        """Call *callback* with this set as soon as all are seen to be ready."""
        left = {leaf.id for leaf in self._leaves()}

        def one_ended(result: AsyncResult[Any]) -> None:
            left.discard(result.id)
            if not left:
                (on_error if on_error is not None and self.failed() else callback)(self)

        for leaf in list(self._leaves()):
            leaf.then(one_ended)
        return self

    # -- acting on them

    def forget(self) -> None:
        """Delete them from the store."""
        for result in self.results:
            result.forget()

    def revoke(
        self, connection: Any = None, terminate: bool = False, signal: str | None = None, **options: Any
    ) -> None:
        """Forbid them all to run; with *terminate* also stop those that run."""
        control = current.app_or_default(self._app or self.app).control
        ids = [leaf.id for leaf in self._leaves()]
        control.revoke(ids, connection=connection, terminate=terminate, signal=signal, **options)

    # -- being a value

    @property
    def supports_native_join(self) -> bool:
        """Whether they can be waited for at once: always, here."""
        return True

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(map(_shown, self.results))}]>"

    # -- inside

    def _look(self) -> None:
        """Read all that are not known to have ended, at once."""
        unknown = [leaf for leaf in self._leaves() if leaf._meta is None and not leaf.ignored]
        if unknown:
            metas = self.backend.metas([leaf.id for leaf in unknown])
            for leaf in unknown:
                leaf._learn(metas.get(leaf.id, _UNKNOWN))

    def _joined(self, callback: Callable[[str, Any], object] | None) -> list[Any]:
        if callback is None:
            return [result._value() for result in self.results]
        for result in self.results:
            callback(result.id, result._value())
        return []

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        for result in self.results:
            yield from result._leaves()

    def _value(self) -> list[Any]:
        return [result._value() for result in self.results]


class GroupResult(ResultSet):
    """The results of a group."""

    def __init__(
        self, id: str | None = None, results: Iterable[Any] | None = None, parent: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(results or (), **kwargs)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any]:
        """The same as `results`."""
        return self.results

    def save(self, backend: Store | None = None) -> None:
        """Keep it in the store, for `restore`."""
        (backend or self.backend).save_group(str(self.id), self)

    def delete(self, backend: Store | None = None) -> None:
        """Remove it from there."""
        (backend or self.backend).delete_group(str(self.id))

    @classmethod
    def restore(cls, id: str, backend: Store | None = None, app: Any = None) -> Any:
        """Return the result that was saved under *id*, or None."""
        app = app or cls.app
        found = (backend or current.app_or_default(app).backend).restore_group(id)
        return None if found is None else result_from_tuple(found, app)

    def as_tuple(self) -> Any:
        """Return ``((id, parent tuple or None), [tuples of the results])``."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def __reduce__(self) -> tuple[Any, ...]:
        return GroupResult, (self.id, self.results, self.parent)

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return self.id == other.id and self.results == other.results and self.parent == other.parent
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]  # it has an id, a bare set has none
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(map(_shown, self.results))}]>"


def _shown(result: Any) -> str:
    return repr(result) if isinstance(result, ResultSet) else str(result)


def result_from_tuple(r: Any, app: Any = None) -> Any:
    """Return the result that ``as_tuple`` gave; a result is returned as it is."""
    if isinstance(r, ResultBase) or r is None:
        return r
    app = current.app_or_default(app)
    head, nodes = r
    result_id, parent = head if isinstance(head, (list, tuple)) else (head, None)
    parent = result_from_tuple(parent, app)
    if nodes is not None:
        return app.GroupResult(result_id, [result_from_tuple(child, app) for child in nodes], parent=parent)
    return app.AsyncResult(result_id, parent=parent)


# -- Waiting -----------------------------------------------------------------------------------------------------------


class _Wait:
    """One wait: what is still awaited, and what to do about what becomes known. Does not wait itself."""

    def __init__(
        self,
        goal: ResultBase,
        *,
        also: Iterable[AsyncResult[Any]] = (),
        timeout: float | None = None,
        interval: float = 0.5,
        on_interval: Callable[[], object] | None = None,
        on_message: Callable[[Meta], object] | None = None,
        raising: bool,
    ) -> None:
        """Wait until *goal* is ready; with *raising* until any part of it or of *also* has failed, and raise that."""
        leaves = list(goal._leaves())
        self._until = None if timeout is None else time.monotonic() + timeout
        self._interval = interval
        self._on_interval = on_interval
        self._on_message = on_message
        self._raising = raising
        self._goal = goal
        self._open = {each.id: each for each in (*leaves, *also) if each._meta is None and not each.ignored}
        self._needed = {leaf.id for leaf in leaves} & self._open.keys()
        # Who fails takes the end of its chain along; only who is revoked does not. So one wake-up will mostly do for a
        # chain, instead of one for each link (benchmark chain of 200: 0.1 ms of 0.6 a link).
        is_narrow = len(self._needed) < len(self._open) and on_message is None
        self._narrow_until = time.monotonic() + _NARROW if is_narrow else 0.0
        if raising:
            self._raise(each for each in (*also, *leaves) if each._meta is not None)

    @property
    def ids(self) -> list[str]:
        """What is still to be looked at."""
        return list(self._open) if self._needed else []

    @property
    def watched(self) -> list[str]:
        """What is to be waited for: at first not those before it in its chain."""
        return list(self._needed if self._narrow_until else self._open)

    def widens(self) -> bool:
        """Watch all from now on if it is time for that; return whether that is a change."""
        if not self._narrow_until or time.monotonic() < self._narrow_until:
            return False
        self._narrow_until = 0.0
        return True

    def watch_all(self) -> None:
        """Watch all from the beginning."""
        self._narrow_until = 0.0

    def learn(self, metas: dict[str, Meta]) -> list[AsyncResult[Any]]:
        """Take in what is known now; return which of the results have ended by that."""
        ended = []
        for task_id, meta in metas.items():
            if self._on_message is not None:
                self._on_message(meta)
            if task_id in self._open and self._open[task_id]._learn(meta):
                ended.append(self._open.pop(task_id))
                self._needed.discard(task_id)
        if self._raising:
            self._raise(ended)
        return ended

    def pause(self) -> float | None:
        """Return how many seconds to wait at most until the next look; None = for ever.

        Raises:
            TimeoutError: the time is over.
        """
        left = None if self._until is None else self._until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("The operation timed out.")
        limits = [] if left is None else [left]
        if self._narrow_until:
            limits.append(max(0.0, self._narrow_until - time.monotonic()))
        if self._on_interval is not None:
            self._on_interval()
            limits.append(self._interval)
        return min(limits, default=None)

    def _raise(self, ended: Iterable[AsyncResult[Any]]) -> None:
        for result in ended:
            if result is not self._goal:  # that one is raised together with its callback, by whoever waits
                result.maybe_throw()


def _wait_for(wait: _Wait, store: Store) -> Iterator[list[AsyncResult[Any]]]:
    """Yield the results that have ended, as they do, until *wait* is over."""
    while ids := wait.ids:
        with store.waiting(wait.watched) as waiting:
            found: Iterable[str] = ids
            while not wait.widens():
                yield wait.learn(waiting.metas(found))
                if not wait.ids:
                    return
                found = waiting.wait(wait.pause())


def _finish(wait: _Wait, store: Store) -> None:
    for _ in _wait_for(wait, store):
        pass


async def _afinish(wait: _Wait, store: Store) -> None:
    async for _ in _await_for(wait, store):
        pass


async def _await_for(wait: _Wait, store: Store) -> AsyncIterator[list[AsyncResult[Any]]]:
    """As `_wait_for`, for the running event loop: the store is only ever asked in another thread."""
    wait.watch_all()
    ids: Iterable[str] = wait.ids
    if not ids:
        return
    held = ExitStack()
    try:
        waiting = await _aside(held.enter_context, store.waiting(ids))
        metas = await _aside(waiting.metas, ids)
        while True:
            yield wait.learn(metas)
            if not wait.ids:
                break
            woken = await _readable(waiting.fileno(), wait.pause())
            metas = await _aside(_look_again, waiting, None if woken else wait.ids)
    except BaseException as exc:
        await _aside(held.__exit__, type(exc), exc, exc.__traceback__)
        raise
    await _aside(held.close)


def _look_again(waiting: Waiting, ids: Iterable[str] | None) -> dict[str, Meta]:
    """Return what is known of *ids*; None = of those that it was woken for."""
    return waiting.metas(waiting.wait(0.0) if ids is None else ids)


async def _aside(function: Callable[..., Any], *args: Any) -> Any:
    """Call *function* in a thread of the running event loop; also who is cancelled waits until it has returned.

    What it holds, a connection, may not be given back before.
    """
    asyncio = importlib.import_module("asyncio")  # 15 ms that only who runs an event loop pays, and has paid
    call = asyncio.get_running_loop().run_in_executor(None, copy_context().run, function, *args)
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        while not call.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([call])
        raise


async def _readable(fileno: int | None, timeout: float | None) -> bool:
    """Wait until *fileno* is readable, and return True; without one, or when time runs out, return False."""
    asyncio = importlib.import_module("asyncio")  # 15 ms that only who runs an event loop pays, and has paid
    if fileno is None:
        await asyncio.sleep(_POLL if timeout is None else min(timeout, _POLL))
        return False
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def on_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(fileno, on_readable)
    try:
        done, _ = await asyncio.wait([readable], timeout=timeout)
        return bool(done)
    finally:
        loop.remove_reader(fileno)


class ResultGraph(dict[Any, list[Any]]):
    """Which results depend on which: each with those that its task sent."""

    def __init__(self, formatter: Any = None) -> None:
        super().__init__()
        self.formatter = formatter

    def add_arc(self, node: Any) -> None:
        """Add *node* if it is new."""
        self.setdefault(node, [])

    def add_edge(self, node: Any, needs: Any) -> None:
        """Say that *node* led to *needs*."""
        self[node].append(needs)

    def edges(self) -> list[Any]:
        """Return the nodes that led to others."""
        return [node for node, adjacent in self.items() if adjacent]

    def valency_of(self, node: Any) -> int:
        """Return how many nodes lie behind *node*, itself included."""
        return 1 + sum(self.valency_of(each) for each in self.get(node, ()))

    def to_dot(self, fh: Any, formatter: Any = None) -> None:
        """Write it to the text file *fh* in the language of Graphviz; ``formatter.label(node)`` says what stands there.

        Without a formatter it is the name of the task, where the store knows it (``result_extended``), and the id.
        """
        formatter = formatter or self.formatter
        numbers = {node: i for i, node in enumerate(self)}
        fh.write("digraph dependencies {\n    rankdir=LR;\n    node [shape=box];\n")
        for node, i in numbers.items():
            label = _label(node) if formatter is None else str(formatter.label(node))
            text = label.replace("\\", "\\\\").replace('"', '\\"')
            fh.write(f'    {i} [label="{text}"];\n')
        for node, adjacent in self.items():
            for each in adjacent:
                fh.write(f"    {numbers[node]} -> {numbers[each]};\n")
        fh.write("}\n")


def _label(node: Any) -> str:
    name = getattr(node, "name", None)
    return f"{name} {node.id}" if name else str(node.id)
