"""Whatever the work-flow and whatever goes wrong: it comes to what a small interpreter says, each body once."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel import Umbel, chain, chord, group
from umbel.backends.memory import MemoryBackend
from umbel.brokers.base import Broker, Claim, Delivery, Lease, Publication, Settlement
from umbel.brokers.memory_store import MemoryStores
from umbel.contrib.testing.clock import VirtualClock
from umbel.execution.execute import execute
from umbel.wire.chord import HELD, ReadyChord
from umbel.worker.settle import Apart, Fused, Settler

LEASE = 10.0
RETRIES = 2
TURNS = 5000  # of a worker; more means that it goes in circles


# -- Work-flows as values, what they are in umbel, and what they come to


@dataclass(frozen=True)
class Task:
    kind: str  # of "good", "bad", "flaky": the last fails twice and then is good
    label: list[int] = field(default_factory=list, compare=False)  # its number, once it is known

    def build(self, app: Umbel) -> Any:
        return app.tasks[self.kind].s(label=self.label[0])

    def run(self, world: Expected, value: Any) -> list[Any]:
        world.ran.add(self.label[0])
        if self.kind == "bad":
            raise Failed
        return [f"{self.label[0]}({value})"]


@dataclass(frozen=True)
class Chain:
    steps: tuple[Any, ...]

    def build(self, app: Umbel) -> Any:
        return chain(*(step.build(app) for step in self.steps))

    def run(self, world: Expected, value: Any) -> list[Any]:
        values = [value]
        for i, step in enumerate(self.steps):
            given = values if i and ends_in_group(self.steps[i - 1]) else values[0]
            values = step.run(world, given)
        return values


@dataclass(frozen=True)
class Group:
    members: tuple[Any, ...]

    def build(self, app: Umbel) -> Any:
        return group(member.build(app) for member in self.members)

    def run(self, world: Expected, value: Any) -> list[Any]:
        values, failed = [], False
        for member in self.members:
            try:
                found = member.run(world, value)
                values += [found] if ends_in_group(member) and not isinstance(member, Group) else found
            except Failed:
                failed = True
        if failed:
            raise Failed
        return values


@dataclass(frozen=True)
class Chord:
    header: tuple[Any, ...]
    body: Any

    def build(self, app: Umbel) -> Any:
        return chord([member.build(app) for member in self.header], self.body.build(app))

    def run(self, world: Expected, value: Any) -> list[Any]:
        return self.body.run(world, Group(self.header).run(world, value))  # type: ignore[no-any-return]  # any node


class Failed(Exception):
    """A task failed, and what was to follow does not run."""


@dataclass
class Expected:
    ran: set[int] = field(default_factory=set)


def ends_in_group(node: Any) -> bool:
    match node:
        case Group():
            return True
        case Chain():
            return ends_in_group(node.steps[-1])
        case Chord():
            return ends_in_group(node.body)
    return False


def number(node: Any, numbers: Iterator[int]) -> Any:
    """Return a copy in which each task has a label of its own."""
    match node:
        case Task():
            return Task(node.kind, [next(numbers)])
        case Chain():
            return Chain(tuple(number(step, numbers) for step in node.steps))
        case Group():
            return Group(tuple(number(member, numbers) for member in node.members))
        case Chord():
            return Chord(tuple(number(member, numbers) for member in node.header), number(node.body, numbers))


tasks = st.builds(Task, st.sampled_from(["good", "good", "good", "good", "flaky", "bad"]))
canvases = st.recursive(
    tasks,
    lambda inner: st.one_of(
        st.builds(Chain, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Group, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Chord, st.lists(inner, min_size=1, max_size=3).map(tuple), inner),
    ),
    max_leaves=12,
)


# -- A worker that stumbles


class Stumbled(Exception):
    """The process died here."""


class Stumbling:
    """A broker or store each of whose verbs may be the last thing that a process does, or the last that it tries."""

    def __init__(self, inner: Any, stumble: Callable[[], int]) -> None:
        self._inner = inner
        self._stumble = stumble

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name == "close":
            return found

        def verb(*args: Any, **kwargs: Any) -> Any:
            how = self._stumble()
            if how == 1:
                raise Stumbled
            result = found(*args, **kwargs)
            if how == 2:
                raise Stumbled
            return result

        return verb


class World:
    """An app on a memory store, whose time and whose worker's fate the test decides."""

    def __init__(self, *, fused: bool, dice: Callable[[int], int]) -> None:
        self.clock = VirtualClock(time.time())
        self.dice = dice
        self.published: Counter[tuple[str, int]] = Counter()
        self.ran: list[int] = []
        self._looked_again = False
        stores = MemoryStores(clock=self.clock)
        store = stores.at("memory://")
        insert = store.insert

        def counted(publication: Publication, *args: Any) -> None:
            self.published[publication.message.id, publication.message.retries] += 1
            insert(publication, *args)

        store.insert = counted  # type: ignore[method-assign]  # looks on
        self.app = Umbel("random", broker="memory://", backend="memory://" if fused else "memory://results")
        self.app.memory = stores
        self.fused = fused
        self.results = stores.at("memory://" if fused else "memory://results")
        for kind in ("good", "bad", "flaky"):
            self.app.task(self._function(kind), name=kind, bind=True, default_retry_delay=1)
        self.plans = self.app.plans("w")

    def _function(self, kind: str) -> Callable[..., Any]:
        def run(task: Any, value: Any = None, *, label: int) -> str:
            self.ran.append(label)
            if kind == "bad":
                raise ValueError(label)
            if kind == "flaky" and task.request.retries < RETRIES:
                raise task.retry()
            return f"{label}({value})"

        return run

    def work(self) -> None:
        """Have workers run, die and be replaced until nothing is left to do."""
        for _ in range(TURNS):
            with closing(self.app.open_broker()) as broker:
                broker.consume(["celery"])
                try:
                    if not self._turn(broker):
                        return
                except Stumbled:
                    self._looked_again = False
        pytest.fail("the work never ends")

    def _turn(self, broker: Broker) -> bool:
        """Do a little, as one worker does until it dies; tell whether there may be more."""
        settler = self._settler(broker)
        claim = Claim(limit=1 + self.dice(3), lease=LEASE, owner="w", chords=10)
        turn = settler.exchange((), claim)
        if not turn.deliveries and not turn.ready:
            due = broker.next_due()
            if due is None and self._looked_again:
                return False
            self._looked_again = due is None  # a ready chord may be left to a worker that died
            self.clock.advance(HELD if due is None else due)
            return True
        self._looked_again = False
        self._fire(settler, turn.ready)
        for delivery in turn.deliveries:
            settlement = self._perform(delivery)
            for _ in range(2 if self.dice(8) == 0 else 1):  # twice: an answer that was lost, and tried again
                self._fire(settler, settler.exchange([settlement], None).ready)
        return True

    def _settler(self, broker: Broker) -> Settler:
        stumbling: Any = Stumbling(broker, lambda: self.dice(12))
        if self.fused:
            return Fused(stumbling)
        results: Any = Stumbling(MemoryBackend(self.results), lambda: self.dice(12))
        return Apart(stumbling, results)

    def _perform(self, delivery: Delivery) -> Settlement:
        plan = self.plans.find(delivery.message.task)
        assert plan is not None
        outcome = execute(plan, delivery)
        return Settlement(
            lease=Lease(delivery.tag, delivery.token),
            follow_ups=outcome.follow_ups,
            records=outcome.records,
            sizes=outcome.sizes,
            parts=outcome.parts,
        )

    def _fire(self, settler: Settler, ready: tuple[ReadyChord, ...]) -> None:
        while ready:
            fired = [self.plans.fire(each) for each in ready]
            settlements = [
                Settlement(
                    lease=None,
                    fires=chord.group,
                    follow_ups=outcome.follow_ups,
                    records=outcome.records,
                    sizes=outcome.sizes,
                    parts=outcome.parts,
                )
                for chord, outcome in zip(ready, fired, strict=True)
            ]
            ready = settler.exchange(settlements, None).ready


