"""What one run of a task comes to, by values: delivery in, outcome out."""

# ruff: noqa: PLR0917 - a test takes the parts it needs

import asyncio
import json
import logging

import pytest

from umbel import current, signals
from umbel.exceptions import (
    EncodeError,
    Ignore,
    NotRegistered,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
    WorkerShutdown,
)
from umbel.execution.execute import aexecute, conclude, execute, execute_request
from umbel.execution.request import Request

ALL_HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")
TASK_SIGNALS = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_revoked")


@pytest.fixture
def hooked(told):
    """All hooks, telling."""
    return {name: told.hook(name) for name in ALL_HOOKS}


@pytest.fixture
def heard(told):
    """All task signals, telling."""
    receivers = {}
    for name in TASK_SIGNALS:

        def receiver(sender, signal, name=name, **named):
            told.log.append((name, named))

        receivers[name] = receiver
        getattr(signals, name).connect(receiver)
    yield told.log
    for name, receiver in receivers.items():
        getattr(signals, name).disconnect(receiver)


def names(log):
    return [entry[0] for entry in log]


# -- success


def test_a_value_becomes_a_success_with_its_record(plan, delivery, metas):
    outcome = execute(plan(lambda x, y: x + y), delivery([1], {"y": 2}))

    assert outcome.state == "SUCCESS"
    assert metas(outcome) == [
        {
            "task_id": "t1",
            "status": "SUCCESS",
            "result": 3,
            "traceback": None,
            "children": [],
            "group_id": None,
            "parent_id": None,
        }
    ]
    assert outcome.records[0].expires == 60.0


def test_a_record_names_group_parent_and_reply_queue(plan, delivery, metas):
    outcome = execute(plan(lambda: 1), delivery(group="g", parent_id="p", reply_to="queue"))

    assert (metas(outcome)[0]["group_id"], metas(outcome)[0]["parent_id"]) == ("g", "p")
    assert outcome.records[0].reply_to == "queue"


@pytest.mark.row("CFG-048", "PRT-163")
def test_extended_results_tell_the_call(plan, delivery, metas, make_env):
    made = plan(lambda x: x, env=make_env(extended=True))

    outcome = execute(made, delivery([1], retries=2, stamped_headers=("tenant",), stamps={"tenant": "acme"}))

    told = metas(outcome)[0]
    assert {key: told[key] for key in ("name", "args", "kwargs", "worker", "retries", "queue", "tenant")} == {
        "name": "p.task",
        "args": [1],
        "kwargs": {},
        "worker": "w@host",
        "retries": 2,
        "queue": "default",
        "tenant": "acme",
    }


@pytest.mark.row("API-092", "API-147", "PRT-016")
@pytest.mark.parametrize(
    ("of_task", "of_message", "stored"), [(True, None, 0), (True, False, 1), (False, True, 0), (False, None, 1)]
)
def test_the_message_says_whether_a_result_is_ignored_before_the_task_does(plan, delivery, of_task, of_message, stored):
    outcome = execute(plan(lambda: 1, ignore_result=of_task), delivery(ignore_result=of_message))

    assert len(outcome.records) == stored


@pytest.mark.row("API-186")
def test_handlers_are_called_in_the_promised_order(plan, delivery, told, hooked, heard, make_env):
    env = make_env(
        on_task_begin=lambda task_id, task: told.log.append(("loader hook", task_id)),
        on_task_end=lambda: told.log.append(("cleanup",)),
    )

    def body(x):
        told.log.append(("body",))
        return x

    execute(plan(body, env=env, **hooked), delivery([1]))

    assert names(told.log) == [
        "task_prerun",
        "loader hook",
        "before_start",
        "body",
        "on_success",
        "task_success",
        "after_return",
        "task_postrun",
        "cleanup",
    ]


