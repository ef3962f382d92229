"""Measure the SQLite queue below the worker: ``python benchmarks/micro_sqlite.py [part of a name]``.

Messages a second, as the clock sees it and for each second of CPU (what a quiet core would do). Beside them what bare
SQL reaches in the same run, since machines differ and drift; the ratio is that of the CPU.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

from umbel.backends.sqlite import SqliteBackend
from umbel.brokers.base import Claim, Done, Lease, Publication, Settlement
from umbel.brokers.sqlite import Location, SqliteBroker
from umbel.wire.message import Message, Route
from umbel.wire.record import Record

ROUNDS = 5
BODY = b'[[1, 2], {"name": "world"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
ROUTE = Route("", "celery")
CLAIM = "node-1@host.example"

_numbers = count()


class Speed(NamedTuple):
    """Messages a second."""

    wall: float
    cpu: float


Work = Callable[[Location], Speed]


def publication(body: bytes = BODY) -> Publication:
    """Return a publication as ordinary calls make it."""
    number = next(_numbers)
    task_id = f"{number:08x}-5c1b-4a7e-9f3d-3f1c2b4a5d6e"
    return Publication(
        message=Message(
            id=task_id,
            task="shop.tasks.add",
            body=body,
            root_id=task_id,
            argsrepr="(1, 2)",
            kwargsrepr="{'name': 'world'}",
            origin="gen4242@host.example",
            correlation_id=task_id,
        ),
        route=ROUTE,
    )


def publish(location: Location, messages: int, batch: int, body: bytes = BODY) -> Speed:
    """Publish *messages*, so many in a *batch*."""
    broker = SqliteBroker(location)
    broker.publish([publication()])
    batches = [[publication(body) for _ in range(batch)] for _ in range(messages // batch)]
    began = Stopwatch()
    for some in batches:
        broker.publish(some)
    speed = began.per_second(messages)
    broker.close()
    return speed


def drain(location: Location, messages: int, batch: int, *, results: bool = False, body: bytes = BODY) -> Speed:
    """Claim and settle *messages*, a *batch* in each exchange."""
    broker = SqliteBroker(location)
    for _ in range(messages // 1000):
        broker.publish([publication(body) for _ in range(1000)])
    broker.consume(["celery"])
    broker.fileno()
    claim = Claim(limit=batch, lease=30.0, owner=CLAIM)
    done = Done()
    settlements: list[Settlement] = []
    left = messages
    began = Stopwatch()
    while left or settlements:
        deliveries = broker.settle(settlements, claim).deliveries
        left -= len(deliveries)
        settlements = [
            Settlement(
                lease=Lease(each.tag, each.token),
                verdict=done,
                records=(Record(id=each.message.id, state="SUCCESS", payload=b"x" * 200, expires=86400.0),)
                if results
                else (),
            )
            for each in deliveries
        ]
    speed = began.per_second(messages)
    broker.close()
    return speed


def round_trip(location: Location, rounds: int) -> Speed:
    """Return how many times a second a message is published, claimed, settled with a result, and the result read."""
    sender, worker, backend = SqliteBroker(location), SqliteBroker(location), SqliteBackend(location)
    worker.consume(["celery"])
    worker.fileno()
    claim = Claim(limit=8, lease=30.0, owner=CLAIM)
    worker.settle((), claim)
    settlements: list[Settlement] = []
    began = Stopwatch()
    for _ in range(rounds):
        one = publication()
        sender.publish([one])
        (delivery,) = worker.settle(settlements, claim).deliveries
        watch = backend.watch([one.message.id])
        record = Record(id=one.message.id, state="SUCCESS", payload=b"x" * 200, expires=86400.0)
        worker.settle([Settlement(lease=Lease(delivery.tag, delivery.token), records=(record,))])
        watch.wait(5.0)
        backend.fetch([one.message.id])
        watch.close()
    speed = began.per_second(rounds)
    for each in (sender, worker, backend):
        each.close()
    return speed


def bare_publish(location: Location, messages: int, batch: int) -> Speed:
    """Do with bare SQL what `publish` does."""
    connection = bare(location)
    connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, message BLOB)")
    rows = [(b"x" * 330,)] * batch
    began = Stopwatch()
    for _ in range(messages // batch):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO messages (message) VALUES (?)", rows)
        connection.execute("COMMIT")
    speed = began.per_second(messages)
    connection.close()
    return speed


def bare_drain(location: Location, messages: int, batch: int) -> Speed:
    """Do with bare SQL what `drain` does, without leases, tokens and priorities."""
    connection = bare(location)
    execute = connection.execute
    execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, until REAL, message BLOB)")
    execute("BEGIN")
    connection.executemany("INSERT INTO messages (message) VALUES (?)", [(b"x" * 330,)] * messages)
    execute("COMMIT")
    held: list[tuple[int]] = []
    place = 0
    began = Stopwatch()
    while place < messages or held:
        execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM messages WHERE id = ?", held)
        rows = execute(
            "UPDATE messages SET until = ? WHERE id IN (SELECT id FROM messages WHERE id > ? LIMIT ?)"
            " RETURNING id, message",
            (time.time(), place, batch),
        ).fetchall()
        execute("COMMIT")
        held = [(row[0],) for row in rows]
        place += len(rows)
    speed = began.per_second(messages)
    connection.close()
    return speed


def bare(location: Location) -> sqlite3.Connection:
    """Open a file without tables."""
    connection = sqlite3.connect(location.path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {location.durability}")
    return connection


class Stopwatch:
    """Seconds of the wall or of the CPU."""

    def __init__(self) -> None:
        """Begin."""
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def per_second(self, messages: int) -> Speed:
        """Return how fast *messages* were."""
        return Speed(messages / (time.perf_counter() - self.wall), messages / (time.process_time() - self.cpu))


def measure(name: str, target: int | None, work: Work, bare_work: Work | None, durability: str) -> None:
    """Print one line: medians of some rounds, ours and bare in turn."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="umbel-") as folder:
            if bare_work is not None:
                bare.append(bare_work(Location(Path(folder) / "bare.db", durability)))
            ours.append(work(Location(Path(folder) / "queue.db", durability)))
    wall, cpu = statistics.median(each.wall for each in ours), statistics.median(each.cpu for each in ours)
    line = f"{name:46}{wall:10,.0f}{cpu:12,.0f}" + (f"{target:10,}" if target else " " * 10)
    if bare:
        ceiling = statistics.median(each.cpu for each in bare)
        line += f"{ceiling:12,.0f}{cpu / ceiling:8.2f}"
    print(line, flush=True)


