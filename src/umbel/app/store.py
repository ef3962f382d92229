"""Read and write results from any thread, each time over a connection of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

from umbel._repr import mask_url
from umbel.app.coding import Coder
from umbel.app.connections import Connections
from umbel.backends.base import Backend, Watch, chord_counter
from umbel.exceptions import ImproperlyConfigured
from umbel.result import GroupResult
from umbel.states import QUEUED
from umbel.wire.chord import ChordSize
from umbel.wire.record import Record

__all__ = ["ResultStore"]

_PATIENCE: Final = 30.0  # seconds to wait for one of a limited number of connections

Meta = dict[str, Any]
_Decode = Callable[[Mapping[str, bytes]], dict[str, Meta]]


class ResultStore:
    """Where an app's results are kept (``app.backend``); safe in every thread and after a fork."""

    def __init__(
        self,
        open: Callable[[], Backend | None],
        coder: Coder,
        *,
        expires: float | None,
        count_chords: bool = True,
        limit: int | None = None,
        url: str | None = None,
    ) -> None:
        """Have *open* make connections; it returns None where results are not kept. *expires* is in seconds.

        With a *limit* no more threads than that use the store at once, or wait for results; others wait for their turn.

        Without *count_chords* a task polls for each chord also where the store could count: Celery's workers cannot
        count there, except on Redis.
        """
        self._connections: Connections[Backend] = Connections(
            lambda: _required(open()), limit=limit, timeout=_PATIENCE, setting="redis_max_connections"
        )
        self._coder = coder
        self._expires = expires
        self._count_chords = count_chords
        self._url = url or "disabled://"  # for people

    def as_uri(self, include_password: bool = False) -> str:  # noqa: FBT001, FBT002 - Celery's signature
        """Return where results are kept."""
        return self._url if include_password else mask_url(self._url, "**")

    @property
    def supports_autoexpire(self) -> bool:
        """Whether what expires goes by itself; if not, a task must delete it (`cleanup`)."""
        with self._connections.lend() as backend:
            return backend.features.expires

    # -- what `umbel.result` needs

    def metas(self, ids: Iterable[str]) -> dict[str, Meta]:
        """Return what is known of *ids*; unknown ones are left out.

        Raises:
            ImproperlyConfigured: results are not kept.
            BackendError: the store does not answer.
        """
        with self._connections.lend() as backend:
            return self._decoded(backend.fetch(list(ids)))

    @contextmanager
    def waiting(self, ids: Iterable[str]) -> Iterator[_Waiting]:
        """Wait for *ids* inside the block."""
        with self._connections.lend() as backend:
            watch = backend.watch(list(ids))
            try:
                yield _Waiting(backend, watch, self._decoded)
            finally:
                watch.close()

    def forget(self, *ids: str) -> None:
        """Delete what is known of *ids*."""
        with self._connections.lend() as backend:
            backend.forget(ids)

    def save_group(self, group_id: str, result: GroupResult) -> None:
        """Keep a group's result until results expire."""
        with self._connections.lend() as backend:
            backend.save_group(group_id, self._coder.write_group(result.as_tuple()), expires=self._expires)

    def restore_group(self, group_id: str) -> Any:
        """Return a kept group's result tuple, or None."""
        with self._connections.lend() as backend:
            payload = backend.fetch_group(group_id)
        return None if payload is None else self._coder.read_group(payload)

    def delete_group(self, group_id: str) -> None:
        """Forget a kept group."""
        with self._connections.lend() as backend:
            backend.forget_group(group_id)

    # -- chords

    @cached_property
    def counts_chords(self) -> bool:
        """Whether the store counts the parts of chords; if not, a task polls.

        Raises:
            NotImplementedError: results are not kept, or only their sender can read them (API-275).
        """
        try:
            with self._connections.lend() as backend:
                features = backend.features
        except ImproperlyConfigured as exc:
            raise NotImplementedError(f"chords need a result backend: {exc}") from exc
        if not features.readable_anywhere:
            raise NotImplementedError(
                "this result backend does not support chords: only the sender of a task can read its result. "
                "Set 'result_backend' to a store that all workers can read."
            )
        return features.chords and self._count_chords

    def open_chords(self, sizes: Sequence[ChordSize]) -> None:
        """Keep how many parts these chords wait for."""
        with self._connections.lend() as backend:
            counter = chord_counter(backend)
            assert counter is not None, "sizes are only made for stores that count"
            counter.open_chords(sizes)

    # -- what tasks and people need, under Celery's names

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **fields: Any,
    ) -> Any:
        """Store *state* of a task with *result* (a value, an exception, or what `Task.update_state` says)."""
        payload = self._coder.write(
            task_id=task_id,
            state=state,
            result=result,
            traceback=traceback,
            children=[child.as_tuple() for child in getattr(request, "children", None) or ()],
            group_id=getattr(request, "group", None),
            parent_id=getattr(request, "parent_id", None),
            extended=fields or None,
        )
        record = Record(
            id=task_id,
            state=state,
            payload=payload,
            expires=self._expires,
            reply_to=getattr(request, "reply_to", None),
        )
        self.keep([record])
        return result

    def store_queued(self, ids: Iterable[str]) -> None:
        """Store the state QUEUED of tasks that are about to be sent."""
        self.keep(
            [
                Record(
                    id=task_id,
                    state=QUEUED,
                    payload=self._coder.write(
                        task_id=task_id, state=QUEUED, result=None, traceback=None, children=[], group_id=None,
                        parent_id=None, extended=None,
                    ),
                    expires=self._expires,
                )
                for task_id in ids
            ]
        )  # fmt: skip

    def keep(self, records: Sequence[Record]) -> None:
        """Store *records*."""
        with self._connections.lend() as backend:
            backend.store(records)

    def get_task_meta(self, task_id: str) -> Meta:
        """Return all that is known of a task; a PENDING one where nothing is."""
        return self.metas([task_id]).get(task_id) or {"status": "PENDING", "result": None}

    def get_state(self, task_id: str) -> str:
        """Return the state of a task."""
        return self.get_task_meta(task_id)["status"]  # type: ignore[no-any-return]  # the store's text

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """Return the value of a task, or its exception."""
        return self.get_task_meta(task_id)["result"]

    def get_traceback(self, task_id: str) -> str | None:
        """Return the traceback of a failed task."""
        return self.get_task_meta(task_id).get("traceback")

    def cleanup(self) -> int:
        """Delete what has expired; return how many records."""
        with self._connections.lend() as backend:
            return backend.cleanup()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._connections.close()

    def _decoded(self, payloads: Mapping[str, bytes]) -> dict[str, Meta]:
        return {task_id: self._coder.read_meta(payload, task_id) for task_id, payload in payloads.items()}


class _Waiting:
    """A wait for some tasks over one connection."""

    def __init__(self, backend: Backend, watch: Watch, decoded: _Decode) -> None:
        self._backend = backend
        self._decoded = decoded
        self.wait = watch.wait
        self.fileno = watch.fileno

    def metas(self, ids: Iterable[str]) -> dict[str, Meta]:
        wanted = list(ids)
        return self._decoded(self._backend.fetch(wanted)) if wanted else {}


class _NotKept(ImproperlyConfigured, NotImplementedError):
    """Results are not kept, so nothing can be read: Celery says so with NotImplementedError (PRT-193)."""


def _required(backend: Backend | None) -> Backend:
    if backend is None:
        raise _NotKept(
            "no result backend is configured, so nothing is known of any result. Set 'result_backend', "
            "or let the task say ignore_result=True if nobody needs its result."
        )
    return backend
