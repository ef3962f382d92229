"""Put back into their queues what holders lost: those that died, Celery's workers, and we when no answer came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from umbel.brokers.redis_link import Argument, Link
from umbel.brokers.redis_names import Names
from umbel.brokers.redis_parcels import Parcels
from umbel.brokers.redis_routes import Routes
from umbel.brokers.redis_scripts import GIVE_BACK
from umbel.wire.message import Route

__all__ = ["Lost", "envelope_of", "queue_of", "tail_of_entry"]

_CHUNK: Final = 500
_ANY_AGE: Final = -1e12  # seconds of silence: whenever its lease ends


class _Unanswered(NamedTuple):
    """A claim whose answer never came, so that what it took is in nobody's hand."""

    nonce: str  # of the claimer, in its tags
    after: int  # the last token that it knows of; what it took has higher ones


class Lost:
    """What one broker puts back."""

    def __init__(
        self, link: Link, names: Names, parcels: Parcels, routes: Routes, given_time: Callable[[], Argument]
    ) -> None:
        """*given_time* returns what tells a script the time."""
        self._link = link
        self._names = names
        self._parcels = parcels
        self._routes = routes
        self._given_time = given_time
        self._unacked, self._index, self._leases, *_ = names.turn()
        self._restored = 0.0  # when we looked last for what foreign workers lost
        self.unanswered: list[_Unanswered] = []

    def note(self, nonce: str, after: int) -> None:
        """Remember that a claim failed, and perhaps only its answer did."""
        if (claim := _Unanswered(nonce, after)) not in self.unanswered:
            self.unanswered.append(claim)

    def of_the_dead(self, tags: Sequence[bytes], entries: Sequence[bytes | None]) -> None:
        """Put back what holders of ours lost, with the evidence."""
        words: list[Argument] = []
        # The oldest claim is put back last, which is in front of the others.
        for name, entry in sorted(zip(tags, entries, strict=True), key=lambda pair: -_token_of(pair[0])):
            tag = name.decode()
            owner = tag.split("|", 3)[2]
            words += self._words(tag, entry, f"lost by {owner}: its lease was not renewed")
        self._give_back(words, self._leases, 0.0)

    def of_ours(self) -> int:
        """Put back at once what claims took whose answers never came, and return how much that was.

        Nobody has seen it, so no crash is counted.
        """
        link, moved = self._link, 0
        while self.unanswered:
            nonce, after = self.unanswered[-1]
            mark = f"|{nonce}|".encode()
            tags = [tag for tag in link.call(b"ZRANGE", self._leases, 0, -1) if mark in tag and _token_of(tag) > after]
            tags.sort(key=_token_of, reverse=True)
            for start in range(0, len(tags), _CHUNK):
                some = tags[start : start + _CHUNK]
                entries = link.call(b"HMGET", self._unacked, *some)
                words = [
                    word
                    for tag, entry in zip(some, entries, strict=True)
                    for word in self._words(tag.decode(), entry, None)
                ]
                moved += self._give_back(words, self._leases, _ANY_AGE)
            self.unanswered.pop()
        return moved

    def of_foreigners(self, now: float) -> int:
        """Put back what Celery's workers have held beyond the visibility timeout, as they do among themselves.

        Return how much that was.
        """
        names = self._names
        if 0 <= now - self._restored < names.restore_interval:
            return 0
        self._restored = now
        limit = now - names.visibility_timeout
        tags = self._link.call(b"ZRANGEBYSCORE", self._index, b"-inf", limit, b"LIMIT", 0, names.restore_limit)
        if not tags:
            return 0
        words: list[Argument] = []
        for tag, entry in zip(tags, self._link.call(b"HMGET", self._unacked, *tags), strict=True):
            found = self.foreign(entry)
            if found:
                queue, data = found[0]
                words += (tag, self._key(queue, data), self._parcels.give_back(data))
        return self._give_back(words, self._index, names.visibility_timeout) if words else 0

    def foreign(self, entry: bytes | None) -> list[tuple[str, bytes]]:
        """Return queue and envelope of an entry of `unacked`, for each queue it belongs to."""
        if entry is None:
            return []
        try:
            message, exchange, routing_key = msgspec.json.decode(entry, type=tuple[msgspec.Raw, str | None, str | None])
        except (msgspec.MsgspecError, UnicodeError):
            return []
        if not exchange:
            return [(routing_key or "", bytes(message))]
        _, queues = self._routes.find(self._link, Route(exchange, routing_key or ""))
        return [(queue, bytes(message)) for queue in queues]

    def held(self) -> Iterator[tuple[str, bytes]]:
        """Yield queue and envelope of all that is in some hand."""
        tags = self._link.call(b"ZRANGE", self._index, 0, -1)
        for start in range(0, len(tags), _CHUNK):
            for entry in self._link.call(b"HMGET", self._unacked, *tags[start : start + _CHUNK]):
                yield from self.foreign(entry)

    def _words(self, tag: str, entry: bytes | None, crash: str | None) -> tuple[Argument, ...]:
        """Return the words that put back an entry of ours: without an entry there is nothing, but its tag goes."""
        queue = queue_of(tag)
        if entry is None:
            return (tag, self._names.lists(queue)[0], b"")
        data = envelope_of(entry, queue)
        return (tag, self._key(queue, data), self._parcels.give_back(data, crash))

    def _key(self, queue: str, data: bytes) -> str:
        priority = self._parcels.read(data, "", plain=True).envelope.message.priority
        return self._names.lists(queue)[self._names.step(priority)]

    def _give_back(self, words: Sequence[Argument], judge: str, silence: float) -> int:
        keys = (self._unacked, self._index, self._leases, judge)
        return int(self._link.run(GIVE_BACK, keys, self._given_time(), silence, *words))


def tail_of_entry(queue: str) -> str:
    """Return the end of an entry of `unacked`: kombu puts it back by exchange and routing key."""
    return f', "", {msgspec.json.encode(queue).decode()}]'


def envelope_of(entry: bytes, queue: str) -> bytes:
    """Return what lies in an entry of ours."""
    return entry[1 : len(entry) - len(tail_of_entry(queue).encode())]


def queue_of(tag: str) -> str:
    """Return the queue from which the message of that tag of ours was claimed."""
    return tag.split("|", 3)[3]


def _token_of(tag: bytes) -> int:
    token = tag.partition(b"|")[0]
    return int(token) if token.isdigit() else 0
