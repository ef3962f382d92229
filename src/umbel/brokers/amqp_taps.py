"""Let the broker push just as much as is wished for: one consumer for each queue, opened and closed as the wish is."""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from umbel.brokers.amqp_link import Link
from umbel.brokers.amqp_messages import Arrival, Notes
from umbel.wire import amqp
from umbel.wire.amqp import Incoming
from umbel.wire.message import Message, Route

__all__ = ["CHANNEL", "Held", "Taps"]

CHANNEL: Final = 1
"""The channel of deliveries."""

_MOST: Final = 65535  # what a prefetch can be
_UNREAD: Final = Arrival(
    message=Message(id="", task="", body=b""), route=Route(), notes=Notes(), invalid=None, deliveries=0, since=None
)


class _Tap:
    """One consumer of one queue."""

    __slots__ = ("name", "prefetch", "queue", "unacked")

    def __init__(self, name: str, queue: str, prefetch: int) -> None:
        self.name = name
        self.queue = queue
        self.prefetch = prefetch  # so many the broker lets us hold; 0 = it is closed
        self.unacked = 0  # so many we hold


class Held(msgspec.Struct, kw_only=True, gc=False):
    """A delivery that is not acknowledged."""

    number: int  # as the channel counts
    tag: int  # as we name it
    queue: str
    incoming: Incoming
    tap: _Tap | None
    arrival: Arrival = _UNREAD  # once it is read
    token: int = 0
    crashes: int = 0
    redelivered: bool = False
    since: float = 0.0  # monotonic
    leased: bool = False  # it was acknowledged, and lies in a lease queue


