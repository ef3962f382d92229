"""What lies on a Redis server while umbel uses it, seen with other eyes; and what Celery's workers do beside us."""

import json
import socket
import threading
import time
import uuid
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from umbel.backends.redis import RedisBackend
from umbel.brokers.base import Bury, Claim, Publication, Release
from umbel.brokers.redis import RedisBroker
from umbel.brokers.redis_address import parse_address
from umbel.brokers.redis_names import Names
from umbel.contrib.testing.contracts.calls import call, finish, is_woken, lease_of, send, to
from umbel.exceptions import BrokerUnavailable
from umbel.wire.chord import ChordPart
from umbel.wire.codecs import Codecs
from umbel.wire.message import Message, Route
from umbel.wire.record import Record
from umbel.wire.result import ResultMeta, decode_meta, encode_meta
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology

pytestmark = pytest.mark.service("redis", "A")

SEP = "\x06\x16"


@pytest.fixture
def open_broker(service_url, prefix):
    opened = []

    def make(*queues, **options):
        names = Names.of({"global_keyprefix": prefix, **options})
        opened.append(RedisBroker(parse_address(service_url("redis"), {}), names))
        if queues:
            opened[-1].consume(queues)
        return opened[-1]

    yield make
    for broker in opened:
        broker.close()


def claim(broker, limit=10, settlements=()):
    return broker.settle(settlements, Claim(limit=limit, lease=30.0, owner="node-1")).deliveries


@pytest.mark.row("PRT-115", "PRT-116", "PRT-118", "PRT-119")
def test_a_message_lies_in_kombus_list_in_kombus_envelope(open_broker, eye, prefix):
    broker = open_broker()
    send(broker, "q", "1")
    send(broker, "q", "2", priority=7)

    (first,), (second,) = eye.lrange(f"{prefix}q", 0, -1), eye.lrange(f"{prefix}q{SEP}6", 0, -1)

    envelope = json.loads(first)
    assert list(envelope) == ["body", "content-encoding", "content-type", "headers", "properties"]
    assert envelope["properties"] | {"delivery_tag": ""} == {
        "correlation_id": "1", "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "q"}, "delivery_tag": "",
    }  # fmt: skip
    assert uuid.UUID(envelope["properties"]["delivery_tag"])
    assert json.loads(second)["properties"]["priority"] == 7


@pytest.mark.row("PRT-125", "PRT-126")
def test_what_is_claimed_lies_where_celery_would_find_it(open_broker, eye, prefix):
    broker = open_broker("q")
    send(broker, "q", "1")
    (message,) = eye.lrange(f"{prefix}q", 0, -1)
    before = time.time()
    (delivery,) = claim(broker)

    ((tag, entry),) = eye.hgetall(f"{prefix}unacked").items()
    assert (tag, entry) == (delivery.tag, f'[{message}, "", "q"]')
    assert before - 5 < eye.zscore(f"{prefix}unacked_index", tag) < time.time() + 5
    assert eye.llen(f"{prefix}q") == 0

    broker.settle([finish(delivery)])
    assert not eye.exists(f"{prefix}unacked", f"{prefix}unacked_index", f"{prefix}umbel.leases")


def test_renewing_keeps_celerys_workers_from_what_we_run(open_broker, eye, prefix):
    broker = open_broker("q")
    send(broker, "q", "1")
    (delivery,) = claim(broker)
    eye.zadd(f"{prefix}unacked_index", {delivery.tag: time.time() - 3000})

    assert broker.renew([lease_of(delivery)], 30.0) == ()

    assert eye.zscore(f"{prefix}unacked_index", delivery.tag) > time.time() - 60


def test_what_celery_took_back_from_us_is_ours_no_more(open_broker, eye, prefix):
    broker = open_broker("q")
    send(broker, "q", "1")
    (delivery,) = claim(broker)
    eye.zrem(f"{prefix}unacked_index", delivery.tag)
    eye.hdel(f"{prefix}unacked", delivery.tag)

    assert broker.renew([lease_of(delivery)], 30.0) == (lease_of(delivery),)
    assert broker.settle([finish(delivery)]).refused == (lease_of(delivery),)


