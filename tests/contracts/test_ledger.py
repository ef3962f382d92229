"""The brokers with a ledger keep the promises of that port."""

from umbel.brokers.memory import MemoryBroker, MemoryStore
from umbel.brokers.sqlite import Location, SqliteBroker
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.ledger import LedgerContract
from umbel.contrib.testing.contracts.site import Site


class TestMemoryLedger(LedgerContract):
    def new_site(self, folder):
        clock = VirtualClock()
        store = MemoryStore(clock=clock)
        return Site(clock=clock, make_broker=lambda: MemoryBroker(store))


class TestSqliteLedger(LedgerContract):
    def new_site(self, folder):
        clock = VirtualClock()
        location = Location(folder / "queue.db")
        return Site(clock=clock, make_broker=lambda: SqliteBroker(location, clock=clock))
