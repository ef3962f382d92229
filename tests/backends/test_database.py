"""What lies in the tables: Celery reads what umbel wrote, and umbel what Celery wrote."""

import json
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from umbel import Umbel, chord, states
from umbel.backends.database import DatabaseBackend, DatabaseOptions
from umbel.backends.database_tables import Database
from umbel.contrib.testing.worker import start_worker
from umbel.exceptions import BackendError, ChordError, ImproperlyConfigured
from umbel.result import GroupResult
from umbel.wire.codecs import Codecs
from umbel.wire.record import Record
from umbel.wire.result import Details, ResultMeta, decode_columns, encode_columns

ROOT = Path(__file__).parents[2]
PEER = ROOT / ".venv-peer" / "bin" / "python"
AT = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)


@pytest.fixture
def url(tmp_path):
    return f"db+sqlite:///{tmp_path / 'results.db'}"


@pytest.fixture
def make_app(url):
    apps = []

    def make(backend=url, **settings):
        app = Umbel("proj", broker="memory://", backend=backend, set_as_current=False, **settings)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def rows(url, table="celery_taskmeta"):
    with closing(sqlite3.connect(url.removeprefix("db+sqlite:///"))) as connection, connection:
        connection.row_factory = sqlite3.Row
        return {row[1]: dict(row) for row in connection.execute(f"SELECT * FROM {table}").fetchall()}


@pytest.mark.row("PRT-175", "PRT-177", "PRT-178", "TB-129")
def test_results_lie_in_celerys_columns_in_its_encoding(make_app, url):
    app = make_app()
    app.backend.store_result("1", {"a": [1]}, states.SUCCESS)
    app.backend.store_result("2", ValueError("boom", 1), states.FAILURE, traceback="Traceback…\0")
    app.backend.store_result("3", {"pid": 1}, states.STARTED)
    GroupResult("g", [app.AsyncResult("1"), app.AsyncResult("2")]).save()

    found = rows(url)
    assert (found["1"]["status"], found["1"]["result"], found["1"]["children"]) == ("SUCCESS", b'{"a": [1]}', None)
    assert datetime.fromisoformat(found["1"]["date_done"]).tzinfo is None
    assert abs(datetime.fromisoformat(found["1"]["date_done"]).replace(tzinfo=UTC).timestamp() - time.time()) < 60
    assert json.loads(found["2"]["result"]) == {
        "exc_type": "ValueError", "exc_message": ["boom", 1], "exc_module": "builtins"
    }  # fmt: skip
    assert (found["2"]["traceback"], found["3"]["date_done"]) == ("Traceback…\\x00", None)
    group = rows(url, "celery_tasksetmeta")["g"]
    assert json.loads(group["result"]) == [["g", None], [[["1", None], None], [["2", None], None]]]


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_what_is_stored_is_read_again(make_app, serializer):
    app = make_app(result_serializer=serializer, accept_content=["json", serializer], result_extended=True)
    app.backend.store_result("1", {"a": [1, "é"]}, states.SUCCESS)
    app.backend.store_result("2", KeyError("k"), states.FAILURE, traceback="Traceback…")
    group = GroupResult("g", [app.AsyncResult("1")])
    group.save()

    assert app.AsyncResult("1").get(timeout=5) == {"a": [1, "é"]}
    failed = app.AsyncResult("2")
    assert (failed.state, repr(failed.result), failed.traceback) == ("FAILURE", "KeyError('k')", "Traceback…")
    assert app.GroupResult.restore("g").results == group.results
    app.AsyncResult("1").forget()
    assert app.AsyncResult("1").state == "PENDING"


@pytest.mark.row("PRT-176", "PRT-178")
def test_details_have_columns_of_their_own():
    codecs = Codecs()
    details = Details(name="n", args=[1], kwargs={"k": 2}, worker="w@h", retries=3, queue="q", stamps={"by": "me"})
    meta = ResultMeta(
        task_id="1", status="SUCCESS", result=5, children=[[["c", None], None]], date_done=AT, details=details
    )

    payload = encode_columns(meta, codecs=codecs)

    assert decode_columns(payload, codecs=codecs, accept=None, task_id="1") == meta


