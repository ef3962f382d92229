"""The worker's decisions, by values: facts in, orders out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from umbel.brokers.base import Bury, Delivery, Done, Lease, Publication, Release, Settlement
from umbel.execution.outcome import Outcome
from umbel.pools.base import Finished, Interrupt, Job, Lost, Started
from umbel.wire.message import Message, Route
from umbel.wire.record import Record
from umbel.worker.admit import Policy
from umbel.worker.core import Rules, WorkerState, is_over, next_timer, room, step
from umbel.worker.facts import (
    Adjusted,
    Arrived,
    Autoscaled,
    Concluded,
    LeasesLost,
    Manner,
    QueuesChanged,
    Recycled,
    Reported,
    Resized,
    Revoked,
    Scaled,
    Stopped,
    Terminated,
    Ticked,
    Withdrawn,
)
from umbel.worker.orders import (
    Acknowledge,
    Cancelled,
    Conclude,
    Consume,
    Ending,
    Halt,
    InterruptJob,
    Recycle,
    Renew,
    Resize,
    Run,
    Settle,
    Tell,
    Why,
    Withdraw,
)

SUCCESS = Outcome(state="SUCCESS", records=(Record(id="t", state="SUCCESS", payload=b"{}"),))
AHEAD = Release()


def delivery(task_id: str = "t1", *, tag: int = 1, task: str = "app.task", **fields: Any) -> Delivery:
    message = {name: fields.pop(name) for name in ("eta", "expires", "soft_limit", "hard_limit") if name in fields}
    return Delivery(
        message=Message(id=task_id, task=task, body=b"", **message),
        queue="celery",
        route=Route("", "celery"),
        tag=tag,
        token=1,
        **fields,
    )


def a_worker(slots: int = 2, *, policy: Policy | None = None, rules: Rules | None = None) -> WorkerState:
    known = {"app.task": policy or Policy()}
    return WorkerState(slots=slots, policy=known.get, rules=rules or Rules())


def working(count: int = 1, **options: Any) -> WorkerState:
    """A worker with *count* deliveries t1, t2, … in its pool, tags 1, 2, …"""
    state = a_worker(**options)
    step(state, Arrived(tuple(delivery(f"t{i}", tag=i) for i in range(1, count + 1)), 0.0), now=0.0)
    return state


def settled(orders: list[Any]) -> list[Settlement]:
    return [one for order in orders if isinstance(order, Settle) for one in order.settlements]


def finish(tag: int, outcome: Outcome = SUCCESS, runtime: float = 0.001) -> Reported:
    return Reported([Finished(tag, outcome, 7, runtime)])


def die(tag: int, **fields: Any) -> Reported:
    return Reported([Lost(tag=tag, pid=7, evidence="child 7 was killed", **{"at_fault": True} | fields)])


# -- the main line


def test_a_delivery_goes_to_the_pool_and_its_outcome_is_settled_with_all_that_follows():
    state = a_worker()
    follow_up = Publication(message=Message(id="t2", task="app.task", body=b""), route=Route("", "celery"))
    outcome = Outcome(state="SUCCESS", records=SUCCESS.records, follow_ups=(follow_up,))

    assert step(state, Arrived((delivery(),), 0.0), now=0.0) == [Run([Job(1, delivery())])]
    assert step(state, finish(1, outcome), now=1.0) == [
        Settle(
            [Settlement(lease=Lease(1, 1), verdict=Done(), follow_ups=(follow_up,), records=SUCCESS.records)],
            [Ending(delivery(), outcome, 0.001)],
        )
    ]
    assert not state.held


def test_outcomes_that_come_together_are_settled_together():
    state = working(2)

    orders = step(state, Reported([*finish(1).receipts, *finish(2).receipts]), now=1.0)

    assert len(orders) == 1
    assert [one.lease for one in settled(orders)] == [Lease(1, 1), Lease(2, 1)]


def test_an_unknown_receipt_changes_nothing():
    state = working(1)

    assert step(state, Reported([*finish(9).receipts, Started(9, 7), *die(9).receipts]), now=1.0) == []
    assert state.submitted == 1


# -- how much to claim


@pytest.mark.row("TB-121")
def test_at_first_only_the_slots_are_filled():
    assert room(a_worker(slots=3)) == 3
    assert room(working(2, slots=3)) == 1


def test_short_tasks_are_claimed_ahead_as_far_as_the_horizon_and_no_further_than_the_buffer():
    state = working(1, slots=2, rules=Rules(horizon=0.02, buffer=10))

    step(state, finish(1, runtime=0.005), now=1.0)
    assert room(state) == 2 + 8

    for i in range(2, 60):
        step(state, Arrived((delivery(tag=i),), 0.0), now=1.0)
        step(state, finish(i, runtime=0.00001), now=1.0)
    assert room(state) == 2 + 10


def test_long_tasks_are_never_claimed_ahead():
    state = working(1, slots=2)

    step(state, finish(1, runtime=60.0), now=60.0)

    assert room(state) == 2


def test_what_has_not_begun_goes_back_when_the_slots_are_stuck():
    state = working(5, slots=2, rules=Rules(patience=0.1))
    assert next_timer(state) == pytest.approx(0.1)

    assert step(state, Ticked(), now=0.05) == []
    assert step(state, Ticked(), now=0.1) == [Withdraw(3)]
    orders = step(state, Withdrawn([5, 4, 3]), now=0.1)

    assert settled(orders) == [Settlement(lease=Lease(i, 1), verdict=AHEAD) for i in (5, 4, 3)]
    assert list(state.held) == [1, 2]


# -- what may not run


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"invalid": "no json"}, Why.INVALID),
        ({"task": "app.unknown"}, Why.UNKNOWN),
        ({"revoked": True}, Why.REVOKED),
        ({"expired": True}, Why.EXPIRED),
        ({"crashes": 5}, Why.CRASHED),
    ],
)
def test_what_may_not_run_is_concluded_and_never_given_to_the_pool(fields: dict[str, Any], why: Why):
    state = a_worker()

    orders = step(state, Arrived((delivery(**fields),), 0.0), now=0.0)

    assert [(type(order), order.why) for order in orders] == [(Conclude, why)]
    assert orders[0].evidence


@pytest.mark.parametrize("reason", ["invalid", "unknown-task", "expired", "crashed"])
def test_what_may_never_run_is_kept_as_a_dead_letter_unless_the_setting_says_discard(reason: str):
    fields = {
        "invalid": {"invalid": "no json"},
        "unknown-task": {"task": "app.unknown"},
        "expired": {"expired": True},
        "crashed": {"crashes": 5},
    }[reason]
    outcome = Outcome(state="FAILURE", reason="because", records=SUCCESS.records)

    for discard, verdict in (
        (frozenset[str](), Bury(reason=reason, evidence="" if reason == "crashed" else "because")),
        (frozenset({reason}), Done()),
    ):
        state = a_worker(rules=Rules(discard=discard))
        step(state, Arrived((delivery(**fields),), 0.0), now=0.0)
        orders = step(state, Concluded(1, outcome), now=0.0)

        assert settled(orders) == [Settlement(lease=Lease(1, 1), verdict=verdict, records=SUCCESS.records)]
        assert not state.held


def test_no_crash_limit_means_that_a_task_runs_however_often_it_crashed():
    state = a_worker(rules=Rules(crash_limit=0))

    assert step(state, Arrived((delivery(crashes=99),), 0.0), now=0.0) == [Run([Job(1, delivery(crashes=99))])]


# -- delayed


def test_a_delivery_before_its_eta_is_held_without_a_slot_and_runs_when_due():
    state = a_worker(slots=1)
    eta = datetime.fromtimestamp(1010.0, tz=UTC)

    assert step(state, Arrived((delivery(eta=eta),), 1000.0), now=50.0) == []
    assert room(state) == 1
    assert step(state, Ticked(), now=59.0)[0] == Renew([Lease(1, 1)])
    assert step(state, Ticked(), now=60.0) == [Run([Job(1, delivery(eta=eta))])]


def test_a_delivery_past_its_eta_runs_at_once():
    eta = datetime.fromtimestamp(1000.0, tz=UTC)

    assert step(a_worker(), Arrived((delivery(eta=eta),), 1000.0), now=50.0) == [Run([Job(1, delivery(eta=eta))])]


# -- early acknowledgement


@pytest.mark.row("TB-117", "PRT-052")
def test_an_early_task_is_acknowledged_before_it_runs_and_only_when_a_slot_is_free():
    state = a_worker(slots=1, policy=Policy(acks_late=False))
    first, second = delivery("t1", tag=1), delivery("t2", tag=2)

    orders = step(state, Arrived((first, second), 0.0), now=0.0)
    assert orders == [Acknowledge([Settlement(lease=Lease(1, 1))]), Run([Job(1, first)])]

    orders = step(state, finish(1), now=1.0)
    assert orders == [
        Settle([Settlement(lease=None, records=SUCCESS.records)], [Ending(first, SUCCESS, 0.001)]),
        Acknowledge([Settlement(lease=Lease(2, 1))]),
        Run([Job(2, second)]),
    ]


def test_an_early_task_whose_child_dies_has_failed():
    state = working(1, policy=Policy(acks_late=False))

    orders = step(state, die(1), now=1.0)

    assert [(order.why, order.evidence) for order in orders] == [(Why.LOST, "child 7 was killed")]


# -- crashes


def test_a_task_whose_child_dies_goes_back_counted_with_the_evidence():
    state = working(1)

    orders = step(state, die(1), now=1.0)

    verdict = Release(counted=True, evidence="child 7 was killed", delay=0.1)
    assert orders == [Settle([Settlement(lease=Lease(1, 1), verdict=verdict)])]
    assert not state.held


def test_the_last_allowed_crash_ends_in_the_dead_letter_set_with_a_stored_failure():
    state = a_worker(rules=Rules(crash_limit=5))
    step(state, Arrived((delivery(crashes=4),), 0.0), now=0.0)

    orders = step(state, die(1), now=1.0)
    assert [order.why for order in orders] == [Why.CRASHED]
    orders = step(state, Concluded(1, Outcome(state="FAILURE", reason="killed", records=SUCCESS.records)), now=1.0)

    verdict = Bury(reason="crashed", evidence="killed")
    assert settled(orders) == [Settlement(lease=Lease(1, 1), verdict=verdict, records=SUCCESS.records)]


def test_an_innocent_of_a_dead_process_goes_back_uncounted():
    orders = step(working(1), die(1, at_fault=False), now=1.0)

    assert settled(orders) == [Settlement(lease=Lease(1, 1), verdict=AHEAD)]


def test_a_task_that_may_not_run_again_fails_when_its_child_dies():
    orders = step(working(1, policy=Policy(retry_lost=False)), die(1), now=1.0)

    assert [order.why for order in orders] == [Why.LOST]


# -- limits


def limited(**options: Any) -> WorkerState:
    state = a_worker(policy=Policy(soft_limit=5.0, hard_limit=10.0, **options))
    orders = step(state, Arrived((delivery(),), 0.0), now=0.0)
    assert orders == [Run([Job(1, delivery(), announce=True)])]
    assert step(state, Reported([Started(1, 7)]), now=100.0) == [Tell(delivery(), 7)]
    state.renew_at = 1e9
    return state


def test_limits_count_from_the_beginning_soft_then_hard():
    state = limited()

    assert next_timer(state) == 105.0
    assert step(state, Ticked(), now=105.0) == [InterruptJob(tag=1, how=Interrupt.SOFT)]
    assert step(state, Ticked(), now=110.0) == [InterruptJob(tag=1, how=Interrupt.KILL)]


def test_a_message_s_own_limit_wins_over_the_task_s():
    state = a_worker(policy=Policy(hard_limit=10.0))
    step(state, Arrived((delivery(hard_limit=3.0),), 0.0), now=0.0)
    step(state, Reported([Started(1, 7)]), now=100.0)

    assert (103.0, 1, "hard") in state.timers


@pytest.mark.row("TB-182", "PRT-062")
def test_a_task_killed_by_its_hard_limit_has_failed_and_is_done():
    state = limited()
    step(state, Ticked(), now=110.0)

    orders = step(state, die(1, interrupted=True), now=110.1)

    assert [(order.why, order.evidence) for order in orders] == [
        (Why.TIMEOUT, "ran longer than its hard limit of 10 s")
    ]
    assert [one.verdict for one in settled(step(state, Concluded(1, SUCCESS), now=110.2))] == [Done()]


@pytest.mark.row("PRT-062")
def test_a_task_killed_by_its_hard_limit_is_a_counted_attempt_if_timeouts_are_not_acknowledged():
    state = limited(acks_on_timeout=False)
    step(state, Ticked(), now=110.0)

    verdicts = [one.verdict for one in settled(step(state, die(1, interrupted=True), now=110.1))]

    assert verdicts == [Release(counted=True, evidence="ran longer than its hard limit of 10 s", delay=0.1)]


def test_a_shared_child_that_cancels_a_task_for_its_hard_limit_reports_it_as_timed_out():
    state = limited()
    step(state, Ticked(), now=110.0)

    orders = step(state, finish(1, Outcome(state="REVOKED")), now=110.1)

    assert [order.why for order in orders] == [Why.TIMEOUT]


def test_a_task_that_ends_just_before_it_is_killed_keeps_its_outcome():
    state = limited()
    step(state, Ticked(), now=110.0)

    assert settled(step(state, finish(1), now=110.1)) == [
        Settlement(lease=Lease(1, 1), verdict=Done(), records=SUCCESS.records)
    ]


def test_timers_of_ended_tasks_do_not_pile_up():
    state = a_worker(policy=Policy(hard_limit=3600.0))
    for tag in range(1, 1001):
        step(state, Arrived((delivery(tag=tag),), 0.0), now=0.0)
        step(state, Reported([Started(tag, 7)]), now=0.0)
        step(state, finish(tag), now=0.0)

    assert len(state.timers) < 100


# -- outcomes that are no success


@pytest.mark.row("PRT-062")
@pytest.mark.parametrize(
    ("outcome", "policy", "verdict"),
    [
        (Outcome(state="FAILURE", reason="boom"), Policy(), Done()),
        (Outcome(state="FAILURE", reason="x"), Policy(acks_on_failure=False), Bury(reason="failed", evidence="x")),
        (Outcome(state="RETRY"), Policy(acks_on_failure=False), Done()),
        (Outcome(state="IGNORED"), Policy(), Done()),
        (Outcome(state="REJECTED", reason="no"), Policy(), Bury(reason="rejected", evidence="no")),
        (Outcome(state="REJECTED", requeue=True), Policy(), Release(front=False)),
    ],
)
def test_each_outcome_has_its_verdict(outcome: Outcome, policy: Policy, verdict: Any):
    assert [one.verdict for one in settled(step(working(1, policy=policy), finish(1, outcome), now=1.0))] == [verdict]


# -- leases


def test_leases_are_renewed_at_a_third_of_their_length_for_all_that_is_held():
    state = working(2, rules=Rules(lease=9.0, patience=99.0))
    assert next_timer(state) == pytest.approx(3.0)

    assert step(state, Ticked(), now=3.0) == [Renew([Lease(1, 1), Lease(2, 1)])]
    assert next_timer(state) == pytest.approx(6.0)


def test_an_outcome_whose_lease_was_lost_is_dropped():
    state = working(1)

    assert step(state, LeasesLost((Lease(1, 1),)), now=1.0) == []
    assert step(state, finish(1), now=2.0) == []
    assert not state.held
    assert state.submitted == 0


def test_a_lost_lease_of_a_waiting_delivery_is_forgotten():
    state = a_worker()
    step(state, Arrived((delivery(eta=datetime.fromtimestamp(99.0, tz=UTC)),), 0.0), now=0.0)

    step(state, LeasesLost((Lease(1, 1),)), now=1.0)

    assert (state.held, state.waiting) == ({}, 0)
    assert step(state, Ticked(), now=99.0) == []


# -- revoked while it runs


def test_a_revoked_running_task_is_interrupted_and_concluded_when_its_child_is_gone():
    state = working(2)

    orders = step(state, Terminated(frozenset({"t2"}), signal=15), now=1.0)
    assert orders == [InterruptJob(tag=2, how=Interrupt.CANCEL, signal=15)]

    orders = step(state, die(2, interrupted=True), now=1.1)
    assert [(order.tag, order.why) for order in orders] == [(2, Why.TERMINATED)]


# -- the end


def test_a_warm_stop_gives_back_what_has_not_begun_and_waits_for_what_runs():
    state = working(3, slots=1)

    assert step(state, Stopped(Manner.WARM), now=1.0) == [Withdraw(3)]
    orders = step(state, Withdrawn([3, 2]), now=1.0)
    assert [one.verdict for one in settled(orders)] == [AHEAD, AHEAD]
    assert (room(state), is_over(state)) == (0, False)

    step(state, finish(1), now=2.0)
    assert is_over(state)


def test_what_arrives_while_stopping_goes_back():
    state = a_worker()
    step(state, Stopped(Manner.WARM), now=1.0)

    orders = step(state, Arrived((delivery(),), 0.0), now=1.0)

    assert orders[-1] == Withdraw(1)


@pytest.mark.row("PRT-227", "PRT-128")
def test_a_cold_stop_ends_the_pool_and_gives_back_what_ran_uncounted():
    state = working(1)

    assert step(state, Stopped(Manner.COLD), now=1.0) == [Withdraw(1), Halt()]
    orders = step(state, die(1, at_fault=False, interrupted=True), now=1.0)

    assert orders[0] == Cancelled(delivery())
    assert [one.verdict for one in settled(orders)] == [AHEAD]
    assert is_over(state)


@pytest.mark.row("CLI-069")
def test_a_cold_stop_cancels_what_was_acknowledged_before_it_ran():
    state = working(1, policy=Policy(acks_late=False))
    step(state, Stopped(Manner.COLD), now=1.0)

    orders = step(state, die(1, at_fault=False, interrupted=True), now=1.0)

    assert orders[0] == Cancelled(delivery())
    assert [(order.why, order.tag) for order in orders[1:]] == [(Why.CANCELLED, 1)]


def test_a_soft_stop_turns_cold_when_its_time_is_over():
    state = working(1)

    step(state, Stopped(Manner.SOFT, soft_shutdown=5.0), now=1.0)

    assert step(state, Ticked(), now=5.9) == [Renew([Lease(1, 1)])]
    assert Halt() in step(state, Ticked(), now=6.0)


def test_a_stop_gives_back_what_waits_for_its_eta():
    state = a_worker()
    step(state, Arrived((delivery(eta=datetime.fromtimestamp(99.0, tz=UTC)),), 0.0), now=0.0)

    orders = step(state, Stopped(Manner.WARM), now=1.0)

    assert [one.verdict for one in settled(orders)] == [AHEAD]
    assert is_over(state)


def test_a_bigger_pool_starts_what_was_in_line():
    state = a_worker(slots=1, policy=Policy(acks_late=False))
    step(state, Arrived((delivery("t1", tag=1), delivery("t2", tag=2)), 0.0), now=0.0)

    orders = step(state, Resized(2), now=1.0)

    assert orders == [Acknowledge([Settlement(lease=Lease(2, 1))]), Run([Job(2, delivery("t2", tag=2))])]


# -- what people change while it works


def test_a_revoked_task_that_has_not_begun_does_not_begin():
    state = a_worker(slots=1, policy=Policy(acks_late=False))
    step(state, Arrived((delivery("t1", tag=1), delivery("t2", tag=2)), 0.0), now=0.0)

    orders = step(state, Revoked(frozenset({"t1", "t2"})), now=1.0)

    assert [(order.tag, order.why) for order in orders] == [(2, Why.REVOKED)]
    assert settled(step(state, Concluded(2, SUCCESS), now=1.0))[0].lease == Lease(2, 1)
    assert settled(step(state, finish(1), now=2.0))[0].records == SUCCESS.records
    assert not state.line


def test_a_revoked_task_that_waits_for_its_eta_is_concluded_at_once():
    state = a_worker()
    step(state, Arrived((delivery(eta=datetime.fromtimestamp(60, tz=UTC)),), 0.0), now=0.0)

    orders = step(state, Terminated(frozenset({"t1"}), signal=15), now=1.0)

    assert [(order.tag, order.why) for order in orders] == [(1, Why.REVOKED)]
    assert (state.waiting, state.timers) == (0, [])


def test_what_was_dealt_ahead_is_taken_back_when_one_of_it_is_revoked():
    state = working(3, slots=1)

    assert step(state, Revoked(frozenset({"t3"})), now=0.0) == [Withdraw(2)]
    orders = step(state, Withdrawn([3, 2]), now=0.0)

    assert [order.why for order in orders if isinstance(order, Conclude)] == [Why.REVOKED]
    assert [one.lease for one in settled(orders)] == [Lease(2, 1)]


def test_a_pool_is_made_bigger_or_smaller_but_never_empty():
    assert step(working(1, slots=2), Scaled(5), now=0.0) == [Resize(5)]
    assert step(working(1, slots=2), Scaled(0), now=0.0) == [Resize(1)]


def test_other_queues_and_new_processes_are_passed_on():
    assert step(a_worker(), QueuesChanged(), now=0.0) == [Consume()]
    assert step(a_worker(), Recycled(), now=0.0) == [Recycle()]


def test_a_task_gets_other_limits_from_now_on():
    state = a_worker(slots=1)
    step(state, Adjusted("app.task", Policy(hard_limit=7.0)), now=0.0)

    orders = step(state, Arrived((delivery(),), 0.0), now=0.0)

    assert orders == [Run([Job(1, delivery(), announce=True)])]
    step(state, Reported([Started(1, 7)]), now=1.0)
    assert next_timer(state) == Rules().lease / 3
    assert [timer[0] for timer in state.timers] == [8.0]


# -- rate limits


def slow(interval: float, **rules: Any) -> WorkerState:
    return a_worker(slots=10, policy=Policy(interval=interval), rules=Rules(**rules))


def arrive(state: WorkerState, *ids: str, now: float) -> list[Any]:
    return step(state, Arrived(tuple(delivery(i, tag=i) for i in ids), 0.0), now=now)


def begun(orders: list[Any]) -> list[str]:
    return [job.payload.message.id for order in orders if isinstance(order, Run) for job in order.jobs]


@pytest.mark.row("API-089")
def test_a_limited_task_starts_once_in_its_interval_and_the_rest_goes_back_until_its_time():
    state = slow(5.0)

    orders = arrive(state, "a", "b", "c", now=100.0)

    assert begun(orders) == ["a"]
    assert [(one.lease.tag, one.verdict) for one in settled(orders)] == [
        ("b", Release(delay=5.0)),
        ("c", Release(delay=10.0)),
    ]
    assert room(state) == 9  # they hold no slot
    assert begun(arrive(state, "b", now=105.0)) == ["b"]
    assert begun(arrive(state, "c", now=110.1)) == ["c"]


def test_a_limited_task_that_may_start_in_a_moment_is_held():
    state = slow(0.1)

    orders = arrive(state, "a", "b", now=100.0)

    assert begun(orders) == ["a"]
    assert not settled(orders)
    assert begun(step(state, Ticked(), now=100.09)) == []
    assert begun(step(state, Ticked(), now=100.1)) == ["b"]


def test_a_broker_that_cannot_delay_leaves_the_waiting_to_the_worker():
    state = slow(60.0, delays=False)

    orders = arrive(state, "a", "b", now=0.0)

    assert not settled(orders)
    assert begun(step(state, Ticked(), now=60.0)) == ["b"]


def test_a_task_without_a_limit_passes_the_limited_ones():
    state = slow(60.0)
    state.policy = {"app.task": Policy(interval=60.0), "app.other": Policy()}.get
    arrive(state, *"abcdefghijklmnop", now=0.0)

    assert begun(step(state, Arrived((delivery("z", tag=99, task="app.other"),), 0.0), now=0.0)) == ["z"]


def test_another_rate_begins_anew():
    state = slow(10.0)
    arrive(state, "a", "b", now=0.0)

    step(state, Adjusted("app.task", Policy(interval=0.5)), now=1.0)

    assert begun(arrive(state, "b", now=2.0)) == ["b"]
    step(state, Adjusted("app.task", Policy()), now=3.0)
    assert begun(arrive(state, *"cdefgh", now=3.0)) == [*"cdefgh"]


# -- a pool that follows its load


def scaled(state: WorkerState, orders: list[Any], now: float) -> list[int]:
    """Obey the resizing among *orders*."""
    sizes = [order.slots for order in orders if isinstance(order, Resize)]
    for slots in sizes:
        step(state, Resized(slots), now=now)
    return sizes


@pytest.mark.row("CLI-050", "TB-176")
def test_a_pool_grows_at_once_and_shrinks_after_a_rest():
    state = a_worker(slots=1, rules=Rules(keepalive=30.0))
    assert scaled(state, step(state, Autoscaled(8, 2), now=0.0), 0.0) == [2]

    assert room(state) == 8
    assert scaled(state, arrive(state, *"abcde", now=1.0), 1.0) == [5]
    for tag in range(1, 5):
        step(state, finish(tag), now=2.0)
    assert scaled(state, step(state, Ticked(), now=30.9), 30.9) == []
    assert scaled(state, step(state, Ticked(), now=31.0), 31.0) == [2]
    assert state.held.keys() == {5}


@pytest.mark.row("TB-177")
def test_the_bounds_of_a_pool_can_be_changed_and_lifted():
    state = a_worker(slots=6)

    assert step(state, Autoscaled(4, 1), now=0.0) == [Resize(4)]
    assert step(state, Autoscaled(1, 9), now=0.0) == []
    assert state.scale == (9, 1)
    step(state, Autoscaled(0, 0), now=0.0)
    assert room(state) == 6


@pytest.mark.row("CFG-172")
def test_what_another_worker_has_by_now_is_ended_if_that_is_wanted():
    for wanted, orders in ((False, []), (True, [InterruptJob(tag=1, how=Interrupt.KILL)])):
        state = working(2, rules=Rules(ends_lost=wanted))

        assert step(state, LeasesLost((Lease(1, 1),)), now=1.0) == orders
        assert step(state, die(1, interrupted=wanted), now=1.1) == ([Cancelled(delivery())] if wanted else [])


@pytest.mark.row("CFG-174", "CFG-175")
def test_a_soft_stop_of_an_idle_worker_takes_its_time_only_if_that_is_wanted():
    for wanted in (False, True):
        state = a_worker(rules=Rules(soft_when_idle=wanted))

        step(state, Stopped(Manner.SOFT, 5.0), now=1.0)

        assert is_over(state) is not wanted
        assert next_timer(state) == 6.0
        step(state, Ticked(), now=6.0)
        assert is_over(state)
