"""What single commands do with an app: call, result, purge, list, dead, report."""

import json
import logging
from contextlib import closing

import pytest

from umbel import Umbel
from umbel.brokers.base import Bury, Claim, Lease, Settlement


@pytest.fixture
def app(folder):
    """An app on queues in memory, which live as long as it does."""
    app = Umbel("shop", broker="memory://", backend="memory://", set_as_current=False)

    @app.task(name="shop.sell")
    def sell(thing, price=1):
        """Sell it.

        For money.
        """

    app.finalize()
    return app


@pytest.fixture
def bury(app):
    """Send a task for each of the names and bury it."""

    def bury(*names, reason="crashed"):
        with closing(app.open_broker()) as broker:
            for name in names:
                app.send_task("shop.sell" if name.startswith("sale") else "shop.other", [name], task_id=name)
                broker.consume(["celery"])
                turn = broker.settle([], Claim(limit=1, lease=30.0, owner="w@h"))
                (delivery,) = turn.deliveries
                lease = Lease(delivery.tag, delivery.token)
                broker.settle([Settlement(lease=lease, verdict=Bury(reason=reason, evidence=f"{name} died"))])

    return bury


def sizes(app):
    with closing(app.open_broker()) as broker:
        return {name: size.ready + size.delayed for name, size in broker.sizes().items()}


@pytest.mark.row("CLI-108")
def test_call_sends_a_task_and_prints_its_id(umbel, app):
    ran = umbel("call", "shop.sell", "-a", '["tea"]', "-k", '{"price": 3}', "--queue", "sales", app=app)

    assert ran.code == 0, ran.err
    with closing(app.open_broker()) as broker:
        broker.consume(["sales"])
        (delivery,) = broker.settle([], Claim(limit=9, lease=30.0, owner="w@h")).deliveries
    assert delivery.message.id == ran.out.strip()
    assert delivery.message.argsrepr == "['tea']"
    assert json.loads(delivery.message.body)[:2] == [["tea"], {"price": 3}]


@pytest.mark.row("CLI-108")
def test_call_takes_the_options_of_apply_async(umbel, app):
    ran = umbel(
        "call", "shop.sell", "-a[1]", "--eta", "2090-01-31T12:00:00+00:00", "--expires", "2091-01-01T00:00:00+00:00",
        "--serializer", "json", "--exchange", "celery", "--routing-key", "celery", app=app,
    )  # fmt: skip
    soon = umbel("call", "shop.sell", "-a", "[1]", "--countdown", "3600", "--expires", "7200", app=app)

    assert (ran.code, soon.code) == (0, 0), ran.err + soon.err
    with closing(app.open_broker()) as broker:
        assert broker.sizes()["celery"].delayed == 2


@pytest.mark.row("CLI-108", "CLI-020")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-a", "{}"), "'{}' is no json array"),
        (("-k", "tea"), "'tea' is no json object"),
        (("--eta", "tomorrow"), "'tomorrow' is no moment"),
        (("--eta", "5"), "'5' is no moment"),
        (("--expires", "soon"), "or a number of seconds"),
    ],
)
def test_call_refuses_what_it_cannot_read(umbel, app, words, said):
    ran = umbel("call", "shop.sell", *words, app=app)

    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert sizes(app) == {}


def test_call_of_a_task_that_the_app_lacks_says_so_and_sends_it(umbel, app):
    ran = umbel("call", "shop.sel", app=app)

    assert ran.code == 0
    assert ran.err == "Note: this app has no task 'shop.sel'; did you mean 'shop.sell'? It is sent all the same.\n"
    assert sizes(app) == {"celery": 1}


@pytest.mark.row("CLI-109")
def test_result_prints_the_value(umbel, app):
    app.backend.store_result("t1", {"sold": 3}, "SUCCESS")

    assert umbel("result", "t1", app=app) == (0, "{'sold': 3}\n", "")
    assert umbel("result", "t1", "-t", "shop.sell", app=app).out == "{'sold': 3}\n"


@pytest.mark.row("CLI-109")
def test_result_of_a_failed_task_is_one_sentence_or_its_traceback(umbel, app):
    app.backend.store_result("t1", ValueError("sold out"), "FAILURE", traceback="Traceback: line 3")

    failed, shown = umbel("result", "t1", app=app), umbel("result", "t1", "--traceback", app=app)

    assert (failed.code, failed.out) == (1, "")
    assert "task t1 ended as FAILURE: ValueError: sold out" in failed.err
    assert shown == (0, "Traceback: line 3\n", "")


def test_result_of_an_unknown_task_name(umbel, app):
    ran = umbel("result", "t1", "-t", "shop.sel", app=app)

    assert ran.code == 2
    assert "did you mean 'shop.sell'?" in ran.err


@pytest.mark.row("CLI-110")
def test_purge_empties_the_queues_that_the_app_knows(umbel, app):
    app.conf.task_queues = ["celery", "sales", "never-used"]
    for queue in ("celery", "celery", "sales", "foreign"):
        app.send_task("shop.sell", ["tea"], queue=queue)
    app.conf.task_queues = ["celery", "sales", "never-used"]

    assert umbel("purge", "-f", "-X", "sales", app=app).out == "Purged 2 messages from 2 known task queues.\n"
    assert umbel("purge", "-f", "-Q", "sales", app=app).out == "Purged 1 message from 1 known task queue.\n"
    assert umbel("purge", "-f", app=app).out == "No messages purged from 3 queues.\n"
    assert sizes(app)["foreign"] == 1


