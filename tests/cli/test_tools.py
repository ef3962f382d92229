"""Commands that look at or change something once: migrate, shell, graph, upgrade, logtool, amqp."""

import io
import sys
from contextlib import closing

import pytest

from umbel import Umbel
from umbel._names import uuid
from umbel.bootsteps import StartStopStep, Step
from umbel.cli.upgrade import upgraded

LOG = """\
[2026-01-01 10:00:00,100: INFO/MainProcess] celery@w ready.
[2026-01-01 10:00:01,000: INFO/MainProcess] Task shop.sell[t1] received
[2026-01-01 10:00:01,500: INFO/ForkPoolWorker-1] Task shop.sell[t1] succeeded in 0.0042s: 3
[2026-01-01 10:00:02,000: INFO/MainProcess] Task shop.buy[t2] received
[2026-01-01 10:00:02,500: ERROR/ForkPoolWorker-1] Task shop.buy[t2] raised unexpected: ValueError('x')
Traceback (most recent call last):
  File "shop.py", line 3, in buy
ValueError: x
[2026-01-01 10:00:03,000: INFO/MainProcess] Task shop.sell[t3] received
[2026-01-01 10:00:04,000: ERROR/MainProcess] broker lost
"""


@pytest.fixture
def app(folder):
    with Umbel("shop", broker=f"sqlite:///{folder}/here.db", set_as_current=False) as app:

        @app.task(name="shop.sell")
        def sell(thing="tea"):
            return f"sold {thing}"

        app.finalize()
        yield app


def waiting(url, app):
    with closing(app.open_broker(url=url)) as broker:
        return {name: size.ready for name, size in broker.sizes().items()}


@pytest.mark.row("CLI-113", "API-565")
def test_migrate_copies_or_moves_what_waits(umbel, app, folder):
    here, there = f"sqlite:///{folder}/here.db", f"sqlite:///{folder}/there.db"
    for thing in ("tea", "salt"):
        app.send_task("shop.sell", [thing])
    app.send_task("shop.other", queue="slow")

    copied = umbel("migrate", here, there, "-T", "shop.sell", "-n", "1", "-t", "0.1", app=app)
    moved = umbel("-q", "migrate", here, there, "-a", "-Q", "celery,slow:slower", "-t", "0.1", app=app)

    assert copied.code == moved.code == 0, copied.err + moved.err
    assert copied.out.splitlines()[0].startswith("Migrating task 1/3: shop.sell[")
    assert copied.out.splitlines()[1] == "Copied 1 of 3 messages."
    assert moved.out == "Moved 3 of 3 messages.\n"
    assert {name: count for name, count in waiting(here, app).items() if count} == {}
    assert {name: count for name, count in waiting(there, app).items() if count} == {"celery": 3, "slower": 1}


@pytest.mark.row("CLI-118")
def test_shell_knows_the_app_its_tasks_and_what_composes_them(umbel, app, monkeypatch):
    def typed(text, *words):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return umbel("shell", "--python", *words, app=app)

    ran = typed("sell.name, celery is app, group(sell.s(), sell.s()), Task\n")

    assert "('shop.sell', True, group((shop.sell(), sell())), <class 'umbel.app.task.Task'>)" in ran.out
    assert "app shop: Task, app, celery, chain" in ran.err
    assert "name 'sell' is not defined" in typed("sell\n", "-T").err


def test_shell_says_which_shell_is_missing(umbel, app, monkeypatch):
    monkeypatch.setitem(sys.modules, "bpython", None)

    ran = umbel("shell", "-B", app=app)

    assert ran.code == 2
    assert "bpython is not installed: pip install bpython" in ran.err


@pytest.mark.row("CLI-115")
def test_graph_draws_workers_that_are_named(umbel, app):
    ran = umbel("graph", "workers", "nodes:a,b,c", "threads:2,4", "wmax:2", "tmax:3", "backend:redis://u:pw@h", app=app)

    lines = [line.strip() for line in ran.out.splitlines()]
    assert (lines[0], lines[-1]) == ("digraph umbel {", "}")
    assert '"b" [shape=box, label="b"]' in lines
    assert '"a slot 2" -> "a"' in lines
    assert '"b slot … 1 more" -> "b"' in lines
    assert '"… 1 more"' in ran.out.replace("label=", "")
    assert "pw" not in ran.out
    named = umbel("graph", "workers", "nodes:a", "enumerate", app=app).out
    assert 'label="worker 1"' in named


@pytest.mark.row("CLI-114")
def test_graph_draws_the_steps_of_an_app(umbel, app):
    class Pools(Step):
        name = "pools"
        requires = ("celery.worker.components:Pool",)

    class Listener(StartStopStep):
        name = "listener"
        requires = (Pools,)

    app.steps["worker"].update({Pools, Listener})

    drawn = umbel("graph", "bootsteps", app=app).out

    assert '"listener" -> "pools"' in drawn
    assert '"pools" -> "celery.worker.components:Pool"' in drawn
    assert "listener" not in umbel("graph", "bootsteps", "consumer", app=app).out


