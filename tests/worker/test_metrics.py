import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

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
    made = Ledger({"app.add", "app.slow"}.__contains__)
    made.arrived([delivery(since=100.0), delivery("app.slow"), delivery(since=90.0, redelivered=True)], wall=100.3)
    made.left([Ending(delivery(), Outcome(state="SUCCESS"), 0.02), Ending(delivery(), Outcome(state="SUCCESS"), 0.3)])
    made.left([Ending(delivery("app.slow"), Outcome(state="FAILURE"), None)])
    made.lost_leases = 1
    made.crashes = 2
    return made


def test_numbers_are_told_as_prometheus_reads_them(ledger):
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


def test_prometheus_itself_reads_every_family_and_sample(ledger):
    families = {family.name: family for family in text_string_to_metric_families(render(ledger, GAUGES))}

    def value(name, sample="", **labels):
        (found,) = [
            each.value for each in families[name].samples if each.name == name + sample and each.labels == labels
        ]
        return found

    assert {family.type for family in families.values()} == {"gauge", "counter", "histogram"}
    assert all(family.documentation for family in families.values())
    assert value("umbel_worker_info", worker='w"1"@host', version="1.2.3") == 1
    assert value("umbel_tasks_received", "_total", task="app.add") == 2
    assert value("umbel_tasks", "_total", task="app.slow", state="FAILURE") == 1
    assert value("umbel_task_runtime_seconds", "_bucket", task="app.add", le="0.025") == 1
    assert value("umbel_task_runtime_seconds", "_sum", task="app.add") == pytest.approx(0.32)
    assert value("umbel_task_waiting_seconds", "_count", queue="celery") == 1
    for family in families.values():
        below = 0.0
        for each in family.samples:
            if each.name.endswith("_bucket"):
                below = 0.0 if each.labels["le"] == "0.005" else below
                assert each.value >= below
                below = each.value


def test_an_age_that_the_broker_does_not_know_is_left_out(ledger):
    queues = {"full": QueueSize(ready=5, delayed=0, claimed=0), "empty": QueueSize(ready=0, delayed=0, claimed=0)}

    text = render(ledger, msgspec.structs.replace(GAUGES, queues=queues))

    assert [line for line in text.splitlines() if line.startswith("umbel_queue_oldest_seconds")] == [
        'umbel_queue_oldest_seconds{queue="empty"} 0.0'
    ]


def test_foreign_names_do_not_fill_our_memory():
    ledger = Ledger({"app.add"}.__contains__)
    ledger.arrived([delivery(f"foreign.{i}") for i in range(100)], wall=0.0)
    ledger.left([Ending(delivery("foreign.7"), Outcome(state="FAILURE"), None)])

    assert dict(ledger.received) == {"(unknown)": 100}
    assert dict(ledger.ended) == {("(unknown)", "FAILURE"): 1}
    assert ledger.processed == 1
