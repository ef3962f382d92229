"""How an app's chords are counted, and how their parts and bodies are encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from umbel._time import as_seconds
from umbel.canvas.call import Call, Opening
from umbel.execution.fire import fire_with
from umbel.result import ResultSet, result_from_tuple
from umbel.states import EXCEPTION_STATES, PROPAGATE_STATES, SUCCESS
from umbel.wire.chord import ChordSize
from umbel.wire.result import exception_from_data, exception_to_data

__all__ = ["Chords", "EagerChords"]


class Chords:
    """What an app does about chords: `execution.plan.ChordCoder`."""

    def __init__(self, app: Any) -> None:
        conf = app.conf
        self._app = app
        self._codecs = app.coder.codecs
        self._serializer: str = conf.result_serializer
        self._codec = self._codecs.codec(conf.result_serializer)
        accept = conf.result_accept_content or conf.accept_content
        self._accept = None if accept is None else self._codecs.content_types(accept)
        kept = conf.result_chord_expires
        self.expires: float | None = as_seconds(conf.result_expires if kept is None else kept) or None

    def open(self, opening: Opening) -> ChordSize | Call:
        """Return the size of a chord that the store counts, or else the task that looks after it (PRT-206)."""
        store = self._app.backend
        if store.counts_chords:
            if any(members is not None for _, members in opening.results):  # so peers do, and read it (PRT-202)
                header = (opening.group, None), opening.results
                store.save_group(opening.group, result_from_tuple(header, self._app))
            return ChordSize(group=opening.group, size=opening.size, expires=self.expires)
        body = opening.body["options"]
        options = {**opening.options, **{key: body[key] for key in ("queue", "priority") if key in body}}
        return Call(
            "celery.chord_unlock",
            (opening.group, opening.body),
            {"result": opening.results},
            {**options, "countdown": 1, "ignore_result": True},
        )

    def fire(self, group: str, body: Any, header: Any, options: Mapping[str, Any]) -> list[Any]:
        """Return what is to be written because the *header* of a chord, a result whose members are ready, is over."""

        def parts() -> list[tuple[str, str, Any]]:
            for each in _failed(header):
                return [(each.id, each.state, each.result)]
            patience = self._app.conf.result_chord_join_timeout
            return [(each.id, SUCCESS, each.get(timeout=patience, disable_sync_subtasks=False)) for each in header]

        outcome = fire_with(self._app.plans("").env, group, body, parts, options)
        return [*outcome.follow_ups, *outcome.sizes, *outcome.parts, *outcome.records]

    def members(self, group: str) -> Any:
        """Return the members of a header that has groups at the ends of chains, as `as_tuple` has them; else None."""
        saved = self._app.backend.restore_group(group)
        return None if saved is None else saved[1]

    def write_part(self, task_id: str, state: str, result: Any) -> bytes:
        """Return ``[1, id, state, result]`` encoded as results are (PRT-196)."""
        if isinstance(result, BaseException):
            result = exception_to_data(result, codecs=self._codecs, serializer=self._serializer)
        data: bytes = self._codecs.encode([1, task_id, state, result], self._serializer).body
        return data

    def read_part(self, payload: bytes) -> tuple[str, str, Any]:
        """Return task id, state, and value or exception."""
        codec = self._codec
        _, task_id, state, result = self._codecs.decode(
            payload, codec.content_type, codec.content_encoding, accept=self._accept
        )
        if state in EXCEPTION_STATES and result is not None:
            result = exception_from_data(result)
        return task_id, state, result

    def write_body(self, body: Any, content_type: str) -> bytes:
        """Return a signature, encoded as the message was that it came in."""
        data: bytes = self._codecs.encode(body, content_type).body
        return data

    def read_body(self, data: bytes, content_type: str) -> Any:
        """Return what `write_body` was given."""
        return self._codecs.decode(data, content_type, self._codecs.codec(content_type).content_encoding, accept=None)


def _failed(results: Iterable[Any]) -> Iterator[Any]:
    """Yield those that have failed, at any depth."""
    for each in results:
        if isinstance(each, ResultSet):
            yield from _failed(each)
        elif each.state in PROPAGATE_STATES:
            yield each


class EagerChords(Chords):
    """Those of tasks that are run where they are called: counted by whoever runs them, kept nowhere."""

    def open(self, opening: Opening) -> ChordSize:
        """Return the size of the chord."""
        return ChordSize(group=opening.group, size=opening.size)

    def members(self, group: str) -> None:
        """Return nothing: values come as they are counted."""
