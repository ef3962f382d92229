"""Decide everything a worker does: facts go in, orders come out.

No socket, thread or clock in here. `step` is the only way to change a `WorkerState`; the shell around it
(`worker/loop.py`) carries the orders out and brings the facts back.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

import msgspec

from umbel import states
from umbel.brokers.base import Bury, Delivery, Done, Lease, Release, Settlement, Verdict
from umbel.execution.outcome import Outcome
from umbel.pools.base import Finished, Interrupt, Job, Lost, Started
from umbel.worker.admit import RUN, Hold, Policy, admit
from umbel.worker.facts import (
    Adjusted,
    Arrived,
    Autoscaled,
    Concluded,
    Fact,
    LeasesLost,
    Manner,
    QueuesChanged,
    Recycled,
    Reported,
    Reserved,
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
    Order,
    Recycle,
    Renew,
    Reserve,
    Resize,
    Run,
    Settle,
    Tell,
    Why,
    Withdraw,
)
from umbel.worker.rate import Starts

__all__ = ["Rules", "WorkerState", "is_over", "next_timer", "room", "step"]

_DONE: Final = Done()
_AHEAD: Final = Release()  # uncounted, at once, ahead of its equals: it has not begun


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's settings, as the core reads them."""

    crash_limit: int = 5  # counted attempts until a message is a dead letter; 0 = no limit
    lease: float = 10.0  # seconds; renewed at a third of that
    horizon: float = 0.02  # seconds of work to hold beyond the free slots
    buffer: int = 128  # deliveries held beyond the free slots at the most, however short the tasks
    patience: float = 0.1  # seconds without progress until what has not begun goes back to the broker
    eta_limit: int = 10_000  # deliveries held for their eta, where the broker does not hold them
    delays: bool = True  # the broker holds what is released with a delay
    hold: float = 1.0  # seconds that what may not start yet is held here; longer than that it is the broker's
    ends_lost: bool = False  # what another worker has by now is ended here
    soft_when_idle: bool = False  # a soft stop takes its time even if nothing runs
    keepalive: float = 30.0  # seconds of less load until an autoscaled pool shrinks
    discard: frozenset[str] = frozenset()  # reasons whose messages are dropped instead of kept as dead letters


@dataclass(slots=True)
class _Held:
    """One delivery in our hand."""

    delivery: Delivery
    policy: Policy | None
    lease: Lease | None  # None = acknowledged already
    submitted: bool = False  # the pool has it
    since: float = 0.0  # monotonic: when the pool got it or, where it says so, when it began
    why: Why | None = None  # we decided to end it, and so
    lost: bool = False  # another worker has it now: whatever it comes to is not ours to write


@dataclass(slots=True)
class WorkerState:
    """All that a worker knows about its deliveries."""

    slots: int
    policy: Callable[[str], Policy | None]  # by task name; None = not registered
    rules: Rules = field(default_factory=Rules)
    held: dict[int, _Held] = field(default_factory=dict)  # by our own tag, oldest first
    line: deque[int] = field(default_factory=deque)  # tags that are acknowledged before they run, and wait for a slot
    submitted: int = 0  # how many of `held` the pool has
    waiting: int = 0  # how many of `held` wait for their eta
    pace: float | None = None  # seconds a task takes of late; None = none has ended yet
    progress: float = 0.0  # monotonic: when the pool last ended a job, or got one while it had free slots
    renew_at: float = 0.0  # monotonic
    stopping: Manner | None = None
    timers: list[tuple[float, int, str]] = field(default_factory=list)  # heap of (monotonic, tag, what)
    last_tag: int = 0
    starts: dict[str, Starts] = field(default_factory=dict)  # of tasks with a rate limit, by name
    adjusted: dict[str, Policy] = field(default_factory=dict)  # by task name: what replaces `policy`
    scale: tuple[int, int] | None = None  # most and least slots, if they follow the load
    loaded_at: float = 0.0  # monotonic: when all slots were last wanted


