import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import ContentDisallowed, InvalidMessage
from umbel.wire.codecs import JSON_ONLY, Codecs
from umbel.wire.event import event, event_message, monitor_topology, read_events
from umbel.wire.message import Message, Route
from umbel.wire.topology import match

CODECS = Codecs()


def started(clock: int = 1) -> dict[str, object]:
    return event("task-started", hostname="w@h", timestamp=1.5, clock=clock, pid=7, fields={"uuid": "t"})


def test_an_event_has_its_fields_in_celerys_order():
    assert list(started()) == ["hostname", "utcoffset", "pid", "clock", "uuid", "timestamp", "type"]


def test_one_event_goes_by_its_type_and_several_by_their_group():
    one, one_route = event_message(started(), codecs=CODECS)
    two, two_route = event_message([started(1), started(2)], codecs=CODECS, exchange="mine")

    assert (one_route, two_route) == (Route("celeryev", "task.started"), Route("mine", "task.multi"))
    assert (one.headers, one.delivery_mode, one.priority, one.task) == ({"hostname": "w@h"}, 1, 0, "")
    assert read_events(one, codecs=CODECS, accept=JSON_ONLY) == [started()]
    assert read_events(two, codecs=CODECS, accept=JSON_ONLY) == [started(1), started(2)]


def test_what_nobody_accepts_is_refused():
    message, _ = event_message(started(), codecs=CODECS, serializer="pickle")

    with pytest.raises(ContentDisallowed):
        read_events(message, codecs=CODECS, accept=JSON_ONLY)


@given(
    st.binary(max_size=30) | st.sampled_from([b"[]", b"{}", b'{"type": 3}', b'[{"type": "a", "clock": "b"}]', b"null"])
)
def test_other_bodies_hold_no_event(body):
    try:
        assert read_events(Message(id="", task="", body=body), codecs=CODECS, accept=JSON_ONLY) == []
    except InvalidMessage:
        pass


@pytest.mark.row("PRT-143")
def test_a_monitor_hears_what_its_key_covers():
    topology = monitor_topology("celeryev.m", key="worker.#")

    assert match(topology, "celeryev", "worker.heartbeat") == ("celeryev.m",)
    assert match(topology, "celeryev", "task.sent") == ()
    assert topology.queues["celeryev.m"].amqp_arguments == {"x-expires": 60000, "x-message-ttl": 5000}