def check(canvas: Any, *, fused: bool, dice: Callable[[int], int]) -> World:
    """Run *canvas* and compare with what the interpreter says."""
    canvas = number(canvas, count())
    expected = Expected()
    value: Any = None
    try:
        values = canvas.run(expected, None)
        value = values if ends_in_group(canvas) else values[0]
        failed = False
    except Failed:
        failed = True

    world = World(fused=fused, dice=dice)
    result = canvas.build(world.app).apply_async()
    world.work()

    assert set(world.ran) == expected.ran
    if failed:
        with pytest.raises(Exception, match=r"Dependency|\d+"):
            result.get(timeout=0)
    else:
        assert result.get(timeout=0) == value
    return world


@settings(max_examples=150)
@given(canvas=canvases, seed=st.integers(0, 2**32))
def test_a_random_canvas_comes_to_what_the_interpreter_says_and_nothing_is_sent_twice(canvas, seed):
    world = check(canvas, fused=True, dice=random.Random(seed).randrange)

    assert set(world.published.values()) == {1}


@settings(max_examples=60)
@given(canvas=canvases, seed=st.integers(0, 2**32))
def test_a_store_apart_loses_nothing_either(canvas, seed):
    check(canvas, fused=False, dice=random.Random(seed).randrange)


@settings(max_examples=60)
@given(canvas=canvases)
def test_where_nothing_goes_wrong_every_task_runs_once(canvas):
    world = check(canvas, fused=False, dice=lambda sides: sides - 1)

    assert set(world.published.values()) == {1}
