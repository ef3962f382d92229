"""Record what a real Celery writes, so that umbel can be held to its bytes without having it installed.

    <python with celery, pyyaml and msgpack> tests/golden/record.py [folder]

Writes one JSON file per subject into *folder* (default: `data` beside this file). Run it again when a new Celery
appears, and read the difference. Host, paths and process ids are made neutral, so nothing of your machine is kept.
"""

from __future__ import annotations

import base64
import json
import linecache
import platform
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock_time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

socket.gethostname = lambda: "golden"  # before Celery asks: no name of the machine gets into the files

import celery.exceptions  # noqa: E402
from celery import Celery, chain, chord, chunks, group, signature  # noqa: E402
from celery.app.task import Context  # noqa: E402
from celery.backends.filesystem import FilesystemBackend  # noqa: E402
from celery.contrib.testing.worker import start_worker  # noqa: E402
from celery.events.dispatcher import EventDispatcher  # noqa: E402
from kombu.compression import compress, encoders  # noqa: E402
from kombu.serialization import dumps as serialize  # noqa: E402
from kombu.transport import memory  # noqa: E402
from kombu.transport import native_delayed_delivery as delayed  # noqa: E402
from kombu.utils.json import dumps  # noqa: E402

warnings.simplefilter("ignore")
Case = dict[str, Any]
SERIALIZERS = ("json", "yaml", "msgpack", "pickle")
AT = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)

# The tasks stand under a made-up file name, so that tracebacks show no path of this machine.
PROJECT = """
class Shop:
    class SoldOut(Exception):
        pass

class TwoNeeded(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first}-{second}")

def add(x, y):
    return x + y

def fail(kind):
    if kind == "args":
        raise ValueError("boom", 1)
    if kind == "nested":
        raise Shop.SoldOut("tea")
    if kind == "two":
        raise TwoNeeded(1, 2)
    if kind == "object":
        raise LookupError({1, 2}, "set")
    if kind == "unicode":
        b"\\xff".decode()
    if kind == "key":
        raise KeyError("k")
    if kind == "none":
        raise RuntimeError
    if kind == "cause":
        try:
            1 / 0
        except ZeroDivisionError as exc:
            raise OSError(2, "no such thing", "tea.txt") from exc

def again(self):
    raise self.retry(exc=ValueError("not yet"), countdown=3600)

def refuse():
    raise Reject("no thanks", requeue=False)

def spawn(self):
    add.delay(1, 1)
    return "spawned"

def custom(self):
    self.update_state(state="PROGRESS", meta={"done": 7, "of": 10})
    self.send_event("task-painted", colour="red")
    return None

def handle(task_id):
    return task_id

def total(numbers):
    return sum(numbers)
"""

PROJ = sys.modules["proj"] = ModuleType("proj")  # can be imported, so that its exceptions can be found again
PROJ.Reject = celery.exceptions.Reject
linecache.cache["proj.py"] = (len(PROJECT), None, PROJECT.splitlines(keepends=True), "proj.py")
exec(compile(PROJECT, "proj.py", "exec"), vars(PROJ))
FUNCTIONS = dict(vars(PROJ))


def project(**settings: Any) -> Celery:
    """Return an app with the tasks above, on the in-memory broker, emptied."""
    Tap.queues.clear()
    app = Celery("proj", broker="memory://", set_as_current=True)
    store = f"{__name__}:Store+file://{tempfile.mkdtemp(prefix='golden')}"
    app.conf.update(**{"result_backend": store, "result_expires": None, "worker_hijack_root_logger": False, **settings})
    for name in ("add", "fail", "refuse", "handle", "total", "again", "spawn", "custom"):
        bind = name in {"again", "spawn", "custom"}
        setattr(PROJ, name, app.task(name=f"proj.{name}", bind=bind)(FUNCTIONS[name]))
    return app


# -- Taps --------------------------------------------------------------------------------------------------------------


