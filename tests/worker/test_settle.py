"""Settling where broker and store are two servers: in the safe order, and nobody waits for what can never be sent."""

from umbel.brokers.base import Claim, Lease, Publication, Settlement
from umbel.brokers.memory import MemoryBroker
from umbel.brokers.memory_store import MemoryStore
from umbel.contrib.testing.contracts.calls import call, send, to
from umbel.exceptions import BrokerUnusable
from umbel.wire.message import Route
from umbel.worker.settle import Apart


class Refuses(MemoryBroker):
    """Takes nothing for the exchange "nowhere", as RabbitMQ does when there is none."""

    def publish(self, publications, *, timeout=5.0):
        if any(each.route.exchange == "nowhere" for each in publications):
            raise BrokerUnusable("there is no exchange 'nowhere'")
        super().publish(publications, timeout=timeout)


def test_a_follow_up_that_cannot_be_sent_is_kept_with_its_task_and_stops_no_other():
    broker = Refuses(MemoryStore())
    broker.consume(["q"])
    send(broker, "q", "bad", "good")
    bad, good = broker.settle((), Claim(limit=2, lease=30, owner="n")).deliveries
    nowhere = Publication(message=call("lost"), route=Route("nowhere", "key"))
    settlements = [
        Settlement(lease=Lease(bad.tag, bad.token), follow_ups=(nowhere,)),
        Settlement(lease=Lease(good.tag, good.token), follow_ups=(to("next", "2"),)),
    ]

    assert Apart(broker, None).exchange(settlements, None).refused == ()

    (letter,) = broker.dead()
    assert (letter.id, letter.reason) == ("bad", "rejected")
    assert "no exchange 'nowhere'" in letter.evidence[0]
    assert broker.sizes()["next"].ready == 1
    assert broker.sizes()["q"].claimed == 0
