"""Whatever happens in whatever order: nothing is lost, nothing is settled twice, no slot runs two jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.brokers.base import Bury, Delivery, Done, Lease, Release, Settlement
from umbel.execution.outcome import Outcome
from umbel.pools.base import Finished, Job, Lost, Receipt, Started
from umbel.wire.message import Message, Route
from umbel.worker.admit import Policy
from umbel.worker.core import Rules, WorkerState, is_over, next_timer, room, step
from umbel.worker.facts import Arrived, Concluded, Fact, Manner, Reported, Stopped, Ticked, Withdrawn
from umbel.worker.orders import Acknowledge, Conclude, Halt, InterruptJob, Order, Run, Settle, Withdraw

POLICIES = {
    "plain": Policy(),
    "early": Policy(acks_late=False),
    "limited": Policy(hard_limit=5.0, acks_on_timeout=False),
    "once": Policy(retry_lost=False),
    "slow": Policy(interval=2.0),
}
TASKS = [*POLICIES, "unknown"]
CRASH_LIMIT = 3


class World:
    """A broker and a pool small enough to be obviously right, around a real core."""

    def __init__(self, tasks: list[str], slots: int, etas: list[float]) -> None:
        self.now = 0.0
        self.slots = slots
        self.tokens = count(1)
        self.waiting = {
            i: Delivery(
                message=Message(
                    id=str(i), task=task, body=b"", eta=datetime.fromtimestamp(eta, tz=UTC) if eta else None
                ),
                queue="q",
                route=Route("", "q"),
                tag=i,
                token=0,
            )
            for i, (task, eta) in enumerate(zip(tasks, etas, strict=True))
        }
        self.claimed: dict[Lease, Delivery] = {}
        self.settled: list[str] = []  # ids, in the order of their ends
        self.early: set[str] = set()  # acknowledged before they ran
        self.queue: list[Job] = []  # in the pool
        self.begun: list[int] = []  # tags of those that run
        self.state = WorkerState(slots=slots, policy=POLICIES.get, rules=Rules(crash_limit=CRASH_LIMIT, patience=1.0))

    def learn(self, fact: Fact) -> None:
        for order in step(self.state, fact, now=self.now):
            self.obey(order)
        self.begin()

    def obey(self, order: Order) -> None:
        match order:
            case Run(jobs):
                self.queue += jobs
            case Acknowledge(settlements):
                for one in settlements:
                    self.early.add(self.claimed.pop(self.of(one)).message.id)
            case Settle(settlements):
                for one in settlements:
                    self.settle(one)
            case Conclude():
                self.learn(Concluded(order.tag, Outcome(state="FAILURE", reason=order.evidence)))
            case Withdraw(limit):
                idle = [job.tag for job in self.queue if job.tag not in self.begun][::-1][:limit]
                self.queue = [job for job in self.queue if job.tag not in idle]
                self.learn(Withdrawn(idle))
            case InterruptJob():
                if order.tag in self.begun:
                    self.end(Lost(tag=order.tag, pid=1, evidence="killed", at_fault=True, interrupted=True))
            case Halt():
                for tag in list(self.begun):
                    self.end(Lost(tag=tag, pid=1, evidence="halt", at_fault=False, interrupted=True))

    @staticmethod
    def of(settlement: Settlement) -> Lease:
        assert settlement.lease is not None
        return settlement.lease

    def settle(self, one: Settlement) -> None:
        if one.lease is None:
            return
        delivery = self.claimed.pop(one.lease)  # KeyError = settled twice
        match one.verdict:
            case Done() | Bury():
                self.settled.append(delivery.message.id)
            case Release() as release:
                assert isinstance(delivery.tag, int)
                self.waiting[delivery.tag] = msgspec.structs.replace(
                    delivery, crashes=delivery.crashes + release.counted
                )

    def claim(self) -> None:
        tags = list(self.waiting)[: room(self.state)]
        deliveries = [msgspec.structs.replace(self.waiting.pop(tag), token=next(self.tokens)) for tag in tags]
        self.claimed |= {Lease(one.tag, one.token): one for one in deliveries}
        self.learn(Arrived(tuple(deliveries), self.now))

    def begin(self) -> None:
        started: list[Receipt] = []
        for job in self.queue:
            if len(self.begun) == self.slots:
                break
            if job.tag not in self.begun:
                self.begun.append(job.tag)
                if job.announce:
                    started.append(Started(job.tag, 1))
        if started:
            self.learn(Reported(started))

    def end(self, receipt: Receipt) -> None:
        self.begun.remove(receipt.tag)
        self.queue = [job for job in self.queue if job.tag != receipt.tag]
        self.learn(Reported([receipt]))

    def check(self) -> None:
        assert len(self.begun) <= self.slots
        assert len(self.settled) == len(set(self.settled))
        assert self.state.submitted == len(self.queue)
        kept = {held.delivery.message.id for held in self.state.held.values()}
        assert {one.message.id for one in self.claimed.values()} <= kept, "claimed and forgotten"


ACTIONS = st.lists(st.sampled_from(["claim", "finish", "die", "innocent", "tick", "long tick"]), max_size=60)


@given(
    tasks=st.lists(st.sampled_from(TASKS), min_size=1, max_size=12),
    slots=st.integers(1, 3),
    actions=ACTIONS,
    manner=st.sampled_from([None, Manner.WARM, Manner.COLD]),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_nothing_is_lost_or_settled_twice_whatever_happens(
    tasks: list[str], slots: int, actions: list[str], manner: Manner | None, data: st.DataObject
):
    etas = data.draw(st.lists(st.sampled_from([0.0, 3.0, 30.0]), min_size=len(tasks), max_size=len(tasks)))
    world = World(tasks, slots, etas)

    for action in actions:
        act(world, action)
        world.check()
    if manner is not None:
        world.learn(Stopped(manner))
    for _ in range(500):
        if is_over(world.state) or not (world.waiting or world.state.held):
            break
        for action in ("claim", "finish", "long tick"):
            act(world, action)
            world.check()

    assert not world.claimed
    assert not world.state.held
    assert len(world.settled) + len(world.early) + len(world.waiting) == len(tasks)
    if manner is None:
        assert not world.waiting, "a message never came due"


def act(world: World, action: str) -> None:
    match action:
        case "claim":
            world.claim()
        case "finish" if world.begun:
            world.end(Finished(world.begun[0], Outcome(state="SUCCESS"), 1, 0.01))
        case "die" if world.begun:
            world.end(Lost(tag=world.begun[-1], pid=1, evidence="died", at_fault=True))
        case "innocent" if world.begun:
            world.end(Lost(tag=world.begun[0], pid=1, evidence="died", at_fault=False))
        case "tick" | "long tick":
            world.now += 0.5 if action == "tick" else 7.0
            due = next_timer(world.state)
            if due is not None and due <= world.now:
                world.learn(Ticked())