class Tap(memory.Channel):
    """Keep a copy of every envelope that the virtual transport builds."""

    tape: list[Case] = []  # noqa: RUF012 - one tape for the whole run

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        done = super().basic_publish(message, exchange, routing_key, **kwargs)
        self.tape.append({"exchange": exchange, "routing_key": routing_key, "envelope": dumps(message)})
        return done


class Store(FilesystemBackend):
    """Keep a copy of everything that the result store writes."""

    tape: list[Case] = []  # noqa: RUF012 - one tape for the whole run

    def set(self, key: bytes | str, value: bytes | str) -> Any:
        data = value.encode() if isinstance(value, str) else value
        self.tape.append({"key": key.decode() if isinstance(key, bytes) else key, "payload": data})
        return super().set(key, value)


memory.Transport.Channel = Tap


@contextmanager
def published(name: str, cases: list[Case], **more: Any) -> Iterator[None]:
    """Add everything published inside the block as cases."""
    Tap.tape.clear()
    yield
    for i, entry in enumerate(Tap.tape):
        cases.append({"name": name if i == 0 else f"{name} ({i})", **entry, **more})
    Tap.tape.clear()


# -- Subjects ----------------------------------------------------------------------------------------------------------


def messages() -> list[Case]:
    """Task messages of protocol 2 with every option, and canvas."""
    cases: list[Case] = []
    app = project()
    add = app.tasks["proj.add"]

    def send(name: str, args: tuple[Any, ...] = (2, 2), **options: Any) -> None:
        with published(name, cases):
            add.apply_async(args, **{"task_id": "t-1", **options})

    send("plain")
    send("kwargs", (2,), kwargs={"y": None})
    send("eta", eta=AT)
    send("eta in another zone", eta=AT.astimezone(timezone(timedelta(hours=-3, minutes=-30))))
    send("naive eta", eta=datetime(2030, 1, 1))  # what peers send
    send("text eta", eta="2030-01-01T00:00:00Z")
    send("expires in seconds", expires=60)
    send("expires at", expires=AT)
    send("expired already", expires=-5)
    send("countdown and expires", countdown=5, expires=60.5)
    send("limits", time_limit=10, soft_time_limit=5.5)
    send("priority", priority=3)
    send("shadow", shadow="short name")
    send("headers", headers={"tenant": "acme", "nested": {"a": [1, None, "é"]}})
    send("another language", headers={"lang": "go"})
    send("transient", delivery_mode=1)
    send("no result", ignore_result=True)
    send("reply to", reply_to="me", correlation_id="another")
    send("no reply", reply_to="")
    send("properties", user_id="u", message_id="m", timestamp=3, type="ty", app_id="a", foo="bar", expiration=12)
    send("exchange", exchange="news", exchange_type="topic", routing_key="news.sport")
    send("queue", queue="mail")
    send("work-flow", root_id="r", parent_id="p", group_id="g", group_index=2, replaced_task_nesting=1)
    send("stamps", stamped_headers=["tenant", "tags"], tenant="acme", tags=["a", "b"])
    send("links", link=add.s(1), link_error=[app.tasks["proj.handle"].s()])
    with published("text beyond ASCII", cases):
        add.apply_async(("é\u2028", "日本 😀"), task_id="t-1")
    with published("unknown task", cases):
        app.send_task("elsewhere.task", task_id="t-1")
    for serializer in SERIALIZERS:
        send(f"serializer {serializer}", ("é",), serializer=serializer, kwargs={"y": [1.5, True, None]})
    for mime in sorted(encoders()):
        send(f"compression {mime}", compression=mime, headers={"tenant": "acme"})
    send("compression alias zlib", compression="zlib")
    with published("retry", cases):
        add.push_request(
            id="t-9", args=(1, 2), kwargs={}, retries=1, root_id="r-1", parent_id="p-1", called_directly=False,
            delivery_info={"exchange": "", "routing_key": "celery", "priority": 4}, origin="gen1@golden",
            headers={"tenant": "acme"}, reply_to="me", correlation_id="t-9", timelimit=[10, 5],
            callbacks=None, errbacks=None, chain=None, chord=None, group=None, hostname="w@golden",
        )  # fmt: skip
        try:
            add.retry(countdown=10, exc=ValueError("later"))
        except celery.exceptions.Retry:
            add.pop_request()

    total = app.tasks["proj.total"]
    canvases: dict[str, Callable[[], Any]] = {
        "chain": lambda: chain(add.s(1, 1), add.s(2), add.si(3, 3)),
        "group": lambda: group(add.s(i, i) for i in range(2)),
        "group of chains": lambda: group(chain(add.s(1, 1), add.s(2)), add.s(3, 3)),
        "chain into group": lambda: chain(add.s(1, 1), group(add.s(2), add.s(3))),
        "map": lambda: total.map([[1, 2], [3]]),
        "starmap": lambda: add.starmap([(1, 2), (3, 4)]),
        "chunks": lambda: chunks(add.s(), [(1, 2), (3, 4), (5, 6)], 2),
        "stamped": lambda: _stamped(add.s(1, 1), tenant="acme"),
        "options": lambda: add.s(1, 1).set(priority=5, queue="mail", countdown=7, link=add.s(9)),
        "signature": lambda: signature("proj.add", args=(1,), kwargs={"y": 2}, immutable=True, app=app),
    }
    for name, canvas in canvases.items():
        with published(f"canvas {name}", cases):
            canvas().apply_async()

    chords = project(result_backend="cache+memory://")
    add, total = chords.tasks["proj.add"], chords.tasks["proj.total"]
    for name, header in {
        "chord": [add.s(1, 1), add.s(2, 2)],
        "chord with a chain inside": [chain(add.s(1, 1), add.s(2)), add.s(3, 3)],
        "chord with a group inside": [group(add.s(3, 3), add.s(4, 4)), add.s(1, 1)],
    }.items():
        with published(f"canvas {name}", cases):
            chord(header, total.s().on_error(chords.tasks["proj.handle"].s())).apply_async()
    with published("canvas chord into a chain", cases):
        chord([add.s(1, 1)], chain(total.s(), add.s(1))).apply_async()
    return cases


