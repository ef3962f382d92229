"""What happened to one task, complete, encoded and ready to be settled by the parent."""

from __future__ import annotations

import msgspec

from umbel.brokers.base import Publication
from umbel.wire.chord import ChordPart, ChordSize
from umbel.wire.record import Record

__all__ = ["Outcome"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What happened to one task.

    Made where the task ran; it writes nothing by itself. The parent settles it: `records`, `follow_ups`, what it
    means to chords, and the end of the message, in one atomic write where broker and store are one server.
    """

    state: str  # SUCCESS, FAILURE, RETRY, REVOKED, IGNORED or REJECTED
    records: tuple[Record, ...] = ()  # its own result; on failure also those of the chain's remaining links
    follow_ups: tuple[Publication, ...] = ()  # next link, callbacks, errbacks, the retry itself
    requeue: bool = False  # REJECTED: back to its queue instead of the dead-letter set
    reason: str = ""  # FAILURE, REJECTED, REVOKED: one line for people and the dead-letter set
    timed_out: bool = False  # FAILURE by a time limit: `acks_on_timeout` decides instead of `acks_on_failure`
    sizes: tuple[ChordSize, ...] = ()  # chords whose header is among the follow-ups
    parts: tuple[ChordPart, ...] = ()  # what it means to the chords it is a part of; also for links that never run
    shown: str = ""  # for monitors: SUCCESS: the result's repr; FAILURE, RETRY: the exception's
    traceback: str | None = None  # for monitors: FAILURE, RETRY
    unread: bool = False  # FAILURE because its body cannot be read, so nothing ran: kept in the dead-letter set
