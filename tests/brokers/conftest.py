"""A corner of a Redis server for one test, and another's eyes on it."""

import uuid

import pytest


@pytest.fixture
def prefix():
    """Return what all keys of the test begin with."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture
def eye(service_url):
    """Return a client of the server that is none of ours."""
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(service_url("redis"), decode_responses=True) as server:
        yield server
