"""RabbitMQ in bad weather: refusals in one line, servers that go, connections that break, tasks that take long."""

import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest

from umbel import Umbel
from umbel._names import uuid
from umbel.brokers.amqp import AmqpBroker, AmqpOptions
from umbel.brokers.amqp_address import dialling
from umbel.brokers.amqp_delays import span
from umbel.brokers.amqp_link import connect
from umbel.brokers.base import Bury, Claim, Publication, Release
from umbel.contrib.testing.contracts.calls import call, finish, is_woken, lease_of, send, to
from umbel.exceptions import BrokerFull, BrokerUnavailable, BrokerUnusable, ImproperlyConfigured, PublishTimeout
from umbel.wire import amqp
from umbel.wire.codecs import Codecs
from umbel.wire.message import Route
from umbel.wire.protocol import MessageReader
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology

service = pytest.mark.service("rabbitmq", "A")


def open_broker(url, **options):
    return AmqpBroker(dialling(url), MessageReader(Codecs(), None), options=AmqpOptions(**options))


@pytest.fixture
def url(rabbitmq_vhost):
    return rabbitmq_vhost


@pytest.fixture
def queue(url):
    name = f"test.{uuid()}"
    yield name
    link = connect(dialling(url), heartbeat=False)
    link.call(1, "queue.delete", 0, name, False, False, False)
    link.close()


def await_deliveries(broker, count=1, patience=20.0):
    """Claim until so many have come."""
    found = []
    until = time.monotonic() + patience
    while len(found) < count and time.monotonic() < until:
        found += broker.settle((), Claim(limit=count - len(found), lease=30, owner="node")).deliveries
        if len(found) < count:
            is_woken(broker, 0.2)
    assert len(found) == count
    return found


def _shut(*ends):
    for each in ends:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@contextmanager
def proxied(url, tls=None):
    """Give the URL of a proxy in front of the server, and what breaks its connections, or mutes the server."""
    where = dialling(url).addresses[0]
    listener = socket.create_server(("127.0.0.1", 0))
    pairs = []

    def pump(client, server):
        ends = {client: server, server: client}
        try:
            while True:  # one thread for both directions: a TLS socket is no place for two
                ready = [client] if tls is not None and client.pending() else select.select(list(ends), [], [])[0]
                for each in ready:
                    if not (data := each.recv(65536)):
                        return
                    if each is client or not sever.mute.is_set():
                        ends[each].sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            _shut(client, server)

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if tls is not None:
                try:
                    client = tls.wrap_socket(client, server_side=True)
                except OSError:
                    client.close()
                    continue
            server = socket.create_connection((where.host, where.port))
            pairs.append((client, server))
            threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def sever():
        for pair in pairs:
            _shut(*pair)

    sever.mute = threading.Event()
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield url.replace(f":{where.port}", f":{listener.getsockname()[1]}"), sever
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        sever()
        for pair in pairs:
            for each in pair:
                each.close()


# -- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.row("TB-022", "TB-023")
@pytest.mark.parametrize(
    ("url", "host", "port", "user", "password", "vhost"),
    [
        ("amqp://", "localhost", 5672, "guest", "guest", "/"),
        ("amqp://host//", "host", 5672, "guest", "guest", "/"),
        ("amqp://host/%2F", "host", 5672, "guest", "guest", "/"),
        ("pyamqp://me:p%40ss@host:99/my%2Fown", "host", 99, "me", "p@ss", "my/own"),
        ("amqps://host/v", "host", 5671, "guest", "guest", "v"),
    ],
)
def test_urls_are_read_as_kombu_reads_them(url, host, port, user, password, vhost):  # noqa: PLR0917
    (address,) = dialling(url).addresses
    assert (address.host, address.port, address.user, address.password, address.vhost) == (
        host,
        port,
        user,
        password,
        vhost,
    )
    assert (address.tls is not None) == url.startswith("amqps")
    assert password == "guest" or password not in str(address)