def _stamped(canvas: Any, **stamps: Any) -> Any:
    canvas.stamp(**stamps)
    return canvas


def protocol1() -> list[Case]:
    """Task messages of protocol 1."""
    cases: list[Case] = []
    app = project(task_protocol=1)
    add = app.tasks["proj.add"]
    variants: dict[str, Case] = {
        "plain": {},
        "times": {"eta": AT, "expires": AT + timedelta(hours=1)},
        "limits": {"time_limit": 10, "soft_time_limit": 5},
        "group": {"group_id": "g", "group_index": 1},
        "links": {"link": add.s(1), "link_error": add.s(2)},
        "chord": {"chord": app.tasks["proj.total"].s()},
        "headers and priority": {"headers": {"tenant": "acme"}, "priority": 3},
        "compression": {"compression": "zlib"},
        "pickle": {"serializer": "pickle"},
        "yaml": {"serializer": "yaml"},
        "msgpack": {"serializer": "msgpack"},
    }
    for name, options in variants.items():
        with published(name, cases):
            add.apply_async((2,), {"y": 3}, task_id="t-1", **options)
    with published("chain", cases):
        chain(add.s(1, 1), add.s(2), add.s(3)).apply_async()
    return cases


def codecs() -> list[Case]:
    """Single values through every serializer, and the JSON types beyond JSON."""
    values: dict[str, Any] = {
        "numbers": [0, -1, 2**63, 2**80, 1.5, -0.0, 1e300, 1e-7],
        "not numbers": [float("inf"), float("-inf")],
        "text": ["", "abc", 'é\u2028\x00\x7f\\"/', "日本 😀"],
        "containers": {"a": [1, [2, {"b": None}]], "true": True, "false": False, "empty": [{}, []]},
        "tuple": (1, (2, 3)),
        "keys": {"1": 1, "b": 2, "a": 3},
    }
    beyond: dict[str, Any] = {
        "datetime": AT,
        "naive datetime": datetime(2024, 1, 2, 3, 4, 5),  # what peers send
        "datetime in another zone": AT.astimezone(timezone(timedelta(hours=2))),
        "date": date(2024, 1, 2),
        "time": clock_time(3, 4, 5),
        "time with microseconds": clock_time(3, 4, 5, 6),
        "time with offset": clock_time(3, 4, tzinfo=UTC),
        "decimal": Decimal("1.50"),
        "uuid": UUID(int=1),
        "bytes of text": b"abc",
        "empty bytes": b"",
        "other bytes": b"\xff\x00",
        "all of them inside": [{"when": AT, "ids": (UUID(int=2), UUID(int=3))}, b"\xff", Decimal(1)],
    }
    cases = [_coded(serializer, name, value) for serializer in SERIALIZERS for name, value in values.items()]
    return cases + [_coded("json", name, value) for name, value in beyond.items()]


