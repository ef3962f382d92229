"""Servers that want a password, are full, only replicas, gone for a while, behind TLS or sentinels."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from umbel import Umbel, chord, group
from umbel.backends.redis import RedisBackend
from umbel.brokers.base import Claim, Publication
from umbel.brokers.redis import RedisBroker
from umbel.brokers.redis_address import parse_address
from umbel.brokers.redis_link import Link
from umbel.brokers.redis_names import Names
from umbel.contrib.testing.contracts.calls import finish, is_woken, send
from umbel.exceptions import (
    BackendError,
    BrokerFull,
    BrokerUnavailable,
    BrokerUnusable,
    ImproperlyConfigured,
    OperationalError,
)
from umbel.wire.message import Message, Route
from umbel.wire.record import Record

pytestmark = [pytest.mark.process, pytest.mark.service("redis", "A"), pytest.mark.timeout(170)]


@pytest.fixture
def servers():
    """Start redis-server with options; each listens on a socket in the folder it is given, and ends with the test."""
    with tempfile.TemporaryDirectory(prefix="umbel-") as folder:  # short, as the path of a socket must be
        running = []

        def start(*options, name="r", port=0, plain=True):
            home = Path(folder, name)
            home.mkdir(exist_ok=True)
            where = ["--port", str(port)] if plain else ["--port", "0", "--tls-port", str(port)]
            process = subprocess.Popen(
                ["redis-server", *where, "--bind", "127.0.0.1", "--unixsocket", str(home / "s"), "--save", "",
                 "--dir", str(home), *options],
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            running.append(process)
            wait_until(lambda: accepts(home / "s"), f"redis-server {' '.join(options)}")
            return process, f"redis+socket://{home}/s"

        yield start
        for process in running:
            process.kill()
            process.wait()


def wait_until(condition, what, patience=40.0):
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, f"waited {patience} s for {what}"
        time.sleep(0.02)


def accepts(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def open_broker(url, **options):
    return closing(RedisBroker(parse_address(url, options), Names.of(options)))


def take(broker, limit=1):
    return broker.settle((), Claim(limit=limit, lease=30.0, owner="n")).deliveries


@pytest.mark.row("TB-027")
def test_a_password_is_asked_for_and_checked(servers):
    _, url = servers("--requirepass", "sesame")

    with open_broker(url.replace("://", "://:sesame@")) as broker:
        broker.consume(["q"])
        send(broker, "q", "1")
        assert len(take(broker)) == 1
    with open_broker(url) as broker, pytest.raises(BrokerUnusable, match="wants a password"):
        send(broker, "q", "1")
    with (
        open_broker(url.replace("://", "://:wrong@")) as broker,
        pytest.raises(BrokerUnusable, match="refuses our user name or password") as caught,
    ):
        send(broker, "q", "1")
    assert "wrong" not in str(caught.value)
    backend = RedisBackend(parse_address(url, {}), Names.of({}))
    with closing(backend), pytest.raises(BackendError, match="wants a password"):
        backend.fetch(["1"])


def test_a_user_who_may_not_ask_to_be_told_looks_often(servers):
    _, url = servers()
    with closing(Link(parse_address(url, {}))) as link:
        link.call("ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    with open_broker(url.replace("://", "://ann:pw@")) as broker:
        broker.consume(["q"])
        broker.fileno()
        assert take(broker) == ()
        assert not is_woken(broker, 0.0)

        seconds = broker.next_due()

        assert seconds is not None
        assert seconds <= 0.1
        send(broker, "q", "1")
        assert len(take(broker)) == 1


def test_a_full_server_takes_nothing_but_lets_go_what_is_done(servers):
    _, url = servers()
    with open_broker(url) as broker, closing(Link(parse_address(url, {}))) as link:
        broker.consume(["q"])
        send(broker, "q", "1", "2")
        held = take(broker, 2)
        link.call("CONFIG", "SET", "maxmemory", "1")

        with pytest.raises(BrokerFull, match="maxmemory"):
            send(broker, "q", "3")

        assert broker.settle([finish(each) for each in held]).refused == ()
        link.call("CONFIG", "SET", "maxmemory", "0")
        send(broker, "q", "4")
        assert [each.message.id for each in take(broker, 5)] == ["4"]


def test_a_replica_is_no_place_for_messages(servers):
    _, url = servers("--replicaof", "127.0.0.1", "1")
    with open_broker(url) as broker, pytest.raises(BrokerUnavailable, match="read-only replica"):
        send(broker, "q", "1")


@pytest.mark.row("TB-025")
def test_of_several_servers_the_first_that_takes_messages_is_used(servers):
    nobody, replica, master = free_port(), free_port(), free_port()
    servers(name="m", port=master)
    servers("--replicaof", "127.0.0.1", str(master), name="r", port=replica)
    url = ";".join(f"redis://127.0.0.1:{port}/0" for port in (nobody, replica, master))
    with open_broker(url) as broker:
        with pytest.raises(BrokerUnavailable, match="read-only"):
            broker.consume(["q"])
        broker.consume(["q"])
        send(broker, "q", "1")
        assert len(take(broker)) == 1


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ("LOADING Redis is loading the dataset in memory", BrokerUnavailable, "still loads"),
        ("MASTERDOWN Link with MASTER is down", BrokerUnavailable, "MASTERDOWN"),
        ("MISCONF Redis is configured to save RDB snapshots", BrokerFull, "disk"),
        ("NOPERM this user has no permissions", BrokerUnusable, "does not let our user"),
        ("ERR max number of clients reached", BrokerUnavailable, "maxclients"),
        ("ERR unknown command 'HELLO'", BrokerUnusable, "older than Redis 6"),
        ("ERR something new", BrokerUnusable, "something new"),
    ],
)
def test_each_refusal_says_what_it_means(reply, error, words):
    with answering(f"-{reply}\r\n".encode()) as url, open_broker(url) as broker, pytest.raises(error, match=words):
        send(broker, "q", "1")


def test_what_is_no_redis_server_is_said_to_be_none():
    with (
        answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url,
        open_broker(url) as broker,
        pytest.raises(BrokerUnusable, match="no Redis server"),
    ):
        send(broker, "q", "1")


def test_a_server_that_does_not_answer_is_not_waited_for_long():
    with (
        answering(b"") as url,
        open_broker(url, socket_timeout=0.2) as broker,
        pytest.raises(BrokerUnavailable, match=r"did not answer within 0\.2 s"),
    ):
        send(broker, "q", "1")


def test_nobody_is_there():
    with (
        open_broker(f"redis://127.0.0.1:{free_port()}") as broker,
        pytest.raises(BrokerUnavailable, match="cannot be reached: Connection refused"),
    ):
        send(broker, "q", "1")


@contextmanager
def answering(data):
    """Answer whatever is said with *data*."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connections = []
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    break
                connections.append(connection)
                if data and connection.recv(65536):
                    connection.sendall(data)
            for connection in connections:
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_connection_that_was_cut_is_made_again(servers):
    process, url = servers("--appendonly", "yes")
    with open_broker(url) as broker, closing(RedisBackend(parse_address(url, {}), Names.of({}))) as backend:
        broker.consume(["q"])
        send(broker, "q", "1")
        backend.store([Record(id="1", state="SUCCESS", payload=b"kept")])
        (held,) = take(broker)
        broker.fileno()
        process.send_signal(signal.SIGTERM)
        process.wait()
        assert is_woken(broker)
        with pytest.raises(BrokerUnavailable):
            take(broker)
        with pytest.raises(BackendError):
            backend.fetch(["1"])

        servers("--appendonly", "yes")
        until = time.monotonic() + 20
        while True:  # it may still be loading
            try:
                assert broker.settle([finish(held)]).refused == ()
                break
            except BrokerUnavailable:
                assert time.monotonic() < until

        send(broker, "q", "2")
        assert is_woken(broker)
        assert [each.message.id for each in take(broker)] == ["2"]
        assert backend.fetch(["1"]) == {"1": b"kept"}


