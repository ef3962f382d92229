"""What the settings say of events and mailboxes."""

import pytest

from umbel import Umbel
from umbel.app.events import Events
from umbel.exceptions import ImproperlyConfigured
from umbel.wire.topology import Binding, Exchange, QueueSpec


@pytest.fixture
def declared(app, monkeypatch):
    """What a receiver or a mailbox declares."""
    seen = []
    monkeypatch.setattr(type(app.open_broker()), "declare", lambda self, topology: seen.append(topology))
    return seen


@pytest.mark.row("CFG-186", "CFG-187", "CFG-190", "CFG-191", "PRT-143")
def test_a_receivers_queue_is_what_the_settings_say(app, declared):
    app.conf.update(event_queue_ttl=7.0, event_queue_expires=70.0, event_queue_prefix="watch", event_exchange="told")

    with pytest.raises(TimeoutError):
        app.events.Receiver(node_id="me", routing_key="task.#").capture(timeout=0.0, wakeup=False)

    [topology] = declared
    assert topology.queues["watch.me"] == QueueSpec(
        "watch.me", durable=False, exclusive=True, auto_delete=True, expires=70.0, message_ttl=7.0
    )
    assert topology.exchanges["told"] == Exchange("told", "topic")
    assert topology.bindings == (Binding("told", "watch.me", "task.#"),)
    own = app.events.Receiver(node_id="me", queue_prefix="mine", queue_ttl=1.0, queue_expires=2.0)._topology
    assert own.queues["mine.me"].message_ttl == 1.0


@pytest.mark.row("CFG-192")
def test_events_are_serialised_as_the_setting_says(app):
    app.conf.event_serializer = "pickle"

    assert (
        app.events.publication({"type": "x", "hostname": "h"}).message.content_type == "application/x-python-serialize"
    )


@pytest.mark.row("PRT-209")
@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://localhost/0", "fanout"), ("rediss://localhost/0", "fanout"), ("sentinel://a;sentinel://b", "fanout"),
        ("amqp://localhost//", "topic"), ("sqlite:///x.db", "topic"), ("memory://", "topic"),
    ],
)  # fmt: skip
def test_the_exchange_is_of_the_kind_that_peers_expect(url, kind):
    assert Umbel("x", broker=url, set_as_current=False).events.exchange == Exchange("celeryev", kind)


@pytest.mark.row("CFG-193", "CFG-194", "CFG-195", "CFG-196", "CFG-197", "PRT-141", "PRT-142", "PRT-243")
def test_mailboxes_are_what_the_settings_say(app):
    app.conf.update(control_queue_ttl=30.0, control_queue_expires=20.0, control_exchange="mine", task_serializer="yaml")
    office = app.control.office

    node = office.of_node("w1@host")
    assert node.queues["w1@host.mine.pidbox"] == QueueSpec(
        "w1@host.mine.pidbox", durable=False, exclusive=True, auto_delete=True, expires=20.0, message_ttl=30.0
    )
    assert node.exchanges["mine.pidbox"] == Exchange("mine.pidbox", "fanout", durable=False)
    client = office.of_client("me")
    assert client.bindings == (Binding("reply.mine.pidbox", "me.reply.mine.pidbox", "me"),)
    assert office.serializer == "yaml"

    app.conf.control_queue_durable = True
    with pytest.raises(ImproperlyConfigured, match="control_queue_exclusive"):
        _ = app.control.office
    app.conf.control_queue_exclusive = False
    spec = app.control.office.of_node("w1@host").queues["w1@host.mine.pidbox"]
    assert (spec.durable, spec.exclusive) == (True, False)


@pytest.mark.row("API-013", "API-072")
def test_events_may_be_anothers_class():
    class Own(Events):
        pass

    with Umbel("x", broker="memory://", events=Own, set_as_current=False) as app:
        assert type(app.events) is Own
        assert app.events.Receiver.app is app.events.Dispatcher.app is app.events.State.app is app
        assert app.clock.forward() == 1
        assert app.clock.adjust(10) == 11
        assert str(app.clock) == "11"
