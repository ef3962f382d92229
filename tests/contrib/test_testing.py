import threading

import pytest

from umbel import Umbel, current
from umbel.contrib.testing.app import TestApp, setup_default_app
from umbel.contrib.testing.worker import (
    start_worker,
    test_worker_started,
    test_worker_starting,
    test_worker_stopped,
)


@pytest.fixture
def app():
    with TestApp("tests") as app:
        yield app


@pytest.mark.row("API-555")
def test_an_app_for_tests_lives_in_memory_and_leaves_logging_alone(app):
    assert isinstance(app, Umbel)
    assert (app.conf.broker_url, app.conf.result_backend) == ("memory://", "cache+memory://")
    assert app.log.setup(loglevel="DEBUG")
    assert TestApp(config={"timezone": "Asia/Tokyo"}).conf.timezone == "Asia/Tokyo"


def test_an_app_is_current_for_a_block(app):
    before = current.app_or_none()
    with setup_default_app(app):
        assert current.get_current_app() is app
    assert current.app_or_none() is before


@pytest.mark.row("API-556", "API-557")
def test_a_worker_runs_beside_the_test(app):
    told = []

    def tell(signal, **_):
        told.append(signal.name)

    for signal in (test_worker_starting, test_worker_started, test_worker_stopped):
        signal.connect(tell)

    @app.task(shared=False)
    def where():
        return threading.current_thread().name

    with start_worker(app) as worker:
        assert worker.hostname == "worker@testing"
        assert where.delay().get(timeout=30) == "umbel-test-worker"

    assert told == ["test_worker_starting", "test_worker_started", "test_worker_stopped"]


def test_what_ends_the_worker_is_raised_in_the_test(app):
    app.conf.imports = ("no.such.module",)

    with pytest.raises(ModuleNotFoundError, match="no"), start_worker(app):
        pass
