"""Let temporary queues live as long as somebody reads them: those that are auto-delete, exclusive or expire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from umbel.brokers.sqlite_moves import View
from umbel.brokers.sqlite_schema import create_queue, delete_queue
from umbel.brokers.wakeup import Board
from umbel.wire.topology import QueueSpec

__all__ = ["attend", "check"]

_GONE: Final = 600.0  # seconds without a sign of life, for a consumer that has no bell to prove it


def attend(view: View, name: str, bell: str, *, queues: Iterable[str], left: Iterable[str]) -> bool:
    """Be a consumer of *queues* under this *name*, and no more of those *left*; tell whether any is temporary.

    *bell* names the socket that proves that we live; "" = there is none. Queues that do not exist are made.
    """
    connection, plan, now = view
    temporary = []
    for queue in queues:
        number = plan.ids.get(queue)
        if number is None:
            number = create_queue(connection, plan, QueueSpec(queue), now)
        if _is_temporary(plan.specs[number]):
            temporary.append((number, name, bell, now))
    connection.executemany("INSERT OR REPLACE INTO consumers (queue, name, bell, seen) VALUES (?, ?, ?, ?)", temporary)
    for queue in left:
        number = plan.ids.get(queue)
        if number is not None and _is_temporary(plan.specs[number]):
            connection.execute("DELETE FROM consumers WHERE queue = ? AND name = ?", (number, name))
            connection.execute("UPDATE queues SET used = ? WHERE id = ?", (now, number))
            _delete_if_left(view, number)
    return bool(temporary)


def check(view: View, queue: int, name: str, board: Board | None) -> None:
    """Delete the queue with this id if it is temporary and its consumers are gone; *name* is ours."""
    connection, plan, now = view
    spec = plan.specs[queue]
    if not _is_temporary(spec):
        return
    consumers = connection.execute("SELECT name, bell, seen FROM consumers WHERE queue = ?", (queue,)).fetchall()
    if any(each == name or _is_alive(board, bell, now - seen) for each, bell, seen in consumers):
        connection.execute("UPDATE consumers SET seen = ? WHERE queue = ? AND name = ?", (now, queue, name))
        connection.execute("UPDATE queues SET used = ? WHERE id = ?", (now, queue))
        return
    if consumers:
        connection.execute("DELETE FROM consumers WHERE queue = ?", (queue,))
        if _delete_if_left(view, queue):
            return
    (used,) = connection.execute("SELECT used FROM queues WHERE id = ?", (queue,)).fetchone()
    if spec.expires is not None and now - used > spec.expires:
        delete_queue(connection, plan, queue)


def _is_temporary(spec: QueueSpec) -> bool:
    return spec.auto_delete or spec.exclusive or spec.expires is not None


def _is_alive(board: Board | None, bell: str, silence: float) -> bool:
    return board.is_alive(bell) if bell and board is not None else silence < _GONE


def _delete_if_left(view: View, queue: int) -> bool:
    """Delete a queue that goes with its last consumer, if that has gone; tell whether."""
    spec = view.plan.specs[queue]
    if not (spec.auto_delete or spec.exclusive):
        return False
    if view.connection.execute("SELECT 1 FROM consumers WHERE queue = ?", (queue,)).fetchone() is not None:
        return False
    delete_queue(view.connection, view.plan, queue)
    return True
