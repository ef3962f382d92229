import os
import socket
from pathlib import Path

import pytest

from umbel.pools.frames import NOW, pair, receive, receive_with_files, send, send_with_files


@pytest.fixture
def ends():
    ours, theirs = pair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("size", [1, 200, 65_535, 65_536, 65_537, 1_000_000])
def test_a_frame_arrives_whole_whatever_its_size(ends, size):
    ours, theirs = ends
    frame = b"\x90" * size

    send(ours, frame)

    assert receive(theirs) == frame


def test_frames_keep_their_order_and_their_bounds(ends):
    ours, theirs = ends
    frames = [b"a", b"b" * 100_000, b"cc", b"d" * 70_000]

    for frame in frames:
        send(ours, frame)

    assert [receive(theirs) for _ in frames] == frames


def test_a_frame_is_read_once_also_by_a_second_reader_of_the_same_end(ends):
    ours, theirs = ends
    with socket.socket(fileno=os.dup(theirs.fileno())) as again:
        send(ours, b"first")
        send(ours, b"x" * 100_000)

        assert receive(theirs) == b"first"
        assert receive(again) == b"x" * 100_000
        with pytest.raises(BlockingIOError):
            receive(theirs, NOW)


def test_no_descriptor_is_left_open_by_big_frames(ends):
    ours, theirs = ends
    before = _descriptors()

    for _ in range(5):
        send(ours, b"x" * 100_000)
        receive(theirs)

    assert _descriptors() == before


def test_nothing_is_sent_when_there_is_no_room(ends):
    ours, theirs = ends
    ours.setblocking(False)

    sent = _fill(ours)

    assert sent > 1
    assert [len(receive(theirs, NOW)) for _ in range(sent)] == [60_000] * sent
    with pytest.raises(BlockingIOError):
        receive(theirs, NOW)


def test_the_end_is_an_empty_frame_after_all_that_was_sent(ends):
    ours, theirs = ends
    send(ours, b"last")
    ours.shutdown(socket.SHUT_WR)

    assert [receive(theirs), receive(theirs), receive(theirs)] == [b"last", b"", b""]


def test_descriptors_travel_with_a_datagram(ends):
    ours, theirs = ends
    read_end, write_end = os.pipe()

    send_with_files(ours, b"here", read_end, write_end)
    data, fds = receive_with_files(theirs, 2)
    os.write(fds[1], b"through")

    assert (data, os.read(read_end, 10)) == (b"here", b"through")
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in (read_end, write_end, *fds):
        os.close(fd)


def _fill(sock):
    sent = 0
    while True:
        try:
            send(sock, b"x" * 60_000)
        except BlockingIOError:
            return sent
        sent += 1


def _descriptors():
    return len(list(Path("/dev/fd").iterdir()))
