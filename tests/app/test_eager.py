import pytest

from umbel import Task, signals
from umbel.exceptions import EncodeError, Ignore, Reject
from umbel.result import EagerResult


@pytest.fixture
def eager(app):
    app.conf.task_always_eager = True
    return app


@pytest.fixture
def add(app):
    return app.task(name="proj.add")(lambda x, y=1: x + y)


@pytest.mark.row("API-157", "API-330")
def test_apply_runs_a_task_here_and_returns_its_result(add, sent):
    result = add.apply((1,), {"y": 2}, task_id="t1")

    assert isinstance(result, EagerResult)
    assert (result.id, result.state, result.get(), result.ready()) == ("t1", "SUCCESS", 3, True)
    assert sent() == []


@pytest.mark.row("API-157", "CFG-024")
def test_apply_raises_only_when_told_to(app):
    fail = app.task(name="fail")(lambda: 1 // 0)

    result = fail.apply()
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert "ZeroDivisionError" in result.traceback
    with pytest.raises(ZeroDivisionError):
        result.get()
    assert isinstance(result.get(propagate=False), ZeroDivisionError)

    with pytest.raises(ZeroDivisionError):
        fail.apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(ZeroDivisionError):
        fail.apply()
    assert fail.apply(throw=False).failed()


@pytest.mark.row("API-157", "API-204", "API-160", "API-203")
def test_an_eager_task_sees_that_it_is_one(app):
    @app.task(name="look", bind=True)
    def look(self):
        request = self.request
        return (
            request.is_eager,
            request.called_directly,
            request.delivery_info["is_eager"],
            request.headers,
            request.loglevel,
        )

    assert look.apply(headers={"a": 1}, loglevel=10).get() == (True, False, True, {"a": 1}, 10)


@pytest.mark.row("API-160")
def test_an_eager_task_within_another_knows_its_parent(app):
    seen = []
    inner = app.task(name="inner", bind=True)(lambda self: seen.append((self.request.root_id, self.request.parent_id)))
    outer = app.task(name="outer")(lambda: inner.apply().get(disable_sync_subtasks=False))

    outer.apply(task_id="outer-id")

    assert seen == [("outer-id", "outer-id")]


@pytest.mark.row("API-158")
def test_an_eager_retry_runs_at_once(app):
    seen = []

    @app.task(name="flaky", bind=True, max_retries=5)
    def flaky(self, x):
        seen.append((self.request.id, self.request.retries))
        if len(seen) < 3:
            raise self.retry(countdown=1000)
        return x

    assert flaky.apply(("done",), task_id="t").get() == "done"
    assert seen == [("t", 0), ("t", 1), ("t", 2)]


@pytest.mark.row("API-158", "API-164")
def test_eager_retries_end_at_the_limit(app):
    @app.task(name="hopeless", bind=True, max_retries=2)
    def hopeless(self):
        raise self.retry(exc=KeyError(self.request.retries))

    result = hopeless.apply()

    assert (result.state, result.result.args) == ("FAILURE", (2,))


@pytest.mark.row("API-188")
def test_an_eager_task_may_ask_to_be_ignored(app):
    def ignore():
        raise Ignore

    result = app.task(name="ignore")(ignore).apply()

    assert (result.state, result.get()) == ("IGNORED", None)


@pytest.mark.row("API-189")
def test_an_eager_task_may_be_rejected(app):
    def reject():
        raise Reject("no", requeue=False)

    assert app.task(name="reject")(reject).apply().state == "REJECTED"


@pytest.mark.row("API-159")
def test_what_follows_an_applied_task_is_sent(app, add, sent, read):
    add.apply((1,), link=add.s(10))

    ((message, _),) = sent()
    assert read(message)[0] == [2, 10]


@pytest.mark.row("CFG-023", "API-161", "PRT-082")
def test_with_always_eager_calls_run_here(eager, add, sent):
    result = add.delay(1, 2)

    assert isinstance(result, EagerResult)
    assert result.get() == 3
    assert sent() == []


@pytest.mark.row("API-161", "PRT-082")
def test_eager_arguments_travel_through_the_serializer(eager):
    seen = []
    keep = eager.task(name="keep")(seen.append)

    keep.delay((1, 2))
    assert seen == [[1, 2]]
    with pytest.raises((EncodeError, TypeError)):
        keep.delay(object())


@pytest.mark.row("API-161")
def test_eager_callbacks_and_errbacks_run_here(eager, add, sent):
    seen = []
    log = eager.task(name="log")(lambda *args: seen.append(args))

    add.apply_async((1,), link=[add.s(10), log.s("linked")])
    eager.task(name="fail")(lambda: 1 // 0).apply_async(task_id="failed", link_error=log.si("failed"))

    assert seen == [(2, "linked"), ("failed",)]
    assert sent() == []


@pytest.mark.row("API-161", "API-304")
def test_inside_an_eager_call_waiting_for_others_is_refused(eager, add):
    outer = eager.task(name="outer")(lambda: add.delay(1).get())

    with pytest.raises(RuntimeError, match=r"Never call result.get"):
        outer.delay().get()


@pytest.mark.row("API-281")
def test_eager_chains_run_here(eager, add, sent):
    assert (add.s(1) | add.s(2) | add.s(3)).apply_async().get() == 7
    assert sent() == []


@pytest.mark.row("API-281")
def test_eager_groups_and_chords_run_here(eager, add):
    from umbel import chord, group

    total = eager.task(name="total")(sum)

    assert group(add.s(1), add.s(2)).apply_async().get() == [2, 3]
    assert chord([add.s(1), add.s(2)])(total.s()).get() == 5


@pytest.mark.row("API-094", "CFG-025")
def test_eager_results_are_stored_only_when_wanted(app):
    kept = app.task(name="kept", store_eager_result=True)(lambda: 1)
    lost = app.task(name="lost")(lambda: 1)

    assert app.AsyncResult(kept.apply().id).get(timeout=0.1) == 1
    assert app.AsyncResult(lost.apply().id).state == "PENDING"


@pytest.mark.row("API-180", "API-181", "API-184", "API-186")
def test_an_eager_run_is_told_as_any_other(app):
    told = []

    class Told(Task):
        abstract = True

        def before_start(self, task_id, args, kwargs):
            told.append("before_start")

        def on_success(self, retval, task_id, args, kwargs):
            told.append("on_success")

        def after_return(self, *_):
            told.append("after_return")

    task = app.task(name="told", base=Told)(lambda: told.append("run"))
    for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
        signal.connect(lambda signal, **_: told.append(signal.name), sender=task, weak=False)

    task.apply()

    assert told == [
        "task_prerun",
        "before_start",
        "run",
        "on_success",
        "task_success",
        "after_return",
        "task_postrun",
    ]
