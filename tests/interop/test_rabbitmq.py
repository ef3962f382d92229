"""What only RabbitMQ has: results by reply queues, quorum queues, and delays kept by the broker."""

import pytest

pytestmark = [pytest.mark.process, pytest.mark.service("rabbitmq", "A"), pytest.mark.service("redis", "A")]


@pytest.fixture(scope="module")
def fleet(make_fleet):
    made = make_fleet(
        "rabbitmq",
        result_backend="rpc://",
        task_default_queue_type="quorum",
        task_default_exchange_type="topic",
        worker_detect_quorum_queues=True,
    )
    for worker in [made.worker(side, side) for side in ("celery", "umbel")]:
        worker.ready()
    yield made
    made.close()


@pytest.fixture(params=[("celery", "umbel"), ("umbel", "celery")], ids="-to-".join)
def call(fleet, request):
    caller, answers = request.param
    return fleet.client(caller, answers)


@pytest.mark.row("PRT-144", "PRT-174", "TB-128")
def test_results_come_back_by_the_reply_queue(call):
    values, error, state = call("""
        results = [add.delay(i, i) for i in range(20)]
        failed = fail.delay("custom")
        values = [each.get(timeout=40) for each in reversed(results)]
        try:
            failed.get(timeout=40)
        except SoldOut as exc:
            return values, list(exc.args), failed.state
    """)
    assert values == [2 * i for i in reversed(range(20))]
    assert (error, state) == (["tea", 3], "FAILURE")


@pytest.mark.row("PRT-174")
def test_each_state_comes_by_the_reply_queue(call):
    value, seen = call("""
        seen = []

        def hear(message):
            seen.append([message["status"], message["result"]])
            if message["status"] == "PROGRESS":
                note("go on " + result.id)

        result = progress.delay()
        return result.get(timeout=40, on_message=hear), seen
    """)
    assert value == "done"
    assert seen == [["PROGRESS", {"done": 7}], ["SUCCESS", "done"]]


@pytest.mark.row("PRT-148", "PRT-152", "PRT-155")
def test_delays_are_kept_by_the_broker(call):
    values, waited = call("""
        before = time.time()
        results = [echo.apply_async((i,), countdown=1 + i) for i in range(3)]
        return [each.get(timeout=40) for each in results], time.time() - before
    """)
    assert values == [0, 1, 2]
    assert waited >= 2.9


def test_chains_and_groups_go_over_quorum_queues(call):
    assert call("""
        flow = chain(add.s(1, 2), add.s(10), echo.s())
        return flow.apply_async().get(timeout=40), group(add.s(i, i) for i in range(5)).apply_async().get(timeout=40)
    """) == [13, [0, 2, 4, 6, 8]]