def step(state: WorkerState, fact: Fact, *, now: float) -> list[Order]:
    """Return what to do because of *fact*; *now* is monotonic seconds."""
    match fact:
        case Reported():
            return _reported(state, fact, now)
        case Arrived():
            return _arrived(state, fact, now)
        case Ticked():
            return _ticked(state, now)
        case Concluded():
            return _concluded(state, fact, now)
        case Withdrawn():
            return _withdrawn(state, fact, now)
        case LeasesLost():
            return _leases_lost(state, fact)
        case Revoked() | Terminated():
            return _revoked(state, fact)
        case Reserved():
            return _reserved(state, fact, now)
        case Resized():
            state.slots = fact.slots
            return _advance(state, now)
        case Scaled():
            return [Resize(max(1, fact.slots))]
        case Autoscaled():
            return _autoscaled(state, fact, now)
        case Adjusted():
            return _adjusted(state, fact)
        case QueuesChanged():
            return [Consume()]
        case Recycled():
            return [Recycle()]
        case Stopped():
            return _stopped(state, fact, now)
        case _:
            assert_never(fact)


def room(state: WorkerState) -> int:
    """Return how many deliveries to claim now.

    The free slots, and beyond them as much short work as runs within `rules.horizon`: a batch keeps the
    slots fed over a round trip to the broker, and nothing waits here that another worker could run.
    """
    if state.stopping is not None or state.waiting >= state.rules.eta_limit:
        return 0
    slots = state.slots if state.scale is None else max(state.slots, state.scale[0])
    return max(0, slots + _buffer(state) - state.submitted - len(state.line))


def next_timer(state: WorkerState) -> float | None:
    """Return when `Ticked` is due, in monotonic seconds; None = nothing is waited for."""
    due = [state.timers[0][0]] if state.timers else []
    if state.held:
        due.append(state.renew_at)
    if state.submitted > state.slots:
        due.append(state.progress + state.rules.patience)
    if state.scale is not None and state.slots > max(state.scale[1], _load(state), 1):
        due.append(state.loaded_at + state.rules.keepalive)
    return min(due, default=None)


def is_over(state: WorkerState) -> bool:
    """Return whether a stopping worker has nothing left in its hand."""
    if state.stopping is Manner.SOFT and state.rules.soft_when_idle:
        return False  # until its time is over, which makes it cold
    return state.stopping is not None and not state.held


def _buffer(state: WorkerState) -> int:
    if state.pace is None:
        return 0
    return min(state.rules.buffer, int(state.slots * state.rules.horizon / max(state.pace, 1e-6)))


# -- deliveries come in


def _arrived(state: WorkerState, fact: Arrived, now: float) -> list[Order]:
    orders: list[Order] = _rescale(state, now, coming=len(fact.deliveries))
    jobs: list[Job] = []
    settlements: list[Settlement] = []
    limited: dict[str, Reserve] = {}
    rules = state.rules
    if not state.held:
        state.renew_at = now + rules.lease / 3
    for delivery in fact.deliveries:
        state.last_tag = tag = state.last_tag + 1
        name = delivery.message.task
        policy = (state.adjusted and state.adjusted.get(name)) or state.policy(name)
        decision = admit(delivery, policy, crash_limit=rules.crash_limit, wall=fact.wall)
        held = state.held[tag] = _Held(delivery, policy, Lease(delivery.tag, delivery.token))
        # What was here before has its start reserved, and has come for it.
        if decision is RUN and policy is not None and policy.global_interval and not delivery.redelivered:
            reserve = Reserve(task=name, interval=policy.global_interval, tags=[])
            limited.setdefault(name, reserve).tags.append(tag)
            continue
        if decision is RUN and policy is not None and policy.interval:
            seconds = _starts(state, name, policy.interval).wait(delivery.message.id, now)
            if seconds > rules.hold and rules.delays:
                del state.held[tag]
                settlements.append(Settlement(lease=held.lease, verdict=Release(delay=seconds)))
                continue
            if seconds > 0:
                decision = Hold(seconds)
        if decision is RUN:
            if policy is not None and policy.acks_late:
                jobs.append(_job(state, tag, held, now))
            else:
                state.line.append(tag)
        elif isinstance(decision, Hold):
            state.waiting += 1
            heapq.heappush(state.timers, (now + decision.seconds, tag, "eta"))
        elif isinstance(decision, Why):
            orders.append(_conclude(tag, held, decision, _evidence(decision, held)))
    if settlements:
        orders.append(Settle(settlements))
    if jobs:
        orders.append(Run(jobs))
    if state.line:
        orders += _advance(state, now)
    if state.stopping is not None:
        return orders + _give_back(state)
    return [*orders, *limited.values()]


