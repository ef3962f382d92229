"""The short ways through a message's bytes and the long ones agree."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.brokers.amqp_messages import Notes as Remarks
from umbel.brokers.amqp_messages import content_of, copy_of, read
from umbel.wire.amqp import Incoming, decode_properties, encode_properties
from umbel.wire.codecs import Codecs
from umbel.wire.message import Message, Route
from umbel.wire.protocol import MessageReader, headers_of, properties_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
READER = MessageReader(Codecs(), None)
_texts = st.text(max_size=30)
_maybe = st.none() | _texts
_messages = st.builds(
    Message,
    id=st.text(min_size=1, max_size=40),
    task=st.text(min_size=1, max_size=40) | st.just("\x02idS\0\0\0"),
    body=st.binary(max_size=20),
    retries=st.integers(0, 1 << 20),
    root_id=_maybe,
    parent_id=_maybe,
    group=_maybe,
    group_index=st.none() | st.integers(0, 1000),
    shadow=_maybe,
    argsrepr=_maybe | st.just("\nkwargsreprS\0\0\0\x02{}"),
    kwargsrepr=_maybe,
    origin=_maybe,
    ignore_result=st.none() | st.booleans(),
    replaced_task_nesting=st.integers(0, 5),
    reply_to=st.none() | st.text(min_size=1, max_size=20),
    correlation_id=st.none() | st.text(min_size=1, max_size=20),
    priority=st.none() | st.integers(0, 255),
    hard_limit=st.none() | st.integers(1, 100),
)


def long_way(message):
    properties = properties_of(message, NOW)
    properties |= {"content_type": message.content_type, "content_encoding": message.content_encoding}
    properties["timestamp"] = int(NOW.timestamp())
    return encode_properties({**properties, "headers": headers_of(message), "priority": message.priority})


def incoming(content, body=b"x"):
    return Incoming(1, "basic.deliver", ("t", 1, False, "", "q"), content, body)


@given(_messages)
def test_a_message_is_written_alike_and_comes_back(message):
    content = content_of(message, NOW, expiration=False)

    assert content == long_way(message)
    arrival = read(incoming(content, message.body), "q", READER, plain=False)
    expected = properties_of(message, NOW)["correlation_id"]
    assert arrival.invalid is None
    assert arrival.since == NOW.timestamp()
    assert properties_of(arrival.message, NOW)["correlation_id"] == expected
    assert headers_of(arrival.message) == headers_of(message)
    assert (arrival.message.body, arrival.message.priority) == (message.body, message.priority)


@pytest.mark.row("PRT-029", "TB-029")
def test_what_expires_stays_until_somebody_has_said_so_unless_the_user_wants_otherwise():
    message = Message(id="1", task="t", body=b"", expires=datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC))
    assert "expiration" not in decode_properties(content_of(message, NOW, expiration=False))
    assert decode_properties(content_of(message, NOW, expiration=True))["expiration"] == "60000"


def test_what_we_remark_in_a_copy_is_not_the_messages_own():
    message = Message(id="1", task="t", body=b"x", headers={"own": 1}, ignore_result=False)
    content = content_of(message, NOW, expiration=False)
    remarks = Remarks(exchange="x", key="k", crashes=2, evidence=("a", "b"))

    copied = copy_of(copy_of(content, Remarks(crashes=1)), remarks)
    arrival = read(incoming(copied), "q", READER, plain=False)

    assert arrival.message == message
    assert (arrival.route, arrival.notes) == (Route("x", "k"), remarks)
    assert arrival.since == NOW.timestamp()


def test_when_a_message_was_sent_is_what_the_server_says_else_the_sender_else_unknown():
    properties = decode_properties(content_of(Message(id="1", task="t", body=b"x"), NOW, expiration=False))

    def since(**changes):
        content = encode_properties({**properties, **changes})
        return read(incoming(content), "q", READER, plain=False)

    assert since().since == NOW.timestamp()
    assert since(timestamp=None).since is None  # so Celery sends it
    exactly = since(headers={**properties["headers"], "timestamp_in_ms": 1_767_323_045_678})
    assert (exactly.since, exactly.message.headers) == (1_767_323_045.678, {})