@pytest.mark.row("PRT-127", "PRT-054")
def test_what_a_foreign_worker_lost_comes_back_marked_as_delivered_before(open_broker, eye, prefix):
    sender = open_broker()
    send(sender, "q", "lost", "held", priority=3)
    now = time.time()
    for age in (4000, 10):  # as kombu takes messages
        message = eye.rpop(f"{prefix}q{SEP}3")
        tag = json.loads(message)["properties"]["delivery_tag"]
        eye.hset(f"{prefix}unacked", tag, f'[{message}, "", "q"]')
        eye.zadd(f"{prefix}unacked_index", {tag: now - age})
    broker = open_broker("q")

    (delivery,) = claim(broker)

    assert (delivery.message.id, delivery.redelivered, delivery.crashes) == ("lost", True, 0)
    assert broker.sizes()["q"].claimed == 2
    assert eye.hlen(f"{prefix}unacked") == 2


@pytest.mark.row("PRT-127", "PRT-120")
def test_what_a_foreign_worker_lost_goes_back_by_exchange_and_key(open_broker, eye, prefix):
    broker = open_broker("q")
    broker.declare(Topology.of(Exchange("x"), QueueSpec("q"), Binding("x", "q", "key")))
    broker.publish([Publication(message=call("1"), route=Route("x", "key"))])
    message = eye.rpop(f"{prefix}q")
    eye.hset(f"{prefix}unacked", "tag", f'[{message}, "x", "key"]')
    eye.zadd(f"{prefix}unacked_index", {"tag": time.time() - 4000})

    (delivery,) = claim(broker)

    assert (delivery.message.id, delivery.route) == ("1", Route("x", "key"))


@pytest.mark.row("PRT-120", "PRT-121", "PRT-122", "PRT-123")
def test_bindings_are_stored_as_kombu_does(open_broker, eye, prefix):
    broker = open_broker()
    broker.declare(
        Topology.of(
            Exchange("d"), Exchange("t", "topic"), QueueSpec("q"), QueueSpec("r", expires=10.0, auto_delete=True),
            Binding("d", "q", "key"), Binding("t", "q", "eu.*.#"), Binding("d", "r", "key"),
        )
    )  # fmt: skip

    assert eye.smembers(f"{prefix}_kombu.binding.d") == {f"key{SEP}{SEP}q", f"key{SEP}{SEP}r"}
    assert eye.smembers(f"{prefix}_kombu.binding_permanent.d") == {f"key{SEP}{SEP}q"}
    assert eye.smembers(f"{prefix}_kombu.binding.t") == {f"eu.*.#{SEP}^eu\\.[^\\.]+\\..*?${SEP}q"}
    deadline = eye.zscore(f"{prefix}_kombu.binding_deadlines", "d") / 1000
    assert 3500 < deadline - time.time() < 3700


@pytest.mark.row("PRT-122")
def test_what_nobody_uses_any_more_is_swept_away(open_broker, eye, prefix):
    old, now = time.time() - 2 * 86400, time.time()
    eye.sadd(f"{prefix}_kombu.binding.gone", "a")
    eye.sadd(f"{prefix}_kombu.binding.kept", "a", "b")
    eye.sadd(f"{prefix}_kombu.binding_permanent.kept", "b")
    eye.sadd(f"{prefix}_kombu.binding.used", "a")
    deadlines = {"gone": now * 1000 - 5000, "kept": now * 1000 - 5000, "used": now * 1000 + 60_000}
    eye.zadd(f"{prefix}_kombu.binding_deadlines", deadlines)
    eye.zadd(f"{prefix}umbel.queues", {"empty": old, "full": old, "delayed": old, "new": now})
    eye.lpush(f"{prefix}full{SEP}9", "x")
    eye.zadd(f"{prefix}umbel.delayed.delayed", {"0x": now + 500})

    claim(open_broker("q"))

    assert set(eye.keys(f"{prefix}_kombu.binding.*")) == {f"{prefix}_kombu.binding.{name}" for name in ("kept", "used")}
    assert eye.zrange(f"{prefix}_kombu.binding_deadlines", 0, -1) == ["used"]
    assert set(eye.zrange(f"{prefix}umbel.queues", 0, -1)) == {"full", "delayed", "new", "q"}