@pytest.mark.row("TB-025")
def test_several_servers_are_tried_in_turn():
    assert [each.host for each in dialling("amqp://a;b;amqp://c:1").addresses] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"login": "GSSAPI"}, "'broker_login_method' is 'GSSAPI'"),
        ({"connect_timeout": "soon"}, "connect_timeout is 'soon'"),
    ],
)
def test_settings_without_sense_are_refused(settings, problem):
    with pytest.raises(ImproperlyConfigured, match=problem):
        dialling("amqp://", **settings)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_named():
    with (
        closing(open_broker("amqp://127.0.0.1:1//")) as broker,
        pytest.raises(BrokerUnavailable, match=r"RabbitMQ at 127\.0\.0\.1:1 .*cannot be reached"),
    ):
        send(broker, "q", "1")


def test_a_server_that_speaks_otherwise_is_no_broker():
    def serve(listener):
        with listener.accept()[0] as client:
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"amqp://127.0.0.1:{listener.getsockname()[1]}//"
        with closing(open_broker(url)) as broker, pytest.raises(BrokerUnavailable, match="does not speak AMQP"):
            send(broker, "q", "1")
        thread.join()


@service
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda url: url.replace("guest:guest", "guest:wrong"), "refuses to log us in: check user and password"),
        (lambda url: url + "-nowhere", "is there such a vhost"),
    ],
    ids=["password", "vhost"],
)
def test_a_login_that_is_refused_says_what_to_do(url, change, problem):
    with closing(open_broker(change(url))) as broker:
        with pytest.raises(BrokerUnusable, match=problem) as caught:
            send(broker, "q", "1")
        assert "wrong" not in str(caught.value)


@service
@pytest.mark.row("TB-001")
def test_a_queue_that_exists_otherwise_says_so_and_the_connection_lives(url, queue):
    with closing(open_broker(url)) as broker:
        broker.declare(Topology.of(QueueSpec(queue)))
        with pytest.raises(BrokerUnusable, match=rf"declaring queue '{queue}'. Declare it as it is.*406"):
            broker.declare(Topology.of(QueueSpec(queue, max_priority=5)))
        send(broker, queue, "1")
        assert broker.sizes([queue])[queue].ready == 1


@service
def test_what_the_user_may_not_do_is_named(service_url, queue):
    with closing(open_broker(service_url("rabbitmq").replace("guest:guest", "narrow:narrow"))) as broker:
        with pytest.raises(BrokerUnusable, match=rf"declaring queue '{queue}'.*403"):
            broker.declare(Topology.of(QueueSpec(queue)))
        with pytest.raises(BrokerUnusable, match=r"publishing to exchange '' .*403"):
            send(broker, queue, "1")


@service
def test_a_message_that_must_be_taken_and_is_not_is_an_error(url):
    with closing(open_broker(url)) as broker:
        message = call("1", properties={"mandatory": True})
        with pytest.raises(BrokerUnusable, match="no queue is bound there for it: 312"):
            broker.publish([Publication(message=message, route=Route("amq.topic", "nobody.listens"))])


@service
def test_a_full_queue_that_rejects_says_so(url, queue):
    with closing(open_broker(url)) as broker:
        broker.declare(Topology.of(QueueSpec(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})))
        send(broker, queue, "1")
        with pytest.raises(BrokerFull, match="a queue is full"):
            send(broker, queue, "2", "3")


# -- ways in -----------------------------------------------------------------------------------------------------------


@service
@pytest.mark.parametrize("login", ["PLAIN", "AMQPLAIN", "amqplain"])
def test_both_ways_of_logging_in_with_a_password_work(url, queue, login):
    with closing(AmqpBroker(dialling(url, login=login), MessageReader(Codecs(), None))) as broker:
        send(broker, queue, "1")


