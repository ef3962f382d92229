"""Pause queues and revoke ids for all workers: kept in a durable queue of our own, told at once by an exchange."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from umbel.brokers.amqp_link import ChannelClosed, Link
from umbel.brokers.amqp_outlet import Outlet, Parcel
from umbel.brokers.amqp_shelf import browse
from umbel.exceptions import BrokerUnusable
from umbel.wire.amqp import Incoming, encode_properties

__all__ = ["Steering"]

_logger: Final = logging.getLogger("celery.brokers.amqp")

_QUEUE: Final = "umbel.state"
_EXCHANGE: Final = "umbel.steer"
_CHANNEL: Final = 1
_ASK: Final = 2
_TAG: Final = "umbel-steer"
_TIMEOUT: Final = 5.0


class _Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was said; kept as JSON."""

    revoke: tuple[str, ...] = ()
    until: float = 0.0  # unix seconds, for `revoke`
    pause: str | None = None
    resume: str | None = None


_decode: Final = msgspec.json.Decoder(_Word).decode


class Steering:
    """What is paused and revoked, as far as this connection has heard."""

    tag: Final = _TAG

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._link: Link | None = None  # where we listen
        self.paused: set[str] = set()
        self.revoked: dict[str, float] = {}  # id: until, unix seconds
        self.changed = False  # since somebody looked at `paused`

    def begin(self, link: Link) -> None:
        """Hear from now on, and read what was said before."""
        if link is self._link:
            return
        self._link = link
        try:
            link.call(_ASK, "exchange.declare", 0, _EXCHANGE, "fanout", False, True, False, False, False, {})
            name, _, _ = link.call(_ASK, "queue.declare", 0, "", False, False, True, True, False, {}).arguments
            link.call(_ASK, "queue.bind", 0, name, _EXCHANGE, "", False, {})
            link.call(_CHANNEL, "basic.consume", 0, name, _TAG, False, True, True, False, {})
            self._note(self._read(link))
        except (ChannelClosed, BrokerUnusable) as exc:
            _logger.warning(
                "this worker does not hear of paused queues and revoked tasks: %s may not use %r and %r. Let the user "
                "configure, write and read what begins with 'umbel.'. It says: %s",
                *(link.address, _EXCHANGE, _QUEUE, exc),
            )

    def hear(self, incoming: Incoming) -> None:
        """Learn what was said just now."""
        self._note(_words([incoming]))

    def is_revoked(self, task_id: str) -> bool:
        """Tell whether *task_id* may not run."""
        until = self.revoked.get(task_id)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self.revoked[task_id]
        return False

    def pause(self, link: Link, outlet: Outlet, queue: str) -> None:
        """Keep and tell that nobody may claim from *queue*."""
        with browse(link, _QUEUE) as shelf:
            known = any(word.pause == queue for word in _words(shelf.items))
        self._say(link, outlet, _Word(pause=queue), keep=not known)

    def resume(self, link: Link, outlet: Outlet, queue: str) -> None:
        """End a pause."""
        with browse(link, _QUEUE) as shelf:
            shelf.taken = [each for each in shelf.items if any(word.pause == queue for word in _words([each]))]
        if shelf.taken:
            self._say(link, outlet, _Word(resume=queue), keep=False)

    def revoke(self, link: Link, outlet: Outlet, ids: list[str], expires: float) -> None:
        """Keep and tell that *ids* may not run, for *expires* seconds."""
        if ids:
            self._say(link, outlet, _Word(revoke=tuple(ids), until=self._clock() + expires), keep=True, expires=expires)

    def read_paused(self, link: Link) -> frozenset[str]:
        """Return the paused queues."""
        return frozenset(word.pause for word in self._read(link) if word.pause is not None)

    def read_revoked(self, link: Link) -> frozenset[str]:
        """Return the revoked ids."""
        now = self._clock()
        return frozenset(each for word in self._read(link) if word.until > now for each in word.revoke)

    def _read(self, link: Link) -> list[_Word]:
        with browse(link, _QUEUE) as shelf:
            return _words(shelf.items)

    def _note(self, words: Iterable[_Word]) -> None:
        for word in words:
            if word.pause is not None:
                self.paused.add(word.pause)
                self.changed = True
            if word.resume is not None:
                self.paused.discard(word.resume)
                self.changed = True
            for each in word.revoke:
                self.revoked[each] = max(word.until, self.revoked.get(each, 0.0))

    def _say(self, link: Link, outlet: Outlet, word: _Word, *, keep: bool, expires: float | None = None) -> None:
        link.call(_ASK, "exchange.declare", 0, _EXCHANGE, "fanout", False, True, False, False, False, {})
        body = msgspec.json.encode(word)
        kept = {"content_type": "application/json", "delivery_mode": 2}
        if expires is not None:
            kept["expiration"] = str(max(0, int(expires * 1000)))
        parcels = [Parcel("", _QUEUE, encode_properties(kept), body, mandatory=True)] if keep else []
        parcels.append(Parcel(_EXCHANGE, "", encode_properties({"content_type": "application/json"}), body))
        outlet.publish(parcels, timeout=_TIMEOUT)
        self._note([word])


def _words(items: Iterable[Incoming]) -> list[_Word]:
    words: list[_Word] = []
    for incoming in items:
        try:
            words.append(_decode(incoming.body))
        except (msgspec.MsgspecError, UnicodeError):
            continue  # not ours: left where it is
    return words
