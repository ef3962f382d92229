"""The RabbitMQ broker keeps the port's promises, as far as AMQP can."""

import select
import time
from typing import ClassVar

import pytest

from umbel.brokers.amqp import AmqpBroker, AmqpOptions
from umbel.brokers.amqp_address import dialling
from umbel.brokers.amqp_delays import span
from umbel.brokers.amqp_link import connect
from umbel.brokers.base import Publication, Release
from umbel.contrib.testing.contracts.broker import _ODD_NAMES, BrokerContract
from umbel.contrib.testing.contracts.calls import call, nothing_comes, send, take
from umbel.contrib.testing.contracts.site import Site
from umbel.exceptions import BrokerUnusable
from umbel.wire import amqp
from umbel.wire.codecs import Codecs
from umbel.wire.message import Route
from umbel.wire.protocol import MessageReader
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology

pytestmark = [pytest.mark.service("rabbitmq", "A"), pytest.mark.row("TB-001")]


_NARROW = (  # where two of the suite's seconds decide, and a busy machine must not
    "test_a_delayed_message_comes_when_it_is_due",
    "test_a_message_released_with_delay_comes_when_that_is_over",
    "test_messages_do_not_outlast_the_time_their_queue_gives_them",
    "test_who_waits_learns_of_a_message_that_is_due_earlier",
)


class TestAmqpBroker(BrokerContract):
    @pytest.fixture(autouse=True)
    def _vhost(self, rabbitmq_vhost, request):
        self.url = rabbitmq_vhost
        self.careful = request.node.originalname in _NARROW

    def new_site(self, folder):
        site = site_of(self.url)
        if self.careful:
            site.second, site.clock.longest = 0.3, 4.0
        return site

    # What AMQP does in its own way.

    @pytest.mark.parametrize("name", [name for name in _ODD_NAMES if "\n" not in name])
    def test_queues_and_ids_may_have_odd_names(self, site, name):  # RabbitMQ takes line breaks out of names
        super().test_queues_and_ids_may_have_odd_names(site, name)

    def test_priority_goes_before_age(self, site):
        site.broker().declare(Topology.of(QueueSpec("q", max_priority=9)))
        super().test_priority_goes_before_age(site)

    def test_delayed_messages_keep_their_priority(self, site):
        site.broker().declare(Topology.of(QueueSpec("q", max_priority=9)))
        super().test_delayed_messages_keep_their_priority(site)

    def test_declarations_are_seen_by_all_and_outlive_all_connections(self, site):
        with pytest.raises(BrokerUnusable, match=r"exchange 'x'.*there is no such thing"):
            site.broker().publish([Publication(message=call("0"), route=Route("x", "key"))])
        declaring = site.broker()
        declaring.declare(Topology.of(Exchange("x"), QueueSpec("q"), Binding("x", "q", "key")))
        declaring.close()
        late = site.broker("q")
        late.publish([Publication(message=call("1"), route=Route("x", "key"))])

        assert [each.message.id for each in take(site, late, 5)] == ["1"]

    def test_a_temporary_queue_goes_with_its_last_consumer(self, site):
        broker = site.broker("kept")
        spec = QueueSpec("mine", auto_delete=True)
        broker.declare(Topology.of(Exchange("x", "fanout"), spec, Binding("x", "kept"), Binding("x", "mine")))
        first, second = site.broker(), site.broker()
        for each in (first, second):
            each.declare(Topology.of(spec))
            each.consume(["mine", "other"])
            assert nothing_comes(site, each)
        send(broker, "mine", "1", "2")
        assert len(take(site, first)) == 1

        first.close()
        assert sorted(each.message.id for each in take(site, second, 2)) == ["1", "2"]  # what was held is back
        second.consume(["other"])

        until = time.monotonic() + 20  # RabbitMQ 4 says goodbye to the consumer first
        while set(broker.sizes(["kept", "mine"])) != {"kept"}:
            assert time.monotonic() < until

    def test_all_connections_of_a_queue_are_woken(self, site):  # here only the one that gets the message
        waiting = [site.broker("q") for _ in range(5)]
        assert all(nothing_comes(site, broker) for broker in waiting)

        send(site.broker(), "q", "1")
        poller = select.poll()
        for broker in waiting:
            poller.register(broker.fileno(), select.POLLIN)
        woken = {descriptor for descriptor, _ in poller.poll(10_000)}

        taken = [each.message.id for broker in waiting if broker.fileno() in woken for each in take(site, broker)]
        assert taken == ["1"]

    def test_a_temporary_queue_outlasts_its_reader_by_its_time(self):
        pytest.skip("the server's own business, and it takes its time")

    def test_whatever_happens_nothing_is_lost(self):
        pytest.skip("the machine settles over any connection, AMQP only over the one that claimed")


class CappedClock:
    """The machine's time; what would take long is cut short: AMQP's own spans are all far below."""

    longest = 1.5

    def __call__(self):
        return time.time()

    def advance(self, seconds):
        time.sleep(min(seconds, self.longest))


class Tracked(AmqpBroker):
    """Notes in `names` what queues there may be because of it."""

    names: ClassVar[set[str]] = set()

    def publish(self, publications, **options):
        self._note(publications)
        super().publish(publications, **options)

    def consume(self, queues):
        self.names.update(queues)
        super().consume(queues)

    def settle(self, settlements, claim=None):
        for settlement in settlements:
            self._note(settlement.follow_ups)
            if isinstance(settlement.verdict, Release) and settlement.verdict.delay:
                self._note_delay(settlement.verdict.delay)
        return super().settle(settlements, claim)

    def declare(self, topology):
        self.names.update(topology.queues)
        super().declare(topology)

    def _note(self, publications):
        for each in publications:
            if not each.route.exchange:
                self.names.add(each.route.routing_key)
            if each.message.eta is not None:
                self._note_delay(each.message.eta.timestamp() - time.time())

    def _note_delay(self, seconds):
        """Any queue may be used for what is left of it."""
        self.names.update(f"umbel.delay.{each}" for each in _SPANS if each <= seconds * 1500)


def site_of(url, options=None):
    """Return a site at *url*, which is cleaned when the site is left."""
    Tracked.names.clear()
    where, reader = dialling(url), MessageReader(Codecs(), None)

    def poison(queue, data):
        link = connect(where, heartbeat=False)
        link.call(1, "confirm.select", False)
        publish(link, queue, data)
        link.wait(1, ("basic.ack",))
        link.close()

    site = Site(
        clock=CappedClock(),
        make_broker=lambda: Tracked(where, reader, options=options or AmqpOptions()),
        poison=poison,
        second=0.1,
        temporary_queues=True,
    )
    site._opened.callback(_clean, where)
    return site


_SPANS = sorted({span(each / 1000, late=False) for each in range(1, 16_000)})


def publish(link, queue, body, properties=b"\x80\x00\x10application/json"):
    start = amqp.method_frame(1, "basic.publish", 0, "", queue, False, False)
    link.send(start + amqp.content_frames(1, properties, body, link.frame_max))


def _clean(where):
    link = connect(where, heartbeat=False)
    names = sorted({*Tracked.names, "umbel.dead", "umbel.state", "q", "done"})
    link.call(1, "channel.flow", True)  # opens it
    link.send(b"".join(amqp.method_frame(1, "queue.delete", 0, name, False, False, True) for name in names))
    for name in ("x", "outer", "inner"):
        link.call(1, "exchange.delete", 0, name, False, False)
    link.close()