def _reserved(state: WorkerState, fact: Reserved, now: float) -> list[Order]:
    """Run what may start, and send what may not back for so long: it holds no slot and delays nobody."""
    orders: list[Order] = []
    jobs: list[Job] = []
    settlements: list[Settlement] = []
    for place, tag in enumerate(fact.tags):
        held = state.held.get(tag)
        if held is None or held.why is not None:
            continue
        seconds = fact.first + place * fact.interval
        if seconds > state.rules.hold:
            del state.held[tag]
            settlements.append(Settlement(lease=held.lease, verdict=Release(delay=seconds)))
        elif seconds > 0:
            state.waiting += 1
            heapq.heappush(state.timers, (now + seconds, tag, "eta"))
        elif held.policy is not None and held.policy.acks_late:
            jobs.append(_job(state, tag, held, now))
        else:
            state.line.append(tag)
    if settlements:
        orders.append(Settle(settlements))
    if jobs:
        orders.append(Run(jobs))
    return orders + _advance(state, now)


def _job(state: WorkerState, tag: int, held: _Held, now: float) -> Job:
    if state.submitted < state.slots:
        state.progress = now
    state.submitted += 1
    held.submitted = True
    held.since = now
    return Job(tag, held.delivery, _is_announced(held))


def _is_announced(held: _Held) -> bool:
    policy = held.policy
    return policy is not None and (policy.announce or _limits(held) != (None, None))


def _limits(held: _Held) -> tuple[float | None, float | None]:
    """Return the soft and the hard limit in seconds; the message's own come first."""
    message, policy = held.delivery.message, held.policy
    if policy is None:
        return None, None
    return (
        policy.soft_limit if message.soft_limit is None else message.soft_limit,
        policy.hard_limit if message.hard_limit is None else message.hard_limit,
    )


def _advance(state: WorkerState, now: float) -> list[Order]:
    """Start tasks that are acknowledged before they run, one for each free slot.

    Never more: what is acknowledged and has not begun is lost when we die.
    """
    jobs: list[Job] = []
    acknowledged: list[Settlement] = []
    while state.line and state.submitted < state.slots:
        tag = state.line.popleft()
        held = state.held[tag]
        acknowledged.append(Settlement(lease=held.lease))
        held.lease = None
        jobs.append(_job(state, tag, held, now))
    return [Acknowledge(acknowledged), Run(jobs)] if jobs else []


# -- jobs come back


def _reported(state: WorkerState, fact: Reported, now: float) -> list[Order]:
    orders: list[Order] = []
    settlements: list[Settlement] = []
    endings: list[Ending] = []
    ended, took = 0, 0.0
    for receipt in fact.receipts:
        if type(receipt) is Finished:
            held = state.held.get(receipt.tag)
            if held is None:
                continue
            state.submitted -= 1
            held.submitted = False
            ended += 1
            took += receipt.runtime
            if held.why is Why.TIMEOUT and receipt.report.state == states.REVOKED:
                # A shared child cannot be killed for one job: it was cancelled, because of its limit.
                orders += _timed_out(state, receipt.tag, held, settlements)
                continue
            del state.held[receipt.tag]
            if not held.lost:
                settlements.append(_settlement(state, held, receipt.report))
                endings.append(Ending(held.delivery, receipt.report, receipt.runtime))
        elif type(receipt) is Lost:
            orders += _lost(state, receipt, settlements)
        elif type(receipt) is Started:
            orders += _started(state, receipt, now)
    if ended:
        state.progress = now
        mean = took / ended
        state.pace = mean if state.pace is None else state.pace + (mean - state.pace) * min(1.0, ended / 8)
    if settlements:
        orders.append(Settle(settlements, endings))
    if state.line:
        orders += _advance(state, now)
    return orders


