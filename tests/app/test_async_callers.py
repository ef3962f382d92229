"""Whoever has an event loop may send and wait without stopping it."""

import asyncio
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from umbel import Umbel, group
from umbel.result import AsyncResult, ResultSet


@pytest.fixture
def slow_app(tmp_path):
    """An app whose broker takes half a second for each publication."""
    with Umbel("slow", broker=f"sqlite:///{tmp_path}/q.db", set_as_current=False) as app:
        send = app.sender.send

        def slowly(*args, **options):
            time.sleep(0.5)
            send(*args, **options)

        app.sender.send = slowly
        yield app


def test_sending_does_not_stop_the_loop(slow_app):
    @slow_app.task(shared=False)
    def add(x, y):
        return x + y

    async def main():
        ticks, done = 0, asyncio.Event()

        async def tick():
            nonlocal ticks
            while not done.is_set():
                ticks += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        sent = [await add.adelay(1, 2), await add.aapply_async((3, 4), queue="other", countdown=60)]
        done.set()
        await ticking
        return sent, ticks

    sent, ticks = asyncio.run(main())

    # Two publications of half a second: a loop that stood still would have ticked twice or three times.
    assert ticks >= 10
    assert len({result.id for result in sent}) == 2
    with slow_app.lend_broker() as broker:
        sizes = broker.sizes()
        assert sizes["celery"].ready == 1
        assert sizes["other"].delayed == 1


def test_waiting_does_not_stop_the_loop(app):
    @app.task(shared=False)
    def add(x, y):
        return x + y

    async def main():
        result = await add.adelay(1, 2)
        order = []

        async def other():
            order.append("other")
            await asyncio.to_thread(app.backend.store_result, result.id, 3, "SUCCESS")

        value, _ = await asyncio.gather(result.aget(timeout=30), other())
        return value, await result, order

    assert asyncio.run(main()) == (3, 3, ["other"])


class Sluggish:
    """A store that answers only after the loop has turned ten times more: never, where it holds the loop up."""

    PATIENCE = 20.0  # seconds

    def __init__(self, store):
        self._store = store
        self.turns = 0
        self.asked = threading.Event()

    def _dawdle(self):
        self.asked.set()
        since, until = self.turns, time.monotonic() + self.PATIENCE
        while self.turns < since + 10 and time.monotonic() < until:
            time.sleep(0.005)

    @contextmanager
    def waiting(self, ids):
        self._dawdle()
        with self._store.waiting(ids) as waiting:
            self._waiting = waiting
            self.fileno = waiting.fileno
            yield self
        self._dawdle()

    def metas(self, ids):
        self._dawdle()
        return self._waiting.metas(ids)

    def wait(self, timeout):
        self._dawdle()
        return self._waiting.wait(timeout)

    async def longest_pause(self, done):
        longest, before = 0.0, time.monotonic()
        while not done.is_set():
            await asyncio.sleep(0.001)
            self.turns += 1
            now = time.monotonic()
            longest, before = max(longest, now - before), now
        return longest


@pytest.mark.parametrize("url", ["sqlite", "cache+memory"])
@pytest.mark.parametrize("how", ["one", "all", "each"])
def test_a_slow_store_does_not_stop_the_loop(tmp_path, url, how):
    store_url = f"sqlite:///{tmp_path}/r.db" if url == "sqlite" else "cache+memory://"
    with Umbel("slow", broker="memory://", backend=store_url, set_as_current=False) as app:
        slow = Sluggish(app.backend)
        results = ResultSet([AsyncResult(f"t{i}", backend=slow, app=app) for i in range(2)])

        async def main():
            done = asyncio.Event()
            measuring = asyncio.create_task(slow.longest_pause(done))

            async def work():
                await asyncio.to_thread(slow.asked.wait, 30)
                for i in range(2):
                    await asyncio.to_thread(app.backend.store_result, f"t{i}", i, "SUCCESS")

            async def hear():
                match how:
                    case "one":
                        return [await results[0].aget(timeout=60), await results[1]]
                    case "all":
                        return await results.aget(timeout=60)
                    case _:
                        return sorted([result.get() async for result in results])

            _, values = await asyncio.gather(work(), hear())
            done.set()
            return values, await measuring

        values, pause = asyncio.run(main())

    assert values == [0, 1]
    assert pause < Sluggish.PATIENCE / 2


def test_who_is_cancelled_gives_the_connection_back(tmp_path):
    with Umbel("slow", broker="memory://", backend=f"sqlite:///{tmp_path}/r.db", set_as_current=False) as app:
        slow = Sluggish(app.backend)
        ended = []
        given = slow._store.waiting

        @contextmanager
        def noted(ids):
            try:
                with given(ids) as waiting:
                    yield waiting
            finally:
                ended.append(ids)

        slow._store = SimpleNamespace(waiting=noted)

        async def main():
            done = asyncio.Event()
            measuring = asyncio.create_task(slow.longest_pause(done))
            waiting = asyncio.ensure_future(AsyncResult("t1", backend=slow, app=app).aget())
            await asyncio.to_thread(slow.asked.wait, 30)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            done.set()
            await measuring
            return list(ended)

        assert asyncio.run(main()) == [["t1"]]


def test_a_mistake_is_raised_where_it_was_made(app):
    @app.task(shared=False)
    def add(x, y):
        return x + y

    with pytest.raises(TypeError):
        asyncio.run(add.adelay(1))


def test_a_task_that_sends_so_has_the_result_among_its_children(app):
    @app.task(shared=False)
    def leaf():
        return threading.get_ident()

    @app.task(bind=True, shared=False)
    async def root(self):
        await leaf.adelay()
        return [child.id for child in self.request.children]

    found = root.apply()
    assert len(found.get()) == 1


def test_eagerly_it_runs_in_the_callers_thread(app):
    app.conf.task_always_eager = True

    @app.task(shared=False)
    def where():
        return threading.get_ident()

    async def main():
        return (await where.adelay()).get()

    assert asyncio.run(main()) == threading.get_ident()


def test_work_flows_are_sent_and_their_results_come_as_they_end(app):
    @app.task(shared=False)
    def add(x, y):
        return x + y

    async def main():
        results = await group(add.s(1, 1), add.s(2, 2), add.s(3, 3)).aapply_async()
        chained = await (add.s(1, 1) | add.s(2)).adelay()
        assert chained.parent is not None
        ended = []

        async def work():
            for result, value in zip(reversed(results.results), (6, 4, 2), strict=True):
                await asyncio.to_thread(app.backend.store_result, result.id, value, "SUCCESS")

        async def hear():
            ended.extend([result.get() async for result in results])

        await asyncio.gather(work(), hear())
        return sorted(ended), await results

    assert asyncio.run(main()) == ([2, 4, 6], [2, 4, 6])
