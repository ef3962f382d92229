"""Where the file is, who may use it, and what is said when that goes wrong."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from umbel.brokers.base import Claim, Publication
from umbel.brokers.sqlite import SqliteBroker
from umbel.brokers.sqlite_file import Database, Location, parse
from umbel.contrib.testing.contracts.calls import is_woken
from umbel.exceptions import (
    BrokerFull,
    BrokerLocked,
    BrokerUnavailable,
    BrokerUnusable,
    ImproperlyConfigured,
    OperationalError,
)
from umbel.wire.message import Message, Route

# -- URLs


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///queue.db", "/srv/app/queue.db"),
        ("sqlite:///data/queue.db", "/srv/app/data/queue.db"),
        ("sqlite:///../queue.db", "/srv/queue.db"),
        ("sqlite:////var/lib/queue.db", "/var/lib/queue.db"),
        ("sqlite:///with%20space%3F.db", "/srv/app/with space?.db"),
        ("db+sqlite:///queue.db", "/srv/app/queue.db"),
    ],
)
def test_a_url_names_a_file_relative_to_the_application_or_absolute(url, path):
    assert parse(url, Path("/srv/app")) == Location(Path(path))


def test_options_follow_a_question_mark():
    assert parse("sqlite:///q.db?durability=full&busy_timeout=0.5", Path("/a")) == Location(
        Path("/a/q.db"), "full", 0.5
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///q.db?durabilty=full", "did you mean 'durability'"),
        ("sqlite:///q.db?durability=fast", "'normal' or 'full', not 'fast'"),
        ("sqlite:///q.db?busy_timeout=soon", "number of seconds, not 'soon'"),
        ("sqlite:///q.db?busy_timeout=-1", "number of seconds, not '-1'"),
        ("sqlite://q.db", "sqlite:///q.db"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("sqlite:///:memory:", "memory://"),
        ("redis://host", "no SQLite URL"),
    ],
)
def test_a_url_that_cannot_be_meant_says_what_to_write(url, says):
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(url, Path("/srv"))
    assert says in str(caught.value)


# -- what may be wrong with the file


def test_a_sqlite_that_is_too_old_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    with pytest.raises(ImproperlyConfigured, match=r"needs SQLite 3\.35, but this Python has 3\.34\.1"):
        send(tmp_path / "queue.db")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BrokerUnusable, match="there is no folder"):
        send(tmp_path / "none" / "queue.db")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(BrokerUnusable, match="that is a folder"):
        send(tmp_path)


def test_a_text_is_not_a_database(tmp_path):
    path = tmp_path / "queue.db"
    path.write_text("Dear diary, " * 100)

    with pytest.raises(BrokerUnusable, match="is not a SQLite database"):
        send(path)
    assert path.read_text().startswith("Dear diary")


def test_the_database_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "queue.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    before = path.read_bytes()

    with pytest.raises(BrokerUnusable, match="database of another program"):
        send(path)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_umbel_is_left_alone(tmp_path):
    path = tmp_path / "queue.db"
    send(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(BrokerUnusable, match=r"newer umbel .format 99"):
        send(path)


def test_a_damaged_file_says_how_to_save_what_is_left(tmp_path):
    path = tmp_path / "queue.db"
    send(path, *map(str, range(500)))
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\x55" * (len(damaged) - 4096)
    path.write_bytes(damaged)

    with pytest.raises(BrokerUnusable, match=r"damaged.*\.recover"):
        send(path)


def test_a_dropped_table_is_no_riddle(tmp_path):
    path = tmp_path / "queue.db"
    send(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE ready")

    with pytest.raises(BrokerUnusable, match="lacks tables"):
        send(path)


def test_who_holds_the_lock_too_long_is_named_within_the_timeout(tmp_path):
    path = tmp_path / "queue.db"
    send(path)
    location = Location(path, busy_timeout=0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as tool, closing(SqliteBroker(location)) as broker:
        broker.consume(["q"])
        broker.fileno()
        tool.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(BrokerLocked, match=f"process {os.getpid()}" if sys.platform == "linux" else "process"):
            broker.publish([publication("2")], timeout=0.1)
        assert 0.05 < time.monotonic() - began < 20

        with pytest.raises(BrokerUnavailable):
            broker.settle([], Claim(limit=1, lease=60, owner="node"))
        assert is_woken(broker, 0.0), "who tries again should not wait for the next message"

        tool.execute("ROLLBACK")
        broker.publish([publication("3")], timeout=0.1)

    assert ids(path) == ["1", "3"]


def test_who_waits_for_the_lock_gets_it(tmp_path):
    path = tmp_path / "queue.db"
    send(path)
    tool = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    tool.execute("BEGIN IMMEDIATE")
    later = threading.Timer(0.1, lambda: tool.execute("COMMIT"))
    later.start()

    send(path, "2")

    later.join()
    tool.close()
    assert ids(path) == ["1", "2"]


def test_a_full_file_system_stores_nothing_and_works_again_with_room(tmp_path):
    database = Database(Location(tmp_path / "queue.db"))
    database.open()
    database.run("PRAGMA max_page_count = 40")

    def fill(connection):
        connection.executemany("INSERT INTO bodies (body) VALUES (?)", [(b"x" * 4000,)] * 100)

    with pytest.raises(BrokerFull, match="no room for"):
        database.write(fill)

    assert database.rows("SELECT count(*) FROM bodies") == [(0,)]
    database.run("PRAGMA max_page_count = 400")
    database.write(fill)
    database.close()


@pytest.mark.process
def test_a_full_disk_says_how_much_is_left():
    script = """
        import subprocess, sys
        from pathlib import Path
        from umbel.brokers.base import Publication
        from umbel.brokers.sqlite import Location, SqliteBroker
        from umbel.exceptions import BrokerFull
        from umbel.wire.message import Message, Route

        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", sys.argv[1]], check=True)
        broker = SqliteBroker(Location(Path(sys.argv[1]) / "queue.db"))
        try:
            for number in range(10_000):
                message = Message(id=f"{number}", task="t", body=b"x" * 500)
                broker.publish([Publication(message=message, route=Route("", "q"))])
        except BrokerFull as exc:
            print(number, broker.sizes()["q"].ready, exc)
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", textwrap.dedent(script), folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("this machine lets nobody mount a small disk")
    published, stored, says = done.stdout.split(maxsplit=2)
    assert int(published) == int(stored) > 10
    assert "bytes left" in says


