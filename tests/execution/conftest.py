"""A task, an environment and a delivery for the execution room, small and real enough."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from umbel.brokers.base import Delivery, Publication
from umbel.canvas.expand import expand
from umbel.canvas.signature import Signature
from umbel.exceptions import EncodeError
from umbel.execution.plan import Environment, plan_task
from umbel.wire.chord import ChordSize
from umbel.wire.message import Message, Route


class Result:
    def __init__(self, id, results=None):
        self.id, self.results, self.parent = id, results, None

    def as_tuple(self):
        return ((self.id, None), None if self.results is None else [each.as_tuple() for each in self.results])


class App:
    """Names results, and turns options into messages the way `app/publish.py` does, as far as needed here."""

    AsyncResult = GroupResult = Result
    thread_oid = "me"

    def __init__(self):
        self.tasks = {}

    def prepare(self, name, args, kwargs, options):
        embed = {key: options.get(key) for key in ("link", "link_error", "chain", "chord")}
        try:
            body = json.dumps([args, kwargs, embed]).encode()
        except TypeError as exc:
            raise EncodeError(str(exc)) from exc
        message = Message(
            id=options.get("task_id") or f"new-{name}",
            task=name,
            body=body,
            retries=options.get("retries") or 0,
            root_id=options.get("root_id"),
            parent_id=options.get("parent_id"),
            group=options.get("group_id"),
            group_index=options.get("group_index"),
            priority=options.get("priority"),
            headers=dict(options.get("headers") or {}),
            properties={key: options[key] for key in ("countdown", "eta") if key in options},
        )
        if options.get("queue"):
            route = Route(routing_key=options["queue"])
        else:
            route = Route(options.get("exchange") or "", options.get("routing_key") or "default")
        return Publication(message=message, route=route)


class Task:
    """The base of test tasks: hooks that do nothing, options at their defaults."""

    name = "p.task"
    max_retries = 3
    default_retry_delay = 180
    ignore_result = False
    store_errors_even_if_ignored = False
    store_eager_result = False
    throws = ()
    resultrepr_maxsize = 1024
    AsyncResult = Result

    def run(self, *args, **kwargs):
        raise NotImplementedError

    def __call__(self, *args, **kwargs):
        return self.run(*args, **kwargs)

    def before_start(self, *args): ...
    def on_success(self, *args): ...
    def on_failure(self, *args): ...
    def on_retry(self, *args): ...
    def after_return(self, *args): ...


def write(*, task_id, state, result, traceback, children, group_id, parent_id, extended):
    if isinstance(result, BaseException):
        result = {"exc": type(result).__name__, "args": [str(each) for each in result.args]}
    meta = {"task_id": task_id, "status": state, "result": result, "traceback": traceback, "children": children}
    try:
        return json.dumps({**meta, "group_id": group_id, "parent_id": parent_id, **(extended or {})}).encode()
    except TypeError as exc:
        raise EncodeError(str(exc)) from exc


class ChordCoder:
    """Writes JSON, and has every store count."""

    expires = 60.0

    def open(self, opening):
        return ChordSize(group=opening.group, size=opening.size, expires=self.expires)

    def members(self, group):
        return None

    def write_part(self, task_id, state, result):
        if isinstance(result, BaseException):
            result = {"exc": type(result).__name__, "args": [str(each) for each in result.args]}
        return self.write_body([1, task_id, state, result], "application/json")

    def read_part(self, payload):
        _, task_id, state, value = json.loads(payload)
        return task_id, state, value if state == "SUCCESS" else ValueError(*value["args"])

    def write_body(self, body, content_type):
        try:
            return json.dumps(body).encode()
        except TypeError as exc:
            raise EncodeError(str(exc)) from exc

    def read_body(self, data, content_type):
        return json.loads(data)


@pytest.fixture
def metas():
    """Say what the records of an outcome hold."""
    return lambda outcome: [json.loads(record.payload) for record in outcome.records]


@pytest.fixture
def app():
    return App()


@pytest.fixture
def make_env(app):
    return lambda **fields: _make_env(app, **fields)


@pytest.fixture
def env(make_env):
    return make_env()


def _make_env(app, **fields):
    settings = {
        "hostname": "w@host",
        "read": lambda message: json.loads(message.body),
        "write": write,
        "prepare": app.prepare,
        "expand": lambda *args: expand(app, *args),
        "chords": ChordCoder(),
        "find_task": app.tasks.get,
        "result_expires": 60.0,
        **fields,
    }
    return Environment(**settings)


@pytest.fixture
def plan(app, env):
    """Make a task of a function, and the plan of it; a function whose first argument is `self` gets the task."""

    def make(function, /, env=env, **attributes):
        bound = function.__code__.co_varnames[:1] == ("self",)
        run = function if bound else staticmethod(function)
        task = type("Made", (Task,), {"run": run, "app": app, **attributes})()
        app.tasks[task.name] = task
        return plan_task(task, env, base=Task)

    return make


def _make_delivery(args=(), kwargs=None, *, embed=None, queue="default", route=None, redelivered=False, **fields):
    body = json.dumps([args, kwargs or {}, embed or {}]).encode()
    message = Message(**{"id": "t1", "task": "p.task", "body": body, **fields})
    return Delivery(
        message=message,
        queue=queue,
        route=route or Route(routing_key=queue),
        tag=1,
        token=1,
        redelivered=redelivered,
    )


@pytest.fixture
def delivery():
    return _make_delivery


@pytest.fixture
def sig():
    """Make the dict form in which a signature travels."""

    def make(task, *args, immutable=False, **options):
        return dict(Signature(task, args, {}, options, immutable=immutable))

    return make


@pytest.fixture
def told():
    """A list that hooks and receivers write into, and a way to make hooks that do."""
    log = []

    def hook(name):
        return lambda self, *args: log.append((name, *args))

    return SimpleNamespace(log=log, hook=hook)