@pytest.mark.row("CLI-116")
def test_upgrade_writes_todays_names_and_keeps_the_rest(umbel, folder):
    old = 'BROKER_URL = "redis://"  # BROKER_URL\r\nx = os.environ["BROKER_URL"]\r\nCELERYD_CONCURRENCY = \\\r\n  4\r\n'
    file = folder / "settings.py"
    file.write_bytes(old.encode())

    ran = umbel("upgrade", "settings", "settings.py")
    again = umbel("upgrade", "settings", "settings.py", "--no-backup")

    new = old.replace("BROKER_URL =", "broker_url =").replace("CELERYD_CONCURRENCY", "worker_concurrency")
    assert file.read_bytes().decode() == new
    assert (folder / "settings.py.orig").read_bytes().decode() == old
    assert ran.out == "Changes to your setting have been made!\n"
    assert again.out == "Does not seem to require any changes.\n"


@pytest.mark.row("CLI-116")
@pytest.mark.parametrize("option", ["--django", "--compat"])
def test_upgrade_for_django_prefixes(umbel, folder, option):
    file = folder / "settings.py"
    file.write_text("BROKER_URL = CELERY_IMPORTS = other.BROKER_URL\napp.conf.CELERYD_PREFETCH_MULTIPLIER = 1\n")

    assert umbel("upgrade", "settings", "settings.py", option, "--no-backup").code == 0

    assert file.read_text() == (
        "CELERY_BROKER_URL = CELERY_IMPORTS = other.BROKER_URL\napp.conf.CELERY_WORKER_PREFETCH_MULTIPLIER = 1\n"
    )
    assert not (folder / "settings.py.orig").exists()


def test_upgrade_names_a_file_that_is_no_python(umbel, folder):
    (folder / "settings.py").write_text("a = (\n")

    ran = umbel("upgrade", "settings", "settings.py")

    assert ran.code == 2
    assert "settings.py is no Python source" in ran.err
    assert upgraded("") == ""


@pytest.mark.row("CLI-117")
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("traces", LOG.splitlines(keepends=True)[4:8]),
        ("errors", [*LOG.splitlines(keepends=True)[4:8], LOG.splitlines(keepends=True)[9]]),
        ("incomplete", ["Did not complete: t3 (shop.sell)\n"]),
        ("debug", [LOG.splitlines(keepends=True)[0], LOG.splitlines(keepends=True)[9]]),
    ],
)
def test_logtool_reads_files_or_what_it_is_given(umbel, folder, monkeypatch, what, said):
    (folder / "w.log").write_text(LOG)
    monkeypatch.setattr(sys, "stdin", io.StringIO(LOG))

    assert umbel("logtool", what, "w.log") == (0, "".join(said), "")
    assert umbel("logtool", what) == (0, "".join(said), "")


@pytest.mark.row("CLI-117")
def test_logtool_counts(umbel, folder):
    (folder / "w.log").write_text(LOG)

    said = umbel("logtool", "stats", "w.log").out.split("\n")

    assert said[3:7] == ["Task total: 3", "Task errors: 1", "Task success: 1", "Task completed: 2"]
    assert said[10:12] == ["shop.sell: 2", "shop.buy: 1"]


def test_amqp_is_for_rabbitmq(umbel, app):
    ran = umbel("amqp", "queue.purge", "q", app=app)

    assert ran.code == 2
    assert "does not speak AMQP" in ran.err


@pytest.mark.service("rabbitmq", "A")
@pytest.mark.row("CLI-119")
def test_amqp_calls_methods(umbel, rabbitmq_vhost, monkeypatch):
    name = f"test.{uuid()}"
    monkeypatch.setattr(
        sys,
        "stdin",
        io.StringIO(
            f"""
            exchange.declare {name} topic no no yes
            queue.declare {name} no no no
            queue.bind {name} {name} "a.*"
            basic.publish 'hello there' {name} a.b
            basic.get {name}
            basic.ack 1
            basic.get {name}
            queue.declare nobody-has-this-queue yes
            basic.nonsense
            basic.get
            help
            exit
            never
            """
        ),
    )
    with Umbel("bare", broker=rabbitmq_vhost, set_as_current=False) as app:
        ran = umbel("amqp", "repl", app=app)
        sent = umbel("amqp", "basic.publish", "more", "", name, app=app)
        lost = umbel("amqp", "basic.publish", "more", "", f"{name}.not", "yes", app=app)
        purged = umbel("amqp", "queue.purge", name, app=app)
        deleted = [umbel("amqp", f"{kind}.delete", name, app=app).code for kind in ("queue", "exchange")]

    assert ran.code == 0, ran.err
    said = ran.out.splitlines()
    assert said[:5] == ["OK.", f"queue:{name} messages:0 consumers:0", "OK.", "OK.", "delivery_tag: 1"]
    assert "body: hello there" in said
    assert said[said.index("body: hello there") + 1 :][:2] == ["OK.", "No messages in queue."]
    assert "exchange.delete EXCHANGE [IF_UNUSED]" in said
    assert "the server refuses: 404" in ran.err
    assert "there is no method 'basic.nonsense'" in ran.err
    assert "basic.get takes: QUEUE [NO_ACK]" in ran.err
    assert (sent.code, sent.out, lost.code, deleted) == (0, "OK.\n", 1, [0, 0])
    assert purged.out == "1 messages deleted.\n"
