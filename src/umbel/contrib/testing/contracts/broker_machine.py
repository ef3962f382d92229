"""Do whatever to a broker in whatever order, beside a plain model of what must then be there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from umbel.brokers.base import Bury, Delivery, Done, Lease, Release, Verdict
from umbel.contrib.testing.contracts.calls import finish, lease_of, send, take, to
from umbel.contrib.testing.contracts.site import Site

__all__ = ["run_machine"]

_QUEUES = ("p", "q")
_CONNECTIONS = 3
_LEASE = 20.0

_connections = st.integers(0, _CONNECTIONS - 1)
_verdicts = st.one_of(
    st.just(Done()),
    st.builds(Release, delay=st.sampled_from([0.0, 5.0]), counted=st.booleans(), front=st.booleans()),
    st.builds(Bury, reason=st.just("rejected")),
)


@dataclass
class _Known:
    """What the model knows of one message; its id is its number."""

    queue: str
    priority: int = 0
    newest: Delivery | None = None  # by its newest claim
    held: bool = False  # that is not settled
    lapses: float = 0.0  # when its lease runs out, in the suite's seconds since the beginning
    contested: bool = False  # somebody has claimed since, so that the store may have taken it back already
    due: float = 0.0  # not to be claimed before
    crashes: int = 0
    end: str = ""  # done, dead or purged


class _Machine(RuleBasedStateMachine):
    new_site: Callable[[], Site]

    @initialize()
    def open(self) -> None:
        self.site = type(self).new_site()
        self.stack = ExitStack()
        self.stack.enter_context(self.site.opened())
        self.brokers = [self.site.broker(*_QUEUES) for _ in range(_CONNECTIONS)]
        self.features = self.brokers[0].features
        self.numbers = 0
        self.known: dict[str, _Known] = {}
        self.stale: list[Delivery] = []  # deliveries that must be refused
        self.paused: set[str] = set()
        self.now = 0.0

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        with self.stack:
            self._all_comes_due()

    # -- what may happen

    @rule(
        by=_connections,
        queue=st.sampled_from(_QUEUES),
        count=st.integers(1, 8),
        delay=st.sampled_from([0.0, 0.0, 8.0]),
        priority=st.sampled_from([None, 0, 6, 9]),
    )
    def publish(self, by: int, queue: str, count: int, delay: float, priority: int | None) -> None:
        ids = self._new_ids(count)
        delay = delay if self.brokers[by].features.delayed else 0.0
        send(self.brokers[by], queue, *ids, priority=priority, eta=self.site.moment(delay) if delay else None)
        self.known.update({task_id: _Known(queue, priority or 0, due=self.now + delay) for task_id in ids})

    @rule(by=_connections, limit=st.integers(0, 6), after=st.sampled_from([0.0, 0.0, 6.0, 25.0]))
    def claim(self, by: int, limit: int, after: float) -> None:
        self.site.skip(after)
        self.now += after
        self._claim(by, limit)

    @precondition(lambda self: self._held())
    @rule(by=_connections, data=st.data(), follow=st.booleans(), verdicts=st.lists(_verdicts, min_size=1, max_size=4))
    def settle(self, by: int, data: st.DataObject, *, follow: bool, verdicts: list[Verdict]) -> None:
        batch = self._some(data, self._held())[: len(verdicts)]
        names = self._new_ids(len(batch))
        follow_ups = [(to("q", name),) if follow else () for name in names]
        turn = self.brokers[by].settle([finish(*each) for each in zip(batch, verdicts, follow_ups, strict=False)])

        self._check_refused(batch, turn.refused)
        for delivery, verdict, name in zip(batch, verdicts, names, strict=False):
            if lease_of(delivery) not in turn.refused:
                self._end(delivery, verdict)
                if follow:
                    self.known[name] = _Known("q")

    @precondition(lambda self: self.stale)
    @rule(by=_connections, data=st.data(), verdict=_verdicts)
    def settle_what_is_stale(self, by: int, data: st.DataObject, verdict: Verdict) -> None:
        batch = self._some(data, self.stale)
        turn = self.brokers[by].settle([finish(each, verdict, (to("never", "x"),)) for each in batch])
        assert turn.refused == tuple(lease_of(each) for each in batch)

    @precondition(lambda self: self._held())
    @rule(by=_connections, data=st.data())
    def renew(self, by: int, data: st.DataObject) -> None:
        batch = self._some(data, [*self._held(), *self.stale])
        lost = self.brokers[by].renew([lease_of(each) for each in batch], _LEASE * self.site.second)
        self._check_refused(batch, lost)
        for delivery in batch:
            if lease_of(delivery) not in lost:
                known = self.known[delivery.message.id]
                known.lapses, known.contested = self.now + _LEASE, False

    @rule(by=_connections, queue=st.sampled_from(_QUEUES), resume=st.sampled_from([True, True, False]))
    def pause_or_resume(self, by: int, queue: str, *, resume: bool) -> None:
        if resume:
            self.brokers[by].resume(queue)
            self.paused.discard(queue)
        else:
            self.brokers[by].pause(queue)
            self.paused.add(queue)

    @rule(by=_connections)
    def reopen(self, by: int) -> None:
        self.brokers[by].close()
        self.brokers[by] = self.site.broker(*_QUEUES)

    @precondition(lambda self: any(each.end == "dead" for each in self.known.values()))
    @rule(by=_connections, discard=st.booleans(), data=st.data())
    def empty_a_grave(self, by: int, data: st.DataObject, *, discard: bool) -> None:
        task_id = data.draw(st.sampled_from([task_id for task_id, each in self.known.items() if each.end == "dead"]))
        if discard:
            assert self.brokers[by].discard([task_id]) == 1
            self.known[task_id].end = "purged"
        else:
            assert self.brokers[by].revive([task_id]) == 1
            self.known[task_id] = _Known(self.known[task_id].queue, self.known[task_id].priority)

    # -- what must be so

    @invariant()
    def every_message_is_somewhere(self) -> None:
        if not hasattr(self, "brokers"):
            return
        broker = self.brokers[0]
        alive = Counter(each.queue for each in self.known.values() if not each.end)
        sizes = {name: size.ready + size.delayed + size.claimed for name, size in broker.sizes(_QUEUES).items()}
        assert sizes == {name: alive[name] for name in _QUEUES}
        dead = sorted(letter.id for letter in broker.dead(limit=10_000))
        assert dead == sorted(task_id for task_id, each in self.known.items() if each.end == "dead")
        assert broker.paused() == self.paused
        assert "never" not in broker.sizes()

    def _claim(self, by: int, limit: int) -> None:
        deliveries = take(self.site, self.brokers[by], limit, lease=_LEASE)
        free = {task_id: each for task_id, each in self.known.items() if self._is_free(each)}
        assert len(deliveries) == min(limit, len(free)), "a free message was not claimed"
        for each in self.known.values():
            each.contested = each.held and each.lapses <= self.now
        for delivery in deliveries:
            known = free.pop(delivery.message.id)
            self._check_place(known, free.values())
            assert delivery.queue == known.queue
            known.crashes += known.held
            assert delivery.crashes == known.crashes or not self.features.counts_crashes
            if known.newest is not None:
                assert known.newest.tag != delivery.tag or known.newest.token < delivery.token
                self.stale.append(known.newest)
            known.newest, known.held, known.contested = delivery, True, False
            known.lapses = self.now + _LEASE

    def _check_place(self, known: _Known, left: Iterable[_Known]) -> None:
        """Nothing that is left in its queue comes before *known* by priority."""
        if self.features.priorities:
            sign = 1 if self.features.higher_priority_first else -1
            assert all(each.priority * sign <= known.priority * sign for each in left if each.queue == known.queue)

    def _check_refused(self, batch: list[Delivery], refused: tuple[Lease, ...]) -> None:
        """The stale are refused and no others; the store may decide about the contested, and we follow."""
        for delivery in batch:
            known = self.known[delivery.message.id]
            if delivery in self.stale:
                assert lease_of(delivery) in refused
            elif lease_of(delivery) in refused:
                assert known.contested, "the newest holder was refused"
                known.held = known.contested = False
                known.crashes += 1
                self.stale.append(delivery)

    def _held(self) -> list[Delivery]:
        return [each.newest for each in self.known.values() if each.held and each.newest is not None]

    def _some(self, data: st.DataObject, deliveries: list[Delivery]) -> list[Delivery]:
        places = st.lists(st.integers(0, len(deliveries) - 1), min_size=1, max_size=4, unique=True)
        return [deliveries[place] for place in data.draw(places)]

    def _is_free(self, known: _Known) -> bool:
        if known.end or known.queue in self.paused:
            return False
        return known.lapses <= self.now if known.held else known.due <= self.now

    def _end(self, delivery: Delivery, verdict: Verdict) -> None:
        known = self.known[delivery.message.id]
        known.held = known.contested = False
        self.stale.append(delivery)
        match verdict:
            case Done():
                known.end = "done"
            case Release(delay=delay, counted=counted):
                known.due = self.now + delay
                known.crashes += counted
            case Bury():
                known.end = "dead"

    def _all_comes_due(self) -> None:
        for queue in _QUEUES:
            self.brokers[0].resume(queue)
        self.site.skip(100)
        left = sorted(task_id for task_id, each in self.known.items() if not each.end)
        deliveries = take(self.site, self.brokers[0], len(left) + 1)
        assert sorted(each.message.id for each in deliveries) == left, "a message was lost or doubled"
        assert self.brokers[0].settle([finish(each) for each in deliveries]).refused == ()
        assert take(self.site, self.brokers[1], 1) == []

    def _new_ids(self, count: int) -> list[str]:
        self.numbers += count
        return [f"{i}" for i in range(self.numbers - count, self.numbers)]


def run_machine(new_site: Callable[[], Site], *, examples: int = 60, steps: int = 60) -> None:
    """Try *examples* histories of *steps* events, each on a fresh store."""
    machine = type("BrokerMachine", (_Machine,), {"new_site": staticmethod(new_site)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
