import pickle

import pytest

from umbel import Task, current, signals
from umbel.exceptions import ImproperlyConfigured, MaxRetriesExceededError, OperationalError, Retry


@pytest.fixture
def add(app):
    return app.task(name="proj.add")(lambda x, y=1: x + y)


# -- Options -----------------------------------------------------------------------------------------------------------


@pytest.mark.row(
    "API-087", "API-088", "API-096", "API-105", "API-106", "API-108", "API-109", "API-110", "API-114", "API-117"
)
@pytest.mark.row("API-086", "API-115", "API-116", "API-118", "API-119", "API-121")
def test_a_task_has_the_documented_defaults(add):
    assert (add.max_retries, add.default_retry_delay) == (3, 180)
    assert (add.typing, add.trail, add.send_events, add.resultrepr_maxsize) == (True, True, True, 1024)
    assert (add.throws, add.expires, add.compression) == ((), None, None)
    assert (add.autoretry_for, add.dont_autoretry_for, add.retry_kwargs) == ((), (), {})
    assert (add.retry_backoff, add.retry_backoff_max, add.retry_jitter) == (False, 600, True)
    assert not add.abstract


@pytest.mark.row("API-089", "API-090", "API-091", "API-092", "API-093", "API-094", "API-095", "API-098", "API-099")
@pytest.mark.row("API-100", "API-101", "API-102", "API-103", "API-104", "API-107", "API-111", "CFG-017", "CFG-019")
@pytest.mark.row("CFG-025", "CFG-027", "CFG-028", "CFG-029", "CFG-030", "CFG-031", "CFG-033", "CFG-039", "CFG-121")
@pytest.mark.parametrize(
    ("attribute", "setting", "value"),
    [
        ("rate_limit", "task_default_rate_limit", "10/m"),
        ("time_limit", "task_time_limit", 30),
        ("soft_time_limit", "task_soft_time_limit", 20),
        ("ignore_result", "task_ignore_result", True),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored", True),
        ("store_eager_result", "task_store_eager_result", True),
        ("serializer", "task_serializer", "pickle"),
        ("compression", "task_compression", "gzip"),
        ("acks_late", "task_acks_late", False),
        ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout", False),
        ("acks_on_failure", "task_acks_on_failure", False),
        ("acks_on_timeout", "task_acks_on_timeout", False),
        ("reject_on_worker_lost", "task_reject_on_worker_lost", True),
        ("retry_on_worker_lost", "task_retry_on_worker_lost", True),
        ("track_started", "task_track_started", True),
        ("priority", "task_default_priority", 4),
    ],
)
def test_what_a_task_leaves_open_is_as_the_settings_say(app, attribute, setting, value):
    app.conf[setting] = value
    open_task = app.task(name="open")(lambda: None)
    own_task = app.task(name="own", **{attribute: "own"})(lambda: None)

    assert getattr(open_task, attribute) == value
    assert getattr(own_task, attribute) == "own"


@pytest.mark.row("API-097")
def test_a_task_may_have_a_result_store_of_its_own(add):
    assert add.backend is add.app.backend
    mine = add.backend = object()
    assert add.backend is mine


@pytest.mark.row("API-084", "API-193")
def test_a_bound_function_gets_the_task(app):
    task = app.task(name="bound", bind=True)(lambda self, x: (self, x))

    assert task(1) == (task, 1)
    assert (task.name, task.app) == ("bound", app)


@pytest.mark.row("API-085")
def test_a_task_may_have_a_base_class_of_its_own(app):
    class Base(Task):
        shared_by_all = 5

        def helper(self):
            return self.shared_by_all

    task = app.task(name="based", base=Base, bind=True)(lambda self: self.helper())

    assert isinstance(task, Base)
    assert task() == 5
    assert Base.app is None


@pytest.mark.row("API-127")
def test_errors_are_at_hand(add):
    assert add.MaxRetriesExceededError is MaxRetriesExceededError
    assert add.OperationalError is OperationalError


@pytest.mark.row("API-129")
def test_a_task_class_without_run_says_so(app):
    class Empty(Task):
        name = "empty"

    with pytest.raises(NotImplementedError, match="Tasks must define the run method"):
        app.register_task(Empty())()


@pytest.mark.row("API-132")
def test_a_task_is_pickled_by_its_name(app, add):
    assert pickle.loads(pickle.dumps(add)) is add
    assert repr(add).startswith(f"<@task: proj.add of {app.main} at 0x")


@pytest.mark.row("API-133")
def test_a_task_is_told_when_it_is_bound(app):
    class Base(Task):
        abstract = True
        told = None

        @classmethod
        def on_bound(cls, app):
            cls.told = app

    assert app.task(name="told", base=Base)(lambda: None).told is app


# -- Annotations -------------------------------------------------------------------------------------------------------


