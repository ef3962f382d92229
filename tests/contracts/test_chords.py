"""The stores that count chords keep the promises of the ports."""

from umbel.backends.memory import MemoryBackend
from umbel.backends.sqlite import SqliteBackend
from umbel.brokers.memory import MemoryBroker, MemoryStore
from umbel.brokers.sqlite import Location, SqliteBroker
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.chords import ChordCounterContract, ChordSettlementContract
from umbel.contrib.testing.contracts.site import Site


class _InMemory:
    def new_site(self, folder):
        clock = VirtualClock()
        store = MemoryStore(clock=clock)
        return Site(clock=clock, make_broker=lambda: MemoryBroker(store), make_backend=lambda: MemoryBackend(store))


class _InSqlite:
    def new_site(self, folder):
        clock = VirtualClock()
        location = Location(folder / "queue.db")
        return Site(
            clock=clock,
            make_broker=lambda: SqliteBroker(location, clock=clock),
            make_backend=lambda: SqliteBackend(location, clock=clock),
        )


class TestMemoryCounter(_InMemory, ChordCounterContract):
    pass


class TestMemorySettlement(_InMemory, ChordSettlementContract):
    pass


class TestSqliteCounter(_InSqlite, ChordCounterContract):
    pass


class TestSqliteSettlement(_InSqlite, ChordSettlementContract):
    pass
