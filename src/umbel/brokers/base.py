"""The port `Broker`: where messages wait, and the shapes that cross it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec

from umbel.wire.chord import ChordPart, ChordSize, ReadyChord
from umbel.wire.message import Message, Route
from umbel.wire.record import Record
from umbel.wire.topology import Topology

__all__ = [
    "Broker",
    "BrokerFeatures",
    "Bury",
    "Claim",
    "DeadLetter",
    "Delivery",
    "Done",
    "Heir",
    "Lease",
    "Publication",
    "QueueSize",
    "Release",
    "Settlement",
    "Turn",
    "Verdict",
]


class BrokerFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """What only some brokers can do, as data."""

    atomic: bool  # `publish` and `settle` are one write, all or nothing; False = in the order `settle` names
    delayed: bool  # holds a message until its eta; False = the worker holds it
    priorities: bool
    fanout: bool
    higher_priority_first: bool  # AMQP, SQLite: 9 before 0. Redis: 0 before 9 (Celery's way)
    stores_results: bool  # what a `Settlement` has for the fused store is written by `settle`: records and chords
    durable_revokes: bool
    counts_crashes: bool  # exactly; False = as well as the broker's redelivered flag allows
    timed_leases: bool = True  # they last as long as said; False = as long as the connection that claimed, and longer
    # only where a long task was moved into a queue of its own (AMQP)
    census: bool = True  # `sizes` and `purge` know all queues and all that is in them; False = the queues this
    # connection has used, and what is ready there and claimed here
    ledger: bool = False  # it also is a `Ledger` (brokers/ledger.py): once, notes, rates for all processes


class Publication(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A message and where it goes."""

    message: Message
    route: Route