def _coded(serializer: str, name: str, value: Any) -> Case:
    try:
        content_type, encoding, data = serialize(value, serializer)
    except Exception as exc:  # noqa: BLE001 - what a codec cannot do is recorded too
        return {"name": name, "serializer": serializer, "value": repr(value), "error": type(exc).__name__}
    return {
        "name": name,
        "serializer": serializer,
        "value": repr(value),
        "content_type": content_type,
        "content_encoding": encoding,
        **_payload(data.encode() if isinstance(data, str) else data),
    }


def compressions() -> list[Case]:
    """One text through every compression that is installed."""
    text = b"umbel " * 100
    return [
        {"name": mime, "mime": compress(text, mime)[1], "plain": text.decode(), **_payload(compress(text, mime)[0])}
        for mime in sorted(encoders())
    ]


def results() -> list[Case]:
    """Result metas: of a worker that runs tasks of all outcomes, and stored directly with every serializer."""
    cases: list[Case] = []
    for extended in (False, True):
        with _running(result_extended=extended, task_track_started=True) as app:
            tasks = app.tasks
            calls = [tasks["proj.add"].s(2, 2), tasks["proj.add"].s(x=1, y="text"), tasks["proj.spawn"].s()]
            calls += [tasks["proj.fail"].s(kind) for kind in ("args", "nested", "two", "object", "unicode", "key")]
            calls += [tasks["proj.fail"].s(kind) for kind in ("none", "cause")]
            calls += [tasks["proj.again"].s(), tasks["proj.refuse"].s(), tasks["proj.custom"].s()]
            calls += [
                tasks["proj.add"].s(1, 1).set(expires=-1),
                chain(tasks["proj.add"].s(1, 1), tasks["proj.add"].s(2)),
            ]
            calls += [_stamped(tasks["proj.add"].s(1, 1), tenant="acme")]
            calls += [chain(tasks["proj.fail"].s("args"), tasks["proj.add"].s(2))]
            calls += [group(tasks["proj.add"].s(1, 1), tasks["proj.fail"].s("key"))]
            calls += [chord([tasks["proj.add"].s(1, 1)], tasks["proj.total"].s())]
            for call in calls:
                _run(app, call, cases, "extended" if extended else "plain")
    for serializer in SERIALIZERS:
        app = project(result_serializer=serializer, accept_content=[serializer])
        backend = app.backend
        request = Context(id="t-1", group="g-1", parent_id="p-1", children=[app.AsyncResult("c-1")])
        Store.tape.clear()
        stored: list[tuple[Any, str]] = [
            ({"answer": [42, "é"]}, "SUCCESS"),
            (ValueError("boom", 1), "FAILURE"),
            (ValueError("again"), "RETRY"),
            (celery.exceptions.TaskRevokedError("revoked"), "REVOKED"),
            ({"pid": 1, "hostname": "w@golden"}, "STARTED"),
        ]
        for i, (value, state) in enumerate(stored):
            traceback = None if isinstance(value, dict) else "Traceback: none"
            backend.store_result(f"t-{i}", value, state, traceback=traceback, request=request)
        cases += [_meta(entry, serializer, f"stored with {serializer}") for entry in Store.tape]
    for name in ("zlib", "bzip2", "lzma"):
        app = project(result_compression=name)
        backend = app.backend
        Store.tape.clear()
        backend.store_result("t-1", "text " * 20, "SUCCESS", request=Context(id="t-1"))
        cases += [_meta(entry, "json", f"compressed with {name}") for entry in Store.tape]
    return cases


