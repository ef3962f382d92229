"""What users want done about lost tasks is done beside the loop, one after the other."""

from __future__ import annotations

import threading

from umbel.worker.aside import Aside

PATIENCE = 30.0


def test_calls_are_made_in_order_in_another_thread_and_stop_waits_for_them():
    aside, made = Aside(), []

    for number in range(50):
        aside(lambda number=number: made.append((number, threading.current_thread().name)))
    aside.stop(PATIENCE)

    assert made == [(number, "umbel-aside") for number in range(50)]


def test_the_caller_waits_neither_for_a_slow_call_nor_beyond_its_deadline():
    aside, go = Aside(), threading.Event()

    aside(lambda: go.wait(PATIENCE))
    aside.stop(0.01)

    assert not go.is_set()
    go.set()


def test_a_call_that_raises_is_logged_and_the_next_one_is_made(caplog):
    aside, made = Aside(), []

    aside(lambda: 1 / 0)
    aside(lambda: made.append(1))
    aside.stop(PATIENCE)

    assert made == [1]
    assert "what a lost task was to set off raised an error" in caplog.text


def test_stopping_what_was_never_used_does_nothing():
    Aside().stop(PATIENCE)