class Delivery(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A message in a worker's hand: claimed, leased, and not yet settled. It also is what a child is given."""

    message: Message
    queue: str  # the queue it was claimed from
    route: Route  # as published: exchange and routing key (`delivery_info`)
    tag: int | str  # names the stored message at this broker, for settling
    token: int  # fencing: grows with every claim of this message; a stale holder's settlement is refused
    crashes: int = 0  # counted attempts that ended in a crash before this delivery
    redelivered: bool = False
    revoked: bool = False  # its id is in the durable revoked set
    expired: bool = False  # `message.expires` had passed when it was claimed
    invalid: str | None = None  # the stored bytes are no task message; why. `message` is then a stand-in
    since: float | None = None  # unix seconds of publishing, where the broker knows it


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to take messages."""

    limit: int  # at most so many
    lease: float  # seconds each is ours without a renewal
    owner: str  # node name, kept as evidence
    chords: int = 0  # also so many ready chords that are left to nobody now (fused store)


class Lease(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What names a delivery when it is renewed."""

    tag: int | str
    token: int


class Done(msgspec.Struct, frozen=True, gc=False):
    """The task reached an end: remove the message."""


class Release(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Give the message back to its queue.

    A *counted* release adds one to its crashes and keeps `evidence`. The broker only counts: whoever claims
    decides by `Delivery.crashes` when it is enough, and settles with `Bury`.
    """

    delay: float = 0.0  # seconds until it may be claimed again
    counted: bool = False
    evidence: str = ""  # one line for people: what happened, where, which exit code
    front: bool = True  # ahead of its equals, as it was


class Bury(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Move the message to the dead-letter set, behind the evidence of the crashes counted before."""

    reason: str  # a word: crashed, unknown-task, invalid, expired, rejected, revoked
    evidence: str = ""  # one line for people; of a message that crashed: of the crash that was one too many


Verdict = Done | Release | Bury

_DONE: Final = Done()


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything that follows from one finished delivery, or from a chord that is fired; one atomic write.

    A chord is fired by a settlement that *fires* it: it holds if the chord is ready, which it then is no longer. So
    its body is published exactly once, whoever tries, and however often.
    """

    lease: Lease | None  # None: acknowledged before it ran (early acknowledgement); written unguarded, without verdict
    verdict: Verdict = _DONE
    follow_ups: tuple[Publication, ...] = ()  # published if and only if the settlement holds
    records: tuple[Record, ...] = ()  # for the fused store (`features.stores_results`), as the following
    sizes: tuple[ChordSize, ...] = ()  # chords whose header is among the follow-ups; a size that is known stays
    parts: tuple[ChordPart, ...] = ()  # counted behind `sizes`; of chords that are not open, nothing is kept
    fires: str | None = None  # with lease None: the group id of the ready chord whose body is among the follow-ups


class Turn(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one exchange with the broker brought."""

    refused: tuple[Lease, ...] = ()  # settlements of stale holders: nothing of them was written
    deliveries: tuple[Delivery, ...] = ()
    ready: tuple[ReadyChord, ...] = ()  # chords that these settlements completed, or `Claim.chords` asked for


class QueueSize(msgspec.Struct, frozen=True, kw_only=True):
    """How full a queue is."""

    ready: int  # could be claimed now, were the queue not paused
    delayed: int  # wait for their eta
    claimed: int  # in some worker's hand
    oldest: float | None = None  # seconds the oldest ready message has waited


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that will not run again by itself, with the evidence why."""

    tag: int | str  # names this letter at the broker, where a page ends; two letters may bear one task's id
    id: str  # the task's id
    task: str
    queue: str
    reason: str
    evidence: tuple[str, ...]  # oldest first: one line for each counted crash, then that of the `Bury` if it has one
    crashes: int  # attempts that ended in a crash, the one that led to its burial too
    died_at: float  # unix seconds
    message: Message

    def __post_init__(self) -> None:
        # Brokers count the crashes after which it was tried again; each of them, and the last one, left its line.
        if self.reason == "crashed" and len(self.evidence) > self.crashes:
            msgspec.structs.force_setattr(self, "crashes", len(self.evidence))


class Broker(Protocol):
    """Where messages wait.

    One object owns one connection and is used by one thread. Every verb may raise `BrokerUnavailable`: the
    world is down, nothing of the call was stored unless said otherwise, it is safe to call again. After `close`
    every verb but `close` raises `RuntimeError`: that is a mistake of the caller.
    """

    features: BrokerFeatures

    # -- sending

    def publish(self, publications: Sequence[Publication], *, timeout: float = 5.0) -> None:
        """Store all *publications*; after this returns, a crash of the sender cannot lose one.

        All or none where the broker has transactions; in order. An exchange with no matching binding
        drops the message as AMQP does, except that the default exchange always creates its queue.

        Raises:
            BrokerUnavailable: nothing was stored, or (broker without transactions) the text says how many.
            PublishTimeout: no answer within *timeout* seconds.
        """

    # -- receiving

    def consume(self, queues: Sequence[str]) -> None:
        """Claim from these queues from now on, replacing the earlier wish; an unknown one is created empty."""

    def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Turn:
        """Settle what has finished and take new messages, in one round trip and one atomic write if possible.

        A settlement holds while its lease is the newest of that message and was not settled before; that its time
        has run out does no harm until somebody claims. One that is refused does not touch the others.
        Order of effects for brokers that are not atomic: follow-ups confirmed, records, verdicts.
        Claimed messages come by priority, then oldest first, over the consumed queues that are not paused;
        one whose lease has run out is claimed again with its crash counted (the evidence names its last
        owner); it is never buried by the broker itself, so that its failure can be stored with its burial.

        A chord becomes ready in the same write as the part that completes it. It is handed out then (`Turn.ready`),
        and again by `Claim.chords` each time `HELD` seconds have passed without its being fired; until then it is
        kept, however long that takes.
        """

    def renew(self, leases: Sequence[Lease], lease: float) -> tuple[Lease, ...]:
        """Hold *leases* until *lease* seconds from now; return those that are ours no longer.

        They are ours until they are settled, or somebody claims after their time has run out.
        """

    def fileno(self) -> int:
        """Return a descriptor that is readable when a `settle` with a claim might bring something.

        It may be readable for nothing. Whoever finds it readable calls `settle` with a claim, which
        makes it unreadable again unless there is more.
        """

    def next_due(self) -> float | None:
        """Return seconds until the earliest delayed message or foreign lease of our queues is due; None = none.

        0.0 = is due now. The descriptor tells of delayed messages published since; of leases taken since it does not,
        so whoever waits asks again every few seconds. Paused queues do not count, so that nobody wakes for what
        cannot be claimed. Brokers that wake the descriptor by themselves for those return None.
        """

    # -- exchanges and queues

    def declare(self, topology: Topology) -> None:
        """Create these exchanges, queues and bindings; repeating is harmless, what was there stays.

        A queue that is `auto_delete` or `exclusive` goes with its last consumer, with all that is in it; one that
        `expires` when nobody has consumed from it for so long; a message when it has waited for its queue's
        `message_ttl`. Of time-outs, brokers that have no timer of their own make sure when they are next used.
        """

    def sizes(self, queues: Iterable[str] | None = None) -> dict[str, QueueSize]:
        """Return the sizes of those *queues* that exist (None = all)."""

    def purge(self, queue: str) -> int:
        """Drop all messages of *queue* that are in nobody's hand, delayed ones too; return how many."""

    # -- steering, durable and for all workers

    def pause(self, queue: str) -> None:
        """Let nobody claim from *queue* until `resume`; publishing goes on."""

    def resume(self, queue: str) -> None:
        """End a `pause`."""

    def paused(self) -> frozenset[str]:
        """Return the names of the paused queues."""

    def revoke(self, ids: Iterable[str], *, expires: float = 10800.0 * 8) -> None:
        """Forbid these task ids: from now on they are claimed with `Delivery.revoked` set.

        Kept for *expires* seconds, and longer while a message with that id waits.
        """

    def revoked(self) -> frozenset[str]:
        """Return the forbidden ids."""

    # -- the dead-letter set

    def dead(self, *, limit: int = 100, after: int | str | None = None) -> list[DeadLetter]:
        """Return dead letters, oldest first, at most *limit*, beginning behind the tag *after*.

        A letter that is gone meanwhile still marks the place, so whoever discards page by page sees all.
        """

    def find_dead(self, task_id: str) -> DeadLetter | None:
        """Return the newest dead letter of that task, or None."""

    def revive(self, ids: Iterable[str]) -> int:
        """Send the dead letters of these task ids back to their queues; return how many.

        Their crashes are forgotten, and so is the moment after which they were to expire if they died of that.
        """

    def discard(self, ids: Iterable[str]) -> int:
        """Delete the dead letters of these task ids for good; return how many."""

    # -- ending

    def close(self) -> None:
        """Release the connection; leases held stay until they run out. May be called twice."""


@runtime_checkable
class Heir(Protocol):
    """A broker whose claim may have taken what its caller never saw, since the connection broke before the answer."""

    def inherit(self, predecessor: object) -> None:
        """Give back with the next claim, uncounted, what *predecessor*, a closed broker, has taken in that way."""