def test_who_waits_for_a_result_outlives_the_server(servers):
    process, url = servers("--appendonly", "yes")
    address, names = parse_address(url, {}), Names.of({})
    with closing(RedisBackend(address, names)) as backend, closing(backend.watch(["1"])) as watch:
        process.send_signal(signal.SIGTERM)
        process.wait()

        def come_back():
            servers("--appendonly", "yes")
            with closing(RedisBackend(address, names)) as other:
                wait_until(lambda: stored(other), "the server to take a result")

        thread = threading.Thread(target=come_back)
        thread.start()
        until = time.monotonic() + 30
        while not backend_has(backend, "1"):
            assert time.monotonic() < until
            watch.wait(1.0)
        thread.join()


def stored(backend):
    try:
        backend.store([Record(id="1", state="SUCCESS", payload=b"late")])
    except BackendError:
        return False
    return True


def backend_has(backend, task_id):
    try:
        return bool(backend.fetch([task_id]))
    except BackendError:
        return False


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
@pytest.mark.row("TB-003", "TB-026")
def test_tls_with_certificates_of_both_sides(servers, tmp_path):
    make_certificates(tmp_path)
    port = free_port()
    servers(
        *("--tls-cert-file", str(tmp_path / "s.crt"), "--tls-key-file", str(tmp_path / "s.key")),
        *("--tls-ca-cert-file", str(tmp_path / "ca.crt"), "--tls-auth-clients", "yes"),
        port=port,
        plain=False,
    )
    ours = f"ssl_certfile={tmp_path}/s.crt&ssl_keyfile={tmp_path}/s.key"

    with open_broker(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}/ca.crt&{ours}") as broker:
        broker.consume(["q"])
        assert take(broker) == ()
        assert not is_woken(broker, 0.0)
        with open_broker(f"rediss://localhost:{port}/0?ssl_cert_reqs=none&{ours}") as sender:
            send(sender, "q", "1")
        assert is_woken(broker)
        (delivery,) = take(broker)
        send(broker, "q", "2", body=b"x" * 1_000_000)
        assert len(take(broker, 2)[0].message.body) == 1_000_000
        where = parse_address(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}/ca.crt&{ours}", {})
        with closing(RedisBackend(where, Names())) as backend, closing(backend.watch(["1"])) as watch:
            assert watch.wait(0.0) == watch.wait(0.01) == set()
            broker.settle([finish(delivery, records=(Record(id="1", state="SUCCESS", payload=b"x" * 100_000),))])
            assert watch.wait(20.0) == {"1"}
            assert len(backend.fetch(["1"])["1"]) == 100_000
    for url in (f"rediss://127.0.0.1:{port}/0?{ours}", f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none"):
        with open_broker(url) as broker, pytest.raises(BrokerUnavailable, match="cannot be reached"):
            send(broker, "q", "1")


def make_certificates(folder):
    """Make an authority, and a certificate for this machine that serves both sides."""
    (folder / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2",
        "req -newkey rsa:2048 -nodes -keyout s.key -out s.csr -subj /CN=localhost",
        "x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out s.crt -days 2 -extfile ext",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


@pytest.mark.row("TB-004", "TB-127")
def test_sentinels_lead_to_the_master_and_after_its_death_to_the_next(servers):
    ports = [free_port() for _ in range(3)]
    first, second, sentinel = ports
    eager = ("--repl-diskless-sync-delay", "0")
    master, _ = servers(*eager, name="a", port=first)
    _, replica = servers(*eager, "--replicaof", "127.0.0.1", str(first), name="b", port=second)
    with closing(Link(parse_address(replica, {}))) as link:
        wait_until(lambda: b"master_link_status:up" in link.call("INFO", "replication"), "the replica to follow")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        conf.write(
            f"port {sentinel}\nbind 127.0.0.1\ndir {os.path.dirname(conf.name)}\n"  # noqa: PTH120
            f"sentinel monitor mine 127.0.0.1 {first} 1\nsentinel down-after-milliseconds mine 300\n"
            "sentinel failover-timeout mine 2000\n"
        )
        conf.flush()
        process = subprocess.Popen(["redis-server", conf.name, "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            url = f"sentinel://127.0.0.1:{free_port()};127.0.0.1:{sentinel}"
            with open_broker(url, master_name="mine") as broker:
                persist(lambda: broker.consume(["q"]))
                send(broker, "q", "1")
                with closing(Link(parse_address(f"redis://127.0.0.1:{first}", {}))) as link:
                    link.call("WAIT", 1, 10_000)
                with closing(Link(parse_address(f"redis://127.0.0.1:{sentinel}", {}))) as link:
                    wait_until(lambda: knows_a_replica(link), "the sentinel to know the replica")
                master.kill()
                master.wait()

                persist(lambda: send(broker, "q", "2"))

                assert {each.message.id for each in take(broker, 5)} == {"1", "2"}
        finally:
            process.kill()
            process.wait()


def test_in_a_cluster_all_keys_lie_on_the_node_of_their_prefix(servers):
    ports = [free_port() for _ in range(2)]
    clustered = ("--cluster-enabled", "yes", "--cluster-node-timeout", "15000")
    buses = [free_port() for _ in range(2)]
    for port, bus, slots in zip(ports, buses, ((0, 8191), (8192, 16383)), strict=True):
        servers(*clustered, "--cluster-port", str(bus), name=f"n{port}", port=port)
        with closing(Link(parse_address(f"redis://127.0.0.1:{port}", {}))) as link:
            link.call("CLUSTER", "ADDSLOTSRANGE", *slots)
            link.call("CLUSTER", "MEET", "127.0.0.1", ports[0], buses[0])
    for port in ports:
        with closing(Link(parse_address(f"redis://127.0.0.1:{port}", {}))) as link:
            wait_until(lambda: whole(link), "the cluster to form")
    url = ";".join(f"redis+cluster://127.0.0.1:{port}" for port in ports)

    for word in ("a", "b", "c", "d"):  # of which some belong to each node
        options = {"global_keyprefix": f"{{{word}}}."}
        with open_broker(url, **options) as broker:
            broker.consume(["q"])
            broker.fileno()
            assert take(broker) == ()
            send(broker, "q", word)
            (delivery,) = take(broker)
            record = Record(id="1", state="SUCCESS", payload=b"kept")
            names = Names.of(options, options)
            settlement = finish(delivery, records=(record,))
            with closing(RedisBroker(parse_address(url, options), names)) as fused:
                assert fused.settle([settlement]).refused == ()
            with closing(RedisBackend(parse_address(url, options), names)) as backend:
                assert backend.fetch(["1"]) == {"1": b"kept"}
    with pytest.raises(ImproperlyConfigured, match="braces"):
        parse_address(url, {})


def whole(link):
    info = link.call("CLUSTER", "INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:2" in info


def knows_a_replica(link):
    (found,) = link.call("SENTINEL", "MASTERS")
    return int(found[b"num-slaves"]) > 0


def persist(verb, patience=40.0):
    """Call *verb* until the world is up again."""
    until = time.monotonic() + patience
    while True:
        try:
            return verb()
        except OperationalError:
            assert time.monotonic() < until
            time.sleep(0.1)


_PROJECT = """
import os
from umbel import Umbel

app = Umbel("proj", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.task_lease = 600.0  # what a lost reply would have brought does not wait for that

@app.task
def double(number):
    return 2 * number
"""

_BODY = b'[[1], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def test_a_worker_outlives_its_server_says_so_in_two_lines_and_loses_nothing(servers, tmp_path):
    lasting = ("--appendonly", "yes", "--appendfsync", "always")
    process, url = servers(*lasting)
    (tmp_path / "proj.py").write_text(_PROJECT)
    log = tmp_path / "log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "umbel", "-A", "proj", "worker", "-P", "solo", "-l", "INFO"],
            env=os.environ | {"BROKER": url},
            cwd=tmp_path,
            stdout=file,
            stderr=file,
        )
    try:
        names = Names.of({})
        sending = threading.Event()
        sending.set()
        accepted = []
        sender = threading.Thread(target=send_doubles, args=(url, sending, accepted))
        sender.start()
        with closing(RedisBackend(parse_address(url, {}), names)) as backend:
            wait_until(lambda: accepted and backend_has(backend, accepted[0]), "the first result")
            process.kill()
            process.wait()
            wait_until(lambda: b"broker lost" in log.read_bytes(), "the worker to see that the server is gone")
            before = len(accepted)

            servers(*lasting)

            wait_until(lambda: len(accepted) > before + 20, "more tasks to be accepted", patience=50.0)
            sending.clear()
            sender.join(50)
            wait_until(lambda: len(backend.fetch(accepted)) == len(accepted), "what was accepted", patience=50.0)
        text = log.read_text()
        assert (text.count("broker lost"), text.count("broker is back")) == (1, 1), text
    finally:
        worker.terminate()
        worker.wait(20)
    assert "Traceback" not in log.read_text()


def send_doubles(url, sending, accepted):
    """Send one task after the other while *sending* is set; note which the broker took."""
    number = 0
    with open_broker(url) as broker:
        while sending.is_set():
            number += 1
            message = Message(id=f"{number}", task="proj.double", body=_BODY)
            try:
                broker.publish([Publication(message=message, route=Route("", "celery"))])
            except OperationalError:
                time.sleep(0.02)
            else:
                accepted.append(message.id)
                time.sleep(0.002)


@pytest.mark.slow
def test_many_tasks_leave_no_keys_channels_or_connections(servers, tmp_path):
    _, url = servers()
    (tmp_path / "proj.py").write_text(_PROJECT)
    with closing(Link(parse_address(url, {}))) as link:
        link.open()
        clients = len(link.call("CLIENT", "LIST").splitlines())
        with (tmp_path / "log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "umbel", "-A", "proj", "worker", "-P", "solo", "-l", "WARNING"],
                env=os.environ | {"BROKER": url},
                cwd=tmp_path,
                stdout=log,
                stderr=log,
            )
        try:
            app = Umbel("proj", broker=url, backend=url, set_as_current=False)
            double = app.signature("proj.double")
            ignored = double.clone((1,)).set(ignore_result=True)
            group(*[ignored] * 5000).apply_async()
            message = Message(id="1", task="proj.double", body=_BODY, ignore_result=True)
            with open_broker(url) as broker:
                for _ in range(95):
                    broker.publish([Publication(message=message, route=Route("", "celery"))] * 1000)
            kept = [group([double.clone((number,)) for number in range(100)]).apply_async() for _ in range(5)]
            assert [result.get(timeout=100) for result in kept] == [[2 * number for number in range(100)]] * 5
            body = chord([double.clone((number,)) for number in range(50)], app.signature("proj.double")).apply_async()
            assert len(body.get(timeout=100)) == 100
            wait_until(lambda: not link.call("EXISTS", "celery", "unacked"), "all tasks to be done", patience=100.0)
            app.close()
        finally:
            worker.terminate()
            worker.wait(20)

        wait_until(lambda: len(link.call("CLIENT", "LIST").splitlines()) == clients, "all connections to end")
        assert link.call("PUBSUB", "CHANNELS") == []
        assert link.call("PUBSUB", "NUMPAT") == 0
        keys = [key.decode() for key in link.call("KEYS", "*")]
        lasting = {key for key in keys if link.call("TTL", key) < 0}
    own = {"umbel.queues", "umbel.token", "umbel.exchanges", "_kombu.binding_deadlines"}
    assert lasting <= own | {"_kombu.binding.celery", "_kombu.binding_permanent.celery"}
    results = [key for key in keys if key.startswith("celery-task-meta-")]
    assert len(results) == 5 * 100 + 50 + 1
    assert len(keys) - len(results) < 20


@pytest.mark.row("TB-031")
def test_a_forked_process_has_a_connection_of_its_own(servers):
    _, url = servers()
    with open_broker(url) as broker:
        broker.consume(["q"])
        broker.fileno()
        assert take(broker) == ()
        child = os.fork()
        if child == 0:
            try:
                send(broker, "q", "from the child")
                assert is_woken(broker)
                assert len(take(broker)) == 1
                send(broker, "q", "left")
                broker.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0

        assert is_woken(broker)
        assert [each.message.id for each in take(broker, 5)] == ["left"]
        send(broker, "q", "from the parent")
        assert [each.message.id for each in take(broker, 5)] == ["from the parent"]
