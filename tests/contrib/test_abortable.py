import pytest

from umbel.contrib.abortable import AbortableAsyncResult, AbortableTask
from umbel.contrib.testing.app import TestApp
from umbel.contrib.testing.worker import start_worker


@pytest.mark.row("API-554")
def test_a_task_that_looks_ends_when_it_is_asked_to():
    with TestApp("abort") as app:

        @app.task(bind=True, base=AbortableTask, shared=False)
        def count(self):
            for number in range(10_000):
                if self.is_aborted():
                    return number
                self.AsyncResult(self.request.id).abort()
            return -1

        with start_worker(app):
            result = count.delay()
            assert result.get(timeout=30) == 1
            handle = count.AsyncResult(result.id)
            assert isinstance(handle, AbortableAsyncResult)
            assert not handle.is_aborted()

        waiting = AbortableAsyncResult("unknown", app=app)
        waiting.abort()
        assert waiting.is_aborted()
        assert waiting.state == "ABORTED"
        assert not count.is_aborted(task_id="another")
