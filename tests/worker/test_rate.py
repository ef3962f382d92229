"""Starts are spaced; a long backlog neither goes round and round nor is kept from other workers."""

from __future__ import annotations

import heapq
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from umbel.worker.rate import Starts


def test_the_first_start_is_now_and_the_next_ones_follow_in_their_distance():
    starts = Starts(2.0)

    assert [starts.wait(name, 10.0) for name in "abc"] == [0.0, 2.0, 4.0]


def test_a_reservation_is_kept_for_the_one_that_has_it():
    starts = Starts(2.0)
    starts.wait("a", 10.0)
    starts.wait("b", 10.0)

    assert starts.wait("b", 11.5) == 0.5
    assert starts.wait("c", 12.0) == 2.0
    assert starts.wait("b", 12.0) == 0.0


def test_after_a_rest_the_next_start_is_now_and_nothing_has_been_saved_up():
    starts = Starts(1.0)
    starts.wait("a", 10.0)

    assert [starts.wait(name, 100.0) for name in "bc"] == [0.0, 1.0]


def test_reservations_that_nobody_comes_for_are_forgotten():
    starts = Starts(0.01)
    for now in range(1000):
        starts.wait(f"a{now}", float(now))
        starts.wait(f"b{now}", float(now))

    assert len(starts.reserved) < 130


@given(st.integers(1, 3000), st.floats(0.05, 20))
def test_everything_starts_in_its_time_however_much_there_is(tasks: int, interval: float):
    starts, begun, asked = Starts(interval), [], 0
    coming = [(0.0, i) for i in range(tasks)]
    while coming and len(begun) < 200:
        now, task = heapq.heappop(coming)
        asked += 1
        seconds = starts.wait(str(task), now)
        assert seconds <= 3600 * 1.5
        if seconds > 0:
            heapq.heappush(coming, (now + seconds, task))
        else:
            begun.append(now)

    assert all(later - earlier >= interval * 0.999 for earlier, later in pairwise(begun))
    # No pause in the middle is much longer than what is sent away for.
    assert begun[-1] - begun[0] <= (len(begun) - 1) * interval * 2 + 3600
    assert asked <= tasks * 8