def groups() -> list[Case]:
    """Saved groups and result tuples."""
    app = project()
    leaf = app.AsyncResult("a", parent=app.AsyncResult("p", parent=app.AsyncResult("pp")))
    inner = app.GroupResult("gi", [app.AsyncResult("x")])
    outer = app.GroupResult("g", [leaf, inner], parent=app.AsyncResult("before"))
    Store.tape.clear()
    outer.save()
    cases: list[Case] = [{"name": "saved group", "key": e["key"], **_payload(e["payload"])} for e in Store.tape]
    cases.append({"name": "leaf", "tuple": leaf.as_tuple()})
    cases.append({"name": "group", "tuple": outer.as_tuple()})
    return cases


def events() -> list[Case]:
    """Events of a client, of a worker and of a dispatcher."""
    cases: list[Case] = []
    with _running(worker_send_task_events=True, task_send_sent_event=True, events=True) as app:
        tasks = app.tasks
        Tap.tape.clear()
        for call in (
            tasks["proj.add"].s(1, 1), tasks["proj.fail"].s("args"), tasks["proj.again"].s(), tasks["proj.refuse"].s(),
            tasks["proj.custom"].s(), tasks["proj.add"].s(1, 1).set(expires=-1),
        ):  # fmt: skip
            call.apply_async()
        _until(lambda: sum("task-" in str(_body(e)) for e in Tap.tape) >= 1 and _quiet())
        app.send_task("elsewhere.task")
        _until(_quiet)
    cases += [{"name": "worker", **entry} for entry in Tap.tape if entry["exchange"] == "celeryev"]
    app = project()
    Tap.tape.clear()
    with app.connection_for_write() as connection:
        dispatcher = EventDispatcher(connection, hostname="w@golden", app=app, buffer_while_offline=False)
        dispatcher.send("worker-heartbeat", freq=2.0, active=1, processed=5, loadavg=(0.5, 0.25, 0.0))
        dispatcher.send("task-started", uuid="t-1")
        dispatcher.publish("task-custom", {"uuid": "t-1"}, dispatcher.producer, retry=False)
    cases += [{"name": "dispatcher", **entry} for entry in Tap.tape]
    Tap.tape.clear()
    return cases


def control() -> list[Case]:
    """Remote-control requests and replies."""
    with _running() as app:
        Tap.tape.clear()
        control, inspect = app.control, app.control.inspect(timeout=1)
        control.ping(timeout=0.5)
        control.ping(destination=["celery@golden"], timeout=0.5)
        control.broadcast("ping", pattern="celery*", matcher="glob")
        control.revoke(["t-1", "t-2"], terminate=True, signal="SIGKILL")
        control.rate_limit("proj.add", "10/m", reply=True, timeout=0.5)
        control.broadcast("no_such_command", reply=True, timeout=0.5)
        for name in ("active", "scheduled", "reserved", "revoked", "registered", "active_queues", "clock"):
            getattr(inspect, name)()
        inspect.hello("other@golden", {"t-1": 1.0})
        entries = [entry for entry in Tap.tape if entry["exchange"].endswith("pidbox")]
    return [{"name": str(_body(entry).get("method", "reply")), **entry} for entry in entries]


