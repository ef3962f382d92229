"""Measure Redis below the worker: ``UMBEL_TEST_REDIS=redis://… python benchmarks/micro_redis.py [part of a name]``.

Messages a second as the clock sees it, and the microseconds of each that the server spends in scripts and commands:
what stands in the way when a core is all there is. The database is emptied.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import hiredis

from umbel.brokers.base import Claim, Done, Lease, Publication, Settlement
from umbel.brokers.redis import RedisBroker
from umbel.brokers.redis_address import parse_address
from umbel.brokers.redis_link import Link
from umbel.brokers.redis_names import Names
from umbel.wire.message import Message, Route
from umbel.wire.record import Record

ROUNDS = 5
COUNT = 10_000
BODY = b'[[1, 2], {"name": "world"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
ADDRESS = parse_address(os.environ.get("UMBEL_TEST_REDIS", "redis://127.0.0.1:6379/15"), {})

_numbers = count()


def publication() -> Publication:
    """Return a publication as ordinary calls make it."""
    task_id = f"{next(_numbers):08x}-5c1b-4a7e-9f3d-3f1c2b4a5d6e"
    message = Message(id=task_id, task="shop.tasks.add", body=BODY, root_id=task_id, origin="gen4242@host.example")
    return Publication(message=message, route=Route("", "celery"))


def ping(link: Link, _broker: RedisBroker) -> int:
    """A round trip with nothing in it."""
    for _ in range(COUNT // 5):
        link.call("PING")
    return COUNT // 5


def publish_one(_link: Link, broker: RedisBroker) -> int:
    """One message after the other."""
    for _ in range(COUNT // 5):
        broker.publish([publication()])
    return COUNT // 5


def publish_many(_link: Link, broker: RedisBroker) -> int:
    """A thousand at once."""
    for _ in range(COUNT // 1000):
        broker.publish([publication() for _ in range(1000)])
    return COUNT


def _record(task_id: str) -> Record:
    return Record(id=task_id, state="SUCCESS", payload=BODY, expires=1e5)


def claim(batch: int, *, results: bool = False) -> Callable[[Link, RedisBroker], int]:
    """Settle what was claimed and claim again, *batch* at a time."""

    def work(_link: Link, broker: RedisBroker) -> int:
        total = COUNT if batch > 1 else COUNT // 5
        done: list[Settlement] = []
        taken = 0
        while taken < total:
            deliveries = broker.settle(done, Claim(limit=batch, lease=30.0, owner="node-1@host")).deliveries
            done = [
                Settlement(
                    lease=Lease(each.tag, each.token),
                    verdict=Done(),
                    records=(Record(id=each.message.id, state="SUCCESS", payload=BODY, expires=1e5),)
                    if results
                    else (),
                )
                for each in deliveries
            ]
            taken += len(deliveries)
        broker.settle(done)
        return total

    return work


def claim_bare(batch: int) -> Callable[[Link, RedisBroker], int]:
    """The same with the least that Celery's keys allow: one script, a client that decodes nothing."""
    source = """
    for i = 2, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]); redis.call('ZREM', KEYS[3], ARGV[i]) end
    local found = redis.call('RPOP', KEYS[1], ARGV[1]) or {}
    for i, message in ipairs(found) do
      local tag = string.sub(message, -39, -4)
      redis.call('HSET', KEYS[2], tag, message); redis.call('ZADD', KEYS[3], 1, tag)
    end
    return found
    """

    def work(link: Link, _broker: RedisBroker) -> int:
        total = COUNT if batch > 1 else COUNT // 5
        digest = link.call("SCRIPT", "LOAD", source)
        tags: list[Any] = []
        taken = 0
        while taken < total:
            command = ("EVALSHA", digest, 3, "celery", "unacked", "unacked_index", batch, *tags)
            (found,) = link.send(hiredis.pack_command(command), 1)
            tags = [message[-39:-3] for message in found]
            taken += len(found)
        return total

    return work


def idle_claim(_link: Link, broker: RedisBroker) -> int:
    """A claim that brings nothing and asks to be told of changes, as an idle worker does when it was woken."""
    broker.fileno()
    for _ in range(COUNT // 5):
        broker.settle((), Claim(limit=1, lease=30.0, owner="node-1@host"))
    return COUNT // 5


WORKLOADS: dict[str, tuple[Callable[[Link, RedisBroker], int], bool]] = {  # and whether the queue is filled before
    "ping": (ping, False),
    "publish one": (publish_one, False),
    "publish 1000 at once": (publish_many, False),
    "claim, nothing there": (idle_claim, False),
    **{f"claim, batch {batch}": (claim(batch), True) for batch in (1, 10, 100)},
    **{f"claim with results, batch {batch}": (claim(batch, results=True), True) for batch in (1, 10, 100)},
    **{f"bare claim, batch {batch}": (claim_bare(batch), True) for batch in (1, 10, 100)},
}


def measure(work: Callable[[Link, RedisBroker], int], *, filled: bool) -> tuple[float, float]:
    """Return messages a second, and microseconds of the server for each."""
    link, broker = Link(ADDRESS), RedisBroker(ADDRESS, Names())
    link.call("FLUSHDB")
    if filled:
        for _ in range(COUNT // 1000):
            broker.publish([publication() for _ in range(1000)])
    broker.consume(["celery"])
    before = _busy(link)
    began = time.perf_counter()
    total = work(link, broker)
    wall = time.perf_counter() - began
    busy = _busy(link) - before
    broker.close()
    link.close()
    return total / wall, busy / total


def _busy(link: Link) -> float:
    """Return the microseconds that the server has spent in commands; those inside a script count with it."""
    text: bytes = link.call("INFO", "commandstats")
    lines = [line for line in text.decode().splitlines() if line.startswith("cmdstat_")]
    outer = ("evalsha", "lpush", "ping", "client|caching")
    named = {line.partition(":")[0].removeprefix("cmdstat_"): line for line in lines}
    return sum(float(named[name].partition("usec=")[2].partition(",")[0]) for name in outer if name in named)


def main() -> None:
    """Print a table."""
    wanted = " ".join(sys.argv[1:])
    print(f"{'':32}{'messages/s':>12}{'server µs':>12}")
    for name, (work, filled) in WORKLOADS.items():
        if wanted in name:
            rounds = [measure(work, filled=filled) for _ in range(ROUNDS)]
            rate, busy = (statistics.median(values) for values in zip(*rounds, strict=True))
            print(f"{name:32}{rate:>12,.0f}{busy:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
