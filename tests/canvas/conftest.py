"""A small app for the canvas: it names results and remembers what it was asked to send."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from umbel.canvas import signature
from umbel.canvas.call import Opening


class AsyncResult:
    def __init__(self, id, parent=None):
        self.id, self.parent = id, parent

    def as_tuple(self):
        return ((self.id, self.parent and self.parent.as_tuple()), None)


class GroupResult(AsyncResult):
    def __init__(self, id, results, parent=None):
        super().__init__(id, parent)
        self.results = list(results)

    def as_tuple(self):
        return ((self.id, self.parent and self.parent.as_tuple()), [each.as_tuple() for each in self.results])


class App:
    AsyncResult = AsyncResult
    GroupResult = GroupResult
    thread_oid = "me"

    def __init__(self):
        self.tasks = {}
        self.sent = []
        self.opened = []
        self.conf = SimpleNamespace(task_always_eager=False, task_allow_error_cb_on_chord_header=False)

    def send_calls(self, calls, **options):
        for each in calls:
            (self.opened if isinstance(each, Opening) else self.sent).append(each)

    def send_task(self, name, args, kwargs, **options):
        self.sent.append((name, args, kwargs, options))
        return AsyncResult(options.get("task_id", "new"))

    def s(self, name, *args, **kwargs):
        return signature(f"p.{name}", args, kwargs, app=self)


@pytest.fixture
def app():
    return App()
