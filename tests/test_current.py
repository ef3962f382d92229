"""The current app is the thread's, the running task the context's."""

import asyncio
import gc
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from umbel import current
from umbel.current import current_app, current_task


class App:
    def __init__(self, name="app"):
        self.main = name


class Task:
    def __init__(self, app=None):
        self.app = app


def request(*, directly=False, eager=False, **more):
    return SimpleNamespace(called_directly=directly, is_eager=eager, **more)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Give each test a process without apps."""
    monkeypatch.setattr(current, "_APPS", current._Apps())


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.row("API-006", "API-053")
def test_a_thread_has_its_own_current_app():
    first, second = App(), App()
    current.set_default_app(first)

    current.set_current_app(second)

    assert current.get_current_app() is second
    assert in_thread(current.get_current_app) is first


@pytest.mark.row("API-006")
def test_the_current_app_can_be_held_as_a_proxy():
    current.set_current_app(App("proj"))

    assert current_app.main == "proj"
    assert isinstance(current_app, App)


@pytest.mark.row("API-054")
def test_the_default_app_serves_threads_without_one():
    app = App()
    current.set_default_app(app)

    assert current.get_current_app() is app


def test_a_thread_without_app_or_default_gets_the_app_made_current_elsewhere_and_not_an_empty_one():
    app = App()
    current.make_default_app_with(lambda: pytest.fail("no default app is needed"))
    current.set_current_app(app)

    assert in_thread(current.get_current_app) is app


@pytest.mark.row("API-006")
def test_the_first_use_without_any_app_makes_one_default_app():
    made = []
    current.make_default_app_with(lambda: made.append(App("default")) or made[-1])

    assert current.get_current_app() is current.get_current_app() is made[0]
    assert len(made) == 1


def test_without_app_and_without_a_way_to_make_one_it_says_so():
    with pytest.raises(RuntimeError, match=r"create one"):
        current.get_current_app()


@pytest.mark.row("CFG-249")
def test_implicit_use_of_the_current_app_can_be_forbidden(monkeypatch):
    app = App()
    current.set_current_app(app)
    assert current.app_or_default(None) is app

    monkeypatch.setenv("CELERY_TRACE_APP", "1")

    assert current.app_or_default(app) is app
    with pytest.raises(RuntimeError, match="CELERY_TRACE_APP"):
        current.app_or_default(None)


@pytest.mark.process
@pytest.mark.row("CFG-250")
@pytest.mark.parametrize(
    ("variable", "code", "text"), [("C_STRICT_APP", 1, "C_STRICT_APP forbids"), ("C_WARN_APP", 0, "in get_current_app")]
)
def test_every_use_of_the_current_app_can_be_forbidden_or_shown(variable, code, text):
    program = "from umbel import current; current.set_current_app(object())\ncurrent.get_current_app()"

    done = subprocess.run(
        [sys.executable, "-c", program], env={variable: "1"}, capture_output=True, text=True, check=False
    )

    assert done.returncode == code
    assert text in done.stderr


def test_a_closed_app_is_forgotten():
    app, other = App(), App()
    current.register_app(app)
    current.register_app(other)
    current.set_current_app(app)
    current.set_default_app(app)

    current.forget_app(app)

    assert current.live_apps() == [other]
    with pytest.raises(RuntimeError):
        current.get_current_app()


def test_an_app_nobody_holds_is_not_live():
    current.register_app(App())
    gc.collect()

    assert current.live_apps() == []


def test_shared_tasks_are_made_in_the_order_they_came_each_once():
    first, second = (lambda app: 1), (lambda app: 2)
    for constructor in (first, second, first):
        current.share(constructor)

    assert current.shared_constructors() == [first, second]


@pytest.mark.row("API-007", "API-069")
def test_the_current_task_is_the_innermost_running_one():
    app, other = App(), App()
    outer, inner = Task(app), Task(other)
    assert current.get_current_task() is None
    assert not current_task

    first = current.enter(outer, request(id="1"))
    second = current.enter(inner, request(id="2", directly=True))

    assert current_task == inner
    assert current.get_current_task(app) is outer
    assert current.request_of(outer).id == "1"
    assert current.current_frame().request.id == "2"
    current.leave(second)
    assert current.get_current_task() is outer
    assert current.request_of(inner) is None
    current.leave(first)
    assert current.current_frame() is None


@pytest.mark.row("API-070")
def test_the_current_worker_task_is_the_one_the_worker_called():
    task, helper = Task(App()), Task(App())

    first = current.enter(task, request())
    second = current.enter(helper, request(directly=True))

    assert current.get_current_worker_task() is task
    assert current.get_current_worker_task(helper.app) is None
    current.leave(second)
    current.leave(first)
    assert current.get_current_worker_task() is None


@pytest.mark.row("API-007")
def test_coroutines_and_threads_each_see_their_own_task():
    async def run(task):
        token = current.enter(task, request())
        await asyncio.sleep(0)
        seen = current.get_current_task()
        current.leave(token)
        return seen

    async def both():
        return await asyncio.gather(run(1), run(2))

    token = current.enter(Task(), request())
    assert asyncio.run(both()) == [1, 2]
    assert in_thread(current.get_current_task) is None
    current.leave(token)


@pytest.mark.row("API-304", "API-332")
@pytest.mark.parametrize(
    ("running", "blocks"),
    [(None, False), (request(), True), (request(eager=True), False), (request(directly=True), False)],
)
def test_waiting_for_results_is_refused_where_a_worker_runs_a_task(running, blocks):
    token = running and current.enter(Task(), running)

    assert current.join_will_block() is blocks
    with current.joining(allowed=True):
        assert current.join_will_block() is False
    with current.joining(allowed=False):
        assert current.join_will_block() is True
    assert current.join_will_block() is blocks
    if token:
        current.leave(token)
