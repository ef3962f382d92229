"""Redis keeps the promises of the ports: messages, results and chords, in one corner of a real server for each test."""

import functools
import uuid

import pytest

from umbel.backends.redis import RedisBackend
from umbel.brokers.redis import RedisBroker
from umbel.brokers.redis_address import parse_address
from umbel.brokers.redis_link import Link
from umbel.brokers.redis_names import Names
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.backend import BackendContract
from umbel.contrib.testing.contracts.broker import BrokerContract
from umbel.contrib.testing.contracts.chords import ChordCounterContract, ChordSettlementContract
from umbel.contrib.testing.contracts.ledger import LedgerContract
from umbel.contrib.testing.contracts.site import Site

pytestmark = pytest.mark.service("redis", "A")


class ServerClock(VirtualClock):
    """A clock that takes the server with it: as it goes forward, the keys have that much less to live."""

    def __init__(self, address, prefix):
        super().__init__()
        self._address = address
        self._prefix = prefix

    def advance(self, seconds):
        super().advance(seconds)
        link = Link(self._address)
        for key in link.call("KEYS", f"{self._prefix}*"):
            left = link.call("PTTL", key)
            if left >= 0:
                link.call("PEXPIRE", key, left - int(seconds * 1000))
        link.close()


class _OnRedis:
    @pytest.fixture(autouse=True)
    def _server(self, service_url):
        self.address = parse_address(service_url("redis"), {})

    def new_site(self, folder):
        prefix = f"t{uuid.uuid4().hex[:12]}."
        names = Names.of({"global_keyprefix": prefix}, {"global_keyprefix": prefix})
        clock = ServerClock(self.address, prefix)
        return Site(
            clock=clock,
            make_broker=lambda: RedisBroker(self.address, names, clock=clock),
            make_backend=lambda: RedisBackend(self.address, names, clock=clock),
            open_elsewhere=functools.partial(RedisBroker, self.address, names),
            open_results_elsewhere=functools.partial(RedisBackend, self.address, names),
            poison=functools.partial(_poison, self.address, prefix),
            temporary_queues=False,  # the server has no timer for them: kombu's do not go with their readers either
            exchange_types=frozenset({"direct", "topic", "fanout"}),
        )


@pytest.mark.row("TB-003", "TB-125", "PRT-135")
class TestRedisBroker(_OnRedis, BrokerContract):
    pass


class TestRedisCounter(_OnRedis, ChordCounterContract):
    pass


class TestRedisSettlement(_OnRedis, ChordSettlementContract):
    pass


class TestRedisLedger(_OnRedis, LedgerContract):
    pass


@pytest.mark.row("TB-126", "TB-146", "TB-147", "TB-153", "TB-154", "PRT-064")
class TestRedisBackend(_OnRedis, BackendContract):
    pass


def _poison(address, prefix, queue, data):
    """Write bytes that no umbel would write."""
    link = Link(address)
    link.call("LPUSH", prefix + queue, data)
    link.close()
