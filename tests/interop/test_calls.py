"""Calls from Celery to umbel and from umbel to Celery, by all means, on Redis and on RabbitMQ."""

import pytest

pytestmark = pytest.mark.process


@pytest.fixture(scope="module", params=["celery-to-umbel", "umbel-to-celery"])
def direction(request):
    return request.param.split("-to-")


@pytest.fixture
def call(shared, direction):
    """Run code in a client of one side, whose calls go to the worker of the other."""
    caller, answers = direction
    return shared.client(caller, answers)


def test_tasks_are_called_by_all_means(call, direction):
    answers = call("""
        found = [
            add.delay(1, 2), add.apply_async((1, 2)), add.apply_async(args=[1], kwargs={"y": 2}), add.s(1, 2).delay(),
            add.s(1).delay(2), add.si(1, 2).apply_async(), app.send_task("proj.add", (1,), {"y": 2}),
            signature("proj.add", args=(1, 2)).apply_async(),
            add.apply_async((1, 2), task_id="named-" + UUID(int=1).hex),
            app.send_task("proj.add", (1, 2), queue=app.conf.task_default_queue, headers={"mine": 1}),
        ]
        return [each.get(timeout=40) for each in found] + [side.delay().get(timeout=40)]
    """)
    assert answers == [3] * 10 + [direction[1]]


def test_results_tell_all_there_is(call):
    value, state, done, children, name = call("""
        result = add.delay(1, 2)
        value = result.get(timeout=40)
        again = AsyncResult(result.id, app=app)
        return value, again.state, again.date_done.isoformat(), again.children, again.successful()
    """)
    assert (value, state, children, name) == (3, "SUCCESS", [], True)
    assert done.startswith("20")


def test_values_keep_their_types(call):
    assert (
        call("""
        values = [None, "é日本", 2**70, 1.5, [1, {"a": None}], datetime(2026, 1, 2, 3, 4, 5, 678, UTC), Decimal("1.50"),
                  UUID(int=7), b"abc", b"\\xff"]
        found = [echo.delay(value) for value in values]
        return [a.get(timeout=40) == b for a, b in zip(found, values)]
    """)
        == [True] * 10
    )
    assert call("""
        found = [kind.delay(value) for value in (datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.50"), UUID(int=7), b"x")]
        return [each.get(timeout=40) for each in found]
    """) == [["datetime", "2026-01-02 00:00:00+00:00"], ["Decimal", "1.50"],
             ["UUID", "00000000-0000-0000-0000-000000000007"], ["bytes", "b'x'"]]  # fmt: skip


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
@pytest.mark.parametrize("compression", [None, "zlib", "bzip2", "lzma", "brotli"])
def test_bodies_come_in_every_serializer_and_compression(call, serializer, compression):
    assert call(
        """
        result = echo.apply_async(({"a": [1, 1.5, None, True, "é" * 100]},), serializer=how, compression=squeezed)
        return result.get(timeout=40)
        """,
        how=serializer,
        squeezed=compression,
    ) == {"a": [1, 1.5, None, True, "é" * 100]}


@pytest.mark.parametrize("how", ["plain", "custom", "nested", "odd"])
def test_exceptions_come_back_as_what_they_were(call, how):
    state, name, args, traceback, failed = call(
        """
        result = fail.delay(how)
        try:
            result.get(timeout=40)
        except Exception as exc:
            shown = [type(exc).__module__ + "." + type(exc).__qualname__, list(exc.args)]
        return result.state, *shown, result.traceback, result.failed()
        """,
        how=how,
    )
    expected = {
        "plain": ("builtins.ValueError", ["boom", 1]),
        "custom": ("proj.SoldOut", ["tea", 3]),
        "nested": ("proj.Shop.Closed", ["until nine"]),
        "odd": ("builtins.LookupError", ["{1, 2}"]),
    }
    assert (state, (name, args), failed) == ("FAILURE", expected[how], True)
    assert "Traceback (most recent call last)" in traceback
    assert "in fail" in traceback


