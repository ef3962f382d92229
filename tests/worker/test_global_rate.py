"""A limit that all workers share is decided when claiming: what may not start yet goes back to the broker."""

from __future__ import annotations

import os
import time
from contextlib import closing

import pytest

from umbel import Umbel
from umbel.brokers.base import Claim, Delivery, Lease, Publication, Release, Settlement
from umbel.brokers.memory import MemoryBroker, MemoryStore
from umbel.contrib.testing.clock import VirtualClock
from umbel.execution.outcome import Outcome
from umbel.pools.base import Finished, Job
from umbel.wire.message import Message, Route
from umbel.worker.admit import Policy
from umbel.worker.core import Rules, WorkerState, room, step
from umbel.worker.facts import Arrived, Manner, Reported, Reserved, Stopped, Ticked
from umbel.worker.orders import Reserve, Run, Settle

POLICIES = {
    "limited": Policy(global_interval=0.5),
    "early": Policy(global_interval=0.5, acks_late=False),
    "free": Policy(),
}


def a_worker(slots=4, **rules):
    return WorkerState(slots=slots, policy=POLICIES.get, rules=Rules(**rules))


def delivery(tag, task="limited", **fields):
    message = Message(id=f"t{tag}", task=task, body=b"")
    return Delivery(message=message, queue="q", route=Route("", "q"), tag=tag, token=1, **fields)


def test_what_is_limited_asks_for_its_starts_and_the_rest_runs_at_once():
    state = a_worker()
    orders = step(state, Arrived((delivery(1), delivery(2, "free"), delivery(3)), 0.0), now=0.0)

    assert orders == [Run([Job(2, delivery(2, "free"))]), Reserve(task="limited", interval=0.5, tags=[1, 3])]


def test_what_may_start_runs_what_may_soon_waits_here_and_the_rest_goes_back():
    state = a_worker(hold=1.0)
    step(state, Arrived(tuple(delivery(i) for i in (1, 2, 3, 4, 5)), 0.0), now=0.0)
    assert state.submitted == 0

    orders = step(state, Reserved(tags=[1, 2, 3, 4, 5], first=0.0, interval=0.5), now=0.0)

    back = [Settlement(lease=Lease(i, 1), verdict=Release(delay=seconds)) for i, seconds in ((4, 1.5), (5, 2.0))]
    assert orders == [Settle(back), Run([Job(1, delivery(1))])]
    assert (state.submitted, room(state)) == (1, 3)  # what waits holds no slot
    assert step(state, Ticked(), now=0.5)[0] == Run([Job(2, delivery(2))])


def test_what_comes_back_has_its_start_already():
    again = delivery(1, redelivered=True)
    assert step(a_worker(), Arrived((again,), 0.0), now=0.0) == [Run([Job(1, again)])]


def test_a_limited_task_that_is_acknowledged_early_waits_for_its_start_too():
    state = a_worker()
    step(state, Arrived((delivery(1, "early"),), 0.0), now=0.0)
    orders = step(state, Reserved(tags=[1], first=0.0, interval=0.5), now=0.0)
    assert orders[-1] == Run([Job(1, delivery(1, "early"))])


def test_a_worker_that_stops_reserves_nothing():
    state = a_worker()
    step(state, Stopped(Manner.WARM), now=0.0)
    orders = step(state, Arrived((delivery(1),), 0.0), now=0.0)
    assert orders == [Settle([Settlement(lease=Lease(1, 1), verdict=Release())])]
    assert step(state, Reserved(tags=[1], first=0.0, interval=0.5), now=0.0) == []


def test_three_workers_keep_one_limit_and_delay_nobody_else():
    clock = VirtualClock()
    store = MemoryStore(clock=clock)
    workers = [(a_worker(hold=0.0), MemoryBroker(store)) for _ in range(3)]
    for _, broker in workers:
        broker.consume(["q"])
    sender = MemoryBroker(store)
    for i in range(100):
        for task in ("limited", "limited", "free"):
            message = Message(id=f"{task}{i}", task=task, body=b"")
            sender.publish([Publication(message=message, route=Route("", "q"))])
    begin = clock()
    starts: dict[str, list[float]] = {"limited": [], "free": []}

    def carry_out(state, broker, orders):
        for order in orders:
            if isinstance(order, Reserve):
                first = broker.reserve(order.task, order.interval, len(order.tags))
                fact = Reserved(tags=order.tags, first=first, interval=order.interval)
                carry_out(state, broker, step(state, fact, now=clock()))
            elif isinstance(order, Settle):
                assert not broker.settle(order.settlements).refused
            elif isinstance(order, Run):
                for job in order.jobs:
                    starts[job.payload.message.task].append(clock() - begin)
                receipts = [Finished(job.tag, Outcome(state="SUCCESS"), 7, 0.0001) for job in order.jobs]
                carry_out(state, broker, step(state, Reported(receipts), now=clock()))

    for _ in range(1100):
        for state, broker in workers:
            while deliveries := broker.settle((), Claim(limit=max(1, room(state)), lease=60.0, owner="w")).deliveries:
                carry_out(state, broker, step(state, Arrived(deliveries, clock()), now=clock()))
        clock.advance(0.1)

    assert starts["free"] == [0.0] * 100
    assert len(starts["limited"]) == 200
    assert starts["limited"] == pytest.approx([0.5 * i for i in range(200)], abs=0.11)
    assert store.held == {}


@pytest.mark.process
@pytest.mark.timeout(120)
def test_two_workers_on_sqlite_start_no_task_before_its_time(tmp_path, start_workers):
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    app = Umbel("limits", broker=url, backend=url, set_as_current=False)

    @app.task(name="limited", global_rate_limit="10/s")
    def limited():
        with (tmp_path / "runs").open("a") as file:
            file.write(f"{time.time()}\n")

    with app:
        begin = time.time()
        for _ in range(15):
            limited.delay()
        start_workers(app, 2)
        patience = time.monotonic() + 40
        with closing(app.open_broker()) as broker:
            while any(size.ready + size.delayed + size.claimed for size in broker.sizes().values()):
                assert time.monotonic() < patience
                time.sleep(0.05)

    starts = sorted(map(float, (tmp_path / "runs").read_text().split()))
    assert len(starts) == 15
    for i, start in enumerate(starts):
        assert start >= begin + 0.1 * i - 0.02


@pytest.fixture
def start_workers():
    """Start workers in forked processes, and stop them at the end."""
    pids = []

    def start(app, count):
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    app.Worker(pool="solo").start()
                finally:
                    os._exit(0)
            pids.append(pid)

    yield start
    for pid in pids:
        os.kill(pid, 15)
        os.waitpid(pid, 0)