@pytest.mark.row("PRT-178")
def test_pickled_columns_of_old_are_read_where_pickle_is_accepted(make_app, url):
    make_app().backend.store_result("1", "x", states.SUCCESS)
    with closing(sqlite3.connect(url.removeprefix("db+sqlite:///"))) as connection, connection:
        connection.execute(
            "UPDATE celery_taskmeta SET result = ?", (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94K\x05a.",)
        )

    assert make_app(accept_content=["json", "pickle"]).AsyncResult("1").result == [5]
    with pytest.raises(Exception, match="pickle"):
        _ = make_app().AsyncResult("1").result


@pytest.mark.row("PRT-178", "CFG-062")
def test_tables_that_celery_made_get_the_columns_they_lack(make_app, url):
    with closing(sqlite3.connect(url.removeprefix("db+sqlite:///"))) as connection, connection:
        connection.execute(
            "CREATE TABLE mine (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, task_id VARCHAR(155) UNIQUE,"
            " status VARCHAR(50), result BLOB, date_done DATETIME, traceback TEXT)"
        )
        connection.execute(
            "INSERT INTO mine (task_id, status, result, date_done) "
            "VALUES ('1', 'SUCCESS', X'37', '2026-01-02 03:04:05')"
        )
    app = make_app(database_table_names={"task": "mine"}, result_expires=60)

    assert app.AsyncResult("1").result == 7
    app.backend.store_result("2", 8, states.SUCCESS)
    assert {"children", "stamps", "umbel_until"} <= rows(url, "mine")["2"].keys()
    assert app.backend.cleanup() == 1  # what Celery left is as old as its date says
    assert rows(url, "mine").keys() == {"2"}


@pytest.mark.row("CFG-058", "CFG-059", "CFG-060", "CFG-064")
def test_settings_say_how_the_database_is_opened(make_app, url, tmp_path):
    engines = []
    settings = {"database_engine_callback": engines.append, "database_short_lived_sessions": True}
    app = Umbel(
        "proj", broker="memory://", backend="database", database_url=url.removeprefix("db+"),
        database_engine_options={"echo_pool": False, "pool_recycle": 5}, **settings,
    )  # fmt: skip
    app.backend.store_result("1", 1, states.SUCCESS)
    assert make_app().AsyncResult("1").result == 1
    assert [engine.pool.__class__.__name__ for engine in engines] == ["NullPool"]
    app.close()


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("db+sqlite://", "in memory"),
        ("db+nonsense://x/y", "nonsense"),
        ("db+mysql+nodriver://x/y", "nodriver"),
        ("database", "database_url"),
    ],
)
def test_a_url_that_cannot_work_says_why(backend, words):
    app = Umbel("proj", broker="memory://", backend=backend)
    with pytest.raises(ImproperlyConfigured, match=words):
        app.AsyncResult("1").state  # noqa: B018 - reading it asks the database
    app.close()


def test_a_database_that_is_down_raises_a_typed_error_without_the_password():
    options = DatabaseOptions(early=True)
    backend = DatabaseBackend("postgresql+psycopg://me:secret@127.0.0.1:1/x?connect_timeout=1", options)
    with pytest.raises(BackendError, match=r"postgresql\+psycopg://me:\*\*@127") as caught:
        backend.fetch(["1"])
    assert "secret" not in str(caught.value)
    backend.close()


def test_a_table_that_is_dropped_comes_back(tmp_path):
    backend = DatabaseBackend(f"sqlite:///{tmp_path / 'r.db'}", DatabaseOptions())
    record = Record(id="1", state="SUCCESS", payload=b"\x91\xa7SUCCESS")
    backend.store([record])
    with closing(sqlite3.connect(tmp_path / "r.db")) as connection, connection:
        connection.execute("DROP TABLE celery_taskmeta")

    backend.store([record])

    assert backend.fetch(["1"]).keys() == {"1"}
    backend.close()


