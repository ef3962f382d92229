"""Greenlets under a worker: only its child is patched, and every kind of task runs there."""

import subprocess
import sys
import textwrap

import pytest

from umbel.exceptions import MissingExtra
from umbel.pools.kinds import make_pool

PROGRAM = """
    import socket, sys, time
    from umbel import Umbel, group, signals
    from umbel.contrib.testing.worker import start_worker
    from umbel.exceptions import SoftTimeLimitExceeded

    kind = sys.argv[1]
    app = Umbel("green", broker="sqlite:///q.db", backend="sqlite:///q.db")

    @app.task
    def wait(seconds):
        time.sleep(seconds)
        return socket.socket.__module__

    @app.task
    async def await_(seconds):
        import asyncio
        await asyncio.sleep(seconds)
        return "awaited"

    @app.task
    def sums(number):
        return sum(range(number))

    @app.task
    def told():
        return TOLD

    TOLD = []
    @signals.eventlet_pool_started.connect
    def started(sender, **_):
        TOLD.append("started")

    @signals.eventlet_pool_apply.connect
    def apply(sender, target, args, kwargs, **_):
        TOLD.append(type(args[0]).__name__)

    def outcome(result):
        try:
            return result.get(timeout=60)
        except Exception as exc:
            return type(exc).__name__

    with start_worker(app, pool=kind, concurrency=50, perform_ping_check=False):
        began = time.monotonic()
        everything = group(*(wait.s(1) for _ in range(40)), *(await_.s(1) for _ in range(4)), sums.s(10))()
        found = everything.get(timeout=100)
        assert time.monotonic() - began < 30, "40 waits of a second were not at once"
        assert found[40:] == ["awaited"] * 4 + [45], found[40:]
        assert kind in found[0], found[0]
        assert socket.socket.__module__ == "socket"
        limited = [task.apply_async((120,), soft_time_limit=1) for task in (wait, await_)]
        assert [outcome(each) for each in limited] == ["SoftTimeLimitExceeded"] * 2
        if kind == "eventlet":
            heard = told.delay().get(timeout=60)
            assert heard[0] == "started" and set(heard[1:]) == {"Delivery"}, heard
    app.close()
    print("fine")
"""


@pytest.mark.process
@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
@pytest.mark.row("API-447", "API-448", "CLI-016")
def test_a_worker_of_greenlets_runs_every_kind_of_task(kind, tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))

    done = subprocess.run(
        [sys.executable, "program.py", kind], cwd=tmp_path, capture_output=True, text=True, timeout=140, check=False
    )

    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stdout + done.stderr


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(MissingExtra, match=r"the pool 'gevent' needs .* pip install 'umbel\[gevent\]'"):
        make_pool("gevent", None)
