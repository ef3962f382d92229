"""Turn a state of a task into the record that a result store keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from umbel.execution.plan import Environment
from umbel.execution.request import Request
from umbel.states import SUCCESS
from umbel.wire.record import Record

__all__ = ["child_tuple", "make_record"]


def make_record(
    env: Environment,
    request: Request,
    state: str,
    result: Any,
    *,
    traceback: str | None = None,
    children: Iterable[Any] = (),
) -> Record:
    """Return the record of *request* in *state*; *children* are results or their tuples.

    Raises:
        EncodeError: a plain *result* cannot be encoded.
    """
    message = request.message
    payload = env.write(
        task_id=request.id or "",
        state=state,
        result=result,
        traceback=traceback,
        children=[child_tuple(child) for child in children],
        group_id=request.group if message is None else message.group,
        parent_id=request.parent_id if message is None else message.parent_id,
        extended=_extended(request) if env.extended else None,
    )
    expires = env.result_expires if state == SUCCESS or env.failure_expires is None else env.failure_expires
    reply_to = request.reply_to if message is None else message.reply_to
    return Record(id=request.id or "", state=state, payload=payload, expires=expires, reply_to=reply_to)


def child_tuple(child: Any) -> Sequence[Any]:
    """Return the result tuple of a child (protocol.md PRT-164)."""
    return child if isinstance(child, (tuple, list)) else child.as_tuple()


def _extended(request: Request) -> dict[str, Any]:
    fields = {
        "name": request.task,
        "args": request.args,
        "kwargs": request.kwargs,
        "worker": request.hostname,
        "retries": request.retries,
        "queue": (request.delivery_info or {}).get("routing_key"),
    }
    if request.stamped_headers:
        fields["stamped_headers"] = request.stamped_headers
        fields.update(request.stamps or {})
    return fields
