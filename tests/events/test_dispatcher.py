import pytest

from umbel.brokers.base import Claim
from umbel.events import Event, EventDispatcher, group_from
from umbel.exceptions import BrokerUnavailable
from umbel.wire.event import monitor_topology, read_events


@pytest.fixture
def sent(app):
    """Return the (routing key, events) of each message that was sent since the last call."""
    broker = app.open_broker()
    broker.declare(monitor_topology("monitor", exchange="celeryev"))
    broker.consume(["monitor"])

    def take():
        turn = broker.settle([], Claim(limit=100, lease=60, owner="test"))
        return [
            (each.route.routing_key, read_events(each.message, codecs=app.codecs, accept=None))
            for each in turn.deliveries
        ]

    yield take
    broker.close()


@pytest.mark.row("API-509", "PRT-210", "PRT-212", "PRT-213")
def test_an_event_says_who_when_and_what(app, sent):
    with app.events.Dispatcher(hostname="me@host") as dispatcher:
        dispatcher.send("worker-online", freq=2.0)
        dispatcher.send("worker-heartbeat")

    [(key, [first]), (_, [second])] = sent()
    assert key == "worker.online"
    assert list(first) == ["hostname", "utcoffset", "pid", "clock", "freq", "timestamp", "type"]
    assert (first["hostname"], first["type"], first["freq"]) == ("me@host", "worker-online", 2.0)
    assert first["clock"] < second["clock"] == app.clock.value


@pytest.mark.row("PRT-211", "PRT-214")
def test_events_of_a_group_travel_together(app, sent):
    told = []
    dispatcher = app.events.Dispatcher(buffer_group=["task"], buffer_limit=3, on_send_buffered=lambda: told.append(1))
    for i in range(4):
        dispatcher.send("task-started", uuid=f"t{i}")

    [(key, events)] = sent()
    assert (key, [event["uuid"] for event in events]) == ("task.multi", ["t0", "t1", "t2"])
    dispatcher.close()
    assert [len(events) for _, events in sent()] == [1]
    assert told == [1, 1]


@pytest.mark.row("API-510", "PRT-218")
def test_only_the_groups_that_are_wanted_are_sent(app, sent):
    dispatcher = app.events.Dispatcher(groups=["worker"])
    dispatcher.send("task-started", uuid="t1")
    dispatcher.send("worker-online")

    assert [key for key, _ in sent()] == ["worker.online"]


def test_a_dispatcher_can_be_switched(app, sent):
    dispatcher, told = app.events.Dispatcher(enabled=False), []
    dispatcher.on_enabled.add(lambda: told.append("on"))
    dispatcher.on_disabled.add(lambda: told.append("off"))
    dispatcher.send("worker-online")
    dispatcher.enable()
    dispatcher.send("worker-heartbeat", blind=True)
    dispatcher.disable()
    dispatcher.send("worker-offline")

    [(key, [event])] = sent()
    assert (key, "clock" in event, told) == ("worker.heartbeat", False, ["on", "off"])


@pytest.mark.row("PRT-215")
def test_what_cannot_be_sent_is_kept_until_it_can(app, sent, monkeypatch):
    dispatcher = app.events.Dispatcher()
    with monkeypatch.context() as down:
        down.setattr(app.sender, "send", _unavailable)
        dispatcher.send("worker-online")
        with pytest.raises(BrokerUnavailable):
            app.events.Dispatcher(buffer_while_offline=False).send("worker-online")
    other = app.events.Dispatcher()
    other.extend_buffer(dispatcher)
    other.flush()

    assert [key for key, _ in sent()] == ["worker.online"]


def _unavailable(*_, **__):
    raise BrokerUnavailable("the broker is down")


@pytest.mark.row("API-511")
def test_a_dispatcher_can_be_borrowed(app, sent):
    with app.events.default_dispatcher(hostname="me@host") as dispatcher:
        assert isinstance(dispatcher, EventDispatcher)
        dispatcher.publish("task-custom", {"uuid": "t1", "step": 3})

    [(key, [event])] = sent()
    assert (key, event["step"], event["hostname"]) == ("task.custom", 3, "me@host")


@pytest.mark.row("PRT-216", "PRT-219", "CFG-185")
def test_a_sender_tells_what_it_sends(app, sent):
    app.conf.task_send_sent_event = True
    add = app.task(name="proj.add")(lambda x, y: x + y)
    silent = app.task(name="proj.silent", send_events=False)(lambda: None)

    result = add.apply_async((1, 2), countdown=60)
    silent.delay()

    [(key, [event])] = sent()
    assert key == "task.sent"
    assert event["uuid"] == event["root_id"] == result.id
    assert (event["name"], event["args"], event["kwargs"], event["retries"]) == ("proj.add", "(1, 2)", "{}", 0)
    assert (event["queue"], event["exchange"], event["routing_key"]) == ("celery", "", "celery")
    assert event["eta"] is not None
    assert event["hostname"].startswith("gen")


def test_an_event_can_be_made_by_hand():
    made = Event("task-started", uuid="t1", __now__=lambda: 7.0)

    assert made == {"uuid": "t1", "timestamp": 7.0, "type": "task-started"}
    assert group_from("task-started") == "task"