@pytest.mark.row("PRT-130", "PRT-131")
def test_what_goes_to_all_is_published_on_kombus_channel(open_broker, eye, prefix, service_url):
    database = service_url("redis").rpartition("/")[2]
    broker = open_broker()
    broker.declare(Topology.of(Exchange("celeryev", "fanout"), Exchange("celery.pidbox", "fanout")))
    with eye.pubsub(ignore_subscribe_messages=True) as listener:
        listener.psubscribe(f"{prefix}/{database}.celery*")
        listener.get_message(timeout=5)

        event = Message(id="", task="", body=b"{}", headers={"hostname": "n"}, delivery_mode=1)
        broker.publish([Publication(message=event, route=Route("celeryev", "worker.heartbeat"))])
        broker.publish([Publication(message=event, route=Route("celery.pidbox", ""))])

        found = {}
        until = time.monotonic() + 10
        while len(found) < 2 and time.monotonic() < until:
            if each := listener.get_message(timeout=1):
                found[each["channel"]] = json.loads(each["data"])
    assert set(found) == {f"{prefix}/{database}.celeryev/worker.heartbeat", f"{prefix}/{database}.celery.pidbox"}
    assert all(each["headers"] == {"hostname": "n"} for each in found.values())


@pytest.mark.row("PRT-132", "TB-004")
def test_peers_of_the_older_sentinel_transport_are_reached_and_heard_once(open_broker, eye, prefix, service_url):
    database = service_url("redis").rpartition("/")[2]
    mailbox = Topology.of(
        Exchange("celery.pidbox", "fanout"),
        QueueSpec("w.celery.pidbox", expires=10.0),
        Binding("celery.pidbox", "w.celery.pidbox"),
    )
    reader, sender = (open_broker(sentinel_fanout_compat=True) for _ in range(2))
    for broker in (reader, sender):
        broker.declare(mailbox)
    reader.consume(["w.celery.pidbox"])
    reader.fileno()
    with eye.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(f"{prefix}/{{db}}.celery.pidbox", f"{prefix}/{database}.celery.pidbox")
        listener.get_message(timeout=5)
        for name in ("c1", "c2"):
            sender.publish([Publication(message=call(name), route=Route("celery.pidbox", ""))])
        copies = []
        until = time.monotonic() + 10
        while len(copies) < 4 and time.monotonic() < until:
            if each := listener.get_message(timeout=1):
                copies.append(each["channel"])
    eye.publish(f"{prefix}/{{db}}.celery.pidbox", "{}")  # one of the old, which has no tag and no twin

    heard = []
    while len(heard) < 3 and time.monotonic() < until + 10:
        heard += claim(reader)
        is_woken(reader, 0.1)
    assert len(set(copies)) == 2
    assert len(copies) == 4
    assert [each.message.id for each in heard[:2]] == ["c1", "c2"]
    assert heard[2].invalid


@pytest.mark.row("TB-040")
@pytest.mark.parametrize(
    ("strategy", "order"),
    [("sorted", ["a0", "a1", "b0", "b1", "c0", "c1"]), ("priority", ["b0", "b1", "c0", "c1", "a0", "a1"])],
)
def test_queues_are_emptied_in_the_order_of_the_strategy(open_broker, strategy, order):
    broker = open_broker("b", "c", "a", queue_order_strategy=strategy)
    for queue in ("a", "b", "c"):
        send(broker, queue, *(f"{queue}{number}" for number in range(2)))

    found = [each.message.id for each in claim(broker, 3)] + [claim(broker, 1)[0].message.id for _ in range(3)]

    assert found == order


