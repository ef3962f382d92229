import os
import random
import signal
import sys
import threading
import time

import pytest

from umbel.exceptions import SoftTimeLimitExceeded, Terminated
from umbel.pools.interrupts import SOFT_SIGNAL, SignalledSlot, Slot
from umbel.pools.strikes import INTERRUPTS


def in_thread(call):
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def spin_until(event):
    while not event.is_set():
        pass


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_after_a_strike_a_debugger_may_trace_the_thread():
    slot, begun = Slot(), threading.Event()

    def job(_argument):
        begun.set()
        spin_until(threading.Event())

    threading.Thread(target=lambda: begun.wait() and slot.strike(7, Terminated)).start()
    with pytest.raises(Terminated):
        slot.run(7, job, None)

    lines, before = [], sys.gettrace()
    sys.settrace(lambda *event: lines.append(event))
    try:
        wait_for(lambda: True)  # for ever, if the interpreter still looked for an exception to raise
    finally:
        sys.settrace(before)
    assert lines


def test_a_strike_is_raised_inside_the_job():
    slot, never = Slot(), threading.Event()

    def job(event):
        try:
            spin_until(event)
        except SoftTimeLimitExceeded:
            return "soft"

    thread, results = in_thread(lambda: slot.run(7, job, never))
    wait_for(lambda: slot.tag == 7)

    assert slot.strike(7, SoftTimeLimitExceeded)
    thread.join(10)

    assert results == ["soft"]
    assert slot.tag is None


def test_a_strike_for_another_job_is_not_raised():
    slot, end = Slot(), threading.Event()
    thread, _ = in_thread(lambda: slot.run(7, spin_until, end))
    wait_for(lambda: slot.tag == 7)

    assert not slot.strike(8, Terminated)
    end.set()
    thread.join(10)

    assert not thread.is_alive()


def test_strikes_at_any_moment_never_leave_their_job():
    """The exception is raised inside `run`, or not at all; it never reaches the code around it."""
    slot = Slot()
    over = threading.Event()
    escaped = []
    outcomes = {"ran": 0, "struck": 0}

    def work():
        tag = 0
        try:
            while not over.is_set():
                tag += 1
                slot.coming = tag
                try:
                    slot.run(tag, lambda n: sum(range(n)), 50)
                    outcomes["ran"] += 1
                except INTERRUPTS:
                    outcomes["struck"] += 1
                for _ in range(20):  # a struck exception would surface here
                    pass
        except BaseException as exc:  # noqa: BLE001 - an exception that left its job would be any
            escaped.append(exc)

    thread, _ = in_thread(work)
    chance = random.Random(1)
    until = time.monotonic() + 1.0
    while time.monotonic() < until and thread.is_alive():
        slot.strike((slot.coming or 0) + chance.choice((0, 0, 1)), chance.choice(INTERRUPTS))
        if chance.random() < 0.1:
            time.sleep(0.0001)
    over.set()
    thread.join(10)

    assert not escaped
    assert outcomes["ran"] > 0
    assert outcomes["struck"] > 0


def test_what_a_job_raises_comes_out():
    def fail(argument):
        raise LookupError(argument)

    with pytest.raises(LookupError, match="42"):
        Slot().run(1, fail, 42)


@pytest.fixture
def signalled():
    """A slot of this thread, the strikes it will read, and those it has missed."""
    before = signal.getsignal(SOFT_SIGNAL)
    strikes, missed = [], []

    def wanted():
        taken = list(strikes)
        strikes.clear()
        return taken

    yield SignalledSlot(wanted, lambda tag, exception: missed.append((tag, exception))), strikes, missed
    signal.signal(SOFT_SIGNAL, before)


def test_a_signal_is_raised_inside_the_job_that_it_means(signalled):
    slot, strikes, missed = signalled

    def job(_):
        strikes.append((3, SoftTimeLimitExceeded))
        os.kill(os.getpid(), SOFT_SIGNAL)
        time.sleep(60)

    began = time.monotonic()
    with pytest.raises(SoftTimeLimitExceeded):
        slot.run(3, job, None)

    assert time.monotonic() - began < 30
    assert not missed


def test_a_signal_for_a_job_that_has_ended_does_nothing(signalled):
    slot, strikes, missed = signalled

    def job(argument):
        strikes.append((3, SoftTimeLimitExceeded))
        os.kill(os.getpid(), SOFT_SIGNAL)
        return argument

    slot.coming = 4
    assert slot.run(4, job, "done") == "done"
    assert not missed


def test_a_signal_for_a_job_that_is_about_to_run_is_missed(signalled):
    slot, strikes, missed = signalled
    slot.coming = 4

    strikes.append((4, Terminated))
    os.kill(os.getpid(), SOFT_SIGNAL)

    assert missed == [(4, Terminated)]


def test_a_signal_that_says_nothing_does_nothing(signalled):
    slot, _, missed = signalled

    assert slot.run(4, lambda _: os.kill(os.getpid(), SOFT_SIGNAL), None) is None
    assert not missed
