"""What the SQLite broker promises beyond the port: temporary queues, a file that does not grow, waking in time."""

import subprocess
import sys
import textwrap
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest

from umbel.backends.sqlite import SqliteBackend
from umbel.brokers.base import Bury, Claim, Lease, Publication, Release, Settlement
from umbel.brokers.sqlite import Location, SqliteBroker
from umbel.brokers.sqlite_file import Database
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.calls import is_woken
from umbel.exceptions import EncodeError
from umbel.wire.message import Message, Route
from umbel.wire.record import Record
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology


@pytest.fixture
def location(tmp_path):
    return Location(tmp_path / "queue.db")


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def connect(location, clock):
    opened = []

    def connect(*queues, clock=clock):
        broker = SqliteBroker(location, clock=clock)
        opened.append(broker)
        if queues:
            broker.consume(queues)
        return broker

    yield connect
    for broker in opened:
        broker.close()


# -- order


def test_over_many_queues_priority_goes_first_and_then_age(connect):
    broker = connect("p", "q", "r")
    for number, (queue, priority) in enumerate([("p", 0), ("q", 9), ("r", 0), ("q", 0), ("p", 9), ("r", 5), ("p", 0)]):
        broker.publish([publication(f"{number}", queue, priority=priority)])

    assert take(broker, 3) == ["1", "4", "5"]
    assert take(broker, 3) == ["0", "2", "3"]
    assert take(broker, 3) == ["6"]


@pytest.mark.parametrize(("priority", "max_priority"), [(-7, None), (1000, None), (9, 3), (3, 3)])
def test_any_priority_finds_a_place(connect, priority, max_priority):
    broker = connect()
    broker.declare(Topology.of(QueueSpec("q", max_priority=max_priority)))
    broker.consume(["q"])
    broker.publish([publication("1", priority=priority), publication("2", priority=priority)])

    assert take(broker, 5) == ["1", "2"]


def test_a_clock_that_is_set_back_changes_no_order(connect, clock, location):
    broker, other = connect("q"), connect("q", clock=VirtualClock(clock() - 3600))
    broker.publish([publication("1")])
    other.publish([publication("2")])
    broker.publish([publication("3")])
    assert take(other, 1) == ["1"]
    other.publish([publication("4"), publication("5")])

    assert take(broker, 9) == ["2", "3", "4", "5"]


# -- what is stored


def test_what_was_stored_is_read_by_later_versions(connect, location):
    """The bytes of file version 1. If this fails, the order of fields has changed: new ones come at the end."""
    blob = bytes.fromhex(
        "92dc001da433663163a973686f702e73686970c40b5b5b315d2c7b7d2c7b7d5db06170706c69636174696f6e2f6a736f6ea57574662d38b0"
        "6170706c69636174696f6e2f7a6c6962d7ff002961c0695735a5d6ff6b36ec8002cb403e000000000000cb4034800000000000a172a170a1"
        "6703a153a428312c29a27b7da667656e314068c30191a17481a17491a16181a16b01a27271a163050281a66170705f6964a17892a178a36b"
        "6579"
    )
    broker = connect("q")
    broker.publish([publication("first")])
    with rows_of(location) as rows:
        rows("UPDATE ready SET message = ?", (blob,))

    (delivery,) = claim(broker)

    assert delivery.route == Route("x", "key")
    assert delivery.message == Message(
        id="3f1c", task="shop.ship", body=b"[[1],{},{}]", compression="application/zlib",
        eta=datetime(2026, 1, 2, 3, 4, 5, 678, UTC), expires=datetime(2027, 1, 1, tzinfo=UTC), retries=2,
        hard_limit=30.0, soft_limit=20.5, root_id="r", parent_id="p", group="g", group_index=3, shadow="S",
        argsrepr="(1,)", kwargsrepr="{}", origin="gen1@h", ignore_result=True, replaced_task_nesting=1,
        stamped_headers=("t",), stamps={"t": ["a"]}, headers={"k": 1}, reply_to="rq", correlation_id="c", priority=5,
        properties={"app_id": "x"},
    )  # fmt: skip


def test_headers_that_cannot_be_stored_are_named_before_anything_is(connect):
    broker = connect("q")
    with pytest.raises(EncodeError, match="message 2 of task t cannot be stored"):
        broker.publish([publication("1"), publication("2", headers={"odd": object()})])
    assert take(broker, 5) == []