@pytest.mark.row("PRT-131")
def test_events_with_a_pattern_are_filtered_by_the_server(open_broker):
    reader = open_broker()
    event = Message(id="", task="", body=b"{}", delivery_mode=1)
    queue = QueueSpec("celeryev.1", auto_delete=True, expires=60.0)
    reader.declare(Topology.of(Exchange("celeryev", "fanout"), queue, Binding("celeryev", "celeryev.1", "worker.#")))
    reader.consume(["celeryev.1"])
    sender = open_broker()
    for key in ("task.sent", "worker.online", "worker.heartbeat"):
        sender.publish([Publication(message=event, route=Route("celeryev", key))])

    deliveries = claim(reader)

    assert [each.route.routing_key for each in deliveries] == ["worker.online", "worker.heartbeat"]
    assert [(each.invalid, each.message.task) for each in deliveries] == [(None, "")] * 2
    assert reader.settle([finish(each) for each in deliveries]).refused == ()


@pytest.mark.row("PRT-133", "PRT-239", "PRT-244")
def test_a_reply_finds_its_reader_and_leaves_nothing_behind(open_broker, eye, prefix):
    reader = open_broker()
    name = "1234.reply.celery.pidbox"
    queue = QueueSpec(name, durable=False, exclusive=True, auto_delete=True, expires=10.0)
    exchange = Exchange("reply.celery.pidbox", durable=False)
    reader.declare(Topology.of(exchange, queue, Binding("reply.celery.pidbox", name, "1234")))
    reader.consume([name])
    reply = Message(id="", task="", body=b'{"n": {"ok": "pong"}}', headers={"ticket": "t"}, delivery_mode=1)
    open_broker().publish([Publication(message=reply, route=Route("reply.celery.pidbox", "1234"))])

    assert 0 < eye.pttl(f"{prefix}{name}") <= 60_000
    (delivery,) = claim(reader)
    assert (delivery.message.body, delivery.message.headers) == (reply.body, {"ticket": "t"})
    reader.settle([finish(delivery)])
    reader.close()

    left = {key.removeprefix(prefix) for key in eye.keys(f"{prefix}*")}
    assert left == {"umbel.exchanges", "umbel.token", "_kombu.binding_deadlines"}


@pytest.mark.row("PRT-056", "TB-118")
def test_a_delayed_message_lies_in_the_list_unless_one_of_us_consumes(open_broker, eye, prefix):
    sender = open_broker()
    later = datetime.now(UTC) + timedelta(hours=1)
    send(sender, "q", "for celery", eta=later)
    assert (eye.llen(f"{prefix}q"), eye.exists(f"{prefix}umbel.delayed.q")) == (1, 0)

    broker = open_broker("q")
    send(sender, "q", "for umbel", eta=later)
    assert (eye.llen(f"{prefix}q"), eye.zcard(f"{prefix}umbel.delayed.q")) == (1, 1)

    assert claim(broker) == ()
    assert (eye.llen(f"{prefix}q"), eye.zcard(f"{prefix}umbel.delayed.q")) == (0, 2)
    assert all(abs(due - later.timestamp()) < 2 for _, due in eye.zrange(f"{prefix}umbel.delayed.q", 0, -1, "", True))
    broker.close()
    send(sender, "q", "for celery again", eta=later)
    assert eye.llen(f"{prefix}q") == 1


def test_crashes_are_noted_in_a_header_that_others_pass_on(open_broker, eye, prefix):
    broker = open_broker("q")
    send(broker, "q", "1", headers={"mine": "yes"})
    (delivery,) = claim(broker)
    broker.settle([finish(delivery, Release(counted=True, evidence="killed by signal 9"))])

    headers = json.loads(eye.lindex(f"{prefix}q", 0))["headers"]
    assert (headers["umbel-crashes"], headers["redelivered"], headers["mine"]) == (["killed by signal 9"], True, "yes")
    (again,) = claim(broker)
    assert (again.message.headers, again.crashes) == ({"mine": "yes"}, 1)


@pytest.mark.row("PRT-126", "PRT-128")
def test_a_released_message_is_marked_as_kombu_does(open_broker, eye, prefix):
    broker = open_broker("q")
    send(broker, "q", "1", priority=6)
    (delivery,) = claim(broker)
    broker.settle([finish(delivery, Release())])

    envelope = json.loads(eye.lindex(f"{prefix}q{SEP}6", -1))
    assert envelope["headers"]["redelivered"] is True
    assert envelope["properties"]["delivery_info"]["redelivered"] is True