@pytest.mark.process
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_written_is_named_with_the_user(what):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        send(place / "queue.db")
        for each in [*place.glob("queue.db*"), *([place] if what == "folder" else [])]:
            each.chmod(0o444 if each.is_file() else 0o555)
        if what == "file":
            place.chmod(0o777)
        says = _as_nobody(place / "queue.db")
        place.chmod(0o755)
    assert "BrokerUnusable" in says
    assert "cannot be written" in says or "no permission" in says
    assert f"{place / 'queue.db' if what == 'file' else place}" in says


def _as_nobody(path):
    """Return what a user says who may not write there."""
    script = f"""
        import os
        from pathlib import Path
        from umbel.brokers.base import Publication
        from umbel.brokers.sqlite import Location, SqliteBroker
        from umbel.wire.message import Message, Route
        if os.geteuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
            os.environ.pop("USER", None)
        try:
            SqliteBroker(Location(Path({str(path)!r}))).publish(
                [Publication(message=Message(id="1", task="t", body=b""), route=Route("", "q"))]
            )
        except Exception as exc:
            print(type(exc).__name__, exc)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


# -- what may happen to the file while we use it


def test_a_file_that_was_removed_is_not_written_any_more(tmp_path, monkeypatch, caplog):
    path = tmp_path / "queue.db"
    with closing(SqliteBroker(Location(path))) as broker:
        broker.publish([publication("lost with its file")])
        for each in tmp_path.glob("queue.db*"):
            if each.is_file():
                each.unlink()
        send(path, "1")
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)

        broker.publish([publication("2")])

    assert ids(path) == ["1", "2"]
    assert "removed or replaced" in caplog.text


def test_a_call_from_a_signal_handler_in_the_middle_of_another_is_refused(tmp_path):
    database = Database(Location(tmp_path / "queue.db"))

    def work(connection):
        connection.execute("INSERT INTO paused VALUES ('q')")
        with pytest.raises(RuntimeError, match="in the middle of another"):
            database.rows("SELECT 1")

    database.write(work)

    assert database.rows("SELECT queue FROM paused") == [("q",)]
    database.close()


def test_an_exception_in_a_transaction_undoes_it(tmp_path):
    database = Database(Location(tmp_path / "queue.db"))

    def work(connection):
        connection.execute("INSERT INTO paused VALUES ('q')")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.write(work)

    assert database.rows("SELECT queue FROM paused") == []
    database.close()


def test_many_may_create_the_file_at_once(tmp_path):
    path = tmp_path / "queue.db"
    failed = []

    def create(number):
        try:
            send(path, f"{number}")
        except OperationalError as exc:
            failed.append(exc)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert sorted(ids(path)) == sorted("01234567")


def test_full_durability_is_asked_for_in_the_url(tmp_path):
    for durability, synchronous in (("normal", 1), ("full", 2)):
        database = Database(parse(f"sqlite:///queue.db?durability={durability}", tmp_path))
        assert database.rows("PRAGMA synchronous") == [(synchronous,)]
        assert database.rows("PRAGMA journal_mode") == [("wal",)]
        database.close()


# -- forks


@pytest.mark.row("TB-031")
@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_connection_of_its_own(tmp_path):
    path = tmp_path / "queue.db"
    with closing(SqliteBroker(Location(path))) as broker:
        broker.consume(["q"])
        broker.publish([publication("before")])
        broker.fileno()
        children = []
        for child in range(4):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    for number in range(50):
                        broker.publish([publication(f"{child}-{number}")])
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        for number in range(50):
            broker.publish([publication(f"parent-{number}")])
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]

    # Whoever closes last removes the log; everything of everybody must be in the file then.
    found = ids(path)
    assert len(found) == len(set(found)) == 251


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_waits_for_the_write_of_another_thread(tmp_path):
    path = tmp_path / "queue.db"
    stop = threading.Event()
    sent = []

    def publish():
        with closing(SqliteBroker(Location(path))) as broker:
            while not stop.is_set():
                broker.publish([publication(f"{len(sent)}")])
                sent.append(len(sent))

    thread = threading.Thread(target=publish)
    thread.start()
    with closing(SqliteBroker(Location(path))) as broker:
        for number in range(10):
            broker.publish([publication(f"main-{number}")])
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    broker.publish([publication(f"child-{number}")])
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    thread.join()

    assert len(ids(path)) == len(sent) + 20


# -- helpers


def publication(task_id, **fields):
    return Publication(message=Message(id=task_id, task="t", body=b"", **fields), route=Route("", "q"))


def send(path, *task_ids):
    with closing(SqliteBroker(Location(path))) as broker:
        for task_id in task_ids or ("1",):
            broker.publish([publication(task_id)])


def ids(path):
    """Return the ids of all messages that wait."""
    with closing(SqliteBroker(Location(path))) as broker:
        broker.consume(["q"])
        turn = broker.settle([], Claim(limit=100_000, lease=60, owner="judge"))
        return [each.message.id for each in turn.deliveries]
