"""Fixtures for tests of tasks: an app over memory, and a worker that runs beside the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from umbel.contrib.testing.app import TestApp, setup_default_app
from umbel.contrib.testing.worker import start_worker

__all__ = [
    "celery_app",
    "celery_class_tasks",
    "celery_config",
    "celery_enable_logging",
    "celery_includes",
    "celery_parameters",
    "celery_session_app",
    "celery_session_worker",
    "celery_worker",
    "celery_worker_parameters",
    "celery_worker_pool",
    "depends_on_current_app",
    "pytest_configure",
    "umbel_app",
    "umbel_session_app",
    "umbel_session_worker",
    "umbel_worker",
    "use_celery_app_trap",
]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "celery(**settings): settings of the app of this test, for umbel's fixtures")


@contextmanager
def _app(request: Any, parameters: Mapping[str, Any], *, logging: bool, trap: bool, **config: Any) -> Iterator[Any]:
    markers = request.node.iter_markers("celery") if request.scope == "function" else ()
    for marker in reversed(list(markers)):
        config.update(marker.kwargs)
    app = TestApp(set_as_current=False, enable_logging=logging, config=config, **parameters)
    with setup_default_app(app, use_trap=trap):
        app.set_default()
        app.set_current()
        yield app
    app.close()


# -- What a test project overrides -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Whether no app is current where a test has none; override to change it."""
    return False


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Settings of the apps; override it."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Arguments of the apps; override it."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Arguments of the workers; override it."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """The pool of the workers; override it."""
    return "solo"


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Whether the workers set logging up; override it."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Modules that the session's worker imports; override it."""
    return ()


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Tasks written as classes that the session's app registers; override it."""
    return ()


# -- What tests use ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def celery_session_app(
    request: Any,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,  # noqa: FBT001 - a fixture
    use_celery_app_trap: bool,  # noqa: FBT001 - a fixture
) -> Iterator[Any]:
    """One app for all tests."""
    options = {"logging": celery_enable_logging, "trap": use_celery_app_trap}
    with _app(request, celery_parameters, **options, **celery_config) as app:
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Any,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """One worker for all tests."""
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with start_worker(celery_session_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def celery_app(
    request: Any,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,  # noqa: FBT001 - a fixture
    use_celery_app_trap: bool,  # noqa: FBT001 - a fixture
) -> Iterator[Any]:
    """One app for each test; ``@pytest.mark.celery(task_acks_late=False)`` changes its settings."""
    options = {"logging": celery_enable_logging, "trap": use_celery_app_trap}
    with _app(request, celery_parameters, **options, **celery_config) as app:
        yield app


@pytest.fixture
def celery_worker(
    celery_app: Any,
    celery_includes: Sequence[str],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """One worker for each test, for `celery_app`."""
    for module in celery_includes:
        celery_app.loader.import_task_module(module)
    with start_worker(celery_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Any) -> None:
    """Make the test's app the current one."""
    celery_app.set_current()


@pytest.fixture(scope="session")
def umbel_session_app(celery_session_app: Any) -> Any:
    """The same as `celery_session_app`."""
    return celery_session_app


@pytest.fixture(scope="session")
def umbel_session_worker(celery_session_worker: Any) -> Any:
    """The same as `celery_session_worker`."""
    return celery_session_worker


@pytest.fixture
def umbel_app(celery_app: Any) -> Any:
    """The same as `celery_app`."""
    return celery_app


@pytest.fixture
def umbel_worker(celery_worker: Any) -> Any:
    """The same as `celery_worker`."""
    return celery_worker