@service
def test_a_login_that_the_server_does_not_know_is_named(url):
    with (
        closing(AmqpBroker(dialling(url, login="EXTERNAL"), MessageReader(Codecs(), None))) as broker,
        pytest.raises(BrokerUnusable, match=r"does not take the login method 'EXTERNAL'.*it takes .*PLAIN"),
    ):
        send(broker, "q", "1")


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that nobody has signed, with its key, in one file."""
    path = tmp_path / "server.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *kind, *names, "-keyout", str(path), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("a") as file:
        file.write((tmp_path / "cert.pem").read_text())
    return path


@service
@pytest.mark.process
@pytest.mark.row("CFG-145")
def test_amqps_is_spoken_and_certificates_are_verified(url, queue, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with proxied(url, context) as (through, _):
        secure = through.replace("amqp://", "amqps://")
        trusting = AmqpBroker(dialling(secure, use_ssl={"ca_certs": str(certificate)}), MessageReader(Codecs(), None))
        with closing(trusting):
            trusting.consume([queue])
            send(trusting, queue, "1", body=b"x" * 500_000)
            (held,) = await_deliveries(trusting)
            assert len(held.message.body) == 500_000
            trusting.settle([finish(held)])
        careless = AmqpBroker(dialling(f"{secure}?ssl_cert_reqs=CERT_NONE"), MessageReader(Codecs(), None))
        with closing(careless):
            send(careless, queue, "2")
        with (
            closing(open_broker(secure)) as broker,
            pytest.raises(BrokerUnusable, match=r"is not trusted: .* Name its authority in 'broker_use_ssl'"),
        ):
            send(broker, queue, "3")


# -- connections that break ----------------------------------------------------------------------------------------


@service
@pytest.mark.row("TB-025")
def test_the_next_server_of_the_list_is_used_when_one_is_away(url, queue):
    with closing(open_broker(f"amqp://127.0.0.1:1//;{url}")) as broker:
        send(broker, queue, "1")
        assert broker.sizes([queue])[queue].ready == 1


@service
def test_a_sender_whose_connection_broke_while_idle_opens_another(url, queue):
    with proxied(url) as (through, sever), closing(open_broker(through)) as broker:
        send(broker, queue, "1")
        sever()
        send(broker, queue, "2")
        assert broker.sizes([queue])[queue].ready == 2


@service
def test_a_connection_that_breaks_before_the_confirm_leaves_it_open_whether_it_is_stored(url, queue):
    with proxied(url) as (through, sever), closing(open_broker(through)) as broker:
        send(broker, queue, "1")
        sever.mute.set()
        breaking = threading.Timer(0.2, sever)
        breaking.start()
        with pytest.raises(PublishTimeout, match="all but 1 of 1 messages; those may be stored or not"):
            send(broker, queue, "2")
        breaking.join()


@pytest.mark.row("PRT-147")
@service
def test_a_confirm_that_does_not_come_is_waited_for_no_longer_than_said(url, queue):
    with proxied(url) as (through, sever), closing(open_broker(through)) as broker:
        send(broker, queue, "1")
        sever.mute.set()
        with pytest.raises(PublishTimeout, match="did not confirm 1 messages in time"):
            broker.publish([to(queue, "2")], timeout=0.2)
        sever.mute.clear()
        send(broker, queue, "3")  # over another connection


@service
def test_what_a_broken_worker_held_comes_to_another_and_what_it_says_later_is_refused(url, queue):
    with proxied(url) as (through, sever), closing(open_broker(through)) as broken, closing(open_broker(url)) as other:
        broken.consume([queue])
        other.consume([queue])
        send(other, queue, "1")
        (held,) = await_deliveries(broken)
        sever()
        assert is_woken(broken)
        with pytest.raises(BrokerUnavailable):
            broken.renew([], 30)

        (again,) = await_deliveries(other)

        assert (again.message, again.redelivered, again.crashes) == (held.message, True, 1)
        with closing(open_broker(url)) as anew:
            assert anew.renew([lease_of(held)], 30) == (lease_of(held),)
            assert anew.settle([finish(held, follow_ups=(to(queue, "2"),))]).refused == (lease_of(held),)
        assert other.settle([finish(again)]).refused == ()
        assert other.sizes([queue])[queue].ready == 0


@service
def test_a_deleted_queue_ends_the_connection_so_that_all_is_built_anew(url, queue):
    with closing(open_broker(url)) as broker:
        broker.consume([queue])
        assert broker.settle((), Claim(limit=1, lease=30, owner="n")).deliveries == ()
        link = connect(dialling(url), heartbeat=False)
        link.call(1, "queue.delete", 0, queue, False, False, False)
        link.close()
        assert is_woken(broker)
        with pytest.raises(BrokerUnavailable, match=f"queue '{queue}' was deleted"):
            broker.settle((), Claim(limit=1, lease=30, owner="n"))


_SHOP = """
import os
from umbel import Umbel