def _settlement(state: WorkerState, held: _Held, outcome: Outcome) -> Settlement:
    return Settlement(
        lease=held.lease,
        verdict=_DONE if outcome.state == states.SUCCESS else _verdict(state, held, outcome),
        follow_ups=outcome.follow_ups,
        records=outcome.records,
        sizes=outcome.sizes,
        parts=outcome.parts,
    )


def _verdict(state: WorkerState, held: _Held, outcome: Outcome) -> Verdict:
    policy = held.policy
    if outcome.requeue:
        return Release(front=False)
    if outcome.state == states.REJECTED:
        return _bury(state, "rejected", outcome.reason)
    if outcome.unread:
        return _bury(state, "invalid", outcome.reason)
    if outcome.state == states.FAILURE and policy is not None and not policy.acks_on_failure:
        return _bury(state, "failed", outcome.reason)
    return _DONE


def _bury(state: WorkerState, reason: str, evidence: str) -> Verdict:
    return _DONE if reason in state.rules.discard else Bury(reason=reason, evidence=evidence)


def _started(state: WorkerState, receipt: Started, now: float) -> list[Order]:
    held = state.held.get(receipt.tag)
    if held is None:
        return []
    held.since = now
    soft, hard = _limits(held)
    if soft is not None:
        heapq.heappush(state.timers, (now + soft, receipt.tag, "soft"))
    if hard is not None:
        heapq.heappush(state.timers, (now + hard, receipt.tag, "hard"))
    if len(state.timers) > 2 * len(state.held) + 64:
        # Timers of ended jobs stay behind until they are due; a long limit on short tasks would pile them up.
        state.timers = [timer for timer in state.timers if timer[1] in state.held]
        heapq.heapify(state.timers)
    return [Tell(held.delivery, receipt.pid)]


def _lost(state: WorkerState, receipt: Lost, settlements: list[Settlement]) -> list[Order]:
    held = state.held.get(receipt.tag)
    if held is None:
        return []
    state.submitted -= 1
    held.submitted = False
    cancelled: list[Order] = [Cancelled(held.delivery)] if receipt.interrupted and receipt.pid else []
    if held.lost:
        del state.held[receipt.tag]
        return cancelled
    if held.why is Why.TIMEOUT:
        return _timed_out(state, receipt.tag, held, settlements)
    if held.why is not None:
        return [_conclude(receipt.tag, held, held.why, receipt.evidence)]
    if held.lease is None and cancelled and state.stopping is Manner.COLD:
        return [*cancelled, _conclude(receipt.tag, held, Why.CANCELLED, receipt.evidence)]
    if held.lease is None:
        return [_conclude(receipt.tag, held, Why.LOST, receipt.evidence)]
    if not receipt.at_fault:
        del state.held[receipt.tag]
        settlements.append(Settlement(lease=held.lease, verdict=_AHEAD))
        return cancelled if state.stopping is Manner.COLD else []
    return _attempt(state, receipt.tag, held, receipt.evidence, settlements)


def _attempt(state: WorkerState, tag: int, held: _Held, evidence: str, settlements: list[Settlement]) -> list[Order]:
    """Charge a crash to a task: it runs again, until there were too many."""
    crashes, limit = held.delivery.crashes + 1, state.rules.crash_limit
    if held.policy is not None and not held.policy.retry_lost:
        return [_conclude(tag, held, Why.LOST, evidence)]
    if crashes >= limit > 0:
        return [_conclude(tag, held, Why.CRASHED, evidence)]
    del state.held[tag]
    # A task that kills its process would otherwise spin, and take a slot from its neighbours each time.
    delay = min(0.1 * 2**held.delivery.crashes, 30.0)
    settlements.append(Settlement(lease=held.lease, verdict=Release(counted=True, evidence=evidence, delay=delay)))
    return []


def _timed_out(state: WorkerState, tag: int, held: _Held, settlements: list[Settlement]) -> list[Order]:
    evidence = f"ran longer than its hard limit of {_limits(held)[1]:g} s"
    held.why = None
    if held.lease is None or held.policy is None or held.policy.acks_on_timeout:
        message = msgspec.structs.replace(held.delivery.message, hard_limit=_limits(held)[1])
        held.delivery = msgspec.structs.replace(held.delivery, message=message)  # the worker's own limit, perhaps
        return [_conclude(tag, held, Why.TIMEOUT, evidence)]
    return _attempt(state, tag, held, evidence, settlements)