@pytest.mark.row("API-180", "API-181", "API-184", "API-424", "API-425", "API-426")
def test_handlers_of_a_success_get_its_value(plan, delivery, hooked, heard):
    made = plan(lambda x: x * 2, **hooked)

    execute(made, delivery([4]))

    told = {entry[0]: entry[1:] for entry in heard}
    assert told["before_start"] == ("t1", [4], {})
    assert told["on_success"] == (8, "t1", [4], {})
    assert told["after_return"] == ("SUCCESS", 8, "t1", [4], {}, None)
    assert told["task_prerun"] == ({"task_id": "t1", "task": made.task, "args": [4], "kwargs": {}},)
    assert told["task_success"][0]["result"] == 8
    assert told["task_success"][0]["runtime"] >= 0
    assert told["task_postrun"] == (
        {"task_id": "t1", "task": made.task, "args": [4], "kwargs": {}, "retval": 8, "state": "SUCCESS"},
    )


@pytest.mark.row("CLI-061")
def test_a_success_is_one_line_at_info(plan, delivery, caplog):
    caplog.set_level(logging.INFO, "celery.app.trace")

    execute(plan(lambda: "x" * 5000, resultrepr_maxsize=10), delivery())

    (record,) = caplog.records
    assert record.name == "celery.app.trace"
    assert record.getMessage().startswith("Task p.task[t1] succeeded in ")
    assert record.getMessage().endswith("s: 'xxxxxx...")


def test_nothing_is_said_below_the_level(plan, delivery, caplog):
    caplog.set_level(logging.ERROR, "celery.app.trace")

    execute(plan(lambda: 1), delivery())

    assert not caplog.records


@pytest.mark.row("API-181")
def test_a_failing_on_success_is_told_and_changes_nothing(plan, delivery, caplog):
    def on_success(self, *args):
        raise RuntimeError("no")

    outcome = execute(plan(lambda: 1, on_success=on_success), delivery())

    assert outcome.state == "SUCCESS"
    assert "Task p.task[t1] on_success handler raised: RuntimeError('no')" in caplog.text


@pytest.mark.row("API-181")
def test_on_success_may_reject_the_message_while_the_result_stands(plan, delivery, metas):
    def on_success(self, *args):
        raise Reject("later", requeue=True)

    outcome = execute(plan(lambda: 1, on_success=on_success), delivery())

    assert (outcome.state, outcome.requeue) == ("REJECTED", True)
    assert metas(outcome)[0]["status"] == "SUCCESS"


@pytest.mark.row("API-131")
def test_a_task_may_have_a_call_of_its_own(plan, delivery, metas):
    def call(self, x):
        return ["around", self.run(x)]

    outcome = execute(plan(lambda x: x, __call__=call), delivery([1]))

    assert metas(outcome)[0]["result"] == ["around", 1]


def test_the_task_is_the_current_one_while_it_runs_and_not_after(plan, delivery):
    seen = []

    def body():
        seen.append((current.get_current_task(), current.current_frame().request.id))

    made = plan(body)
    execute(made, delivery())

    assert seen == [(made.task, "t1")]
    assert current.current_frame() is None


# -- failure


@pytest.mark.row("PRT-165")
def test_an_exception_becomes_a_failure_with_traceback(plan, delivery, metas):
    def body():
        raise ValueError("boom", 1)

    outcome = execute(plan(body), delivery())

    told = metas(outcome)[0]
    assert (outcome.state, outcome.timed_out) == ("FAILURE", False)
    assert outcome.reason == "ValueError('boom', 1)"
    assert told["result"] == {"exc": "ValueError", "args": ["boom", "1"]}
    assert told["traceback"].startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError("boom", 1)' in told["traceback"]
    assert "_drive" not in told["traceback"]


@pytest.mark.row("API-182", "API-184", "API-427")
def test_handlers_of_a_failure_get_the_exception(plan, delivery, hooked, heard):
    def body(x):
        raise ValueError(x)

    execute(plan(body, **hooked), delivery([4]))

    assert names(heard) == [
        "task_prerun",
        "before_start",
        "on_failure",
        "task_failure",
        "after_return",
        "task_postrun",
    ]
    _, exc, *rest, einfo = heard[2]
    assert (type(exc), rest) == (ValueError, ["t1", [4], {}])
    assert einfo.exception is exc
    assert str(einfo) == einfo.traceback
    assert heard[3][1] == {
        "task_id": "t1",
        "exception": exc,
        "args": [4],
        "kwargs": {},
        "traceback": einfo.tb,
        "einfo": einfo,
    }
    assert heard[4] == ("after_return", "FAILURE", exc, "t1", [4], {}, None)
    assert heard[5][1]["retval"] is exc


