from contextlib import closing

import pytest

from umbel import Umbel
from umbel.brokers.base import Claim
from umbel.contrib import migrate


@pytest.fixture
def app():
    with Umbel("shop", broker="memory://here", set_as_current=False) as app:
        for number in range(3):
            app.send_task("sell", [number], task_id=f"t{number}")
        app.send_task("buy", ["tea"], task_id="t3")
        yield app


def ids(app, queue, url=None):
    with closing(app.open_broker(url=url)) as broker:
        broker.consume([queue])
        return [each.message.id for each in broker.settle([], Claim(limit=9, lease=0.0, owner="test")).deliveries]


@pytest.mark.row("API-564")
def test_what_a_predicate_is_true_of_moves_and_the_rest_stays_in_order(app):
    seen = []

    state = migrate.move(
        lambda body, message: "slow" if body[0] == [1] or message.headers["task"] == "buy" else None,
        app=app,
        timeout=0.0,
        callback=lambda state, body, message: seen.append((state.count, body[0], message.delivery_info)),
    )

    assert (state.count, state.filtered, state.total_apx, repr(state)) == (2, 4, 4, "4/4")
    assert [each[:2] for each in seen] == [(1, [1]), (2, ["tea"])]
    assert seen[0][2]["queue"] == "celery"
    assert ids(app, "celery") == ["t0", "t2"]
    assert ids(app, "slow") == ["t1", "t3"]


@pytest.mark.row("API-564")
def test_where_to_may_be_said_in_many_ways(app):
    here = {"app": app, "timeout": 0.0}

    migrate.move(lambda _, message: migrate.task_id_eq("t0", _, message), routing_key="a", exchange="", **here)
    migrate.move(lambda _, message: ("", "b") if migrate.task_id_in({"t1"}, _, message) else False, **here)
    migrate.move(lambda *_: True, limit=1, transform=lambda _: app.amqp.queues["c"], source="celery", **here)
    migrate.move(lambda *_: True, source=["celery"], connection=app.connection_for_write(), **here)

    assert [ids(app, name) for name in ("a", "b", "c", "celery")] == [["t0"], ["t1"], ["t2"], ["t3"]]


@pytest.mark.row("API-565")
def test_tasks_move_by_id_by_name_and_to_single_workers(app):
    here = {"app": app, "timeout": 0.0}

    assert migrate.move_task_by_id("t0", "a", **here).count == 1
    assert migrate.move_by_taskmap({"buy": "b"}, **here).count == 1
    assert migrate.move_direct_by_id("t1", "w1@host", **here).count == 1
    assert migrate.move_by_idmap({"t2": "d", "t9": "d"}, **here).count == 1

    assert [ids(app, name) for name in ("a", "b", "w1@host.dq2", "d", "celery")] == [["t0"], ["t3"], ["t1"], ["t2"], []]


@pytest.mark.row("API-565")
def test_a_filter_sees_what_waits_and_takes_what_it_acknowledges(app):
    seen = []

    def look(body, message):
        seen.append((message.headers["id"], body[0], message.properties["correlation_id"]))
        if message.headers["id"] == "t1":
            message.ack()
        if message.headers["id"] == "t2":
            raise migrate.StopFiltering

    with app.connection_for_read() as connection:
        state = migrate.start_filter(app, connection, look, timeout=0.0, tasks="sell,other")

    assert seen == [("t0", [0], "t0"), ("t1", [1], "t1"), ("t2", [2], "t2")]
    assert state.count == 2
    assert ids(app, "celery") == ["t0", "t2", "t3"]


@pytest.mark.row("API-565")
def test_what_waits_is_copied_or_moved_to_another_broker(app):
    with app.connection_for_read() as here, app.connection_for_write("memory://there") as there:
        copied = migrate.migrate_tasks(here, there, app=app, queues={"celery": "copies"}, limit=2, timeout=0.0)
        moved = migrate.migrate_tasks(here, there, app=app, ack_messages=True, timeout=0.0)

    assert (copied.count, moved.count) == (2, 4)
    assert ids(app, "copies", "memory://there") == ["t0", "t1"]
    assert ids(app, "celery", "memory://there") == ["t0", "t1", "t2", "t3"]
    assert ids(app, "celery") == []


def test_what_may_not_be_read_moves_all_the_same(app):
    with closing(app.open_broker()) as broker:
        broker.purge("celery")
    app.send_task("sell", serializer="pickle", task_id="p1")

    state = migrate.move(lambda body, _: body is None, routing_key="a", app=app, timeout=0.0)

    assert (state.count, state.strtotal) == (1, "1")
    assert ids(app, "a") == ["p1"]
