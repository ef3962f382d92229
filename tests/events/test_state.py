import pickle
import time

import pytest

from umbel.events.state import State, heartbeat_expires


@pytest.fixture
def state():
    return State()


@pytest.mark.row("API-512", "API-515")
def test_the_life_of_a_task_adds_up(state, event):
    state.event(event("task-sent", uuid="t1", name="app.add", args="(1,)", kwargs="{}", hostname="gen1@host"))
    (task, is_new), subject = state.event(event("task-received", uuid="t1", name="app.add", args="(1,)"))
    assert (is_new, subject, task.state) == (False, "received", "RECEIVED")
    state.event(event("task-started", uuid="t1"))
    state.event(event("task-succeeded", uuid="t1", result="2", runtime=0.5))

    assert task.state == "SUCCESS"
    assert task.ready
    assert (task.result, task.runtime, task.client, task.worker.hostname) == ("2", 0.5, "gen1@host", "w1@host")
    assert [task.sent, task.received, task.started, task.succeeded] == [1000000.0, 1000001.0, 1000002.0, 1000003.0]
    assert task.timestamp == 1000003.0
    assert task.info() == {"args": "(1,)", "kwargs": "{}", "result": "2", "runtime": 0.5}
    assert task.info(["state"], ["uuid"]) == {"state": "SUCCESS", "uuid": "t1"}
    assert task.as_dict()["children"] == []
    assert (state.event_count, state.task_count) == (4, 1)
    assert repr(task) == "<Task: app.add(t1) SUCCESS clock:4>"


@pytest.mark.row("API-513")
def test_an_event_that_comes_late_tells_what_the_task_is_but_not_how(state, event):
    state.event(event("task-succeeded", uuid="t1", result="2", runtime=0.5))
    state.event(event("task-received", uuid="t1", name="app.add", args="(1,)", result="nonsense"))

    task = state.tasks["t1"]
    assert (task.state, task.name, task.args, task.result) == ("SUCCESS", "app.add", "(1,)", "2")


@pytest.mark.row("API-513")
def test_a_retry_begins_anew(state, event):
    for kind in ("task-received", "task-retried", "task-received", "task-started"):
        state.event(event(kind, uuid="t1", name="app.add"))

    assert state.tasks["t1"].state == "STARTED"


def test_an_event_of_a_tasks_own_is_a_state_of_its_own(state, event):
    state.event(event("task-progress", uuid="t1", done=3))

    assert (state.tasks["t1"].state, state.tasks["t1"].done) == ("PROGRESS", 3)


@pytest.mark.row("API-514")
def test_a_worker_is_known_by_its_heartbeats(state, event):
    now = time.time()
    ((worker, is_new), _) = state.event(
        event("worker-online", freq=2.0, sw_ident="py-celery", processed=3, local_received=now, timestamp=now)
    )
    for i in range(1, 6):
        state.event(event("worker-heartbeat", freq=2.0, active=1, local_received=now + i, timestamp=now + i))

    assert is_new
    assert worker.alive
    assert worker.status_string == "ONLINE"
    assert worker.id == "w1@host.7"
    assert (worker.active, worker.processed, worker.sw_ident) == (1, 3, "py-celery")
    assert worker.heartbeats == [now + i for i in range(2, 6)]
    assert list(state.alive_workers()) == [worker]
    state.event(event("worker-offline"))
    assert (worker.alive, worker.status_string) == (False, "OFFLINE")
    assert list(state.alive_workers()) == []


@pytest.mark.row("PRT-234")
def test_a_worker_counts_as_gone_after_two_beats():
    assert heartbeat_expires(100.0, freq=2.0) == 104.0


@pytest.mark.row("PRT-247")
def test_those_who_listen_learn_of_nodes_that_come_and_go(event):
    seen = []
    state = State(
        callback=lambda state, event: seen.append(event["type"]),
        on_node_join=lambda worker: seen.append(("joined", worker.hostname)),
        on_node_leave=lambda worker: seen.append(("left", worker.hostname)),
    )
    state.event(event("worker-online"))
    state.event(event("worker-heartbeat"))
    state.event(event("worker-offline"))

    assert seen == [
        "worker-online",
        ("joined", "w1@host"),
        "worker-heartbeat",
        "worker-offline",
        ("left", "w1@host"),
    ]


@pytest.mark.row("API-512")
def test_tasks_are_found_by_time_type_and_worker(state, event):
    state.event(event("task-received", uuid="a", name="app.one"))
    state.event(event("task-received", uuid="b", name="app.two", hostname="w2@host"))
    state.event(event("task-received", uuid="c", name="app.one"))

    assert [uuid for uuid, _ in state.tasks_by_time()] == ["c", "b", "a"]
    assert [uuid for uuid, _ in state.tasks_by_time(reverse=False, limit=2)] == ["a", "b"]
    assert [uuid for uuid, _ in state.tasks_by_type("app.one")] == ["c", "a"]
    assert [uuid for uuid, _ in state.tasks_by_worker("w2@host")] == ["b"]
    assert [uuid for uuid, _ in state.itertasks(limit=2)] == ["a", "b"]
    assert state.task_types() == ["app.one", "app.two"]


def test_parents_know_their_children(state, event):
    state.event(event("task-received", uuid="a", name="app.one", root_id="a"))
    state.event(event("task-received", uuid="b", name="app.two", parent_id="a", root_id="a"))

    child = state.tasks["b"]
    assert child.parent is child.root is state.tasks["a"]
    assert state.tasks["a"].children == {child}


def test_only_the_last_tasks_and_workers_are_kept(event):
    state = State(max_tasks_in_memory=3, max_workers_in_memory=2)
    for i in range(5):
        state.event(event("task-received", uuid=f"t{i}", name="app.one", hostname=f"w{i}@host"))

    assert list(state.tasks) == ["t2", "t3", "t4"]
    assert list(state.workers) == ["w3@host", "w4@host"]


@pytest.mark.row("API-512")
def test_what_is_over_can_be_forgotten(state, event):
    state.event(event("task-received", uuid="a", name="app.one"))
    state.event(event("task-failed", uuid="b"))

    seen = state.freeze_while(lambda: list(state.tasks), clear_after=True)

    assert seen == ["a", "b"]
    assert list(state.tasks) == ["a"]
    assert not state.workers
    assert state.event_count == 0
    state.clear_tasks(ready=False)
    assert not state.tasks


@pytest.mark.row("API-516")
def test_a_node_whose_clock_is_wrong_is_complained_of_once(state, event, caplog):
    for _ in range(2):
        state.event(event("worker-heartbeat", timestamp=100.0, local_received=200.0))

    assert [record.message for record in caplog.records] == [
        (
            "Substantial drift from w1@host may mean clocks are out of sync. Current drift is 100 seconds. "
            "[orig: 1970-01-01T00:01:40+00:00 recv: 1970-01-01T00:03:20+00:00] Let both machines keep time by NTP."
        )
    ]


def test_a_state_survives_pickle(state, event):
    state.event(event("worker-online", freq=2.0))
    state.event(event("task-received", uuid="a", name="app.one"))

    copy = pickle.loads(pickle.dumps(state))

    assert copy.tasks["a"].name == "app.one"
    assert copy.workers["w1@host"].freq == 2.0