@pytest.mark.row("CLI-061", "API-105")
@pytest.mark.parametrize(
    ("expected", "level", "word"), [((), "ERROR", "unexpected"), ((KeyError,), "INFO", "expected")]
)
def test_expected_exceptions_are_no_errors(plan, delivery, caplog, expected, level, word):
    caplog.set_level(logging.INFO, "celery.app.trace")

    def body():
        raise KeyError("k")

    outcome = execute(plan(body, throws=expected), delivery())

    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage() == f"Task p.task[t1] raised {word}: KeyError('k')"
    assert bool(record.exc_info) == (word == "unexpected")
    assert outcome.state == "FAILURE"


@pytest.mark.row("API-093")
@pytest.mark.parametrize(("store", "records"), [(True, 1), (False, 0)])
def test_errors_of_ignored_results_are_stored_if_wished(plan, delivery, store, records):
    made = plan(lambda: 1 / 0, ignore_result=True, store_errors_even_if_ignored=store)

    assert len(execute(made, delivery()).records) == records


@pytest.mark.row("API-180")
def test_before_start_can_fail_the_task(plan, delivery, metas):
    def before_start(self, *args):
        raise ValueError("not today")

    outcome = execute(plan(lambda: 1, before_start=before_start), delivery())

    assert metas(outcome)[0]["result"] == {"exc": "ValueError", "args": ["not today"]}


def test_a_result_that_cannot_be_encoded_is_a_failure(plan, delivery, metas):
    outcome = execute(plan(lambda: {1, 2}), delivery())

    assert (outcome.state, metas(outcome)[0]["result"]["exc"]) == ("FAILURE", "EncodeError")


def test_arguments_that_cannot_be_read_are_a_failure_and_no_dead_child(plan, delivery, metas, make_env, caplog):
    def read(message):
        raise AttributeError("no such class to unpickle")

    ran = []
    outcome = execute(plan(lambda: ran.append(1), env=make_env(read=read)), delivery())

    assert not ran
    assert (outcome.state, metas(outcome)[0]["result"]["exc"]) == ("FAILURE", "AttributeError")
    assert "p.task[t1]" in caplog.text


def test_wrong_arguments_are_a_failure(plan, delivery, metas):
    outcome = execute(plan(lambda x: x), delivery([1, 2]))

    assert metas(outcome)[0]["result"]["exc"] == "TypeError"


@pytest.mark.row("API-191")
@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt()])
def test_a_task_that_exits_fails_without_ending_the_worker(plan, delivery, metas, exc):
    def body():
        raise exc

    outcome = execute(plan(body), delivery())

    told = metas(outcome)[0]["result"]
    assert told["exc"] == "WorkerLostError"
    assert told["args"][0].startswith("Worker exited prematurely: ")


@pytest.mark.row("API-192")
@pytest.mark.parametrize("exc", [MemoryError(), WorkerShutdown(0)])
def test_what_must_end_the_process_escapes(plan, delivery, exc):
    def body():
        raise exc

    with pytest.raises(type(exc)):
        execute(plan(body), delivery())
    assert current.current_frame() is None


@pytest.mark.row("API-190", "TB-181")
def test_a_soft_limit_is_an_ordinary_failure_that_may_be_caught(plan, delivery):
    def gives_up():
        raise SoftTimeLimitExceeded

    def cleans_up():
        try:
            raise SoftTimeLimitExceeded
        except SoftTimeLimitExceeded:
            return "partial"

    assert execute(plan(gives_up), delivery()).state == "FAILURE"
    assert execute(plan(cleans_up), delivery()).state == "SUCCESS"


def test_a_terminated_task_is_revoked(plan, delivery, metas, heard):
    def body():
        raise Terminated

    outcome = execute(plan(body), delivery())

    assert (outcome.state, metas(outcome)[0]["result"]) == (
        "REVOKED",
        {"exc": "TaskRevokedError", "args": ["terminated"]},
    )
    assert [entry[1]["terminated"] for entry in heard if entry[0] == "task_revoked"] == [True]


