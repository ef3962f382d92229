"""What every test stands on: no settings from outside, servers by name, and no process that was not announced."""

import fcntl
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
NOT_PURE = ("process", "service", "slow")
STARTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}  # audit events

# The same examples on every run; `HYPOTHESIS_PROFILE=search` looks for new ones.
settings.register_profile("house", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))

for _name in [name for name in os.environ if name.startswith(("UMBEL_", "CELERY_", "FORKED_BY_"))]:
    if not _name.startswith("UMBEL_TEST_"):
        del os.environ[_name]  # a developer's own settings must not decide a test


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pure", action="store_true", help="only tests that need no process, server or time")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--pure"):
        pure = [item for item in items if not any(item.get_closest_marker(name) for name in NOT_PURE)]
        kept = set(pure)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = pure


def pytest_collection_finish() -> None:
    # Whoever is forked from here collects garbage first, and all that pytest has loaded is none: a pool starts in a
    # third of the time.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("service"):
        if _url(mark.args[0]) is None:
            pytest.skip(f"{mark.args[0]} does not run: python scripts/services.py start {mark.args[0]}")


@pytest.fixture(scope="session")
def service_url() -> Callable[[str], str]:
    """The URL of a server named in the test's ``service`` marker."""
    return lambda name: _url(name) or pytest.fail(f"mark this test with pytest.mark.service({name!r}, level='A')")


@pytest.fixture
def rabbitmq_vhost(service_url: Callable[[str], str]) -> Iterator[str]:
    """The URL of a virtual host of RabbitMQ that no other test uses meanwhile, in whatever process."""
    for number in itertools.cycle(range(2)):
        name = f"test-{number}"
        with (Path(tempfile.gettempdir()) / f"umbel-{os.getuid()}-{name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            yield service_url("rabbitmq").removesuffix("/") + name
            return


@pytest.fixture(autouse=True)
def _pure(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.config.getoption("--pure"):
        yield
        return
    _watch.on = True
    yield
    _watch.on = False


class _Watch:
    """Fail the running pure test when it starts a process. An audit hook cannot be taken away, so it has a switch."""

    on = False

    def __call__(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self.on and event in STARTS:
            pytest.fail(f"a test that starts a process ({event}) says so: pytest.mark.process")


_watch = _Watch()
sys.addaudithook(_watch)


def _url(service: str) -> str | None:
    """Return where *service* runs: as the environment says, else as scripts/services.py left word."""
    if url := os.environ.get(f"UMBEL_TEST_{service.upper()}"):
        return url
    try:
        return (ROOT / ".svc" / service / "url").read_text()
    except OSError:
        return None
