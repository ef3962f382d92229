"""The suites notice what they are there to notice: stores that break a promise fail the test of that promise."""

import pytest

from umbel.backends.memory import MemoryBackend
from umbel.brokers.memory import MemoryBroker, MemoryStore
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.backend import BackendContract
from umbel.contrib.testing.contracts.broker import BrokerContract
from umbel.contrib.testing.contracts.site import Site


class BelievesEverybody(MemoryStore):
    """Lets stale holders settle."""

    def holds(self, lease):
        return lease.tag in self.held


class Forgets(MemoryStore):
    """Loses what is claimed, as a broker that pops does when its reader dies."""

    def _reclaim(self, now):
        self.held = {tag: entry for tag, entry in self.held.items() if entry.until > now}


class Sleeps(MemoryStore):
    """Wakes nobody for what is published."""

    def put(self, publications, now):
        listeners = {name: queue.listeners for name, queue in self.queues.items()}
        for queue in self.queues.values():
            queue.listeners = []
        super().put(publications, now)
        for name, found in listeners.items():
            self.queues[name].listeners = found


class WritesFirst(MemoryStore):
    """Publishes follow-ups before it looks whether the settlement holds."""

    def settle(self, settlement, now):
        if settlement.lease is not None and not self.holds(settlement.lease):
            self.put(settlement.follow_ups, now)
        return super().settle(settlement, now)


class Overwrites(MemoryStore):
    """Lets a late record replace a success."""

    def keep(self, records, now):
        for record in records:
            self.results.pop(record.id, None)
        super().keep(records, now)


class TellsNobody(MemoryStore):
    """Stores results in silence."""

    def keep(self, records, now):
        watchers, self.watchers = self.watchers, {}
        super().keep(records, now)
        self.watchers = watchers


def site_of(kind):
    clock = VirtualClock()
    store = kind(clock=clock)
    return Site(clock=clock, make_broker=lambda: MemoryBroker(store), make_backend=lambda: MemoryBackend(store))


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (BelievesEverybody, BrokerContract().test_renewing_tells_which_leases_are_lost),
        (BelievesEverybody, BrokerContract().test_who_released_a_message_and_claims_it_again_needs_the_new_token),
        (Forgets, BrokerContract().test_a_lease_that_runs_out_frees_the_message_with_a_counted_crash),
        (Forgets, BrokerContract().test_leases_outlive_the_connection),
        (WritesFirst, BrokerContract().test_a_delivery_settled_twice_in_one_exchange_is_settled_once),
        (Overwrites, lambda site: BackendContract().test_nothing_replaces_success(site, "FAILURE")),
    ],
)
def test_a_broken_promise_is_noticed(kind, promise):
    with site_of(MemoryStore).opened() as site:
        promise(site)

    with site_of(kind).opened() as site, pytest.raises((AssertionError, ValueError)):
        promise(site)


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (Sleeps, BrokerContract().test_all_connections_of_a_queue_are_woken),
        (TellsNobody, BackendContract().test_a_watch_is_told_of_what_its_own_connection_stores),
    ],
)
def test_a_missed_wake_up_is_noticed(kind, promise, monkeypatch):
    monkeypatch.setattr("umbel.contrib.testing.contracts.backend.PATIENCE", 0.05)
    monkeypatch.setattr("umbel.contrib.testing.contracts.calls.PATIENCE", 0.05)

    with site_of(kind).opened() as site, pytest.raises(AssertionError):
        promise(site)


def test_a_virtual_clock_stands_still_until_it_is_moved_forward():
    clock = VirtualClock(100.0)
    clock.advance(2.5)

    assert clock() == clock() == 102.5
    with pytest.raises(ValueError, match=r"forward only, not by -1"):
        clock.advance(-1)
