"""Who leads the loop while a solo pool runs its jobs."""

import select
import threading

import pytest

from umbel.pools.base import Finished, Job
from umbel.pools.solo import SoloPool

PATIENCE = 30.0  # seconds


class Runner:
    """Calls what it is given."""

    payload_type = report_type = object

    def enter(self, child):
        pass

    def perform(self, payload):
        return payload()

    async def aperform(self, payload):
        return payload()

    def leave(self, exitcode):
        pass


class Leader:
    """A loop that hands one job after the other to its pool, and is over when all have ended."""

    def __init__(self, *jobs):
        self.pool = SoloPool(Runner())
        self.pool.start()
        self.jobs = list(jobs)
        self.left = len(jobs)
        self.receipts = []
        self.threads = set()
        self.leads_aside = threading.Event()

    def lead(self, until):
        self.threads.add(threading.get_ident())
        if threading.current_thread() is not threading.main_thread():
            self.leads_aside.set()
        while True:
            self.receipts += self.pool.collect()
            if len(self.receipts) == self.left:
                return True
            if self.jobs and len(self.receipts) == self.left - len(self.jobs):
                self.pool.submit([Job(len(self.jobs), self.jobs.pop())])
            if until():
                return False
            select.select([self.pool.fileno()], [], [], PATIENCE)


def test_jobs_run_in_the_thread_that_calls_run_whoever_leads():
    leader = Leader(*[threading.get_ident] * 50)

    leader.pool.run(leader.lead)

    assert [(type(each), each.report) for each in leader.receipts] == [(Finished, threading.get_ident())] * 50


def test_a_job_that_takes_its_time_leaves_the_loop_to_another_thread():
    leader = Leader(int, lambda: leader.leads_aside.wait(PATIENCE), int)

    leader.pool.run(leader.lead)

    assert [each.report for each in leader.receipts] == [0, True, 0]
    assert len(leader.threads) == 2


def test_run_raises_what_fails_in_the_other_thread():
    fails = threading.Event()
    leader = Leader(lambda: fails.wait(PATIENCE))

    def lead(until):
        if threading.current_thread() is threading.main_thread():
            return leader.lead(until)
        fails.set()
        raise OSError("no broker at all")

    with pytest.raises(OSError, match="no broker at all"):
        leader.pool.run(lead)