app = Umbel("shop", broker=os.environ["BROKER"], task_default_queue=os.environ["QUEUE"])


@app.task
def note(number):
    with open("ran", "a") as file:
        file.write(f"{number}\\n")
"""


@service
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_worker_whose_connections_break_again_and_again_runs_all_that_was_accepted(url, queue, tmp_path):
    (tmp_path / "shop.py").write_text(_SHOP)
    ran, log = tmp_path / "ran", tmp_path / "log"
    ran.touch()
    numbers: list[int] = []

    def accept(count):
        numbers.extend(range(len(numbers), len(numbers) + count))
        for number in numbers[-count:]:
            app.send_task("shop.note", [number])

    def await_all():
        until = time.monotonic() + 30
        while {int(line) for line in ran.read_text().split()} != set(numbers) and time.monotonic() < until:
            select.select([], [], [], 0.02)
        assert {int(line) for line in ran.read_text().split()} == set(numbers)

    with (
        proxied(url) as (through, sever),
        Umbel("sender", broker=url, task_default_queue=queue, set_as_current=False) as app,
        log.open("wb") as output,
    ):
        worker = subprocess.Popen(
            [sys.executable, "-m", "umbel", "-A", "shop", "worker", "-P", "solo", "-l", "WARNING"],
            cwd=tmp_path,
            env=os.environ | {"BROKER": through, "QUEUE": queue},
            stdout=output,
            stderr=output,
        )
        try:
            accept(20)
            await_all()
            for _ in range(3):
                accept(30)
                sever()
                accept(30)
                await_all()
        finally:
            worker.terminate()
            worker.wait(20)
    text = log.read_text()
    assert text.count("broker lost") == text.count("broker is back") >= 1, text


# -- tasks that take long ----------------------------------------------------------------------------------------------


@service
def test_a_long_task_survives_its_connection_under_a_lease_of_its_own(url, queue):
    with closing(open_broker(url)) as broker, closing(open_broker(url)) as other:
        first = open_broker(url, hold=0.0, lease=20.0)
        first.consume([queue])
        other.consume([queue])
        send(broker, queue, "1", headers={"kept": "yes"}, priority=3)
        (held,) = await_deliveries(first)
        assert first.renew([lease_of(held)], 30) == ()
        first.close()

        assert other.settle((), Claim(limit=1, lease=30, owner="n")).deliveries == ()
        with closing(open_broker(url)) as second:
            assert second.renew([lease_of(held)], 30) == ()
            assert second.settle([finish(held, follow_ups=(to(queue, "2"),))]).refused == ()
            assert second.settle([finish(held)]).refused == (lease_of(held),)
        assert [each.message.id for each in await_deliveries(other)] == ["2"]


@service
def test_a_lease_that_is_not_renewed_brings_the_task_back_with_a_counted_crash(url, queue):
    holder = open_broker(url, hold=0.0, lease=0.3)
    with closing(open_broker(url)) as other, closing(holder):
        holder.consume([queue])
        other.consume([queue])
        send(other, queue, "1", headers={"kept": "yes"})
        (held,) = await_deliveries(holder)
        holder.renew([lease_of(held)], 30)

        (again,) = await_deliveries(other)

        assert again.message == held.message
        assert (again.crashes, again.route) == (1, Route("", queue))
        assert holder.settle([finish(held)]).refused == (lease_of(held),)
        other.settle([finish(again, Bury(reason="crashed"))])
        letter = other.find_dead("1")
        assert letter is not None
        assert letter.evidence == ("lost by node: its lease was not renewed",)
        other.discard(["1"])


@service
@pytest.mark.slow
def test_a_renewed_lease_lasts_and_other_verdicts_work_on_it(url, queue):
    with closing(open_broker(url, hold=0.0, lease=3.0)) as broker:
        broker.consume([queue])
        send(broker, queue, "1")
        (held,) = await_deliveries(broker)
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            assert broker.renew([lease_of(held)], 30) == ()
            select.select([], [], [], 0.2)

        assert broker.settle([finish(held, Release(counted=True, evidence="killed"))]).refused == ()
        (again,) = await_deliveries(broker)
        assert again.crashes == 1


@service
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_task_that_outlasts_the_servers_consumer_timeout_loses_nothing(url, queue):
    """The private server takes a delivery back after 10 s, and looks every 2."""
    with closing(open_broker(url, hold=1.0)) as broker:
        broker.consume([queue])
        send(broker, queue, "1")
        (held,) = await_deliveries(broker)
        until = time.monotonic() + 14.0
        while time.monotonic() < until:
            assert broker.renew([lease_of(held)], 30) == ()
            select.select([], [], [], 1.0)

        assert broker.settle([finish(held)]).refused == ()
        assert broker.sizes([queue])[queue].ready == 0


# -- quorum queues, delays, priorities ---------------------------------------------------------------------------------


@service
@pytest.mark.row("PRT-145")
def test_a_quorum_queue_counts_deliveries(url, queue):
    with closing(open_broker(url)) as broker:
        broker.declare(Topology.of(QueueSpec(queue, queue_type="quorum")))
        broker.consume([queue])
        send(broker, queue, "1")
        for crashes in range(3):
            worker = open_broker(url)
            worker.consume([queue])
            (held,) = await_deliveries(worker)
            assert held.crashes == crashes
            worker.close()
        (held,) = await_deliveries(broker)
        assert broker.settle([finish(held)]).refused == ()


@service
def test_what_a_quorum_queue_gives_up_is_among_the_dead_letters(url, queue):
    arguments = {
        "x-delivery-limit": 1,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "umbel.dead",
    }
    with closing(open_broker(url)) as broker:
        broker.dead()  # makes the queue
        broker.declare(Topology.of(QueueSpec(queue, queue_type="quorum", arguments=arguments)))
        broker.consume([queue])
        send(broker, queue, "1")
        for _ in range(2):
            (held,) = await_deliveries(broker)
            broker.settle([finish(held, Release())])
        until = time.monotonic() + 20
        while (letter := broker.find_dead("1")) is None and time.monotonic() < until:
            select.select([], [], [], 0.05)

        assert letter is not None
        assert (letter.queue, letter.reason, letter.message) == (queue, "delivery_limit", call("1"))
        assert broker.revive(["1"]) == 1
        (again,) = await_deliveries(broker)
        broker.settle([finish(again)])


@service
@pytest.mark.row("PRT-148", "PRT-149", "PRT-150", "PRT-151", "PRT-152", "PRT-153", "TB-120")
def test_celerys_delayed_delivery_reaches_a_quorum_queue(url, queue):
    with closing(open_broker(url, delay_queue_type="classic")) as broker:
        broker.declare(
            Topology.of(
                Exchange(queue, "topic", auto_delete=True),
                QueueSpec(queue, queue_type="quorum"),
                Binding(queue, queue, "some.key"),
            )
        )
        broker.consume([queue])
        zeros = "0." * 27
        broker.publish([Publication(message=call("1"), route=Route("celery_delayed_27", f"{zeros}1.some.key"))])
        assert broker.settle((), Claim(limit=1, lease=30, owner="n")).deliveries == ()

        (delivery,) = await_deliveries(broker)

        assert delivery.message == call("1")
        broker.settle([finish(delivery)])


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.3, 1.0, 9.9998, 77, 3600, 1e6, 1e9])
def test_few_delay_queues_do_for_all_delays(seconds):
    early, late = span(seconds, late=False), span(seconds, late=True)
    wanted = min(seconds * 1000, 1 << 31)
    assert wanted * 7 / 8 - 1 <= early <= wanted * 1.005 + 2
    assert wanted - 1 <= late <= wanted * 9 / 8 + 1
    assert len({span(each / 1000, late=False) for each in range(1, 60_000)}) < 120


@service
def test_what_comes_just_before_its_time_waits_where_it_came_and_goes_back_with_the_connection(url, queue):
    now = [1000.0]

    def open_at(clock):
        return AmqpBroker(dialling(url), MessageReader(Codecs(), None), clock=clock)

    def claim(broker):
        claim = Claim(limit=10, lease=30, owner="node")
        return [each.message.id for each in broker.settle((), claim).deliveries]

    with closing(open_at(lambda: 5000.0)) as sender:  # to which all of this is over
        for name, due in (("second", 1002.0), ("first", 1001.0), ("third", 1003.0)):
            send(sender, queue, name, eta=datetime.fromtimestamp(due, UTC))
    with closing(open_at(lambda: now[0])) as broker:
        broker.consume([queue])
        until = time.monotonic() + 20
        while broker.sizes([queue])[queue].delayed < 3:
            assert claim(broker) == []
            assert time.monotonic() < until
        assert broker.next_due() == 1.0

        now[0] = 1001.0
        assert claim(broker) == ["first"]
        now[0] = 1002.0
        assert claim(broker) == ["second"]
    now[0] = 1003.0
    with closing(open_at(lambda: now[0])) as other:
        other.consume([queue])
        assert {each.message.id for each in await_deliveries(other, 3)} == {"first", "second", "third"}


@service
@pytest.mark.row("TB-122", "PRT-028")
def test_the_priority_of_a_message_is_the_brokers(url, queue):
    with closing(open_broker(url)) as broker:
        broker.declare(Topology.of(QueueSpec(queue, max_priority=9)))
        send(broker, queue, "low", priority=1)
        send(broker, queue, "high", priority=8)
        broker.consume([queue])
        assert [each.message.id for each in await_deliveries(broker, 2)] == ["high", "low"]


# -- bad input ---------------------------------------------------------------------------------------------------------


@service
def test_foreign_garbage_is_invalid_and_kept(url, queue):
    link = connect(dialling(url), heartbeat=False)
    link.call(1, "queue.declare", 0, queue, False, True, False, False, False, {})
    bodies = [
        b"",
        b"\xff\x00",
        b"[]",
        b'{"task": 5}',
        b'{"task": "x", "id": "1", "args": "no", "kwargs": {}}',
        b"{" * 5000,
    ]
    headers = [
        {},
        {"task": 7, "id": "1"},
        {"task": "x"},
        {"task": "x", "id": "1", "eta": "tomorrow"},
        {"task": [], "id": {}},
    ]
    contents = [amqp.encode_properties({"content_type": "application/json", "headers": each}) for each in headers]
    contents += [b"\x00\x00", b"\x80\x00\x03a/b"]  # the server itself refuses what is no table
    link.call(1, "confirm.select", False)
    sent = 0
    for content in contents:
        for body in bodies:
            start = amqp.method_frame(1, "basic.publish", 0, "", queue, False, False)
            link.send(start + amqp.content_frames(1, content, body, link.frame_max))
            sent += 1
    link.wait(1, ("basic.ack",))
    with closing(open_broker(url)) as broker:
        broker.consume([queue])
        send(broker, queue, "good")
        found = await_deliveries(broker, sent + 1)
        good = [each for each in found if each.invalid is None]
        assert [each.message.id for each in good] == ["good"]
        assert broker.settle([finish(each, Bury(reason="invalid")) for each in found]).refused == ()
        assert len(broker.dead(limit=1000)) >= sent + 1
        broker.discard({letter.id for letter in broker.dead(limit=1000)})
    link.close()


@pytest.mark.row("PRT-147")
@service
@pytest.mark.process
def test_what_is_sent_without_confirms_is_there_when_the_sender_has_ended(url, queue, tmp_path):
    (tmp_path / "send.py").write_text(
        "import sys\nfrom umbel import Umbel\n\n"
        'app = Umbel("sender", broker=sys.argv[1], broker_transport_options={"confirm_publish": False})\n'
        'for number in range(2000):\n    app.send_task("note", [number], queue=sys.argv[2])\n'
    )
    subprocess.run([sys.executable, "send.py", url, queue], cwd=tmp_path, check=True, timeout=50)

    with closing(open_broker(url)) as broker:
        assert broker.sizes([queue])[queue].ready == 2000
