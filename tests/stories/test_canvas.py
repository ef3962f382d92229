"""An afternoon with work-flows: every kind of canvas through a real worker, whatever counts its chords."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import redis

from umbel import Umbel, chain, chord, group
from umbel.canvas.ids import ends_of
from umbel.exceptions import ChordError, Ignore, ImproperlyConfigured, Reject
from umbel.worker.facts import Manner
from umbel.worker.worker import Worker

PATIENCE = 30.0  # seconds; a lost task shows as a time-out

DATABASE = 8  # of Redis

HEARD: dict[str, threading.Event] = {}  # what an errback was told, by its name


def make_app(folder: Path, how: str, server: str = "") -> Umbel:
    here = f"sqlite:///{folder / 'queue.db'}"
    urls = {
        "memory": ("memory://", "memory://"),
        "sqlite": (here, here),
        "apart": ("memory://", here),
        "polled": ("memory://", here),
        "polled sql": ("memory://", f"db+{here}2"),
        "redis": (server, server),
        "redis apart": ("memory://", server),
    }
    broker, backend = urls[how]
    options = {"count_chords": False} if how.startswith("polled") else {}
    app = Umbel(
        "afternoon",
        broker=broker,
        backend=backend,
        result_chord_retry_interval=0.02,
        result_backend_transport_options=options,
    )

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="xsum")
    def xsum(values: list[int]) -> int:
        return sum(values)

    @app.task(name="same")
    def same(value: Any) -> Any:
        return value

    @app.task(name="boom")
    def boom(*_: Any) -> None:
        raise ValueError("boom")

    @app.task(name="flaky", bind=True)
    def flaky(self: Any, value: int) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return value

    @app.task(name="spread", bind=True)
    def spread(self: Any, count: int) -> Any:
        return self.replace(group(same.si(number) for number in range(count)))

    @app.task(name="become", bind=True)
    def become(self: Any, sig: Any) -> Any:
        return self.replace(sig)

    @app.task(name="grow", bind=True)
    def grow(self: Any, value: int, *, lazy: bool) -> int:
        added = self.add_to_chord(same.s(100 + value), lazy=lazy)
        if lazy:
            added.delay()
        return value

    @app.task(name="heard")
    def heard(task_id: str, *, name: str) -> None:
        HEARD[name].set()

    @app.task(name="heard_here")
    def heard_here(request: Any, exc: BaseException, traceback: Any, *, name: str) -> None:
        assert isinstance(exc, ChordError)
        HEARD[name].set()

    return app


@contextmanager
def working(app: Umbel) -> Iterator[Umbel]:
    ready = threading.Event()
    worker = Worker(app, pool="solo", on_ready=lambda _: ready.set())
    thread = threading.Thread(target=worker.start)
    thread.start()
    assert ready.wait(PATIENCE)
    yield app
    worker.stop(Manner.WARM)
    thread.join(PATIENCE)
    app.close()


ON_REDIS = [pytest.param(how, marks=pytest.mark.service("redis", "A")) for how in ("redis", "redis apart")]


@pytest.fixture(scope="module", params=["memory", "sqlite", "apart", *ON_REDIS])
def app(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    service_url: Callable[[str], str],
) -> Iterator[Umbel]:
    server = ""
    if request.param in {"redis", "redis apart"}:
        server = service_url("redis").rpartition("/")[0] + f"/{DATABASE}"
        with redis.Redis.from_url(server) as connection:
            connection.flushdb()
    with working(make_app(tmp_path_factory.mktemp("afternoon"), request.param, server)) as app:
        yield app


@pytest.fixture
def t(app: Umbel) -> Any:
    class Tasks:
        def __getattr__(self, name: str) -> Any:
            return app.tasks[name]

    return Tasks()


@pytest.mark.row("API-273", "API-268")
def test_a_body_gets_the_values_of_its_header_in_order(t):
    result = chord([t.add.s(number, number) for number in range(20)], t.same.s())()

    assert result.get(timeout=PATIENCE) == [2 * number for number in range(20)]
    assert result.parent.get(timeout=PATIENCE) == [2 * number for number in range(20)]


NESTED = [
    (lambda t: group(t.same.s(1), t.same.s(2)) | t.xsum.s(), 3),
    (lambda t: t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)) | t.xsum.s() | t.add.s(100), 107),
    (lambda t: chord([t.same.s(1), t.same.s(2) | t.add.s(5)], t.same.s()), [1, 7]),
    (lambda t: chord([chord([t.same.s(1), t.same.s(2)], t.xsum.s()), t.same.s(9)], t.same.s()), [3, 9]),
    (lambda t: chord([group(t.same.s(1), group(t.same.s(2), t.same.s(3))), t.same.s(4)], t.same.s()), [1, 2, 3, 4]),
    (lambda t: chord([t.same.s(1) | group(t.add.s(1), t.add.s(2)), t.same.s(4)], t.same.s()), [[2, 3], 4]),
    (
        lambda t: group(t.same.s(1) | group(t.add.s(1), t.same.s() | group(t.add.s(1), t.add.s(2))), t.same.s(9)),
        [[2, [2, 3]], 9],
    ),
    (
        lambda t: group(t.same.s(1) | group(t.add.s(1), t.same.s() | group(t.add.s(1), t.add.s(2)))) | t.same.s(),
        [[2, [2, 3]]],
    ),
    (
        lambda t: chord([chord([t.same.s(1)], group(t.same.s(), t.xsum.s())), t.same.s(9)], t.same.s()),
        [[[1], 1], 9],
    ),
    (lambda t: chord([t.same.s(3)], t.xsum.s() | t.add.s(1) | group(t.add.s(1), t.add.s(2))), [5, 6]),
    (lambda t: chord([t.same.s(1)], chord([t.xsum.s(), t.xsum.s()], t.xsum.s())), 2),
    (lambda t: chord([t.same.s(1)], group(t.xsum.s(), t.same.s())), [1, [1]]),
    (
        lambda t: chain(
            t.same.s(1),
            group(t.add.s(1), t.add.s(2)),
            group(t.xsum.s(), t.same.s()),
            t.same.s(),
        ),
        [5, [2, 3]],
    ),
    (lambda t: group(t.same.s(1), chord([t.same.s(1), t.same.s(1)], t.xsum.s()), t.same.s(3)), [1, 2, 3]),
    (lambda t: chord([t.flaky.s(1), t.flaky.s(2)], t.xsum.s()), 3),
    (lambda t: chord(iter([t.same.s(1)]), t.same.s()), [1]),
]


@pytest.mark.row("API-280")
@pytest.mark.parametrize(("write", "value"), NESTED)
def test_whatever_is_nested_completes(t, write, value):
    assert write(t).apply_async().get(timeout=PATIENCE) == value


@pytest.mark.parametrize(("write", "value"), NESTED)
def test_what_is_run_at_once_comes_to_the_same(tmp_path, write, value):
    app = make_app(tmp_path, "memory")
    app.conf.task_always_eager = True
    result = write(SimpleNamespace(**{name: task for name, task in app.tasks.items() if "." not in name})).apply_async()

    assert result.get() == value


@pytest.mark.row("API-272")
def test_a_body_of_an_empty_header_gets_nothing(t):
    assert chord([], t.same.s())().get(timeout=PATIENCE) == []


@pytest.mark.row("API-274", "PRT-201")
@pytest.mark.parametrize("errback", ["heard", "heard_here"])
def test_a_body_fails_with_its_header_and_its_errbacks_are_told(t, request, errback):
    HEARD[request.node.name] = threading.Event()
    body = t.xsum.s().on_error(getattr(t, errback).s(name=request.node.name))

    result = chord([t.same.s(1), t.boom.s(), t.same.s(3)], body | t.add.s(1))()

    with pytest.raises(ChordError, match=r"Dependency \S+ raised ValueError\('boom'"):
        result.get(timeout=PATIENCE)
    assert HEARD[request.node.name].wait(PATIENCE)


@pytest.mark.row("API-278", "API-280")
@pytest.mark.parametrize(
    "write",
    [
        lambda t: chord([t.same.s(1), t.boom.s() | t.same.s() | t.same.s()], t.xsum.s()),
        lambda t: chord([t.same.s(1), t.boom.s() | group(t.same.s(), t.same.s())], t.xsum.s()),
        lambda t: chord([t.same.s(1), t.boom.s() | chord([t.same.s()], t.same.s())], t.xsum.s()),
        lambda t: chord([chord([t.boom.s()], t.same.s()), t.same.s(1)], t.xsum.s()),
        lambda t: chord([chord([t.same.s(1)], t.boom.s()), t.same.s(1)], t.xsum.s()),
        lambda t: chord([chord([t.boom.s()], t.same.s() | group(t.same.s(), t.same.s()))], t.xsum.s()),
        lambda t: chord([t.boom.s()], t.xsum.s()) | t.same.s() | t.same.s(),
    ],
)
def test_a_failure_reaches_every_chord_around_it(t, write):
    with pytest.raises(ChordError):
        write(t).apply_async().get(timeout=PATIENCE)


def test_all_members_of_a_group_that_was_a_body_fail(t):
    result = chord([t.boom.s()], group(t.same.s(), t.xsum.s()))()

    states = [type(each.get(timeout=PATIENCE, propagate=False)) for each in result.results]
    assert states == [ChordError, ChordError]


@pytest.mark.row("API-172", "API-173")
@pytest.mark.parametrize(
    ("write", "value"),
    [
        (lambda t: t.spread.s(3), [0, 1, 2]),
        (lambda t: t.spread.s(3) | t.xsum.s() | t.add.s(1), 4),
        (lambda t: chord([t.spread.s(2), t.same.s(7)], t.same.s()), [[0, 1], 7]),
        (lambda t: chord([t.become.s(t.same.si(1) | t.add.s(1)), t.same.s(7)], t.same.s()), [2, 7]),
        (lambda t: chord([t.become.s(chord([t.same.s(1)], t.xsum.s())), t.same.s(7)], t.same.s()), [1, 7]),
        (lambda t: chord([t.same.s(5)], t.become.si(t.same.si(6)) | t.add.s(1)), 7),
        # What it becomes ends in a group.
        (lambda t: t.become.s(t.same.si(5) | group(t.same.s(), t.same.s())), [5, 5]),
        (lambda t: chord([t.become.s(t.same.si(5) | group(t.same.s(), t.same.s())), t.same.s(1)], t.same.s()),
         [[5, 5], 1]),
        (lambda t: chord([t.become.s(chord([t.same.s(5)], group(t.xsum.s(), t.xsum.s()))), t.same.s(1)], t.same.s()),
         [[5, 5], 1]),
    ],
)  # fmt: skip
def test_a_task_is_replaced_wherever_it_stands(t, write, value):
    assert write(t).apply_async().get(timeout=PATIENCE) == value


@pytest.mark.row("API-176")
@pytest.mark.parametrize("lazy", [False, True])
def test_a_header_grows_while_it_runs(t, lazy):
    result = chord([t.grow.s(1, lazy=lazy), t.grow.s(2, lazy=lazy)], t.same.s())()

    values = result.get(timeout=PATIENCE)
    assert (values[:2], sorted(values[2:])) == ([1, 2], [101, 102])


def test_a_task_that_died_behind_adding_to_its_chord_adds_the_same_ones_when_it_runs_again(app, t):
    adds = []

    @app.task(bind=True, name="adds_twice")
    def adds_twice(self: Any, value: int) -> int:
        for _ in range(2):  # the second time around with the same message, as after a kill
            self.request.__dict__.pop("added", None)
            sigs = [self.add_to_chord(t.same.si(number), lazy=True) for number in (7, 8)]
            sigs.append(self.add_to_chord(t.same.si(0) | group(t.same.si(9), t.same.si(10)), lazy=True))
            adds.append([end["options"]["task_id"] for sig in sigs for end in ends_of(sig)])
        for sig in sigs:
            sig.delay()
        return value

    values = chord([adds_twice.s(1)], t.same.s())().get(timeout=PATIENCE)

    assert (values[0], sorted(values[1:3]), sorted(values[3:])) in ((1, [7, 8], [9, 10]), (1, [9, 10], [7, 8]))
    assert adds[0] == adds[1]
    assert len({UUID(each) for each in adds[0]}) == 4


@pytest.mark.row("API-176")
def test_only_a_chord_can_grow(t):
    with pytest.raises(ValueError, match="not a member of any chord"):
        t.grow.delay(1, lazy=False).get(timeout=PATIENCE)


def test_a_revoked_part_fails_its_chord(app, t):
    with app.lend_broker() as broker:
        broker.revoke(["unwanted"])

    result = chord([t.same.s(1), t.same.s(2).set(task_id="unwanted")], t.same.s())()

    with pytest.raises(ChordError, match=r"Dependency unwanted raised TaskRevokedError"):
        result.get(timeout=PATIENCE)


@pytest.mark.row("API-318")
def test_the_graph_of_a_result_shows_what_led_to_what(t):
    result = (t.add.s(1, 1) | group(t.add.s(1), t.add.s(2))).apply_async()
    first = result.parent
    result.get(timeout=PATIENCE)

    graph = first.graph

    assert {each.id for each in graph} == {first.id, result.id, *(each.id for each in result.results)}
    assert graph.valency_of(first) == 4
    graph.to_dot(text := io.StringIO())
    assert f'0 [label="{first.id}"];' in text.getvalue()
    assert "0 -> 1;" in text.getvalue()


@pytest.mark.row("API-292")
def test_a_task_sees_its_stamps_and_extended_results_show_them(tmp_path):
    app = make_app(tmp_path, "memory")
    app.conf.result_extended = True
    show = app.task(lambda self: [self.request.stamped_headers, self.request.stamps], name="show", bind=True)
    with working(app):
        sig = chord([show.s(), show.s()], app.tasks["same"].s())
        sig.stamp(tenant="acme")
        result = sig.apply_async()

        assert result.get(timeout=PATIENCE) == [[["tenant"], {"tenant": "acme"}]] * 2
        meta = app.backend.get_task_meta(result.parent.results[0].id)
        assert meta["stamps"] == {"tenant": "acme"}


@pytest.mark.row("API-282")
@pytest.mark.parametrize("ending", [Ignore, Reject])
def test_an_eager_chain_stops_where_a_step_is_ignored_or_rejected(tmp_path, ending):
    app = make_app(tmp_path, "memory")
    app.conf.task_always_eager = True
    ran: list[str] = []

    @app.task(name="ends")
    def ends() -> None:
        ran.append("ends")
        raise ending

    @app.task(name="never")
    def never(_: Any) -> None:
        ran.append("never")

    result = (ends.s() | never.s()).apply_async()

    assert (ran, result.state) == (["ends"], "IGNORED" if ending is Ignore else "REJECTED")


@pytest.mark.row("PRT-206")
@pytest.mark.parametrize("how", ["polled", "polled sql"])
def test_where_nobody_counts_a_task_looks_after_the_chord(tmp_path, how):
    with working(make_app(tmp_path, how)) as app:
        t = app.tasks
        add, same, xsum, boom = t["add"], t["same"], t["xsum"], t["boom"]
        results = [
            chord([add.s(1, 1), same.s(2)], xsum.s()).apply_async(),
            (add.s(1, 1) | group(add.s(1), add.s(2)) | xsum.s() | add.s(100)).apply_async(),
            chord([same.s(1), boom.s() | same.s()], xsum.s()).apply_async(),
            chord([t["grow"].s(1, lazy=False)], same.s()).apply_async(),
        ]

        assert [each.get(timeout=PATIENCE) for each in results[:2]] == [4, 107]
        for each, cause in zip(results[2:], ["ValueError", "NotImplementedError"], strict=True):
            with pytest.raises(ChordError, match=cause):
                each.get(timeout=PATIENCE)


@pytest.mark.row("API-275", "PRT-207")
@pytest.mark.parametrize("backend", ["disabled://"])
def test_a_chord_needs_a_place_for_results(backend):
    app = Umbel("nowhere", broker="memory://", backend=backend)

    with pytest.raises(NotImplementedError, match="result backend"):
        chord([app.signature("a")], app.signature("b"), app=app).apply_async()
    with pytest.raises(ImproperlyConfigured):
        _ = app.AsyncResult("x").state


@pytest.mark.row("API-281")
@pytest.mark.parametrize("fails", [False, True])
def test_chords_among_the_follow_ups_of_an_eager_task_are_counted(tmp_path, fails):
    app = make_app(tmp_path, "memory")
    app.conf.task_always_eager = True
    heard: list[Any] = []
    note = app.task(heard.append, name="note")
    t = app.tasks
    member = t["boom"].s() if fails else t["add"].s(2)

    t["add"].apply_async(
        (1, 1), link=group(t["add"].s(1), member) | t["xsum"].s().on_error(note.si("failed")) | note.s()
    )

    assert heard == (["failed"] if fails else [7])