@pytest.mark.row("API-134", "CFG-016")
def test_settings_may_change_attributes_of_tasks(app):
    app.conf.task_annotations = {"*": {"rate_limit": "1/s", "max_retries": 1}, "one": {"max_retries": 9}}

    one, two = (app.task(name=name)(lambda: None) for name in ("one", "two"))

    assert (one.rate_limit, one.max_retries, two.max_retries) == ("1/s", 9, 1)


@pytest.mark.row("API-134", "CFG-016")
def test_settings_may_wrap_methods_of_tasks(app):
    def doubled(run):
        return lambda *args: 2 * run(*args)

    app.conf.task_annotations = {"*": {"@run": doubled}}

    assert app.task(name="plain")(lambda x: x)(3) == 6
    assert app.task(name="bound", bind=True)(lambda self, x: x)(3) == 6


@pytest.mark.row("API-134", "CFG-016")
def test_annotations_may_be_objects_and_lists_of_them(app):
    class Annotations:
        def annotate(self, task):
            return {"max_retries": 7} if task.name == "one" else None

        def annotate_any(self):
            return {"rate_limit": "2/s"}

    app.conf.task_annotations = [Annotations, {"two": {"max_retries": 8}}]

    one, two = (app.task(name=name)(lambda: None) for name in ("one", "two"))

    assert (one.max_retries, two.max_retries, two.rate_limit) == (7, 8, "2/s")


# -- Calling it here ---------------------------------------------------------------------------------------------------


@pytest.mark.row("API-130", "API-204")
def test_calling_a_task_runs_it_here(app):
    seen = []

    @app.task(name="called", bind=True)
    def called(self, x):
        seen.append((self.request.called_directly, self.request.args, self.request.id))
        return x

    assert called(1) == 1
    assert seen == [(True, (1,), None)]
    assert current.current_frame() is None


@pytest.mark.row("API-130")
def test_calling_an_async_task_gives_an_awaitable(app):
    import asyncio

    @app.task(name="async.called", bind=True)
    async def called(self, x):
        await asyncio.sleep(0)
        return self.request.called_directly, current.get_current_task().name, x

    assert asyncio.run(called(1)) == (True, "async.called", 1)


@pytest.mark.row("API-131")
def test_a_call_of_ones_own_is_used_by_worker_and_caller(app, work):
    entered = []

    class Contextual(Task):
        abstract = True

        def __call__(self, *args, **kwargs):
            entered.append(self.request.id)
            return super().__call__(*args, **kwargs)

    task = app.task(name="contextual", base=Contextual, bind=True)(lambda self: self.request.id)
    result = task.delay()
    work()

    assert entered == [result.id]
    assert result.get() == result.id
    assert task() is None


# -- The request -------------------------------------------------------------------------------------------------------


@pytest.mark.row("API-193", "API-208")
def test_outside_of_a_run_a_request_is_empty_and_can_be_prepared(add):
    assert (add.request.id, add.request.retries) == (None, 0)

    add.push_request(id="t1", retries=2)
    assert (add.request.id, add.request.retries) == ("t1", 2)

    add.pop_request()
    assert add.request.id is None


@pytest.mark.row("API-194", "API-195", "API-200")
def test_a_running_task_sees_its_call(app, work):
    seen = []

    @app.task(name="seen", bind=True)
    def look(self, *args, **kwargs):
        request = self.request
        seen.append((request.id, request.task, request.args, request.kwargs, request.root_id, request.delivery_info))

    result = look.delay(1, a=2)
    work()

    delivery_info = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    assert seen == [(result.id, "seen", [1], {"a": 2}, result.id, delivery_info)]


@pytest.mark.row("API-185", "API-108")
def test_results_of_what_a_task_sends_are_its_children_unless_it_leaves_no_trail(app, work, add):
    seen = []

    @app.task(name="trailing", bind=True)
    def trailing(self):
        add.delay(1)
        seen.append(len(self.request.children))

    @app.task(name="trackless", bind=True, trail=False)
    def trackless(self):
        add.delay(1)
        seen.append(len(self.request.children))

    trailing.delay()
    trackless.delay()
    work()

    assert seen == [1, 0]


# -- Sending -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("API-136", "API-137", "API-179")
def test_delay_sends_the_call_and_returns_a_handle(app, add, sent, read):
    result = add.delay(1, y=2)

    ((message, _),) = sent()
    assert isinstance(result, app.AsyncResult)
    assert add.AsyncResult(result.id) == result
    assert (message.id, message.task) == (result.id, "proj.add")
    assert read(message)[:2] == ([1], {"y": 2})


@pytest.mark.row("API-086")
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})])
def test_arguments_the_function_does_not_take_are_refused_before_anything_is_sent(add, sent, args, kwargs):
    with pytest.raises(TypeError, match=r"proj.add.* cannot be called so"):
        add.delay(*args, **kwargs)

    assert sent() == []


@pytest.mark.row("API-084", "API-086")
def test_the_bound_argument_is_not_the_callers(app, sent):
    task = app.task(name="bound", bind=True)(lambda self, x: x)

    task.delay(1)
    with pytest.raises(TypeError):
        task.delay(1, 2)

    assert len(sent()) == 1


