"""A Celery on the other side: fleets on Redis and on RabbitMQ, shared by all tests."""

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("umbel_interop_fleet", Path(__file__).with_name("fleet.py"))
fleet = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = fleet
spec.loader.exec_module(fleet)

DATABASES = range(2, 13)  # of Redis, where no other test is; each fleet has the next for itself


@pytest.fixture(scope="session")
def make_fleet(service_url, tmp_path_factory):
    """Make a fleet on a broker that is empty."""
    import redis

    if not fleet.CELERY.exists():
        pytest.skip("no real Celery: make .venv-peer/.celery")
    fleets, databases = [], itertools.cycle(DATABASES)

    def make(broker: str, **settings) -> fleet.Fleet:
        results = service_url("redis").rpartition("/")[0] + f"/{next(databases)}"
        with redis.Redis.from_url(results) as server:
            server.flushdb()
        where = results if broker == "redis" else service_url("rabbitmq").removesuffix("/") + "interop"
        made = fleet.Fleet(where, results, tmp_path_factory.mktemp(broker), **settings)
        fleets.append(made)
        return made

    yield make
    for each in fleets:
        each.close()


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("redis", marks=pytest.mark.service("redis", "A")),
        pytest.param("rabbitmq", marks=[pytest.mark.service("rabbitmq", "A"), pytest.mark.service("redis", "A")]),
    ],
)
def shared(request, make_fleet) -> Iterator[fleet.Fleet]:
    """A worker of each side, each on the queue of its name."""
    made = make_fleet(request.param)
    for worker in [made.worker(side, side) for side in ("celery", "umbel")]:
        worker.ready()
    yield made
    made.close()
