"""Who waits is rung, who does not is left alone, and the dead leave nothing behind."""

import select
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from umbel.brokers.wakeup import QUEUES, RESULTS, Bell, Board, interest


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "queue.db-wake"


@pytest.fixture
def opened():
    with ExitStack() as stack:

        def make(thing):
            stack.callback(thing.close)
            return thing

        yield make


def test_a_bell_rings_for_what_it_is_interested_in(folder, opened):
    board = opened(Board(folder))
    mail, other = opened(Bell(board, QUEUES)), opened(Bell(board, QUEUES))
    mail.arm(interest(["mail", "post"]))
    other.arm(interest(["other"]))

    opened(Board(folder)).ring(QUEUES, ["mail"], lambda: b"hello")

    assert rings(mail)
    assert not rings(other)
    assert mail.drain() == ([b"hello"], False)
    assert not rings(mail)


def test_kinds_do_not_disturb_each_other(folder, opened):
    board = opened(Board(folder))
    bell = opened(Bell(board, RESULTS))
    bell.arm(interest(["x"]))

    board.ring(QUEUES, ["x"])
    assert not rings(bell)
    board.ring(RESULTS, ["x"])
    assert rings(bell)


def test_nobody_makes_a_datagram_that_nobody_reads(folder, opened):
    board = opened(Board(folder))
    bell = opened(Bell(board, QUEUES))
    bell.arm(0)

    board.ring(QUEUES, ["q"], lambda: pytest.fail("made for nobody"))


def test_one_may_be_left_out(folder, opened):
    board = opened(Board(folder))
    bell = opened(Bell(board, QUEUES))
    bell.arm(interest(["q"]))

    board.ring(QUEUES, ["q"], but=bell.slot)

    assert not rings(bell)


def test_what_does_not_fit_is_not_forgotten(folder, opened):
    board = opened(Board(folder))
    bell = opened(Bell(board, RESULTS))
    bell.arm(interest(["x"]))
    for number in range(5000):
        board.ring(RESULTS, ["x"], lambda number=number: f"{number}".encode())

    datagrams, lost = bell.drain()

    assert datagrams[0] == b"0"
    assert lost
    assert bell.drain() == ([], False)


def test_a_poked_bell_is_readable_until_it_is_drained(folder, opened):
    for bell in (opened(Bell(opened(Board(folder)), QUEUES)), opened(Bell(None, QUEUES))):
        bell.poke()
        bell.poke()
        assert rings(bell)
        assert rings(bell)
        bell.drain()
        assert not rings(bell)


def test_a_closed_bell_leaves_no_socket(folder, opened):
    board = opened(Board(folder))
    for _ in range(700):  # more than there are slots
        bell = Bell(board, QUEUES)
        assert not bell.deaf
        bell.close()

    assert [each.name for each in folder.iterdir()] == ["board"]


def test_when_all_slots_are_taken_one_is_deaf_and_says_so(folder, opened, caplog):
    board = opened(Board(folder))
    bells = [opened(Bell(board, QUEUES)) for _ in range(513)]

    assert [bell.deaf for bell in bells] == [False] * 512 + [True]
    assert "looks for news" in caplog.text
    bells[3].close()
    assert not opened(Bell(board, QUEUES)).deaf


@pytest.mark.process
@pytest.mark.parametrize("by", ["ring", "open"])
def test_the_killed_are_forgotten_at_the_next_occasion(folder, opened, by):
    board = opened(Board(folder))
    script = f"""
import os, signal
from pathlib import Path
from umbel.brokers.wakeup import QUEUES, Bell, Board, interest
bell = Bell(Board(Path({str(folder)!r})), QUEUES)
bell.arm(interest(["q"]))
print(bell.name)
os.kill(os.getpid(), signal.SIGKILL)
"""
    name = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    if name:  # it was not flushed before the kill
        assert not board.is_alive(name)
    assert len(list(folder.iterdir())) == 2

    if by == "ring":
        board.ring(QUEUES, ["q"])
        assert [each.name for each in folder.iterdir()] == ["board"]
    else:
        bell = opened(Bell(board, QUEUES))
        assert bell.slot == 0
        assert {each.name for each in folder.iterdir()} == {"board", bell.name}


def test_a_living_bell_proves_it(folder, opened):
    board = opened(Board(folder))
    bell = opened(Bell(board, QUEUES))

    assert opened(Board(folder)).is_alive(bell.name)
    assert not board.is_alive("never-there")


def test_a_folder_whose_path_is_too_long_for_a_socket_works(tmp_path, opened):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system knows no short way to a folder")
    folder = tmp_path / ("long" * 40)
    board = opened(Board(folder))
    bell = opened(Bell(board, QUEUES))
    assert not bell.deaf
    bell.arm(interest(["q"]))

    opened(Board(folder)).ring(QUEUES, ["q"])

    assert rings(bell)


def test_a_board_that_was_removed_is_not_current(folder, opened):
    board = opened(Board(folder))
    assert board.is_current()
    (folder / "board").unlink()
    assert not board.is_current()
    opened(Board(folder))
    assert not board.is_current()


def test_a_bell_outlives_its_board(folder, opened):
    board = Board(folder)
    bell = opened(Bell(board, QUEUES))
    board.close()

    assert bell.deaf
    bell.arm(1)
    bell.poke()
    assert rings(bell)
    bell.drain()
    assert not rings(bell)


def test_sets_with_a_common_name_have_a_common_bit():
    assert interest([]) == 0
    assert interest(["a", "b"]) & interest(["b", "c"])
    assert interest(["ü🐇\udc80"])


def rings(bell):
    return bool(select.select([bell], [], [], 0)[0])
