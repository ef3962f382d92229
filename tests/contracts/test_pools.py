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


@pytest.mark.process
class TestEventlet(ProcessPoolContract):
    """Only what the library itself has a part in; the rest is the same code as gevent's, and eventlet starts slowly."""

    is_shared = True

    def make(self, runner, *, slots=1, **options):
        return make_pool("eventlet", runner, slots=slots, **options)


_OF_EVENTLET = (
    "test_a_cancelled_job_ends_and_its_neighbour_does_not",
    "test_a_killed_job_ends_whatever_it_does",
    "test_a_pool_grows_and_shrinks",
    "test_a_soft_interrupt_is_raised_inside_its_job_and_no_other",
    "test_all_slots_run_at_once",
    "test_nothing_wakes_the_loop_of_an_idle_pool",
    "test_recycling_replaces_each_process_when_its_jobs_have_ended",
    "test_soft_interrupts_at_the_last_moment_never_hit_the_next_job",
    "test_stop_lets_running_jobs_finish_and_gives_up_the_others",
    "test_thousands_of_jobs_get_one_receipt_each",
)

for _name in dir(ProcessPoolContract):
    if _name.startswith("test_") and _name not in _OF_EVENTLET:
        setattr(TestEventlet, _name, None)