def main(only: str = "") -> None:
    """Run the rows whose name contains *only*."""
    print(f"{'messages a second':46}{'wall':>10}{'CPU':>12}{'target':>10}{'bare SQL':>12}{'ratio':>8}")
    big = b"x" * 1000
    rows: list[tuple[str, int | None, Work, Work | None]] = [
        ("publish, one at a time", 12_000, lambda at: publish(at, 10_000, 1), lambda at: bare_publish(at, 10_000, 1)),
        ("publish, 10 at once", None, lambda at: publish(at, 30_000, 10), lambda at: bare_publish(at, 30_000, 10)),
        ("publish, 1000 at once", 90_000, lambda at: publish(at, 50_000, 1000),
         lambda at: bare_publish(at, 50_000, 1000)),
        ("publish, one at a time, full durability", None, lambda at: publish(at, 500, 1),
         lambda at: bare_publish(at, 500, 1)),
        ("claim + settle, batch 1", 15_000, lambda at: drain(at, 10_000, 1), lambda at: bare_drain(at, 10_000, 1)),
        ("claim + settle, batch 10", None, lambda at: drain(at, 30_000, 10), lambda at: bare_drain(at, 30_000, 10)),
        ("claim + settle, batch 100", 60_000, lambda at: drain(at, 50_000, 100),
         lambda at: bare_drain(at, 50_000, 100)),
        ("claim + settle, batch 100, 100,000 deep", None, lambda at: drain(at, 100_000, 100), None),
        ("claim + settle + result, batch 1", None, lambda at: drain(at, 10_000, 1, results=True), None),
        ("claim + settle + result, batch 100", 40_000, lambda at: drain(at, 50_000, 100, results=True), None),
        ("claim + settle, batch 10, 1 kB", None, lambda at: drain(at, 20_000, 10, body=big), None),
        ("claim + settle, batch 10, 10 kB", None, lambda at: drain(at, 5_000, 10, body=big * 10), None),
        ("claim + settle, batch 10, 100 kB", None, lambda at: drain(at, 1_000, 10, body=big * 100), None),
        ("publish, one at a time, 100 kB", None, lambda at: publish(at, 1_000, 1, big * 100), None),
        ("publish, one at a time, 1 MB", None, lambda at: publish(at, 100, 1, big * 1000), None),
        ("round trip: publish, claim, result, wake, read", None, lambda at: round_trip(at, 2_000), None),
    ]  # fmt: skip
    for name, target, work, bare_work in rows:
        if only in name:
            measure(name, target, work, bare_work, "full" if "full durability" in name else "normal")


if __name__ == "__main__":
    main(*sys.argv[1:2])
