import pytest

from umbel.contrib.testing.contracts.pool import PoolContract, ProcessPoolContract, make_driver
from umbel.pools.kinds import make_pool

__all__ = ["make_driver"]


class TestSolo(PoolContract):
    is_isolated = False

    def make(self, runner, *, slots=1, **options):
        return make_pool("solo", runner)


@pytest.mark.process
class TestPrefork(ProcessPoolContract):
    def make(self, runner, *, slots=1, **options):
        return make_pool("prefork", runner, slots=slots, **options)


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
