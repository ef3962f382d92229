"""The stores that count chords keep the promises of the ports."""

from umbel.backends.memory import MemoryBackend
from umbel.brokers.memory import MemoryBroker, MemoryStore
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.chords import ChordCounterContract, ChordSettlementContract
from umbel.contrib.testing.contracts.site import Site


class _InMemory:
    def new_site(self, folder):
        clock = VirtualClock()
        store = MemoryStore(clock=clock)
        return Site(clock=clock, make_broker=lambda: MemoryBroker(store), make_backend=lambda: MemoryBackend(store))


class TestMemoryCounter(_InMemory, ChordCounterContract):
    pass


class TestMemorySettlement(_InMemory, ChordSettlementContract):
    pass