@pytest.mark.parametrize("what", ["publish", "release", "follow-up"])
def test_a_wake_up_that_comes_with_a_reply_is_not_lost(open_broker, what):
    """A push may arrive in the same packet as the reply to a command that is no claim."""
    rounds = 300
    waiting, other = open_broker("q", "own"), open_broker("q")
    seen = threading.Semaphore(0)

    def bring():
        held = None
        for number in range(rounds):
            if what == "publish" or number % 2 == 0:
                send(other, "q", f"{number}")
            elif what == "release":
                other.publish([to("mine", f"{number}")])
                other.settle([finish(held, Release())] if held else [])
                send(other, "q", f"{number}")
            else:
                send(other, "q", f"{number}")
            assert seen.acquire(timeout=20), f"message {number} was never seen"

    thread = threading.Thread(target=bring)
    thread.start()
    count = 0
    while count < rounds:
        found = claim(waiting, 3)
        for delivery in found:
            count += 1
            seen.release()
            waiting.settle([finish(delivery)])  # no claim: its reply may come together with a push
        if not found and count < rounds:
            assert is_woken(waiting), f"after {count} messages nobody woke us"
    thread.join()


@pytest.mark.parametrize("first", ["SUCCESS", "FAILURE"])
def test_of_compressed_results_too_nothing_replaces_a_success(service_url, eye, prefix, first):
    names = Names.of({}, {"global_keyprefix": prefix})

    def record(state, value):
        meta = ResultMeta(task_id="1", status=state, result=value, traceback=None, children=[], date_done=None)
        payload = encode_meta(meta, codecs=Codecs(), compression="zlib")
        return Record(id="1", state=state, payload=payload, expires=100.0)

    with closing(RedisBackend(parse_address(service_url("redis"), {}), names)) as backend:
        backend.store([record(first, 1)])
        backend.store([record("SUCCESS", 2)])
        backend.store([record("FAILURE", 3)])

        found = decode_meta(backend.fetch(["1"])["1"], codecs=Codecs(), accept=None)
        assert (found.status, found.result) == ("SUCCESS", 1 if first == "SUCCESS" else 2)
        assert all(0 < eye.ttl(key) <= 100 for key in eye.keys(f"{prefix}*"))
        backend.forget(["1"])
    assert eye.keys(f"{prefix}*") == []


@pytest.mark.parametrize("heir", [False, True], ids=["itself", "another"])
def test_what_a_claim_took_whose_answer_was_lost_goes_back_at_once(heir, service_url, open_broker, eye, prefix):
    names, address = Names.of({"global_keyprefix": prefix}), parse_address(service_url("redis"), {})
    send(open_broker(), "q", "1", "2", "3", priority=3)
    with relayed(address.hosts[0]) as (port, cut):
        near = msgspec.structs.replace(address, hosts=(("127.0.0.1", port),))
        with closing(RedisBroker(near, names)) as broker:
            broker.consume(["q"])
            (first,) = claim(broker, 1)
            cut.set()  # what it says arrives; the answers do not
            with pytest.raises(BrokerUnavailable):
                claim(broker, 1)
            cut.clear()
            assert eye.zcard(f"{prefix}umbel.leases") == 2
            if not heir:
                (again,) = claim(broker, 1)
    with closing(RedisBroker(address, names)) as successor:
        successor.consume(["q"])
        successor.inherit(broker)
        found = claim(successor) if heir else (again, *claim(successor))

        assert first.message.id == "1"
        assert [(each.message.id, each.crashes) for each in found] == [("2", 0), ("3", 0)]
        assert successor.settle([finish(each) for each in (first, *found)]).refused == ()