def test_failing_hooks_change_nothing(plan, delivery, caplog):
    def fails(self, *args):
        raise RuntimeError("hook")

    outcome = execute(plan(lambda: 1 / 0, on_failure=fails, after_return=fails), delivery())

    assert outcome.reason == "ZeroDivisionError('division by zero')"
    assert caplog.text.count("handler raised: RuntimeError('hook')") == 2


def test_an_exception_whose_text_fails_is_told_all_the_same(plan, delivery, make_env):
    class Rude(Exception):
        def __str__(self):
            raise RuntimeError("rude")

        __repr__ = __str__

    def body():
        raise Rude

    outcome = execute(plan(body, env=make_env(write=lambda **meta: meta["traceback"].encode())), delivery())

    assert outcome.state == "FAILURE"
    assert b"Rude" in outcome.records[0].payload


@pytest.mark.row("API-428")
def test_a_failure_that_cannot_be_followed_up_is_a_failure_still(plan, delivery, make_env, metas, sig, caplog):
    def prepare(*args):
        raise EncodeError("no such queue")

    heard = []

    def receiver(sender, signal, **named):
        heard.append(named["exception"])

    signals.task_internal_error.connect(receiver)
    made = plan(lambda: 1 / 0, env=make_env(prepare=prepare))
    outcome = execute(made, delivery(embed={"errbacks": [sig("p.err")]}))

    assert (outcome.state, metas(outcome)[0]["result"]["exc"]) == ("FAILURE", "EncodeError")
    assert "ZeroDivisionError" in metas(outcome)[0]["traceback"]
    assert "INTERNAL ERROR" in caplog.text
    assert [str(exc) for exc in heard] == ["no such queue"]


def test_a_failure_that_cannot_even_be_written_is_told(plan, delivery, make_env, caplog):
    def write(**meta):
        raise OSError("no")

    outcome = execute(plan(lambda: 1, env=make_env(write=write)), delivery())

    assert (outcome.state, outcome.records, outcome.reason) == ("FAILURE", (), "OSError('no')")


# -- ignore, reject


@pytest.mark.row("API-188", "CLI-061")
def test_ignore_leaves_no_trace_but_a_line(plan, delivery, caplog, hooked, heard):
    caplog.set_level(logging.INFO, "celery.app.trace")

    def body():
        raise Ignore

    outcome = execute(plan(body, **hooked), delivery())

    assert (outcome.state, outcome.records, outcome.follow_ups) == ("IGNORED", (), ())
    assert caplog.messages == ["Task p.task[t1] ignored"]
    assert names(heard) == ["task_prerun", "before_start", "task_postrun"]


@pytest.mark.row("API-189", "PRT-061")
def test_reject_puts_back_and_stores_nothing(plan, delivery):
    def body():
        raise Reject("busy", requeue=True)

    outcome = execute(plan(body), delivery())

    assert (outcome.state, outcome.requeue, outcome.records) == ("REJECTED", True, ())


@pytest.mark.row("API-189", "PRT-061", "CLI-061")
def test_reject_for_good_stores_a_failure(plan, delivery, metas, sig, caplog):
    def body():
        raise Reject("bad", requeue=False)

    embed = {"errbacks": [sig("p.err")], "chain": [sig("p.next", task_id="n1")]}
    outcome = execute(plan(body), delivery(embed=embed))

    assert (outcome.state, outcome.requeue, outcome.reason) == ("REJECTED", False, "'bad'")
    assert [(told["task_id"], told["status"], told["result"]["exc"]) for told in metas(outcome)] == [
        ("t1", "FAILURE", "Reject"),
        ("n1", "FAILURE", "Reject"),
    ]
    assert [each.message.task for each in outcome.follow_ups] == ["p.err"]
    assert "Task p.task[t1] reject requeue=False: bad" in caplog.text


# -- coroutines


def test_a_coroutine_function_runs_in_any_pool(plan, delivery, metas):
    async def body(x):
        await asyncio.sleep(0)
        return x, current.current_frame().request.id

    assert metas(execute(plan(body), delivery([1])))[0]["result"] == [1, "t1"]


