import pytest

from umbel.contrib.testing.contracts.pool import PoolContract, ProcessPoolContract, make_driver
from umbel.pools.kinds import make_pool

__all__ = ["make_driver"]


@pytest.mark.row("TB-158", "TB-171")
class TestSolo(PoolContract):
    is_isolated = False

    def make(self, runner, *, slots=1, **options):
        return make_pool("solo", runner)


@pytest.mark.row("TB-158", "TB-160", "TB-161", "TB-162", "TB-163", "TB-164", "TB-165", "TB-168", "TB-174", "TB-179")
@pytest.mark.process
class TestPrefork(ProcessPoolContract):
    def make(self, runner, *, slots=1, **options):
        return make_pool("prefork", runner, slots=slots, **options)


@pytest.mark.row("TB-158", "TB-160", "TB-161", "TB-162", "TB-163", "TB-164", "TB-165")
@pytest.mark.process
class TestThreads(ProcessPoolContract):
    is_shared = True

    def make(self, runner, *, slots=1, **options):
        return make_pool("threads", runner, slots=slots, **options)


@pytest.mark.process
class TestAsyncio(ProcessPoolContract):
    is_shared = True

    def make(self, runner, *, slots=1, **options):
        return make_pool("asyncio", runner, slots=slots, **options)


@pytest.mark.row("TB-158", "TB-160", "TB-161", "TB-162", "TB-163", "TB-164", "TB-165")
@pytest.mark.process
class TestGevent(ProcessPoolContract):
    is_shared = True

    def make(self, runner, *, slots=1, **options):
        return make_pool("gevent", runner, slots=slots, **options)


@pytest.mark.row("TB-158", "TB-160", "TB-161", "TB-162", "TB-163", "TB-164", "TB-165")
@pytest.mark.process
class TestEventlet(ProcessPoolContract):
    is_shared = True
    # It starts several dozen children, each of which is patched (0.2 s each), and meets no code of eventlet's.
    test_each_job_has_one_receipt_when_children_are_killed_at_random = None

    def make(self, runner, *, slots=1, **options):
        return make_pool("eventlet", runner, slots=slots, **options)
