"""Keep dead letters in a durable queue of our own, with the evidence in a header."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from umbel.brokers.amqp_link import Link
from umbel.brokers.amqp_messages import as_letter, letter_content, revived
from umbel.brokers.amqp_outlet import Parcel
from umbel.brokers.amqp_shelf import browse
from umbel.brokers.amqp_taps import Held
from umbel.brokers.base import DeadLetter
from umbel.wire.protocol import MessageReader

__all__ = ["QUEUE", "Graves"]

QUEUE: Final = "umbel.dead"


class Graves:
    """The dead-letter set of one vhost."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = itertools.count()

    def parcel(self, record: Held, *, reason: str, evidence: tuple[str, ...], crashes: int) -> Parcel:
        """Return what to publish so that *record* lies in the set."""
        message, route = record.arrival.message, record.arrival.route
        letter = DeadLetter(
            tag=f"{time.time_ns():020d}-{next(self._numbers):06d}",
            id=message.id,
            task=message.task,
            queue=record.queue,
            reason=reason,
            evidence=evidence,
            crashes=crashes,
            died_at=self._clock(),
            message=message,
        )
        content = letter_content(record.incoming.properties, letter, route)
        return Parcel("", QUEUE, content, record.incoming.body, mandatory=True)

    def read(self, link: Link, reader: MessageReader, *, limit: int, after: int | str | None) -> list[DeadLetter]:
        """Return dead letters; see `Broker.dead`."""
        with browse(link, QUEUE) as shelf:
            letters = sorted((as_letter(each, reader) for each in shelf.items), key=_tag)
        return [letter for letter in letters if after is None or _tag(letter) > str(after)][:limit]

    def find(self, link: Link, reader: MessageReader, task_id: str) -> DeadLetter | None:
        """Return the newest letter of that task, or None."""
        found = [letter for letter in self.read(link, reader, limit=1 << 60, after=None) if letter.id == task_id]
        return found[-1] if found else None

    def take(
        self,
        link: Link,
        reader: MessageReader,
        ids: Iterable[str],
        send: Callable[[Sequence[Parcel]], Any] | None,
    ) -> int:
        """Take the letters of *ids* out, having *send* put them back into their queues first; return how many."""
        wanted = set(ids)
        if not wanted:
            return 0
        with browse(link, QUEUE) as shelf:
            found = [each for each in shelf.items if as_letter(each, reader).id in wanted]
            if send is not None and found:
                alive = [(each, *revived(each)) for each in found]
                send([Parcel("", queue, content, each.body, mandatory=True) for each, content, queue in alive])
            shelf.taken = found
        return len(found)


def _tag(letter: DeadLetter) -> str:
    return str(letter.tag)
