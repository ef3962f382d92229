"""The memory store keeps the port's promises."""

from umbel.backends.memory import MemoryBackend
from umbel.brokers.memory import MemoryBroker, MemoryStore
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.backend import BackendContract
from umbel.contrib.testing.contracts.site import Site
from umbel.wire.record import Record


class TestMemoryBackend(BackendContract):
    def new_site(self, folder):
        clock = VirtualClock()
        store = MemoryStore(clock=clock)
        return Site(clock=clock, make_broker=lambda: MemoryBroker(store), make_backend=lambda: MemoryBackend(store))


def test_expired_results_leave_the_memory_by_themselves():
    clock = VirtualClock()
    store = MemoryStore(clock=clock)
    backend = MemoryBackend(store)
    for number in range(1000):
        backend.store([Record(id=f"{number}", state="SUCCESS", payload=b"", expires=10.0)])
        clock.advance(1.0)

    assert len(store.results) <= 10
    assert len(store.expiries) <= 10
