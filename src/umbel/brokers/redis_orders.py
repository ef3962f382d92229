"""Write down what one script shall do on the server: settlements with what depends on them."""

from __future__ import annotations

from collections.abc import Sequence

from umbel.brokers.redis_link import Argument
from umbel.states import SUCCESS
from umbel.wire.chord import ChordPart, ChordSize
from umbel.wire.record import Record
from umbel.wire.result import is_compressed

__all__ = ["Orders", "part_of_chord", "size_of_chord"]


class Orders:
    """Settlements in order, and under each what is done if it holds; the words of `redis_scripts.TURN`."""

    def __init__(self) -> None:
        self.refused: list[int] = []  # places of settlements that we refuse ourselves
        self.local: list[str] = []  # tags of fanout that are settled with this
        self.brings_work = False  # something may now be claimed that could not before
        self.known: set[str] = set()  # queues that others learn of with this
        self._tags: list[Argument] = []
        self._words: list[Argument] = []
        self._at = -1  # where the count of the present settlement's operations stands
        self._count = 0  # of all operations

    def __bool__(self) -> bool:
        return bool(self._tags)

    # -- settlements

    def settle(self, tag: str) -> None:
        """Begin a settlement; what is ordered from now on depends on *tag* being held. "" always is."""
        self._tags.append(tag)
        self._at = -1

    def refuse(self) -> None:
        """Count a settlement that is not even tried."""
        self.refused.append(len(self._tags))
        self._tags.append("")
        self._at = -1

    def once(self, key: str, expires: float) -> None:
        """Begin what is done only if *key* was never taken; it then is, for *expires* seconds."""
        self.settle(f"={max(1, int(expires * 1000))}\n{key}")

    def exhume(self, tag: int | str, task_id: str) -> None:
        """Begin what is done only if there is a dead letter of that tag; it then is gone."""
        self.settle(f"~{tag}\n{task_id}")

    # -- operations

    def push(self, key: str, data: bytes) -> None:
        """Put a message behind the others of its list."""
        self.brings_work = True
        self._add("P", key, data)

    def to_front(self, key: str, data: bytes) -> None:
        """Put a message before the others of its list."""
        self.brings_work = True
        self._add("U", key, data)

    def call_out(self, channel: str, data: bytes) -> None:
        """Publish a message to all who listen."""
        self._add("C", channel, data)

    def delay(self, delayed: str, due: float, member: bytes, *, consumers: str, key: str, data: bytes) -> None:
        """Keep a message until *due*, unix seconds, if one of ours consumes; else put it into the list."""
        self.brings_work = True
        self._add("Z", delayed, repr(due), member, consumers, key, data)

    def wait(self, delayed: str, seconds: float, member: bytes) -> None:
        """Keep a message for *seconds*."""
        self.brings_work = True
        self._add("W", delayed, repr(seconds), member)

    def bury(self, task_id: str, letter: bytes) -> None:
        """Add a dead letter."""
        self._add("D", task_id, letter)

    def make_known(self, key: str, queue: str) -> None:
        """Let others know that there is such a queue."""
        self.known.add(queue)
        self._add("K", key, queue)

    def expire(self, key: str, seconds: float) -> None:
        """Let a list go when it was not used for so long."""
        self._add("X", key, max(1, int(seconds * 1000)))

    def record(self, key: str, record: Record) -> None:
        """Store a result, unless a success is there, and tell who waits for it."""
        self._add("R", key, milliseconds(record.expires), record.payload)
        if record.state == SUCCESS and is_compressed(record.payload):
            self._add("M", key, milliseconds(record.expires))

    def note(self, book: str, name: str, text: bytes | None) -> None:
        """Write an entry into a book, or strike it out."""
        self._add("H", book, name, b"-" if text is None else b"+" + text)

    def chord(self, operation: str, *words: Argument) -> None:
        """Count for a chord."""
        self._add(operation, *words)

    # -- what is sent

    def single_command(self) -> Sequence[Argument] | None:
        """Return the command that does all of this; None = it is not that simple."""
        words = self._words
        if len(self._tags) != 1 or self._tags[0] != "" or self.refused:
            return None
        if words[2] == "C" and self._count == 1:
            return (b"PUBLISH", *words[3:])
        if words[2] != "P":
            return None
        key = words[3]
        if len(words) == 5:
            return (b"LPUSH", key, words[4])
        if len(words) != 2 + 3 * self._count or any(word != "P" for word in words[2::3]):
            return None
        return (b"LPUSH", key, *words[4::3]) if all(word == key for word in words[3::3]) else None

    def words(self, tail: Sequence[Argument]) -> list[Argument]:
        """Return all of it, with what the claim needs behind it."""
        return [len(self._tags), *self._tags, len(self._words), *self._words, *tail]

    def _add(self, *words: Argument) -> None:
        if not self._tags:
            self.settle("")
        if self._at < 0:
            self._at = len(self._words) + 1
            self._words += (len(self._tags), 0)
        self._words[self._at] += 1  # type: ignore[operator]
        self._count += 1
        self._words += words


def size_of_chord(orders: Orders, key: str, size: ChordSize) -> None:
    """Order that a chord be opened, or wait for one more."""
    if size.added is None:
        orders.chord("S", key, size.size, milliseconds(size.expires))
    else:
        orders.chord("A", key, size.added, milliseconds(size.expires))


def part_of_chord(orders: Orders, key: str, part: ChordPart) -> None:
    """Order that a part be counted."""
    place = b"+inf" if part.index is None else str(part.index).encode()
    name = f"{part.id}:{'' if part.index is None else part.index}"
    orders.chord("T", key, place, name, part.payload, part.body, milliseconds(part.expires), 0, part.group)


def milliseconds(seconds: float | None) -> int:
    """Return a lifetime as the scripts want it; 0 = for ever."""
    return 0 if seconds is None else max(1, int(seconds * 1000))
