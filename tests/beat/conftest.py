"""An app on a broker in memory, with a clock that stands still."""

from datetime import UTC, datetime

import pytest

from umbel import Umbel
from umbel.beat import Book, SharedScheduler
from umbel.brokers.base import Claim
from umbel.brokers.memory_store import MemoryStores
from umbel.contrib.testing.clock import VirtualClock


class Beats:
    """Beats of one app that share a clock, and what they have sent."""

    def __init__(self, clock, **settings):
        self.clock = clock
        self.app = Umbel("beats", broker="memory://", set_as_current=False, **settings)
        self.app.memory = MemoryStores(clock=clock)
        self.app.now = lambda: datetime.fromtimestamp(clock(), self.app.timezone)
        self.broker = self.app.open_broker()
        self.broker.consume(["celery"])
        self.book = Book(self.app)

    def start(self):
        return SharedScheduler(self.app, clock=self.clock)

    def sent(self):
        """Return the names of the tasks that were sent since the last time."""
        turn = self.broker.settle((), Claim(limit=10_000, lease=1e9, owner="test"))
        return [each.message.task for each in turn.deliveries]

    def run(self, beats, seconds, *, step=1.0):
        """Let time pass while *beats* tick."""
        end = self.clock() + seconds
        while self.clock() < end:
            self.clock.advance(min(step, end - self.clock()))
            for beat in beats:
                beat.tick()


@pytest.fixture
def clock():
    return VirtualClock(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


@pytest.fixture
def make(clock):
    made = []

    def make(**settings):
        made.append(Beats(clock, **settings))
        return made[-1]

    yield make
    for each in made:
        each.broker.close()
        each.app.close()
