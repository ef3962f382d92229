"""The memory broker keeps the port's promises, and its stores are found by name."""

import pytest

from umbel.backends.memory import MemoryBackend
from umbel.brokers.memory import MemoryBroker, MemoryStore, MemoryStores
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.broker import BrokerContract
from umbel.contrib.testing.contracts.site import Site


class TestMemoryBroker(BrokerContract):
    def new_site(self, folder):
        clock = VirtualClock()
        store = MemoryStore(clock=clock)
        return Site(clock=clock, make_broker=lambda: MemoryBroker(store), make_backend=lambda: MemoryBackend(store))


@pytest.mark.row("TB-013", "PRT-259")
def test_one_name_is_one_store():
    stores = MemoryStores()

    assert stores.at("memory://orders") is stores.at("memory://orders/?x=1")
    assert stores.at("memory://orders") is not stores.at("memory://")
    assert stores.at("memory://") is not MemoryStores().at("memory://")