def test_a_result_that_nobody_wants_is_not_kept(call):
    assert (
        call("""
        ignored = add.apply_async((1, 2), ignore_result=True)
        add.delay(1, 2).get(timeout=40)
        add.delay(1, 2).get(timeout=40)
        return AsyncResult(ignored.id, app=app).state
    """)
        == "PENDING"
    )


def test_retries_run_until_they_succeed_or_are_too_many(call):
    answers = call("""
        few, auto_few, many = flaky.delay(2), auto.delay(2), flaky.delay(9)
        try:
            many.get(timeout=40)
        except SoldOut as exc:
            raised = list(exc.args)
        return few.get(timeout=40), auto_few.get(timeout=40), raised, many.state
    """)
    assert answers == [2, 2, ["patience", 3], "FAILURE"]


def test_what_is_asked_for_later_runs_later(call):
    waited = call("""
        before = time.time()
        results = [
            echo.apply_async((1,), countdown=1),
            echo.apply_async((2,), eta=datetime.fromtimestamp(time.time() + 1, UTC)),
        ]
        values = [each.get(timeout=40) for each in results]
        return values, time.time() - before
    """)
    assert waited[0] == [1, 2]
    assert waited[1] >= 0.99


def test_what_has_expired_does_not_run(call):
    answers = call("""
        late = echo.apply_async((1,), expires=datetime.fromtimestamp(time.time() - 60, UTC))
        soon = echo.apply_async((2,), expires=3600)
        try:
            late.get(timeout=40)
        except exceptions.TaskRevokedError as exc:
            raised = str(exc)
        return raised, late.state, soon.get(timeout=40)
    """)
    assert answers == ["expired", "REVOKED", 2]


def test_the_request_knows_where_it_comes_from(call):
    seen, own, queue = call("""
        result = show.apply_async(headers={"mine": [1, None]}, shadow="short", priority=3, time_limit=50,
                                  soft_time_limit=40, expires=3600)
        return result.get(timeout=40), result.id, app.conf.task_default_queue
    """)
    assert {key: seen[key] for key in ("id", "root_id", "correlation_id", "parent_id", "group", "retries")} == {
        "id": own, "root_id": own, "correlation_id": own, "parent_id": None, "group": None, "retries": 0
    }  # fmt: skip
    assert (seen["timelimit"], seen["shadow"], seen["delivery"][1:]) == ([50, 40], "short", [queue, 3])
    assert seen["headers"]["mine"] == [1, None]


def test_protocol_1_is_understood(call):
    assert call("""
        app.conf.task_protocol = 1
        try:
            results = [add.delay(1, 2), add.apply_async((1,), {"y": 2}, compression="zlib", expires=3600),
                       echo.apply_async(("é",), countdown=0.1), add.delay(1, "x")]
        finally:
            app.conf.task_protocol = 2
        values = [each.get(timeout=40) for each in results[:3]]
        try:
            results[3].get(timeout=40)
        except TypeError:
            return values
    """) == [3, 3, "é"]


def test_progress_is_seen_while_the_task_runs(shared, call):
    task = call("return progress.delay().id")
    seen = call(
        """
        running, deadline = AsyncResult(task, app=app), time.monotonic() + 40
        while running.state != "PROGRESS":
            assert time.monotonic() < deadline, running.state
            time.sleep(0.01)
        return running.info
        """,
        task=task,
    )
    shared.note(f"go on {task}")
    assert seen == {"done": 7}
    assert call("return AsyncResult(task, app=app).get(timeout=40)", task=task) == "done"


def test_a_soft_limit_in_the_message_holds(call):
    assert call("return limited.apply_async(soft_time_limit=0.5, time_limit=30).get(timeout=40)") == "stopped"


def test_results_can_be_waited_for_together_and_forgotten(call):
    answers = call("""
        results = ResultSet([add.delay(i, i) for i in range(20)], app=app)
        values = results.join(timeout=40)
        results.forget()
        return values, results.results[0].state
    """)
    assert answers == [[2 * i for i in range(20)], "PENDING"]
