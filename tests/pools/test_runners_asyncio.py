import asyncio
import time

import pytest

from umbel.contrib.testing.contracts.pool import make_driver
from umbel.exceptions import SoftTimeLimitExceeded, Terminated
from umbel.pools.base import Interrupt
from umbel.pools.kinds import make_pool

__all__ = ["make_driver"]

pytestmark = pytest.mark.process


class Coroutines:
    """A runner whose payloads name coroutine functions."""

    payload_type = str
    report_type = object

    def __init__(self, **functions):
        self._functions = functions

    def enter(self, child):
        """There is nothing to do."""

    def leave(self, exitcode):
        """There is nothing to do."""

    def perform(self, payload):
        raise NotImplementedError

    async def aperform(self, payload):
        return await self._functions[payload]()


@pytest.mark.usefixtures("make_driver")
class TestAsyncio:
    def make(self, runner, *, slots=10, **options):
        return make_pool("asyncio", runner, slots=slots, **options)

    def test_a_soft_limit_is_raised_where_the_coroutine_awaits_and_can_be_handled(self, make_driver):
        async def cautious():
            try:
                await asyncio.gather(asyncio.sleep(30), asyncio.sleep(30))
            except SoftTimeLimitExceeded:
                await asyncio.sleep(0.01)  # tidies up
                return "tidy"

        driver = make_driver(Coroutines(cautious=cautious))
        (tag,) = driver.give("cautious", announce=True)
        driver.until(lambda: tag in driver.started)

        driver.pool.interrupt(tag, Interrupt.SOFT)

        assert driver.results([tag]) == ["tidy"]

    def test_timeouts_and_cancellation_of_the_coroutines_own_are_left_alone(self, make_driver):
        async def own():
            heard = []
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(30)
            except TimeoutError:
                heard.append("timeout")
            inner = asyncio.ensure_future(asyncio.sleep(30))
            await asyncio.sleep(0)
            inner.cancel()
            try:
                await inner
            except asyncio.CancelledError:
                heard.append("cancelled")
            return heard

        driver = make_driver(Coroutines(own=own))

        assert driver.results(driver.give("own")) == [["timeout", "cancelled"]]

    def test_timeouts_still_work_after_a_soft_limit(self, make_driver):
        async def again():
            try:
                await asyncio.sleep(30)
            except SoftTimeLimitExceeded:
                pass
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(30)
            except TimeoutError:
                return "timeout"

        driver = make_driver(Coroutines(again=again))
        (tag,) = driver.give("again", announce=True)
        driver.until(lambda: tag in driver.started)

        driver.pool.interrupt(tag, Interrupt.SOFT)

        assert driver.results([tag]) == ["timeout"]

    def test_what_runs_in_a_thread_is_struck_there(self, make_driver):
        def blocking():
            try:
                while True:
                    time.sleep(0.001)
            except Terminated:
                return "in the thread"

        async def outer():
            return await asyncio.to_thread(blocking)

        driver = make_driver(Coroutines(outer=outer))
        (tag,) = driver.give("outer", announce=True)
        driver.until(lambda: tag in driver.started)

        driver.pool.interrupt(tag, Interrupt.CANCEL)

        assert driver.results([tag]) == ["in the thread"]

    def test_a_coroutine_that_never_awaits_is_ended_with_its_process(self, make_driver):
        async def deaf():
            time.sleep(60)  # noqa: ASYNC251 - this is what is wrong with it

        async def neighbour():
            await asyncio.sleep(60)

        driver = make_driver(Coroutines(deaf=deaf, neighbour=neighbour), grace=0.1)
        (innocent,) = driver.give("neighbour", announce=True)
        driver.until(lambda: innocent in driver.started)
        (tag,) = driver.give("deaf", announce=True)
        driver.until(lambda: tag in driver.started)

        driver.pool.interrupt(tag, Interrupt.KILL)

        assert driver.lost(tag).at_fault
        assert not driver.lost(innocent).at_fault

    def test_hundreds_of_coroutines_wait_at_once(self, make_driver):
        here, all_here = [], asyncio.Event()

        async def meet():
            here.append(1)
            if len(here) == 1000:
                all_here.set()
            await all_here.wait()
            return 1

        driver = make_driver(Coroutines(meet=meet), slots=1000)

        assert sum(driver.results(driver.give(*["meet"] * 1000))) == 1000

    def test_all_jobs_run_on_one_loop(self, make_driver):
        async def loop():
            return id(asyncio.get_running_loop())

        driver = make_driver(Coroutines(loop=loop))

        assert len(set(driver.results(driver.give(*["loop"] * 20)))) == 1