@pytest.mark.row("CLI-110")
def test_purge_asks_first(umbel, app, monkeypatch):
    app.send_task("shop.sell", ["tea"])
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")

    declined = umbel("purge", app=app)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "y")
    agreed = umbel("purge", app=app)

    assert declined.code == 1
    assert "celery" in declined.err
    assert agreed.out.endswith("Purged 1 message from 1 known task queue.\n")


@pytest.mark.row("CLI-111")
def test_list_bindings(umbel, app):
    app.conf.task_queues = {"sales": {"exchange": "shop", "routing_key": "sold"}, "celery": {}}

    lines = umbel("list", "bindings", app=app).out.splitlines()

    assert [line.split() for line in lines] == [
        ["Queue", "Exchange", "Routing", "Key"],
        ["celery", "celery", "celery"],
        ["sales", "shop", "sold"],
    ]


def test_list_queues_says_how_full_they_are(umbel, app):
    app.send_task("shop.sell", ["tea"])
    app.send_task("shop.sell", ["tea"], countdown=60)
    with closing(app.open_broker()) as broker:
        broker.pause("celery")

    table = umbel("list", "queues", app=app).out.splitlines()
    facts = json.loads(umbel("list", "queues", "--json", app=app).out)

    assert table[0].split() == ["Queue", "Waiting", "Delayed", "Running", "Oldest"]
    assert table[1].split()[:4] == ["celery", "1", "1", "0"]
    assert table[1].endswith("paused")
    assert (facts["celery"]["ready"], facts["celery"]["paused"]) == (1, True)


def test_list_tasks(umbel, app):
    assert umbel("list", "tasks", app=app).out.splitlines()[1] == "shop.sell  Sell it."
    assert "celery.chord" in umbel("list", "tasks", "--all", app=app).out
    assert json.loads(umbel("list", "tasks", "-j", app=app).out) == {"shop.sell": "Sell it."}


def test_dead_list(umbel, app, bury):
    assert umbel("dead", "list", app=app).out == "No dead letters.\n"
    bury("sale1", "sale2")
    bury("other", reason="expired")

    every, some, cut = (
        umbel("dead", "list", *words, app=app) for words in ((), ("--reason", "expired"), ("--limit", "2"))
    )

    assert [line.split()[0] for line in every.out.splitlines()] == ["Id", "sale1", "sale2", "other"]
    assert every.out.splitlines()[1].endswith("sale1 died")
    assert [line.split()[0] for line in some.out.splitlines()[1:]] == ["other"]
    assert "more than 2" in cut.err
    facts = json.loads(umbel("dead", "list", "-j", "--task", "shop.sell", app=app).out)
    assert [(fact["id"], fact["evidence"]) for fact in facts] == [("sale1", ["sale1 died"]), ("sale2", ["sale2 died"])]


def test_dead_show(umbel, app, bury):
    bury("sale1")

    shown = umbel("dead", "show", "sale1", app=app).out
    missing = umbel("dead", "show", "sale2", app=app)

    assert "reason:    crashed" in shown
    assert "args:      ['sale1']" in shown
    assert "  1. sale1 died" in shown
    assert json.loads(umbel("dead", "show", "-j", "sale1", app=app).out)["queue"] == "celery"
    assert missing.code == 1
    assert "no dead letter has the task id 'sale2'" in missing.err


def test_dead_retry_sends_them_back(umbel, app, bury):
    bury("sale1", "sale2", "other")

    one = umbel("dead", "retry", "sale1", app=app)
    rest = umbel("dead", "retry", "--all", app=app)
    gone = umbel("dead", "retry", "sale1", app=app)

    assert one == (0, "1 task went back to its queue.\n", "")
    assert rest.out == "2 tasks went back to their queues.\n"
    assert sizes(app) == {"celery": 3}
    assert gone.code == 1
    assert "1 of the ids named no dead letter" in gone.err


def test_dead_discard_deletes_them(umbel, app, bury, monkeypatch):
    bury("sale1", "sale2", "other")
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")

    kept = umbel("dead", "discard", "--all", app=app)
    some = umbel("dead", "discard", "-f", "--task", "shop.sell", app=app)

    assert kept.code == 1
    assert some == (0, "2 tasks are deleted.\n", "")
    assert umbel("dead", "discard", "-f", "other", app=app).out == "1 task is deleted.\n"
    assert umbel("dead", "list", app=app).out == "No dead letters.\n"


@pytest.mark.parametrize("words", [("retry",), ("discard", "-f"), ("retry", "--all", "sale1")])
def test_dead_letters_must_be_chosen_in_one_way(umbel, app, bury, words):
    bury("sale1")

    ran = umbel("dead", *words, app=app)

    assert ran.code == 2
    assert "--all" in ran.err


@pytest.mark.row("CLI-112")
def test_report_says_versions_and_places_but_no_secrets(umbel, hello):
    (hello / "hello.py").write_text(
        "from umbel import Umbel\napp = Umbel('hello', redis_password='geheim', timezone='Europe/Berlin')\n"
    )

    ran = umbel("report")

    assert str(hello / "hello.umbel.db") in ran.out
    assert "umbel:0.1.0" in ran.out
    assert "Europe/Berlin" in ran.out
    assert "geheim" not in ran.out


def test_commands_leave_logging_alone(umbel, app):
    before = list(logging.getLogger().handlers)

    umbel("list", "queues", app=app)

    assert logging.getLogger().handlers == before