def test_other_databases_are_served_in_plain_sql(tmp_path):
    backend = DatabaseBackend(f"sqlite:///{tmp_path / 'r.db'}", DatabaseOptions())
    backend._database.dialect = "another"
    for state in ("STARTED", "SUCCESS", "FAILURE"):
        backend.store([Record(id="1", state=state, payload=b"\x91" + bytes([0xA0 + len(state)]) + state.encode())])
    for payload in (b"old", b"new"):
        backend.save_group("g", payload)

    assert b"SUCCESS" in backend.fetch(["1"])["1"]
    assert backend.fetch_group("g") == b"new"
    backend.close()


def test_chords_are_counted_there(make_app):
    app = make_app()
    add = app.task(name="add")(lambda x, y: x + y)
    total = app.task(name="total")(sum)
    fail = app.task(name="fail")(lambda: 1 // 0)
    with start_worker(app):
        good = chord([add.s(i, i) for i in range(5)], app=app)(total.s())
        bad = chord([add.s(1, 1), fail.s()], app=app)(total.s())

        assert good.get(timeout=20) == 20
        with pytest.raises(ChordError, match="ZeroDivisionError"):
            bad.get(timeout=20, follow_parents=False)


CELERY = """
import sys
from celery import Celery
from celery.result import GroupResult
url, what = sys.argv[1:]
app = Celery("peer", broker="memory://", backend=url, result_extended=True)
if what == "write":
    app.backend.store_result("c1", {"from": ["celery"]}, "SUCCESS")
    app.backend.store_result("c2", KeyError("k"), "FAILURE", traceback="TB")
    GroupResult("cg", [app.AsyncResult("c1"), app.AsyncResult("c2")]).save()
else:
    found = app.AsyncResult("u1").get(timeout=5), repr(app.AsyncResult("u2").result), app.AsyncResult("u2").traceback
    print([*found, [each.id for each in GroupResult.restore("ug", app=app).results], app.AsyncResult("u3").state])
"""


@pytest.mark.process
@pytest.mark.row("TB-129", "PRT-175", "PRT-176", "PRT-177")
@pytest.mark.parametrize("first", ["celery", "umbel"])
@pytest.mark.parametrize(
    "server",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.service("postgresql", "A")),
        pytest.param("mariadb", marks=pytest.mark.service("mariadb", "A")),
    ],
)
def test_celery_and_umbel_read_each_others_results(make_app, url, server, first, service_url):
    if not PEER.exists():
        pytest.skip("no real Celery: make .venv-peer/.celery")
    if server != "sqlite":
        url = "db+" + service_url(server).replace("postgresql:", "postgresql+psycopg:")
    database = Database(url.removeprefix("db+"), DatabaseOptions())
    database.metadata.drop_all(database._engine)  # of a test before: servers outlive it
    database.close()
    app = make_app(url)

    def celery(what):
        done = subprocess.run([PEER, "-c", CELERY, url, what], capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def umbel():
        app.backend.store_result("u1", {"from": ["umbel"]}, states.SUCCESS)
        app.backend.store_result("u2", ValueError("x", 1), states.FAILURE, traceback="TB")
        app.backend.store_result("u3", {"pid": 1}, states.STARTED)
        GroupResult("ug", [app.AsyncResult("u1"), app.AsyncResult("u2")]).save()

    for turn in (umbel, lambda: celery("write")) if first == "umbel" else (lambda: celery("write"), umbel):
        turn()

    assert celery("read") == "[{'from': ['umbel']}, \"ValueError('x', 1)\", 'TB', ['u1', 'u2'], 'STARTED']"
    assert app.AsyncResult("c1").get(timeout=5) == {"from": ["celery"]}
    assert (repr(app.AsyncResult("c2").result), app.AsyncResult("c2").traceback) == ("KeyError('k')", "TB")
    assert [each.id for each in app.GroupResult.restore("cg").results] == ["c1", "c2"]
