"""One project for both: tasks that a worker of Celery and one of umbel run, and what a client needs to call them."""

import json
import os
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

SIDE = os.environ["INTEROP_SIDE"]
if SIDE == "celery":
    import celery as library
    from celery import Celery as App
    from celery import Task, exceptions
    from celery.result import AsyncResult, GroupResult, ResultSet
else:
    import umbel as library
    from umbel import Task, exceptions
    from umbel import Umbel as App
    from umbel.result import AsyncResult, GroupResult, ResultSet

chain, chord, group, signature = library.chain, library.chord, library.group, library.signature
__all__ = ["UTC", "UUID", "AsyncResult", "Decimal", "GroupResult", "ResultSet", "Task", "datetime", "exceptions"]

app = App("proj")
app.conf.update(
    accept_content=["json", "pickle", "yaml", "msgpack"],
    broker_connection_retry_on_startup=True,
    result_expires=600,
    worker_hijack_root_logger=False,
)
app.conf.update(json.loads(os.environ["INTEROP_SETTINGS"]))


class SoldOut(Exception):
    def __init__(self, what, left):
        super().__init__(what, left)
        self.what, self.left = what, left


class Shop:
    class Closed(Exception):
        pass


def note(text):
    """Write down that something ran, in one write that no kill can halve."""
    descriptor = os.open(os.environ["INTEROP_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


@app.task(name="proj.add")
def add(x, y):
    return x + y


@app.task(name="proj.total")
def total(numbers):
    return sum(numbers)


@app.task(name="proj.echo")
def echo(value=None):
    return value


@app.task(name="proj.side")
def side():
    return SIDE


@app.task(name="proj.kind")
def kind(value):
    return [type(value).__name__, str(value)]


@app.task(name="proj.fail")
def fail(how="plain"):
    if how == "custom":
        raise SoldOut("tea", 3)
    if how == "nested":
        raise Shop.Closed("until nine")
    if how == "odd":
        raise LookupError({1, 2})
    raise ValueError("boom", 1)


@app.task(name="proj.flaky", bind=True, max_retries=3)
def flaky(self, failures):
    if self.request.retries < failures:
        raise self.retry(exc=SoldOut("patience", self.request.retries), countdown=0.01)
    return self.request.retries


@app.task(name="proj.auto", bind=True, autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0.01)
def auto(self, failures):
    if self.request.retries < failures:
        raise KeyError("not yet")
    return self.request.retries


@app.task(name="proj.show", bind=True)
def show(self):
    names = ("id", "root_id", "parent_id", "group", "group_index", "retries", "timelimit", "shadow", "correlation_id",
             "headers", "stamps", "stamped_headers", "ignore_result", "argsrepr", "kwargsrepr", "expires")  # fmt: skip
    known = {name: getattr(self.request, name) for name in names}
    info = self.request.delivery_info
    known["delivery"] = [info.get("exchange"), info.get("routing_key"), info.get("priority")]
    return json.loads(json.dumps(known, default=str))


@app.task(name="proj.nap")
def nap(seconds, name):
    note(f"{name} {SIDE}")
    time.sleep(seconds)
    return SIDE


@app.task(name="proj.stubborn", acks_late=True)
def stubborn(name):
    """Run for ever the first time; whoever gets it then ends it."""
    first = name not in Path(os.environ["INTEROP_RUNS"]).read_text()
    note(f"{name} {SIDE}")
    if first:
        time.sleep(600)
    return [SIDE, time.time()]


@app.task(name="proj.mark")
def mark(name):
    note(f"{name} {SIDE}")
    return SIDE


@app.task(name="proj.progress", bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 7})
    wait_until_noted("go on " + self.request.id)
    return "done"


@app.task(name="proj.limited", soft_time_limit=60)
def limited():
    try:
        time.sleep(20)
    except exceptions.SoftTimeLimitExceeded:
        return "stopped"
    return "never"


@app.task(name="proj.told")
def told(request, exc, traceback):
    note(f"told {request.id} {type(exc).__name__}")


@app.task(name="proj.spawn", bind=True)
def spawn(self, count):
    return self.replace(group(echo.si(number) for number in range(count)))


def wait_until_noted(line):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if line in Path(os.environ["INTEROP_RUNS"]).read_text().splitlines():
            return
        time.sleep(0.01)
    raise TimeoutError(line)