@pytest.mark.parametrize("end", ["done", "purge", "discard", "delete"])
def test_a_large_body_goes_with_its_message(connect, location, end):
    broker = connect()
    spec = QueueSpec("q", auto_delete=end == "delete")
    broker.declare(Topology.of(spec))
    broker.consume(["q"])
    body = bytes(range(256)) * 4000
    broker.publish([publication("1", body=body)])
    if end == "purge":
        broker.purge("q")
    elif end == "delete":
        broker.consume([])
    else:
        (delivery,) = claim(broker)
        assert delivery.message.body == body
        if end == "done":
            broker.settle([finish(delivery)])
        else:
            broker.settle([finish(delivery, Release(counted=True, evidence="x"))])
            (delivery,) = claim(broker)
            broker.settle([finish(delivery, Bury(reason="rejected"))])
            assert broker.find_dead("1").message.body == body
            broker.revive(["1"])
            (delivery,) = claim(broker)
            assert delivery.message.body == body
            broker.settle([finish(delivery, Bury(reason="rejected"))])
            broker.discard(["1"])

    with rows_of(location) as rows:
        assert rows("SELECT count(*) FROM bodies") == [(0,)]


# -- temporary queues


FANOUT = Topology.of(
    Exchange("news", "fanout"), QueueSpec("mine", auto_delete=True), Binding("news", "mine"),
)  # fmt: skip


def test_an_auto_delete_queue_goes_with_its_last_consumer(connect):
    one, other, sender = connect(), connect(), connect()
    one.declare(FANOUT)
    one.consume(["mine"])
    other.consume(["mine"])
    one.close()
    sender.publish([Publication(message=Message(id="1", task="t", body=b""), route=Route("news", ""))])
    assert take(other) == ["1"]

    other.consume(["else"])

    assert "mine" not in sender.sizes()
    sender.publish([Publication(message=Message(id="2", task="t", body=b""), route=Route("news", ""))])
    assert "mine" not in sender.sizes()


def test_an_auto_delete_exchange_goes_with_its_last_binding(connect):
    broker = connect()
    broker.declare(Topology.of(FANOUT, Exchange("news", "fanout", auto_delete=True)))
    broker.consume(["mine"])
    broker.consume([])
    broker.declare(Topology.of(QueueSpec("kept"), Binding("news", "kept", "key")))

    broker.publish([Publication(message=Message(id="1", task="t", body=b""), route=Route("news", "other"))])

    assert broker.sizes()["kept"].ready == 0  # a direct one now: fanout went with the queue


