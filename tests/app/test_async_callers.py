"""Whoever has an event loop may send and wait without stopping it."""

import asyncio
import threading
import time

import pytest

from umbel import Umbel, group


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
