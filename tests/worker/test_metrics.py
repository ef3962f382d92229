import re

import pytest

from umbel.brokers.base import Delivery, QueueSize
from umbel.execution.outcome import Outcome
from umbel.wire.message import Message, Route
from umbel.worker.ledger import Ledger
from umbel.worker.metrics import Gauges, render
from umbel.worker.orders import Ending

GAUGES = Gauges(
    hostname='w"1"@host',
    version="1.2.3",
    slots=4,
    busy=3,
    held=7,
    consuming=True,
    replaced={"max memory": 2},
    queues={
        "celery": QueueSize(ready=5, delayed=2, claimed=3, oldest=12.5),
        "slow": QueueSize(ready=0, delayed=0, claimed=0),
    },
    paused=frozenset({"slow"}),
)


def delivery(task="app.add", **fields):
    return Delivery(
        message=Message(id="t1", task=task, body=b""),
        queue="celery",
        route=Route("", "celery"),
        tag=1,
        token=1,
        **fields,
    )


@pytest.fixture
def ledger():
    return Ledger({"app.add", "app.slow"}.__contains__)


def test_numbers_are_told_as_prometheus_reads_them(ledger):
    ledger.arrived([delivery(since=100.0), delivery("app.slow"), delivery(since=90.0, redelivered=True)], wall=100.3)
    ledger.left([Ending(delivery(), Outcome(state="SUCCESS"), 0.02), Ending(delivery(), Outcome(state="SUCCESS"), 0.3)])
    ledger.left([Ending(delivery("app.slow"), Outcome(state="FAILURE"), None)])
    ledger.lost_leases = 1
    ledger.crashes = 2

    text = render(ledger, GAUGES)

    assert text.endswith("\n")
    lines = text.splitlines()
    for line in (
        'umbel_worker_info{worker="w\\"1\\"@host",version="1.2.3"} 1',
        "umbel_worker_consuming 1",
        "umbel_worker_slots 4",
        "umbel_worker_slots_busy 3",
        'umbel_tasks_received_total{task="app.add"} 2',
        'umbel_tasks_total{task="app.add",state="SUCCESS"} 2',
        'umbel_tasks_total{task="app.slow",state="FAILURE"} 1',
        'umbel_task_runtime_seconds_bucket{task="app.add",le="0.025"} 1',
        'umbel_task_runtime_seconds_bucket{task="app.add",le="0.5"} 2',
        'umbel_task_runtime_seconds_bucket{task="app.add",le="+Inf"} 2',
        'umbel_task_runtime_seconds_sum{task="app.add"} 0.32',
        'umbel_task_runtime_seconds_count{task="app.add"} 2',
        'umbel_task_waiting_seconds_bucket{queue="celery",le="0.5"} 1',
        'umbel_task_waiting_seconds_count{queue="celery"} 1',
        "umbel_lease_losses_total 1",
        "umbel_task_crashes_total 2",
        'umbel_children_replaced_total{reason="max memory"} 2',
        'umbel_queue_messages{queue="celery",state="ready"} 5',
        'umbel_queue_messages{queue="celery",state="delayed"} 2',
        'umbel_queue_oldest_seconds{queue="celery"} 12.5',
        'umbel_queue_paused{queue="slow"} 1',
    ):
        assert line in lines


def test_every_family_says_what_it_is(ledger):
    families, seen = {}, set()
    for line in render(ledger, GAUGES).splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in families
            families[name] = kind
        elif not line.startswith("#"):
            name = re.fullmatch(r"([a-z_]+)(\{[^{}]*\})? [0-9.e+-]+", line)[1]
            seen.add(re.sub(r"_(bucket|sum|count)$", "", name) if name not in families else name)
    assert seen <= families.keys()
    assert set(families.values()) == {"gauge", "counter", "histogram"}


def test_foreign_names_do_not_fill_our_memory(ledger):
    ledger.arrived([delivery(f"foreign.{i}") for i in range(100)], wall=0.0)
    ledger.left([Ending(delivery("foreign.7"), Outcome(state="FAILURE"), None)])

    assert dict(ledger.received) == {"(unknown)": 100}
    assert dict(ledger.ended) == {("(unknown)", "FAILURE"): 1}
    assert ledger.processed == 1