# -- endings without an outcome of user code


def _conclude(tag: int, held: _Held, why: Why, evidence: str) -> Conclude:
    held.why = why
    return Conclude(tag=tag, delivery=held.delivery, why=why, evidence=evidence)


def _evidence(why: Why, held: _Held) -> str:
    message = held.delivery.message
    match why:
        case Why.INVALID:
            return held.delivery.invalid or "unreadable"
        case Why.UNKNOWN:
            return f"no task named {message.task!r} is registered here"
        case Why.EXPIRED:
            return f"expired at {message.expires}"
        case Why.CRASHED:
            return f"{held.delivery.crashes} attempts ended in a crash"
        case _:
            return str(why.value)


def _concluded(state: WorkerState, fact: Concluded, now: float) -> list[Order]:
    held = state.held.pop(fact.tag, None)
    if held is None or held.lost:
        return []
    match held.why:
        case Why.INVALID | Why.UNKNOWN | Why.EXPIRED | Why.CRASHED as why:
            # Crashes that were counted before have left their evidence already.
            told = held.delivery.crashes >= state.rules.crash_limit and why is Why.CRASHED
            verdict = _bury(state, why.value, "" if told else fact.outcome.reason)
        case _:
            verdict = _DONE
    settlement = Settlement(
        lease=held.lease,
        verdict=verdict,
        follow_ups=fact.outcome.follow_ups,
        records=fact.outcome.records,
        sizes=fact.outcome.sizes,
        parts=fact.outcome.parts,
    )
    return [Settle([settlement], [Ending(held.delivery, fact.outcome, None, held.why)]), *_advance(state, now)]


def _revoked(state: WorkerState, fact: Revoked | Terminated) -> list[Order]:
    orders: list[Order] = []
    dealt = False
    for tag, held in state.held.items():
        if held.delivery.message.id not in fact.ids or held.why is not None:
            continue
        if not held.submitted:
            _unwait(state, tag)
            orders.append(_conclude(tag, held, Why.REVOKED, Why.REVOKED.value))
        elif type(fact) is Terminated:
            held.why = Why.TERMINATED
            orders.append(InterruptJob(tag=tag, how=Interrupt.CANCEL, signal=fact.signal))
        else:
            held.why, dealt = Why.REVOKED, True  # should it not have begun, or end without an outcome
    if dealt and state.submitted > state.slots:
        orders.append(Withdraw(state.submitted - state.slots))
    return orders


# -- what people change while it works


def _load(state: WorkerState) -> int:
    return len(state.held) - state.waiting


def _autoscaled(state: WorkerState, fact: Autoscaled, now: float) -> list[Order]:
    if not fact.most:
        state.scale = None
        return []
    most, least = max(fact.most, fact.least), min(fact.most, fact.least)
    state.scale = most, least
    state.loaded_at = now
    slots = min(max(state.slots, least, 1), most)
    return [Resize(slots)] if slots != state.slots else []


def _rescale(state: WorkerState, now: float, *, coming: int = 0) -> list[Order]:
    """Let the pool grow at once with what is wanted of it, and shrink after a rest."""
    if state.scale is None:
        return []
    most, least = state.scale
    load = _load(state) + coming
    if load >= state.slots:
        state.loaded_at = now
        if state.slots < most and load > state.slots:
            return [Resize(min(load, most))]
    elif state.slots > max(least, 1) and now - state.loaded_at >= state.rules.keepalive:
        state.loaded_at = now
        return [Resize(max(load, least, 1))]
    return []


def _adjusted(state: WorkerState, fact: Adjusted) -> list[Order]:
    state.adjusted[fact.task] = fact.policy
    starts = state.starts.get(fact.task)
    if starts is not None and starts.interval != fact.policy.interval:
        del state.starts[fact.task]
    for held in state.held.values():
        if held.delivery.message.task == fact.task and not held.submitted:
            held.policy = fact.policy
    return []


def _starts(state: WorkerState, task: str, interval: float) -> Starts:
    starts = state.starts.get(task)
    if starts is None:
        starts = state.starts[task] = Starts(interval)
    return starts