class Taps:
    """What we consume, what came in and nobody has claimed, and what is held."""

    def __init__(self) -> None:
        self.held: dict[int | str, Held] = {}  # claimed, by tag
        self.prefetch = 0  # of the consumer made last
        self.wish = 0  # how many more were asked for than there were
        self.claimed_at = 0.0  # monotonic
        self.kept: set[str] = set()  # queues that would go with their last consumer: those are never closed
        self._base = random.getrandbits(29) << 34
        self._unacked: dict[int, Held] = {}  # by number, thus oldest first
        self._ready: deque[Held] = deque()
        self._soon: list[tuple[float, int, Held]] = []  # a heap, by when they are due
        self._open: dict[str, _Tap] = {}  # by queue
        self._all: dict[str, _Tap] = {}  # by consumer tag; closed ones too, until nothing of theirs is held
        self._made = 0

    @property
    def leftover(self) -> bool:
        """Tell whether something came in that nobody has claimed."""
        return bool(self._ready)

    def put(self, incoming: Incoming) -> None:
        """Take a delivery."""
        name, number = incoming.arguments[:2]
        tap = self._all.get(name)
        if tap is None:
            return
        tap.unacked += 1
        record = Held(number=number, tag=self._base + number, queue=tap.queue, incoming=incoming, tap=tap)
        record.since = time.monotonic()
        self._unacked[number] = record
        self._ready.append(record)

    def next(self) -> Held | None:
        """Return what came first and nobody has claimed."""
        return self._ready.popleft() if self._ready else None

    def wait(self, record: Held, due: float) -> None:
        """Hold what is *due* soon, in unix seconds, until `ripen` finds it due."""
        heapq.heappush(self._soon, (due, record.number, record))

    def ripen(self, now: float) -> None:
        """Let what is due by *now* be next."""
        due: list[Held] = []
        while self._soon and self._soon[0][0] <= now:
            due.append(heapq.heappop(self._soon)[2])
        self._ready.extendleft(reversed(due))

    @property
    def soon(self) -> int:
        """How many are held that are due soon."""
        return len(self._soon)

    def next_due(self) -> float | None:
        """Return when the first of those is due, in unix seconds."""
        return self._soon[0][0] if self._soon else None

    def waiting(self, queue: str) -> tuple[int, int]:
        """Return how many came from *queue* and are not claimed: those that are due, and those that soon will be."""
        return (
            sum(record.queue == queue for record in self._ready),
            sum(record.queue == queue for _, _, record in self._soon),
        )

    def drain(self, queue: str) -> list[Held]:
        """Take what came from *queue* and is not claimed."""
        taken = [record for record in (*self._ready, *(each for _, _, each in self._soon)) if record.queue == queue]
        self._ready = deque(record for record in self._ready if record.queue != queue)
        self._soon = [each for each in self._soon if each[2].queue != queue]
        heapq.heapify(self._soon)
        return taken

    def notes_of(self, record: Held) -> Notes:
        """Return what a copy of *record* must say, because its own way and flags are lost."""
        notes = msgspec.structs.replace(record.arrival.notes, crashes=record.crashes)
        if notes.exchange is None and record.arrival.route != Route("", record.queue):
            route = record.arrival.route
            notes = msgspec.structs.replace(notes, exchange=route.exchange, key=route.routing_key)
        return notes

    # -- opening and closing

    def adjust(self, link: Link, wish: int, queues: Sequence[str]) -> None:
        """Let the broker send about *wish* more from *queues*, evenly; exactly so where the numbers are small.

        A queue whose share is more than halved or doubled gets a new consumer: the prefetch of one that runs cannot
        be changed (per channel it could, but quorum queues and RabbitMQ 4 refuse that).
        """
        self.claimed_at = time.monotonic()
        frames: list[bytes] = []
        missing = wish - len(self._ready)
        share = max(missing // len(queues), 1) if missing > 0 and queues else 0
        share = min(share, _MOST)
        for queue in queues:
            tap = self._open.get(queue)
            credit = tap.prefetch - tap.unacked if tap is not None else 0
            if share == 0:
                if tap is not None and credit > tap.prefetch // 4 and queue not in self.kept:
                    frames.append(self._close(tap))
            elif credit * 2 < share or credit > share * 2:
                frames.append(self._make(queue, share))
                if tap is not None:
                    frames.append(self._close(tap))
        if frames:
            link.send(b"".join(frames))

    def _make(self, queue: str, prefetch: int) -> bytes:
        self._made += 1
        self.prefetch = prefetch
        tap = _Tap(f"umbel-{self._made}", queue, prefetch)
        self._open[queue] = self._all[tap.name] = tap
        return amqp.method_frame(CHANNEL, "basic.qos", 0, prefetch, False) + amqp.method_frame(
            CHANNEL, "basic.consume", 0, queue, tap.name, False, False, False, True, {}
        )

    def _close(self, tap: _Tap) -> bytes:
        if self._open.get(tap.queue) is tap:
            del self._open[tap.queue]
        tap.prefetch = 0
        if len(self._all) > 1000:  # what was sent by those closed long ago has arrived
            recent = set(list(self._all)[-100:])
            self._all = {
                name: each for name, each in self._all.items() if each.prefetch or each.unacked or name in recent
            }
        return amqp.method_frame(CHANNEL, "basic.cancel", tap.name, True)

    def queue_of(self, name: str) -> str | None:
        """Return the queue of the open consumer called *name*."""
        return next((tap.queue for tap in self._open.values() if tap.name == name), None)

    def leave(self, link: Link, queues: Iterable[str]) -> list[Held]:
        """Close the consumers of *queues*; return what had come from them and must go back."""
        back: list[Held] = []
        for queue in queues:
            tap = self._open.get(queue)
            if tap is not None:
                link.send(self._close(tap))
            for record in self.drain(queue):
                self._forget(record)
                back.append(record)
        return back

    # -- ending

    def end(self, done: Iterable[int], back: Iterable[int]) -> bytes:
        """Return the frames that acknowledge the numbers *done* and give *back* those; they are held no longer.

        Consumers for which nobody wishes now are closed first, so that what is free goes to others.
        """
        gone = set(done)
        returned = list(back)
        frames: list[bytes] = []
        touched: dict[str, _Tap] = {}
        for number in (*gone, *returned):
            record = self._unacked.get(number)
            if record is not None and record.tap is not None:
                touched[record.tap.name] = record.tap
        first: int | None = None
        upto = 0
        for number in self._unacked:
            if number not in gone:
                break
            upto = number
            first = number if first is None else first
        for number in (*gone, *returned):
            record = self._unacked.get(number)
            if record is not None:
                self._forget(record)
        if self.wish <= 0:
            frames += [self._close(tap) for tap in touched.values() if self._may_close(tap)]
        if upto:
            frames.append(amqp.ack(CHANNEL, upto, multiple=first != upto))
        frames += [amqp.ack(CHANNEL, number) for number in sorted(gone) if number > upto]
        frames += [amqp.nack(CHANNEL, number) for number in sorted(returned, reverse=True)]
        return b"".join(frames)

    def give_back(self, keep: int) -> bytes:
        """Return the frames that give back what came and is not claimed, but for the oldest *keep*.

        With none to *keep*, what is due soon goes back as well.
        """
        frames: list[bytes] = []
        if not keep:
            self._ready.extend(record for _, _, record in sorted(self._soon))
            self._soon = []
        while len(self._ready) > keep:
            record = self._ready.pop()
            self._forget(record)
            frames.append(amqp.nack(CHANNEL, record.number))
        if frames and self.wish <= 0:
            open_ = [tap for tap in self._open.values() if tap.prefetch > tap.unacked and self._may_close(tap)]
            frames = [self._close(tap) for tap in open_] + frames
        return b"".join(frames)

    def _may_close(self, tap: _Tap) -> bool:
        return self._open.get(tap.queue) is tap and tap.queue not in self.kept

    def _forget(self, record: Held) -> None:
        self._unacked.pop(record.number, None)
        self.held.pop(record.tag, None)
        if record.tap is not None:
            record.tap.unacked -= 1