def delays() -> list[Case]:
    """Native delayed delivery: routing keys and declarations."""
    key = delayed.calculate_routing_key
    once = key(5, "rk")
    asked = [(seconds, rk) for seconds in (1, 2, 30, 86400, 2**28 - 1) for rk in ("rk", "a.b")] + [(7, once)]
    cases: list[Case] = [{"name": "key", "seconds": s, "key": rk, "out": key(s, rk)} for s, rk in asked]
    for queue_type in ("quorum", "classic"):
        channel = Channel()
        delayed.declare_native_delayed_delivery_exchanges_and_queues(channel, queue_type)
        cases.append({"name": f"topology {queue_type}", "queue_type": queue_type, **channel.declared})
    return cases


class Channel:
    """Stand for an AMQP connection and its channel, and keep what is declared on it."""

    def __init__(self) -> None:
        self.declared: Case = {"exchanges": [], "queues": {}, "queue_bindings": [], "exchange_bindings": []}
        self.arguments: Any = None

    def channel(self) -> Channel:
        return self

    def exchange_declare(self, *, exchange: str, type: str, **_: Any) -> None:
        self.declared["exchanges"].append([exchange, type])

    def prepare_queue_arguments(self, arguments: Any, **_: Any) -> None:
        self.arguments = arguments

    def queue_declare(self, *, queue: str, **_: Any) -> None:
        self.declared["queues"][queue] = self.arguments

    def queue_bind(self, *, queue: str, exchange: str, routing_key: str, **_: Any) -> None:
        self.declared["queue_bindings"].append([exchange, queue, routing_key])

    def exchange_bind(self, *, destination: str, source: str, routing_key: str, **_: Any) -> None:
        self.declared["exchange_bindings"].append([source, destination, routing_key])

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


# -- A worker in this process ------------------------------------------------------------------------------------------


@contextmanager
def _running(*, events: bool = False, **settings: Any) -> Iterator[Celery]:
    app = project(**settings)
    with start_worker(app, perform_ping_check=False, pool="solo", loglevel="CRITICAL", hostname="celery@golden",
                      without_heartbeat=False, task_events=events):  # fmt: skip
        yield app


def _run(app: Celery, call: Any, cases: list[Case], name: str) -> None:
    Store.tape.clear()
    call.apply_async()
    _until(lambda: bool(Store.tape) and _quiet())
    label = f"{name} {call}"
    cases += [_meta(entry, "json", label) for entry in Store.tape if "task-meta" in entry["key"]]


_last: dict[str, Any] = {"size": -1, "at": 0.0}


def _quiet() -> bool:
    """Tell whether nothing was written for half a second."""
    size = len(Store.tape) + len(Tap.tape)
    if size != _last["size"]:
        _last.update(size=size, at=time.monotonic())
    return time.monotonic() - _last["at"] > 0.5


def _until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


# -- Writing -----------------------------------------------------------------------------------------------------------


def _body(entry: Case) -> Any:
    envelope = json.loads(entry["envelope"])
    try:
        return json.loads(base64.b64decode(envelope["body"]))
    except ValueError:
        return {}


def _meta(entry: Case, serializer: str, name: str) -> Case:
    return {"name": name, "key": entry["key"], "serializer": serializer, **_payload(entry["payload"])}


def _payload(data: bytes) -> Case:
    try:
        return {"text": data.decode("ascii")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def main(folder: Path) -> None:
    """Write all subjects into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    made_by = {name: version(name) for name in ("celery", "kombu")} | {"python": platform.python_version()}
    for subject in (codecs, compressions, messages, protocol1, results, groups, events, control, delays):
        print(subject.__name__, end=" ", flush=True)
        cases = ",\n".join(json.dumps(case) for case in subject())
        text = f'{{"made_by": {json.dumps(made_by)}, "cases": [\n{cases}\n]}}'
        text = text.replace(sys.prefix, "/venv").replace(str(Path(__file__).parent), "/golden")
        (folder / f"{subject.__name__}.json").write_text(text + "\n")
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "data"))
