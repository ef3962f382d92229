from itertools import count

import pytest

from umbel import Umbel, current
from umbel.brokers.base import Claim, Done, Settlement
from umbel.brokers.base import Lease as LeaseOf
from umbel.pools.base import ChildInfo

_names = count()


@pytest.fixture
def app():
    """An app of the test's own, over memory, current in this thread."""
    with Umbel(f"app{next(_names)}", broker="memory://", backend="memory://") as made:
        yield made
    current.set_current_app(None)


@pytest.fixture
def sent(app):
    """Return what was published since the last call, as (message, route) in order."""

    def take(queue="celery"):
        return [(delivery.message, delivery.route) for delivery in _claim(app, queue)]

    return take


@pytest.fixture
def read(app):
    """Return args, kwargs and embedded follow-ups of a message."""

    def decode(message):
        return app.coder.read(message)

    return decode


@pytest.fixture
def work(app):
    """Run all that waits, and what follows from it, as a worker would; return the outcomes in order."""

    def run(queue="celery"):
        runner = app.make_runner("worker@test")
        runner.enter(ChildInfo(index=0, slots=1))
        outcomes = []
        while deliveries := _claim(app, queue, keep=True):
            broker, found = deliveries
            if not found:
                return outcomes
            for delivery in found:
                outcome = runner.perform(delivery)
                outcomes.append(outcome)
                lease = LeaseOf(delivery.tag, delivery.token)
                broker.settle(
                    [Settlement(lease=lease, verdict=Done(), follow_ups=outcome.follow_ups, records=outcome.records)]
                )
        return outcomes

    return run


def _claim(app, queue, *, keep=False):
    broker = app.open_broker()
    broker.consume([queue])
    found = broker.settle([], Claim(limit=1000, lease=60.0, owner="test")).deliveries
    if keep:
        return broker, found
    broker.settle([Settlement(lease=LeaseOf(each.tag, each.token), verdict=Done()) for each in found])
    return found