def test_coroutines_of_a_thread_share_a_loop(plan, delivery):
    loops = []

    async def body():
        loops.append(asyncio.get_running_loop())

    made = plan(body)
    execute(made, delivery())
    execute(made, delivery())

    assert loops[0] is loops[1]


def test_coroutines_run_on_a_running_loop_side_by_side(plan, delivery):
    order = []

    async def body(name):
        order.append(f"{name} begins as {current.current_frame().request.id}")
        await asyncio.sleep(0)
        order.append(f"{name} ends as {current.current_frame().request.id}")

    async def both():
        made = plan(body)
        return await asyncio.gather(aexecute(made, delivery(["a"], id="t1")), aexecute(made, delivery(["b"], id="t2")))

    outcomes = asyncio.run(both())

    assert [outcome.state for outcome in outcomes] == ["SUCCESS", "SUCCESS"]
    assert order == ["a begins as t1", "b begins as t2", "a ends as t1", "b ends as t2"]


def test_plain_functions_do_not_block_a_running_loop(plan, delivery, metas):
    import threading

    main = threading.get_ident()
    outcome = asyncio.run(aexecute(plan(lambda: threading.get_ident() != main), delivery()))

    assert metas(outcome)[0]["result"] is True


def test_a_coroutine_function_can_be_applied_within_a_loop(plan):
    async def body():
        await asyncio.sleep(0)
        return current.current_frame().request.id

    async def caller():
        request = Request(id="t1", task="p.task", args=(), kwargs={}, called_directly=False, is_eager=True)
        return execute_request(plan(body), request)

    assert asyncio.run(caller()).retval == "t1"


def test_hooks_may_be_coroutine_functions(plan, delivery, told):
    async def on_success(self, retval, *args):
        await asyncio.sleep(0)
        told.log.append(retval)

    async def body():
        return 1

    made = plan(body, on_success=on_success)
    execute(made, delivery())
    asyncio.run(aexecute(made, delivery()))

    assert told.log == [1, 1]


def test_failures_of_coroutines_are_told_without_the_loops_frames(plan, delivery, metas):
    async def body():
        await asyncio.sleep(0)
        raise ValueError("boom")

    text = metas(execute(plan(body), delivery()))[0]["traceback"]

    assert 'raise ValueError("boom")' in text
    assert "asyncio" not in text
    assert "execution" not in text.replace("tests/execution", "")


# -- ends that no run reports


def test_an_unknown_task_is_a_failure_of_its_id(env, delivery, metas, sig):
    unknown = delivery(task="p.gone", embed={"chain": [sig("p.next", task_id="n1")]})

    outcome = conclude(env, None, unknown, NotRegistered("p.gone"), reason="no task p.gone")

    assert [(told["task_id"], told["status"]) for told in metas(outcome)] == [("t1", "FAILURE"), ("n1", "FAILURE")]
    assert outcome.reason == "no task p.gone"


@pytest.mark.row("PRT-170")
@pytest.mark.parametrize("reason", ["revoked", "expired", "terminated"])
def test_a_revoked_task_says_why(env, plan, delivery, metas, heard, reason):
    made = plan(lambda: 1)

    outcome = conclude(env, made, delivery(), TaskRevokedError(reason))

    assert outcome.state == "REVOKED"
    assert metas(outcome)[0]["result"] == {"exc": "TaskRevokedError", "args": [reason]}
    ((_, told),) = [entry for entry in heard if entry[0] == "task_revoked"]
    assert (told["expired"], told["terminated"]) == (reason == "expired", reason == "terminated")


@pytest.mark.row("API-182")
def test_a_hard_limit_is_a_failure_that_the_task_hears_of(env, plan, delivery, metas, hooked, heard):
    outcome = conclude(env, plan(lambda: 1, **hooked), delivery([1]), TimeLimitExceeded(30))

    assert (outcome.state, outcome.timed_out) == ("FAILURE", True)
    assert names(heard) == ["on_failure", "task_failure", "after_return"]


