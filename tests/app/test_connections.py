import os
import threading

import pytest

from umbel.app.connections import Connections
from umbel.exceptions import OperationalError


class Wire:
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


def pool(**options):
    opened = []

    def open_one():
        opened.append(Wire())
        return opened[-1]

    return Connections(open_one, **options), opened


def test_the_last_connection_returned_is_the_next_one_lent():
    connections, opened = pool()
    first, second = connections.take(), connections.take()
    connections.give(first)
    connections.give(second)

    assert connections.take() is second
    assert len(opened) == 2


def test_a_connection_that_failed_is_closed_and_not_lent_again():
    connections, _ = pool()

    with pytest.raises(ZeroDivisionError), connections.lend() as broken:
        raise ZeroDivisionError

    assert broken.closed == 1
    assert connections.take() is not broken


@pytest.mark.row("API-062")
def test_waiting_for_a_connection_ends_with_an_error_that_names_limit_and_time():
    connections, _ = pool(limit=1, timeout=0.01)
    connections.take()

    with pytest.raises(OperationalError, match=r"all 1 connections .* within 0.01 s"):
        connections.take()


@pytest.mark.row("API-062", "API-063")
def test_who_waits_gets_what_comes_back():
    connections, opened = pool(limit=1)
    held = connections.take()
    got = []
    waiter = threading.Thread(target=lambda: got.append(connections.take()))
    waiter.start()

    connections.give(held)
    waiter.join(10)

    assert got == [held]
    assert len(opened) == 1


def test_a_connection_that_cannot_be_opened_takes_no_room():
    def fail():
        raise OperationalError("down")

    connections = Connections(fail, limit=1, timeout=0.0)

    for _ in range(3):
        with pytest.raises(OperationalError, match="down"):
            connections.take()


def test_closing_closes_what_is_idle_and_later_what_was_lent():
    connections, _ = pool()
    lent, idle = connections.take(), connections.take()
    connections.give(idle)

    connections.close()
    assert (lent.closed, idle.closed) == (0, 1)

    connections.give(lent)
    assert lent.closed == 1


@pytest.mark.process
@pytest.mark.row("API-063")
def test_a_forked_child_opens_its_own_and_leaves_its_parents_alone():
    connections, opened = pool()
    connections.give(connections.take())

    child = os.fork()
    if child == 0:
        mine = connections.take()
        fine = mine is not opened[0] and opened[0].closed == 0
        os._exit(0 if fine else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert connections.take() is opened[0]
