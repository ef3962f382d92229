"""Count and walk through what lies on a Redis server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from umbel.brokers.base import QueueSize
from umbel.brokers.redis_link import Argument, Link
from umbel.brokers.redis_lost import Lost, queue_of
from umbel.brokers.redis_names import Names
from umbel.brokers.redis_parcels import Parcels, published

__all__ = ["sizes", "task_ids"]

_CHUNK = 500


def sizes(
    link: Link,
    names: Names,
    parcels: Parcels,
    lost: Lost,
    queues: Iterable[str] | None,
    *,
    now: float,
    heard: Mapping[str, int],
    in_hand: Mapping[str, int],
) -> dict[str, QueueSize]:
    """Return the sizes of *queues* (None = all); what was *heard* by its reader, or is *in_hand*, counts there."""
    known = [name.decode() for name in link.call(b"ZRANGE", names.own("queues"), 0, -1)]
    wanted = sorted(known) if queues is None else list(dict.fromkeys(queues))
    if not wanted:
        return {}
    commands: list[tuple[Argument, ...]] = []
    for queue in wanted:
        commands += [(b"LLEN", key) for key in names.lists(queue)]
        commands += [(b"ZCOUNT", names.delayed(queue), b"-inf", now), (b"ZCARD", names.delayed(queue))]
        commands.append((b"LINDEX", names.lists(queue)[0], -1))
    found = iter(link.pipeline(commands))
    claimed = _claimed(link, names, lost)
    counted: dict[str, QueueSize] = {}
    for queue in wanted:
        waiting = sum(next(found) for _ in names.steps)
        due, delayed, oldest = next(found), next(found), next(found)
        held = claimed[queue] + in_hand.get(queue, 0)
        if queue in known or waiting or delayed or held:
            counted[queue] = QueueSize(
                ready=waiting + due + heard.get(queue, 0),
                delayed=delayed - due,
                claimed=held,
                oldest=_age(parcels, oldest, now),
            )
    return counted


def task_ids(link: Link, names: Names, parcels: Parcels, lost: Lost) -> Iterator[str]:
    """Yield the task ids of all messages that are here, in lists, delayed or in some hand."""

    def messages() -> Iterator[bytes]:
        for name in link.call(b"ZRANGE", names.own("queues"), 0, -1):
            for key in names.lists(name.decode()):
                for start in range(0, link.call(b"LLEN", key), _CHUNK):
                    yield from link.call(b"LRANGE", key, start, start + _CHUNK - 1)
            yield from (member[1:] for member in link.call(b"ZRANGE", names.delayed(name.decode()), 0, -1))
        yield from (data for _, data in lost.held())

    for data in messages():
        yield parcels.read(data, "", plain=True).envelope.message.id


def _claimed(link: Link, names: Names, lost: Lost) -> Counter[str]:
    unacked, index, *_ = names.turn()
    tags = [tag.decode("utf-8", "replace") for tag in link.call(b"ZRANGE", index, 0, -1)]
    foreign = [tag for tag in tags if tag.count("|") < 3]
    claimed = Counter(queue_of(tag) for tag in tags if tag.count("|") >= 3)
    for start in range(0, len(foreign), _CHUNK):
        for entry in link.call(b"HMGET", unacked, *foreign[start : start + _CHUNK]):
            claimed.update(queue for queue, _ in lost.foreign(entry))
    return claimed


def _age(parcels: Parcels, data: bytes | None, now: float) -> float | None:
    if data is None:
        return None
    since = published(parcels.read(data, "", plain=True).envelope.delivery_tag)
    return None if since is None else max(0.0, now - since)
