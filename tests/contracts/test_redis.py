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
from umbel.contrib.testing.contracts.site import RealClock, Site

pytestmark = pytest.mark.service("redis", "A")


class HurriedClock(RealClock):
    """The time of this machine, which sleeps only as long as the server needs to remove what expires."""

    def __init__(self):
        self._ahead = 0.0

    def __call__(self):
        return super().__call__() + self._ahead

    def advance(self, seconds):
        asleep = min(seconds, 2.2)
        super().advance(asleep)
        self._ahead += seconds - asleep


class _OnRedis:
    @pytest.fixture(autouse=True)
    def _server(self, service_url):
        self.address = parse_address(service_url("redis"), {})

    def new_site(self, folder):
        prefix = f"t{uuid.uuid4().hex[:12]}."
        names = Names.of({"global_keyprefix": prefix}, {"global_keyprefix": prefix})
        clock = self.new_clock()
        return Site(
            clock=clock,
            make_broker=lambda: RedisBroker(self.address, names, clock=clock),
            make_backend=lambda: RedisBackend(self.address, names, clock=clock),
            open_elsewhere=functools.partial(RedisBroker, self.address, names),
            open_results_elsewhere=functools.partial(RedisBackend, self.address, names),
            poison=functools.partial(_poison, self.address, prefix),
            second=self.second,
            temporary_queues=False,  # the server has no timer for them: kombu's do not go with their readers either
            exchange_types=frozenset({"direct", "topic", "fanout"}),
        )


class TestRedisBroker(_OnRedis, BrokerContract):
    second = 1.0
    new_clock = VirtualClock


class TestRedisCounter(_OnRedis, ChordCounterContract):
    second = 0.1
    new_clock = HurriedClock


class TestRedisSettlement(_OnRedis, ChordSettlementContract):
    second = 1.0
    new_clock = VirtualClock


class TestRedisBackend(_OnRedis, BackendContract):
    second = 0.1  # the server's own clock removes results, and that waits for nobody
    new_clock = RealClock


def _poison(address, prefix, queue, data):
    """Write bytes that no umbel would write."""
    link = Link(address)
    link.call("LPUSH", prefix + queue, data)
    link.close()