# -- time


def _ticked(state: WorkerState, now: float) -> list[Order]:
    orders: list[Order] = []
    jobs: list[Job] = []
    while state.timers and state.timers[0][0] <= now:
        _, tag, what = heapq.heappop(state.timers)
        if what == "cold":
            orders += _halt(state)
        elif (held := state.held.get(tag)) is None:
            continue
        elif what == "eta":
            state.waiting -= 1
            if held.policy is not None and held.policy.acks_late:
                jobs.append(_job(state, tag, held, now))
            else:
                state.line.append(tag)
        elif what == "soft" and held.submitted and held.why is None:
            orders.append(InterruptJob(tag=tag, how=Interrupt.SOFT))
        elif what == "hard" and held.submitted:
            held.why = Why.TIMEOUT
            orders.append(InterruptJob(tag=tag, how=Interrupt.KILL))
    if jobs:
        orders.append(Run(jobs))
    orders += _advance(state, now)
    orders += _rescale(state, now)
    if state.submitted > state.slots and now - state.progress >= state.rules.patience:
        state.progress = now
        orders.append(Withdraw(state.submitted - state.slots))
    if state.held and now >= state.renew_at:
        state.renew_at = now + state.rules.lease / 3
        leases = [held.lease for held in state.held.values() if held.lease is not None and not held.lost]
        if leases:
            orders.append(Renew(leases))
    return orders


def _withdrawn(state: WorkerState, fact: Withdrawn, now: float) -> list[Order]:
    settlements: list[Settlement] = []
    orders: list[Order] = []
    for tag in fact.tags:
        held = state.held.get(tag)
        if held is None:
            continue
        state.submitted -= 1
        held.submitted = False
        if held.why is not None and not held.lost:
            orders.append(_conclude(tag, held, held.why, held.why.value))
        elif held.lease is None and not held.lost:
            orders.append(_conclude(tag, held, Why.LOST, "the worker stopped before it began"))
        else:
            del state.held[tag]
            if not held.lost:
                settlements.append(Settlement(lease=held.lease, verdict=_AHEAD))
    if settlements:
        orders.append(Settle(settlements))
    return orders + _advance(state, now)


def _leases_lost(state: WorkerState, fact: LeasesLost) -> list[Order]:
    gone = set(fact.leases)
    orders: list[Order] = []
    for tag, held in list(state.held.items()):
        if held.lease in gone:
            held.lost = True
            if not held.submitted:
                _forget(state, tag)
            elif state.rules.ends_lost:
                orders.append(InterruptJob(tag=tag, how=Interrupt.KILL))
    return orders


def _forget(state: WorkerState, tag: int) -> None:
    del state.held[tag]
    _unwait(state, tag)


def _unwait(state: WorkerState, tag: int) -> None:
    """Let *tag* neither wait for a slot nor for its time any more."""
    if tag in state.line:
        state.line.remove(tag)
        return
    timers = [timer for timer in state.timers if timer[1] != tag or timer[2] != "eta"]
    if len(timers) < len(state.timers):
        heapq.heapify(timers)
        state.timers = timers
        state.waiting -= 1


# -- the end


def _stopped(state: WorkerState, fact: Stopped, now: float) -> list[Order]:
    state.stopping = fact.manner
    if fact.manner is Manner.COLD:
        return _halt(state)
    if fact.manner is Manner.SOFT:
        heapq.heappush(state.timers, (now + fact.soft_shutdown, 0, "cold"))
    return _give_back(state)


def _halt(state: WorkerState) -> list[Order]:
    state.stopping = Manner.COLD
    return [*_give_back(state), Halt()]


def _give_back(state: WorkerState) -> list[Order]:
    """Release all that has not begun."""
    settlements: list[Settlement] = []
    for tag, held in list(state.held.items()):
        if not held.submitted and held.why is None:
            _forget(state, tag)
            settlements.append(Settlement(lease=held.lease, verdict=_AHEAD))
    orders: list[Order] = [Settle(settlements)] if settlements else []
    if state.submitted:
        orders.append(Withdraw(state.submitted))
    return orders
