# ruff: noqa: FBT002 - Celery's signatures
"""A task's own Request class is told in the worker what becomes of its deliveries."""

import queue
from contextlib import closing

import pytest

from umbel import Task, Umbel, signals
from umbel.contrib.testing.worker import start_worker
from umbel.exceptions import TimeLimitExceeded
from umbel.worker.request import Request, request_class

HEARD: queue.Queue = queue.Queue()


class Heard(Request):
    """Puts down what it is told."""

    def revoked(self):
        return self.message.headers.get("forbidden", False)

    def on_accepted(self, pid, time_accepted):
        HEARD.put((self.id, "accepted", pid == self.worker_pid, self.time_start == time_accepted))

    def on_timeout(self, soft, timeout):
        HEARD.put((self.id, "timeout", soft, timeout))

    def on_success(self, failed__retval__runtime, **kwargs):
        failed, retval, runtime = failed__retval__runtime
        HEARD.put((self.id, "success", failed, retval, runtime >= 0))

    def on_retry(self, exc_info):
        HEARD.put((self.id, "retry", exc_info.type, str(exc_info.exception)))

    def on_failure(self, exc_info, send_failed_event=True, return_ok=False):
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        HEARD.put((self.id, "failure", exc_info.type, str(exc_info.exception), "rror" in exc_info.traceback))

    def acknowledge(self):
        super().acknowledge()
        HEARD.put((self.id, "acknowledged", self.info()["acknowledged"]))

    def reject(self, requeue=False):
        HEARD.put((self.id, "rejected", requeue))


class Told(Task):
    """The base of tasks whose deliveries are told of."""

    Request = Heard


def told_of(task_id, count):
    told = [HEARD.get(timeout=60) for _ in range(count)]
    return [each[1:] for each in told if each[0] == task_id]


@pytest.fixture
def app():
    HEARD.queue.clear()
    with Umbel("told", broker="memory://", backend="memory://", set_as_current=False) as app:
        yield app


@pytest.mark.row("API-586")
def test_it_is_told_how_each_delivery_ends(app):
    @app.task(base=Told, bind=True, max_retries=1, default_retry_delay=0)
    def work(self, how):
        if how == "well":
            return 42
        if how == "badly":
            raise ValueError("no")
        raise self.retry(exc=KeyError("again"))

    @app.task
    def other():
        return 1

    with start_worker(app, perform_ping_check=False):
        fine = work.delay("well").id
        assert told_of(fine, 3) == [
            ("accepted", True, True), ("success", False, "42", True), ("acknowledged", True),
        ]  # fmt: skip
        bad = work.delay("badly").id
        assert told_of(bad, 3) == [
            ("accepted", True, True), ("failure", ValueError, "no", True), ("acknowledged", True),
        ]  # fmt: skip
        again = work.delay("again").id
        assert [each[0] for each in told_of(again, 6)] == [
            "accepted", "retry", "acknowledged", "accepted", "failure", "acknowledged",
        ]  # fmt: skip
        forbidden = work.apply_async(("well",), headers={"forbidden": True})
        assert told_of(forbidden.id, 1) == [("acknowledged", True)]
        assert forbidden.state == "REVOKED"
        assert other.delay().get(timeout=60) == 1
    assert HEARD.empty()


@pytest.mark.process
@pytest.mark.row("API-586")
def test_it_learns_of_time_limits_where_the_task_is_gone(app):
    @app.task(base=Told, time_limit=0.4, soft_time_limit=0.1)
    def stubborn():
        while True:
            try:
                queue.Queue().get(timeout=60)
            except Exception:  # noqa: BLE001 - as users do
                continue

    with start_worker(app, pool="prefork", perform_ping_check=False):
        told = told_of(stubborn.delay().id, 5)

    assert told[0][0] == "accepted"
    assert told[1:3] == [("timeout", True, 0.1), ("timeout", False, 0.4)]
    assert told[3][:2] == ("failure", TimeLimitExceeded)
    assert told[4] == ("acknowledged", True)


@pytest.mark.process
@pytest.mark.row("CLI-069")
def test_a_task_that_was_acknowledged_before_it_ran_ends_as_retry_when_a_cold_stop_kills_it(app):
    heard = queue.Queue()

    class Cancelled(Told):
        def on_retry(self, exc, task_id, args, kwargs, einfo):
            heard.put(("on_retry", task_id))

    @app.task(base=Cancelled, acks_late=False)
    def stubborn():
        queue.Queue().get(timeout=60)

    def on_task_retry(request, reason, **_):
        heard.put(("task_retry", request.id))

    signals.task_retry.connect(on_task_retry)
    try:
        with start_worker(app, pool="prefork", perform_ping_check=False) as worker:
            result = stubborn.delay()
            assert HEARD.get(timeout=60)[1] == "accepted"
            worker.terminate()
            assert [heard.get(timeout=60) for _ in range(2)] == [("on_retry", result.id), ("task_retry", result.id)]
    finally:
        signals.task_retry.disconnect(on_task_retry)

    assert result.state == "RETRY"
    with closing(app.open_broker()) as broker:
        assert broker.sizes()["celery"].ready == 0


def test_it_may_be_named_and_must_be_one(app):
    @app.task
    def work():
        return 1

    work.Request = "umbel.worker.request:Request"
    assert request_class(work) is None
    work.Request = f"{__name__}:Heard"
    assert request_class(work).__name__ == "Heard"
    work.Request = f"{__name__}:Told"
    with pytest.raises(TypeError, match="must be a subclass of"), start_worker(app):
        pass


def test_a_request_class_that_raises_does_no_harm(app, caplog):
    class Broken(Request):
        def __init__(self, *args, **kwargs):
            raise RuntimeError("mine")

    @app.task
    def work():
        return 1

    work.Request = Broken
    with start_worker(app, perform_ping_check=False):
        assert work.delay().get(timeout=60) == 1
    assert "the Request of task" in caplog.text