@contextmanager
def relayed(host):
    """Pass on what is said to the server at *host*; while the event is set, answers are dropped with the line."""
    cut = threading.Event()
    lines = []

    def pump(near, far, *, back):
        source, sink = (far, near) if back else (near, far)
        with suppress(OSError):
            while (data := source.recv(65536)) and not (back and cut.is_set()):
                sink.sendall(data)
        for end in (near, far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(host)
            lines.extend((near, far))
            for back in (False, True):
                threading.Thread(target=pump, args=(near, far), kwargs={"back": back}, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1], cut
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for line in lines:
            line.close()


def test_nothing_is_left_when_all_work_is_done(open_broker, eye, prefix):
    broker, sender = open_broker("q"), open_broker()
    sender.publish([to("q", f"{number}") for number in range(500)])
    sender.publish([to("q", "soon", eta=datetime.now(UTC) + timedelta(seconds=0.1))])
    done = 0
    while done < 501:
        deliveries = claim(broker, 100)
        broker.settle([finish(each, Release(front=False) if done < 100 and not each.redelivered else None)
                       for each in deliveries])  # fmt: skip
        done += sum(each.redelivered or done >= 100 for each in deliveries)
        if not deliveries:
            is_woken(broker, min(1.0, broker.next_due() or 1.0))
    broker.close()

    left = {key.removeprefix(prefix) for key in eye.keys(f"{prefix}*")}
    assert left == {"umbel.queues", "umbel.token"}


def test_a_discarded_dead_letter_leaves_nothing(open_broker, eye, prefix):
    broker = open_broker("q")
    send(broker, "q", "1")
    (delivery,) = claim(broker)
    broker.settle([finish(delivery, Bury(reason="rejected"))])
    assert [letter.id for letter in broker.dead()] == ["1"]
    assert broker.discard(["1"]) == 1
    assert not eye.exists(f"{prefix}umbel.dead", f"{prefix}umbel.dead.letters", f"{prefix}umbel.dead.ids")


@pytest.mark.row("PRT-195", "PRT-196", "PRT-198", "PRT-199")
def test_a_chord_that_a_celery_worker_has_claimed_is_left_to_it_while_it_lives(service_url, eye, prefix):
    names = Names.of({}, {"global_keyprefix": prefix})
    key = names.group("g")
    with closing(RedisBackend(parse_address(service_url("redis"), {}), names)) as backend:
        part = ChordPart(group="g", index=0, id="a", payload=b'[1, "a", "SUCCESS", 1]', body=b"body", expires=60.0)
        assert backend.count_parts([part]) == ()  # Celery's senders tell the size later
        eye.set(f"{key}.s", 2)
        eye.zadd(f"{key}.j", {'[1, "b", "SUCCESS", 2]': 1})  # by a worker of Celery's, which then takes the last step
        eye.sadd(f"{key}.d", "b:1")
        eye.set(f"{key}.c", "token", ex=30)

        assert eye.smembers(f"{key}.d") == {"a:0", "b:1"}
        assert backend.count_parts([part]) == ()

        eye.delete(f"{key}.c")  # it died, and its claim has run out
        (ready,) = backend.count_parts([part])

        assert ready.parts == (b'[1, "a", "SUCCESS", 1]', b'[1, "b", "SUCCESS", 2]')
        assert (eye.get(f"{key}.c"), eye.exists(f"{key}.s", f"{key}.j", f"{key}.d")) == ("done", 0)
        assert backend.close_chords(["g"]) == {"g"}
    assert set(eye.keys(f"{prefix}*")) == {f"{key}.c"}


def test_who_hears_what_is_published_to_all_asks_little(open_broker, eye):
    mailbox = Topology.of(
        Exchange("celery.pidbox", "fanout"),
        QueueSpec("w.celery.pidbox", expires=10.0),
        Binding("celery.pidbox", "w.celery.pidbox"),
    )
    reader, sender = open_broker(), open_broker()
    reader.declare(mailbox)
    sender.declare(mailbox)
    reader.consume(["w.celery.pidbox"])
    reader.fileno()
    while claim(reader) or is_woken(reader, 0.1):
        pass
    before = eye.info("stats")["total_commands_processed"]

    assert not any(claim(reader) for _ in range(100))

    assert eye.info("stats")["total_commands_processed"] - before < 50
    sender.publish([Publication(message=call("c1"), route=Route("celery.pidbox", ""))])
    assert is_woken(reader, 10.0)
    assert [each.message.id for each in claim(reader)] == ["c1"]
    send(sender, "w.celery.pidbox", "c2")
    assert is_woken(reader, 10.0)
    assert [each.message.id for each in claim(reader)] == ["c2"]


def test_a_worker_that_waits_asks_little_and_misses_nothing(open_broker, eye, prefix):
    waiting, other = open_broker("q", "own"), open_broker("q")
    waiting.fileno()
    while claim(waiting) or is_woken(waiting, 0.1):
        pass
    before = commands_of(eye)

    for _ in range(50):
        assert waiting.settle((), Claim(limit=4, lease=30.0, owner="node-1", chords=10)).deliveries == ()

    assert commands_of(eye) - before < 300  # two each, those inside of scripts too; and what else goes on meanwhile
    send(other, "q", "1")
    assert is_woken(waiting)
    assert [each.message.id for each in claim(waiting)] == ["1"]
    while claim(waiting) or is_woken(waiting, 0.1):
        pass
    send(other, "q", "2")
    claim(other)
    while claim(waiting) or is_woken(waiting, 0.1):
        pass
    (lease,) = [tag for tag in eye.zrange(f"{prefix}umbel.leases", 0, -1) if "node-1" in tag][-1:]
    eye.zadd(f"{prefix}umbel.leases", {lease: 1})  # its holder has died, of which nobody tells
    assert [each.crashes for each in claim(waiting)] == [1]


def commands_of(eye):
    """Return how many commands the server has carried out, each of a script counted."""
    return sum(one["calls"] for name, one in eye.info("commandstats").items() if name.startswith("cmdstat_"))


def test_one_event_is_one_command(open_broker, eye):
    broker = open_broker()
    broker.declare(Topology.of(Exchange("celeryev", "fanout")))
    event = Publication(message=call("e1"), route=Route("celeryev", "worker.heartbeat"))
    before = eye.info("commandstats")

    for _ in range(50):
        broker.publish([event])

    after = eye.info("commandstats")
    assert after["cmdstat_publish"]["calls"] - before.get("cmdstat_publish", {"calls": 0})["calls"] >= 50
    assert (
        after.get("cmdstat_evalsha", {"calls": 0})["calls"] - before.get("cmdstat_evalsha", {"calls": 0})["calls"] < 50
    )


@pytest.mark.row("PRT-117", "TB-040")
def test_over_all_queues_the_more_urgent_step_goes_first(open_broker):
    broker = open_broker("a", "b")
    for queue, priority in (("a", 9), ("b", 6), ("a", 3), ("b", 0)):
        send(broker, queue, f"{queue}{priority}", priority=priority)

    assert [each.message.id for each in claim(broker)] == ["b0", "a3", "b6", "a9"]


@pytest.mark.row("PRT-124")
def test_the_lists_of_a_queue_that_expires_go_when_nobody_uses_them(open_broker, eye, prefix):
    broker = open_broker()
    broker.declare(Topology.of(QueueSpec("q", expires=30.0)))
    send(broker, "q", "1")
    send(broker, "q", "2", priority=9)

    assert all(0 < eye.pttl(f"{prefix}q{step}") <= 60_000 for step in ("", f"{SEP}9"))


@pytest.mark.row("PRT-135", "TB-029")
def test_the_expiration_of_a_message_is_nothing_that_the_server_enforces(open_broker, eye, prefix):
    broker = open_broker("q")
    send(broker, "q", "1", expires=datetime.now(UTC) - timedelta(seconds=5), properties={"expiration": "0"})

    (message,) = eye.lrange(f"{prefix}q", 0, -1)
    assert json.loads(message)["properties"]["expiration"] == "0"
    assert [each.message.id for each in claim(broker)] == ["1"]


@pytest.mark.row("PRT-173")
def test_a_result_is_stored_for_its_time_and_told_on_the_channel_of_its_key(service_url, eye, prefix):
    names = Names.of({}, {"global_keyprefix": prefix})
    key = f"{prefix}celery-task-meta-1"
    with closing(RedisBackend(parse_address(service_url("redis"), {}), names)) as store, eye.pubsub() as listener:
        listener.subscribe(key)
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        store.store([Record(id="1", state="SUCCESS", payload=b'{"status": "SUCCESS"}', expires=86400.0)])

        assert listener.get_message(timeout=5)["data"] == eye.get(key) == '{"status": "SUCCESS"}'
        assert 86000 < eye.ttl(key) <= 86400