@pytest.mark.row("API-169")
def test_a_task_gives_signatures(add):
    assert add.s(1, y=2) == {
        "task": "proj.add",
        "args": (1,),
        "kwargs": {"y": 2},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    assert add.si(1).immutable
    assert add.signature((1,), {"y": 2}, countdown=3).options == {"countdown": 3}
    assert add.subtask((1,)) == add.s(1)
    assert add.s(1).app is add.app


@pytest.mark.row("API-170", "API-277")
def test_a_task_may_be_mapped_over_values(app, add, work):
    add.map([1, 2]).apply_async()
    add.starmap([(1, 2), (3, 4)]).apply_async()

    assert [app.backend.get_result(outcome.records[0].id) for outcome in work()] == [[2, 3], [3, 7]]


@pytest.mark.row("API-162", "API-171", "API-087")
def test_a_task_may_be_tried_again(app, work):
    seen = []

    @app.task(name="flaky", bind=True)
    def flaky(self, x):
        seen.append((self.request.retries, self.request.id))
        if self.request.retries < 2:
            raise self.retry(countdown=0, exc=ValueError("not yet"))
        return x

    result = flaky.delay("done")
    states = [outcome.state for outcome in work()]

    assert states == ["RETRY", "RETRY", "SUCCESS"]
    assert seen == [(0, result.id), (1, result.id), (2, result.id)]
    assert result.get() == "done"


@pytest.mark.row("API-163")
def test_a_task_called_here_cannot_be_tried_again(app):
    task = app.task(name="flaky", bind=True)(lambda self: self.retry(exc=KeyError("x")))

    with pytest.raises(KeyError):
        task()
    with pytest.raises(Retry):
        task.retry()


@pytest.mark.row("API-177")
def test_a_task_may_store_a_state_of_its_own(app, work):
    seen = []

    @app.task(name="progress", bind=True)
    def progress(self):
        self.update_state(state="PROGRESS", meta={"done": 3})
        handle = app.AsyncResult(self.request.id)
        seen.append((handle.state, handle.info))

    progress.delay()
    work()

    assert seen == [("PROGRESS", {"done": 3})]


@pytest.mark.row("API-424", "API-425", "API-426")
def test_signals_of_a_run_are_sent_by_the_task(app, work, add):
    told = []
    for signal in (signals.task_prerun, signals.task_postrun, signals.task_success):
        signal.connect(lambda sender, signal, **_: told.append((signal.name, sender)), sender=add, weak=False)

    add.delay(1)
    work()

    assert told == [("task_prerun", add), ("task_success", add), ("task_postrun", add)]


# -- Letting others do the work ----------------------------------------------------------------------------------------


@pytest.mark.row("API-172", "PRT-083")
def test_a_task_may_be_replaced_under_its_own_id(app, work, add):
    seen = []

    @app.task(name="delegating", bind=True)
    def delegating(self, x):
        seen.append(self.request.replaced_task_nesting)
        raise self.replace(add.s(x, 10) | add.s(100))

    last = app.task(name="last", bind=True)(lambda self, value: (value, seen.append(self.request.root_id))[0])
    result = (delegating.s(1) | last.s()).delay()
    states = [outcome.state for outcome in work()]

    assert states == ["IGNORED", "SUCCESS", "SUCCESS", "SUCCESS"]
    assert result.get(timeout=1) == 111
    assert result.parent.get(timeout=1) == 111
    assert seen == [0, result.parent.id]


@pytest.mark.row("API-172")
def test_what_follows_a_replaced_task_follows_its_replacement(app, work, add):
    told = []
    log = app.task(name="log")(told.append)

    delegating = app.task(name="delegating", bind=True)(lambda self: self.replace(add.s(1, 2)))
    delegating.apply_async(link=log.s())
    work()

    assert told == [3]


@pytest.mark.row("API-172")
def test_an_eager_replacement_is_the_value(app, add):
    delegating = app.task(name="delegating", bind=True)(lambda self: self.replace(add.s(1, 2)))

    assert delegating.apply().get() == 3
    assert delegating() == 3


@pytest.mark.row("API-174")
def test_a_task_cannot_be_replaced_by_nothing_or_by_part_of_a_chord(app, add):
    from umbel import chain

    nothing = app.task(name="nothing", bind=True)(lambda self: self.replace(chain()))
    part = app.task(name="part", bind=True)(lambda self: self.replace(add.s(1).set(chord=add.s())))

    with pytest.raises(ImproperlyConfigured, match="empty chain"):
        nothing.apply(throw=True)
    with pytest.raises(ImproperlyConfigured, match="part of a chord"):
        part.apply(throw=True)


@pytest.mark.row("API-175")
def test_how_a_task_is_replaced_can_be_changed(app, add):
    class Base(Task):
        abstract = True

        def on_replace(self, sig):
            return "instead", sig.task

    task = app.task(name="delegating", bind=True, base=Base)(lambda self: self.replace(add.s(1, 2)))

    assert task.apply().get() == ("instead", "proj.add")