@pytest.mark.row("TB-175")
def test_a_lost_worker_is_a_failure_even_if_the_body_cannot_be_read(plan, make_env, delivery, metas):
    def read(message):
        raise ValueError("rubbish")

    env = make_env(read=read)
    outcome = conclude(env, plan(lambda: 1, env=env), delivery(), WorkerLostError("SIGKILL"))

    assert metas(outcome)[0]["result"] == {"exc": "WorkerLostError", "args": ["SIGKILL"]}


@pytest.mark.row("API-103", "CFG-038")
def test_a_lost_run_is_a_retry_if_the_task_wants_that_and_has_one_left(env, plan, delivery, metas, hooked, heard):
    lost = WorkerLostError("SIGKILL")

    outcome = conclude(env, plan(lambda x: x, **hooked), delivery([1]), lost, reason="child 7 died", retries=True)

    assert (outcome.state, outcome.reason) == ("RETRY", "child 7 died")
    (again,) = outcome.follow_ups
    assert (again.message.id, again.message.retries, again.message.properties) == ("t1", 1, {"countdown": 180})
    assert metas(outcome)[0]["result"] == {"exc": "WorkerLostError", "args": ["SIGKILL"]}
    assert "on_retry" in names(heard)


def test_a_lost_run_without_a_retry_left_has_failed(env, plan, delivery, metas):
    lost = WorkerLostError("SIGKILL")

    outcome = conclude(env, plan(lambda x: x, max_retries=0), delivery([1]), lost, retries=True)

    assert (outcome.state, outcome.follow_ups) == ("FAILURE", ())
    assert metas(outcome)[0]["result"] == {"exc": "WorkerLostError", "args": ["SIGKILL"]}


def test_hooks_of_ends_that_no_run_reports_can_be_left_for_later(env, plan, delivery, hooked, heard):
    later = []

    outcome = conclude(env, plan(lambda x: x, **hooked), delivery([1]), TimeLimitExceeded(30), aside=later.append)

    assert (outcome.state, names(heard)) == ("FAILURE", [])
    (call,) = later
    call()
    assert names(heard) == ["on_failure", "task_failure", "after_return"]


# -- eager


def test_an_eager_run_keeps_its_result_to_itself_unless_told(plan):
    request = Request(id="t1", task="p.task", args=(1,), kwargs={}, called_directly=False, is_eager=True)

    ended = execute_request(plan(lambda x: x), request)
    stored = execute_request(plan(lambda x: x, store_eager_result=True), request)

    assert (ended.retval, ended.outcome.records) == (1, ())
    assert len(stored.outcome.records) == 1


@pytest.mark.row("API-181")
def test_an_eager_run_raises_what_on_success_raises(plan):
    def on_success(self, *args):
        raise RuntimeError("no")

    request = Request(id="t1", task="p.task", args=(), kwargs={}, called_directly=False, is_eager=True)

    with pytest.raises(RuntimeError, match="no"):
        execute_request(plan(lambda: 1, on_success=on_success), request)


@pytest.mark.row("API-187")
def test_what_cannot_be_sent_on_fails_the_task(plan, delivery, make_env, metas, sig):
    def prepare(*args):
        raise EncodeError("cannot travel")

    made = plan(lambda: 1, env=make_env(prepare=prepare))
    outcome = execute(made, delivery(embed={"callbacks": [sig("p.next")]}))

    assert metas(outcome)[0]["result"]["exc"] == "EncodeError"


def test_an_interrupt_reaches_a_waiting_coroutine(plan, delivery, metas):
    import signal

    def strike(signum, frame):
        raise SoftTimeLimitExceeded

    async def body():
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        outcome = execute(plan(body), delivery())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert metas(outcome)[0]["result"] == "cleaned up"


def test_the_body_is_read_only_once(plan, delivery, make_env):
    reads = []

    def read(message):
        reads.append(message.id)
        return json.loads(message.body)

    execute(plan(lambda: 1, env=make_env(read=read)), delivery())

    assert reads == ["t1"]


def test_retry_is_no_failure(plan, delivery):
    def body():
        raise Retry("by hand")

    assert execute(plan(body), delivery()).state == "RETRY"
