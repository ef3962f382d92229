"""Let many processes use one broker at once, and kill them at any instant.

A claimer leaves no word with us, since the kill could come in between: with each message it finishes it publishes
one of the same id to the queue "done", so the store itself tells what was finished, and how often.
"""

from __future__ import annotations

import os
import pickle
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import Any, Self

from umbel.brokers.base import Broker, Claim, Settlement
from umbel.contrib.testing.contracts.calls import finish, is_woken, to

__all__ = ["Crowd", "elsewhere"]

_LEASE = 0.5  # seconds; short, so that the messages of the killed come back soon


class Crowd:
    """Processes that publish to and claim from the queue "q" of one broker; all end with the crowd."""

    def __init__(self, open_broker: Callable[[], Broker]) -> None:
        self._open = open_broker
        self._broker = open_broker()
        self._names = count()
        self._chance = random.Random(11)
        self._all: list[subprocess.Popen[bytes]] = []
        self._claimers: list[subprocess.Popen[bytes]] = []
        self._opened: list[Broker] = [self._broker]
        self.atomic = self._broker.features.atomic

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            _end(process)
        for broker in self._opened:
            broker.close()

    def broker(self, *queues: str) -> Broker:
        """Open a connection in this process."""
        broker = self._open()
        self._opened.append(broker)
        broker.consume(queues)
        return broker

    def publishers(self, processes: int, *, messages: int, batch: int) -> list[str]:
        """Let each of *processes* publish so many messages; return the ids of all."""
        names = [next(self._names) for _ in range(processes)]
        self._all += [_start(_publish, self._open, name, messages, batch) for name in names]
        return [f"{name}-{i // batch}/{i % batch}" for name in names for i in range(messages)]

    def publish(self, messages: int) -> list[str]:
        """Publish so many messages from this process; return their ids."""
        ids = [f"{next(self._names)}" for _ in range(messages)]
        self._broker.publish([to("q", task_id) for task_id in ids])
        return ids

    def claimers(self, processes: int) -> None:
        """Let *processes* more claim and finish messages until the crowd ends."""
        started = [_start(_claim, self._open, next(self._names)) for _ in range(processes)]
        self._all += started
        self._claimers += started

    def kill_a_claimer(self) -> None:
        """Kill the oldest claimer, at a random instant of its work."""
        victim = self._claimers.pop(0)
        assert victim.stdout is not None
        assert victim.stdout.read(1) == b"!", "a claimer failed at its start"
        time.sleep(self._chance.random() * 0.03)
        assert victim.poll() is None, "a claimer ended by itself"
        _end(victim)

    def publish_until_killed(self, *, after: float, batch: int) -> set[str]:
        """Let one process publish and kill it so many seconds after its start; return the ids it was sure of."""
        process = _start(_publish, self._open, next(self._names), 1_000_000, batch)
        self._all.append(process)
        assert process.stdout is not None
        word = process.stdout.read(1)
        time.sleep(after)
        process.kill()
        said = word + process.stdout.read()
        _end(process)
        batches = said[: said.rfind(b"\n")].decode().split("\n")  # its last line may be cut
        return {f"{line}/{i}" for line in batches for i in range(batch)}

    def drained(self, messages: int, *, patience: float = 40.0) -> bool:
        """Wait until so many are finished and none is left; tell whether it came to that."""
        until = time.monotonic() + patience
        while True:
            sizes = self._broker.sizes(["q", "done"])
            if "q" in sizes and "done" in sizes:
                left = sizes["q"].ready + sizes["q"].delayed + sizes["q"].claimed
                if left == 0 and sizes["done"].ready >= messages:
                    return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)

    def finished(self) -> Counter[str]:
        """Return the ids that were finished, and how often each."""
        return self._take("done")

    def stored(self) -> Counter[str]:
        """Return the ids that wait, and how often each."""
        return self._take("q")

    def _take(self, queue: str) -> Counter[str]:
        broker = self.broker(queue)
        ids: Counter[str] = Counter()
        while deliveries := broker.settle((), Claim(limit=1000, lease=1000, owner="judge")).deliveries:
            ids.update(each.message.id for each in deliveries)
        return ids


@contextmanager
def elsewhere(work: Callable[..., None], *arguments: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``work(*arguments)`` in another process, an importable function with picklable arguments."""
    process = _start(work, *arguments)
    try:
        yield process
    finally:
        _end(process)


def _start(work: Callable[..., None], *arguments: Any) -> subprocess.Popen[bytes]:
    # A fresh interpreter: a fork would inherit the threads and connections of the tests.
    process = subprocess.Popen(
        [sys.executable, "-c", "import pickle, sys; job = pickle.load(sys.stdin.buffer); job[0](*job[1])"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(pickle.dumps((work, arguments)))
    process.stdin.close()
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _publish(open_broker: Callable[[], Broker], name: int, messages: int, batch: int) -> None:
    with closing(open_broker()) as broker:
        for number in range(messages // batch):
            broker.publish([to("q", f"{name}-{number}/{i}") for i in range(batch)])
            os.write(1, f"{name}-{number}\n".encode())  # now it may be promised


def _claim(open_broker: Callable[[], Broker], name: int) -> None:
    chance = random.Random(name)
    broker = open_broker()
    broker.consume(["q"])
    settlements: list[Settlement] = []
    os.write(1, b"!")
    while True:
        turn = broker.settle(settlements, Claim(limit=chance.randint(1, 4), lease=_LEASE, owner=f"claimer-{name}"))
        settlements = [finish(each, follow_ups=(to("done", each.message.id),)) for each in turn.deliveries]
        if settlements:
            select.select([], [], [], chance.random() * 0.004)  # the work
        else:
            is_woken(broker, min(broker.next_due() or 1.0, 0.2))
