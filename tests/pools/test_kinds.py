import pytest

from umbel.contrib.testing.contracts.pool import ScriptRunner
from umbel.exceptions import ImproperlyConfigured
from umbel.pools.kinds import POOLS, make_pool


@pytest.mark.row("TB-159")
@pytest.mark.parametrize("kind", POOLS)
def test_a_pool_says_its_kind_before_it_starts(kind):
    info = make_pool(kind, ScriptRunner(), slots=3).info()

    assert info["kind"] == kind
    assert info["slots"] == (1 if kind == "solo" else 3)


def test_celerys_other_name_of_prefork_is_known():
    assert make_pool("processes", ScriptRunner()).info()["kind"] == "prefork"


def test_an_unknown_kind_is_an_error_that_names_the_known_ones():
    known = "prefork, threads, asyncio, gevent, eventlet, solo"
    with pytest.raises(ImproperlyConfigured, match=f"'fork'; choose one of {known}"):
        make_pool("fork", ScriptRunner())
