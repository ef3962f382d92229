"""Run a worker in a thread of the test's own process."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from umbel import current
from umbel.contrib.testing import tasks
from umbel.exceptions import TimeoutError as ResultTimeoutError
from umbel.result import allow_join_result
from umbel.signals import Signal
from umbel.worker.facts import Manner
from umbel.worker.worker import Worker

__all__ = ["start_worker", "test_worker_started", "test_worker_starting", "test_worker_stopped"]

test_worker_starting: Final = Signal(name="test_worker_starting")
test_worker_started: Final = Signal(name="test_worker_started", providing_args=("worker", "consumer"))
test_worker_stopped: Final = Signal(name="test_worker_stopped", providing_args=("worker",))


@contextmanager
def start_worker(
    app: Any,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: int | str | None = None,
    logfile: Any = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 60.0,
    shutdown_timeout: float = 60.0,
    **options: Any,
) -> Iterator[Worker]:
    """Run a worker for *app* during the block; *options* are those of `Worker`.

    With *perform_ping_check* the block begins when the worker has run a task, where results are kept. The pool ``solo``
    runs tasks in a thread of this process, so that they see what the test has patched.

    Raises:
        TimeoutError: the worker did not start within *ping_task_timeout*, or stop within *shutdown_timeout* seconds;
            Celery waits 10 s for either, which a busy machine may need.
        Exception: whatever ended the worker.
    """
    test_worker_starting.send(sender=app)
    ready, failed = threading.Event(), []
    app.finalize()
    worker = Worker(
        app,
        hostname=options.pop("hostname", "worker@testing"),
        pool=pool,
        concurrency=concurrency,
        on_ready=lambda _: ready.set(),
        **options,
    )
    if loglevel is not None:
        app.log.setup(loglevel=loglevel, logfile=logfile)

    def work() -> None:
        current.set_current_app(app)
        try:
            worker.start()
        except BaseException as exc:  # noqa: BLE001 - it is raised again in the thread of the test
            failed.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="umbel-test-worker", daemon=True)
    thread.start()
    try:
        if not ready.wait(ping_task_timeout):
            raise TimeoutError(f"the worker did not start within {ping_task_timeout} s")
        if failed:
            raise failed[0]
        test_worker_started.send(sender=app, worker=worker, consumer=worker)
        if perform_ping_check and app.backend_url() is not None:
            _ping(app, ping_task_timeout, failed)
        yield worker
    finally:
        worker.stop(Manner.WARM)
        thread.join(shutdown_timeout)
        test_worker_stopped.send(sender=app, worker=worker)
    if thread.is_alive():
        raise TimeoutError(f"the worker did not stop within {shutdown_timeout} s: does a task of the test hang?")
    if failed:
        raise failed[0]


def _ping(app: Any, timeout: float, failed: list[BaseException]) -> None:
    until = time.monotonic() + timeout
    with allow_join_result():
        result = app.tasks[tasks.ping.name].delay()
        while True:
            try:
                answer = result.get(timeout=min(0.5, timeout))
            except ResultTimeoutError:
                if failed:
                    raise failed[0] from None
                if time.monotonic() > until:
                    raise TimeoutError(f"the worker ran no task within {timeout} s") from None
            else:
                assert answer == "pong", answer
                return
