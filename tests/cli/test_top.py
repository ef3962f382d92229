import asyncio
import sys
import time
from itertools import count

import pytest

from umbel import Umbel, current
from umbel.cli import top_watch
from umbel.cli.top_watch import Watch

_names = count()


@pytest.fixture
def app():
    with Umbel(f"top{next(_names)}", broker="memory://", backend="memory://") as made:
        made.task(name="app.add")(lambda x, y: x + y)
        yield made
    current.set_current_app(None)


@pytest.fixture
def watch(app, monkeypatch):
    """A watch that hears only what the test tells it."""
    monkeypatch.setattr(top_watch, "_SPAN", 1000.0)  # a machine may stall
    seen = Watch(app)
    now = time.time()

    def tell(type, **fields):
        common = {"hostname": "w1@host", "timestamp": now, "local_received": now, "clock": 1, "pid": 7}
        seen.hear({"type": type, **common, **fields})

    tell("worker-heartbeat", freq=3600.0, active=1, processed=5, loadavg=[0.5, 0.4, 0.3])
    for i in range(3):
        tell("task-received", uuid=f"t{i}", name="app.add", args=f"({i}, 2)", kwargs="{}", clock=i + 2)
    tell("task-succeeded", uuid="t0", result="2", runtime=0.5, clock=7)
    tell("task-failed", uuid="t1", exception="KeyError('x')", traceback="Traceback ... KeyError: 'x'", clock=8)
    seen.tell = tell
    return seen


def test_events_and_queues_make_a_picture(app, watch):
    app.tasks["app.add"].delay(1, 2)
    app.control.pause("celery")
    watch.look()

    picture = watch.picture()

    [worker] = picture.workers
    assert (worker.name, worker.alive, worker.busy, worker.slots, worker.done, worker.load) == (
        "w1@host", True, 1, None, 5, "0.50",
    )  # fmt: skip
    [queue] = picture.queues
    assert (queue.name, queue.size.ready, queue.paused) == ("celery", 1, True)
    assert [(task.id, task.state) for task in picture.tasks] == [
        ("t1", "FAILURE"),
        ("t0", "SUCCESS"),
        ("t2", "RECEIVED"),
    ]
    assert [task.id for task in watch.picture(failures=True).tasks] == ["t1"]
    assert picture.summary.rates["received"] == 0.003
    assert picture.summary.mean == 0.5
    assert not picture.silent


def test_a_picture_says_when_nobody_tells_of_tasks(app):
    watch, now = Watch(app), time.time()
    watch.hear(
        {"type": "worker-heartbeat", "hostname": "w1@host", "timestamp": now, "local_received": now, "processed": 9}
    )

    assert watch.picture().silent


def test_a_task_is_sent_again(app, watch):
    sent = watch.again("t1")

    [delivery] = _waiting(app)
    assert (delivery.message.id, app.coder.read(delivery.message).args) == (sent, [1, 2])
    watch.tell("task-received", uuid="long", name="app.add", args="(1, 2, ...)", kwargs="{}")
    watch.tell("task-received", uuid="odd", name="app.add", args="(<object at 0x1>,)", kwargs="{}")
    for task in ("odd",):
        with pytest.raises(ValueError, match="not known in full"):
            watch.again(task)


def _waiting(app):
    from umbel.brokers.base import Claim

    broker = app.open_broker()
    broker.consume(["celery"])
    try:
        return broker.settle([], Claim(limit=10, lease=60, owner="test")).deliveries
    finally:
        broker.close()


def _shown(screen):
    """Return what is on the screen, as lines."""
    return [
        "".join(segment.text for segment in screen._compositor.render_strips()[y]) for y in range(screen.size.height)
    ]


@pytest.mark.row("CLI-097")
def test_the_screen_fits_eighty_columns_and_obeys_keys(app, watch):
    pytest.importorskip("textual")
    from umbel.cli.top_screen import Top

    told = []
    app.control.enable_events = lambda: told.append("events")
    app.control.revoke = lambda *args, **kwargs: told.append((args, kwargs))
    app.control.rate_limit = lambda *args: told.append(args)

    async def afternoon():
        top = Top(watch, every=3600.0)
        watch.look()
        async with top.run_test(size=(80, 24)) as pilot:

            async def press(*keys):
                await pilot.press(*keys)
                await top.workers.wait_for_complete()
                await pilot.pause()

            await pilot.pause()
            lines = _shown(top.screen)
            assert "w1@host" in lines[2]
            assert "celery" in lines[4]
            assert "succeeded 0.0/s" in lines[5]
            assert [line.split()[:2] for line in lines[7:10]] == [
                ["FAILURE", "app.add"], ["SUCCESS", "app.add"], ["RECEIVED", "app.add"],
            ]  # fmt: skip
            assert "Revoke" in lines[23]
            assert "Quit" in lines[23]

            await press("f")
            assert "SUCCESS" not in "\n".join(_shown(top.screen))
            await press("f", "j", "j", "k")
            assert top.query_one("#tasks").chosen == "t0"
            await press("k", "enter")
            assert any("KeyError: 'x'" in line for line in _shown(top.screen))
            await press("escape", "c", "e")
            await press("l", "5", "/", "m", "enter")
            assert told == [(("t1",), {"terminate": True}), "events", ("app.add", "5/m")]
            await press("tab")
            assert top.focused.id == "queues"
            await press("p")
            assert watch.picture().queues[0].paused
            await press("p", "a")
            assert not watch.picture().queues[0].paused
            await press("tab", "tab")
            assert top.focused.id == "tasks"
            await press("q")

    asyncio.run(afternoon())
    assert len(_waiting(app)) == 1


def test_it_says_what_it_needs(umbel, hello, monkeypatch):
    monkeypatch.setitem(sys.modules, "textual", None)

    ran = umbel("-A", "hello", "top")

    assert ran.code == 2
    assert "pip install 'umbel[tui]'" in ran.err