@pytest.mark.process
def test_the_temporary_queue_of_a_killed_process_goes_soon(connect, clock, location):
    broker = connect()
    broker.declare(FANOUT)
    script = f"""
        import os, signal
        from pathlib import Path
        from umbel.brokers.sqlite import Location, SqliteBroker
        SqliteBroker(Location(Path({str(location.path)!r}))).consume(["mine"])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert "mine" in broker.sizes()

    clock.advance(6)
    broker.publish([publication("1")])

    assert "mine" not in broker.sizes()


def test_a_queue_expires_when_nobody_uses_it(connect, clock):
    reader, other = connect(), connect()
    other.declare(Topology.of(QueueSpec("reply", expires=60.0)))
    reader.consume(["reply"])
    for _ in range(5):
        clock.advance(50)
        other.publish([publication("1")])
    assert "reply" in other.sizes()
    reader.close()
    clock.advance(50)
    other.publish([publication("2")])
    assert "reply" in other.sizes()
    clock.advance(50)
    other.publish([publication("3")])
    assert "reply" not in other.sizes()


def test_messages_older_than_their_queue_allows_are_dropped(connect, clock):
    broker = connect()
    broker.declare(Topology.of(QueueSpec("events", message_ttl=5.0)))
    broker.consume(["events"])
    broker.publish([publication("old", "events")])
    clock.advance(4)
    broker.publish([publication("new", "events")])
    clock.advance(2)

    assert take(broker, 5) == ["new"]


# -- growing and shrinking


@pytest.mark.slow
def test_the_file_does_not_grow_with_what_went_through(connect, location, clock):
    broker = connect("q")
    size = 0
    for round_ in range(12):
        for batch in range(10):
            ids = [f"{round_}-{batch}-{number}" for number in range(500)]
            broker.publish([publication(each, body=b"x" * 300) for each in ids])
            broker.settle(
                [
                    finish(
                        each, records=(Record(id=each.message.id, state="SUCCESS", payload=b"y" * 200, expires=20.0),)
                    )
                    for each in claim(broker, 500)
                ]
            )
            clock.advance(2.0)
        found = sum(each.stat().st_size for each in location.path.parent.glob("queue.db*") if each.is_file())
        if round_ == 2:
            size = found
    assert found <= size * 1.25
    clock.advance(30)
    broker.publish([publication("last")])
    with closing(SqliteBackend(location, clock=clock)) as backend:
        backend.cleanup()
        assert backend.fetch(["0-0-0", "11-9-0"]) == {}
    with rows_of(location) as rows:
        assert rows("SELECT count(*) FROM results") == [(0,)]


# -- waking


WAITER = """
    import sys, time
    from pathlib import Path
    from umbel.brokers.base import Claim, Lease, Publication, Settlement
    from umbel.brokers.sqlite import Location, SqliteBroker
    from umbel.contrib.testing.contracts.calls import is_woken
    broker = SqliteBroker(Location(Path(sys.argv[1])))
    broker.consume(["q"])
    settlements = []
    print("ready", flush=True)
    while True:
        turn = broker.settle(settlements, Claim(limit=4, lease=60.0, owner="waiter"))
        now = time.time()
        settlements = [Settlement(lease=Lease(each.tag, each.token)) for each in turn.deliveries]
        for each in turn.deliveries:
            print(now - float(each.message.id), flush=True)
        if not turn.deliveries:
            is_woken(broker)
"""


@pytest.mark.process
def test_a_waiting_process_has_the_message_within_five_milliseconds(connect, location):
    broker = connect(clock=time.time)
    broker.publish([publication(f"{time.time()}")])
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WAITER), str(location.path)], stdout=subprocess.PIPE, text=True
    ) as waiter:
        assert waiter.stdout.readline() == "ready\n"
        waiter.stdout.readline()
        seconds = []
        for _ in range(101):
            time.sleep(0.002)  # now it waits
            broker.publish([publication(f"{time.time():.9f}")])
            seconds.append(float(waiter.stdout.readline()))
        waiter.kill()

    assert sorted(seconds)[20] < 0.005  # a busy machine takes its time with the others


def test_where_nobody_can_be_woken_everybody_looks_often_enough(connect, location, caplog):
    location.path.with_name("queue.db-wake").write_text("in the way")
    waiting, sender = connect("q"), connect()
    assert take(waiting) == []
    assert not is_woken(waiting, 0.0)
    assert waiting.next_due() == pytest.approx(0.1)

    sender.publish([publication("1")])
    assert take(waiting) == ["1"]
    waiting.publish([publication("2")])
    assert is_woken(waiting, 0.0)

    assert caplog.text.count("ten times a second") == 2  # once for each connection


def test_who_is_full_rings_for_himself_and_nobody_else_does(connect):
    broker, sender = connect("q"), connect()
    broker.fileno()
    sender.publish([publication(each) for each in "123"])

    assert take(broker, 1) == ["1"]
    assert is_woken(broker, 0.0)
    assert take(broker, 1) == ["2"]
    assert is_woken(broker, 0.0)
    assert take(broker, 5) == ["3"]
    assert take(broker, 5) == []
    assert not is_woken(broker, 0.0)
    sender.publish([publication("4")])
    assert is_woken(broker, 0.0)


# -- helpers


@contextmanager
def rows_of(location):
    """Look into the file."""
    with closing(Database(location)) as database:
        yield database.rows


def publication(task_id, queue="q", **fields):
    return Publication(message=Message(**{"id": task_id, "task": "t", "body": b"", **fields}), route=Route("", queue))


def claim(broker, limit=1):
    return broker.settle([], Claim(limit=limit, lease=86400.0, owner="node")).deliveries


def take(broker, limit=1):
    return [each.message.id for each in claim(broker, limit)]


def finish(delivery, verdict=None, **fields):
    return Settlement(
        lease=Lease(delivery.tag, delivery.token), **({} if verdict is None else {"verdict": verdict}), **fields
    )
