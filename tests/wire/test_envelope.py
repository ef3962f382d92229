import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import ContentDisallowed, InvalidMessage
from umbel.wire.codecs import JSON_ONLY, Codecs
from umbel.wire.envelope import Envelope, Envelopes
from umbel.wire.message import Message, Route
from umbel.wire.protocol import MessageReader, headers_of, properties_of

CODECS = Codecs()
ENVELOPES = Envelopes(CODECS.json)
READER = MessageReader(CODECS, JSON_ONLY)
PARTS = {
    "content-type": "application/json",
    "headers": {"task": "add", "id": "t"},
    "properties": {"body_encoding": "base64"},
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)

texts = st.none() | st.text(max_size=8)
few = st.none() | st.just(0) | st.integers(0, 9)
common = st.builds(
    Message,
    id=st.text(min_size=1),
    task=st.text(min_size=1),
    body=st.binary(),
    retries=st.integers(0, 9),
    root_id=texts,
    parent_id=texts,
    group=texts,
    group_index=few,
    shadow=texts,
    argsrepr=texts,
    kwargsrepr=texts,
    origin=texts,
    ignore_result=st.none() | st.booleans(),
    replaced_task_nesting=st.integers(0, 9),
    reply_to=st.none() | st.text(min_size=1),
    correlation_id=st.none() | st.text(min_size=1),
    priority=few,
    delivery_mode=st.sampled_from([1, 2]),
)
routes = st.builds(Route, st.text(max_size=5), st.text(max_size=5))


def long_way(message: Message, route: Route, tag: str) -> bytes:
    properties = properties_of(message, NOW) | {
        "delivery_info": {"exchange": route.exchange, "routing_key": route.routing_key},
        "priority": message.priority or 0,
        "body_encoding": "base64",
        "delivery_tag": tag,
    }
    found = json.loads(ENVELOPES.encode(message, route, delivery_tag=tag, now=NOW))
    return json.dumps(
        {
            "body": found["body"],
            "content-encoding": message.content_encoding,
            "content-type": message.content_type,
            "headers": headers_of(message),
            "properties": properties,
        }
    ).encode()


@given(common, routes, st.text(min_size=1))
def test_the_short_way_writes_what_the_long_one_writes(message, route, tag):
    assert ENVELOPES.encode(message, route, delivery_tag=tag, now=NOW) == long_way(message, route, tag)


@given(common, routes)
def test_both_ways_read_the_same(message, route):
    data = ENVELOPES.encode(message, route, delivery_tag="tag", now=NOW)
    with_header = data.replace(b'"headers": {', b'"headers": {"mine": 1, ', 1)

    short, long = (ENVELOPES.decode(text, READER) for text in (data, with_header))

    assert long.message.headers == {"mine": 1}
    assert short == Envelope(_received(message), route, "tag", redelivered=False)
    assert long == Envelope(_received(message, headers={"mine": 1}), route, "tag", redelivered=False)
    assert ENVELOPES.decode(data.decode(), READER) == short


def _received(message: Message, **changes) -> Message:
    correlation = None if message.correlation_id == message.id else message.correlation_id
    fields = {name: getattr(message, name) for name in Message.__struct_fields__}
    return Message(**{**fields, "priority": message.priority or 0, "correlation_id": correlation, **changes})


def test_a_message_with_everything_survives_its_envelope():
    message = Message(
        id="t", task="add", body=b"\xff", content_encoding="binary", eta=NOW, expires=NOW, hard_limit=10,
        soft_limit=5.5, stamped_headers=("a",), stamps={"a": [1]}, headers={"price": Decimal(1), "a": "é"}, priority=3,
        properties={"user_id": "u"}, compression="application/x-gzip",
    )  # fmt: skip

    data = ENVELOPES.encode(message, Route("x", "k"), delivery_tag="tag", now=NOW)

    assert ENVELOPES.decode(data, READER) == Envelope(message, Route("x", "k"), "tag", redelivered=False)


@pytest.mark.row("PRT-021", "PRT-126")
def test_a_redelivered_message_says_so_and_is_otherwise_the_same():
    data = ENVELOPES.encode(Message(id="t", task="add", body=b"x"), Route("", "q"), delivery_tag="tag", now=NOW)

    marked = ENVELOPES.mark_redelivered(data)

    first, second = ENVELOPES.decode(data, READER), ENVELOPES.decode(marked, READER)
    assert (first.redelivered, second.redelivered) == (False, True)
    assert first.message == second.message
    found = json.loads(marked)
    assert found["headers"].pop("redelivered") is found["properties"]["delivery_info"].pop("redelivered") is True
    assert json.dumps(found).encode() == data


def test_a_body_may_be_text():
    data = json.dumps({**PARTS, "body": "[[], {}, {}]", "properties": {}})

    read = ENVELOPES.decode(data, READER)

    assert read.message.body == b"[[], {}, {}]"
    assert (read.route, read.delivery_tag) == (Route(), "")


def test_what_nobody_accepts_is_refused():
    message = Message(id="t", task="add", body=b"", content_type="application/x-python-serialize")

    with pytest.raises(ContentDisallowed):
        ENVELOPES.decode(ENVELOPES.encode(message, Route(), delivery_tag="t", now=NOW), READER)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"[]",
        b"{}",
        b'{"body": 3}',
        b'{"body": "", "headers": [], "properties": {}}',
        b'{"body": "", "headers": {}, "properties": null}',
        json.dumps({**PARTS, "body": "é"}),
        json.dumps({**PARTS, "body": "a"}),
        b'{"body": "", "headers": {"x": {"__type__": "nope", "__value__": 1}}, "properties": {}}',
        b'{"body": "\xff"}',
    ],
)
def test_other_data_is_an_invalid_message(data):
    with pytest.raises(InvalidMessage):
        ENVELOPES.decode(data, READER)


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_any_data_is_a_message_or_an_invalid_one(data):
    for reader in (READER, None):
        with pytest.raises(InvalidMessage):
            ENVELOPES.decode(data, reader)
    with pytest.raises(InvalidMessage):
        ENVELOPES.mark_redelivered(data)


values = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just({"__type__": "uuid", "__value__": 3})


@given(
    st.fixed_dictionaries(
        {"body": values, "headers": st.dictionaries(st.sampled_from(["task", "id", "eta", "lang"]), values) | values},
        optional={
            "properties": st.dictionaries(st.sampled_from(["delivery_info", "priority", "delivery_tag"]), values)
            | values,
            "content-type": values | st.just("application/json"),
            "content-encoding": values,
        },
    )
)
def test_any_envelope_is_a_message_or_an_invalid_one(envelope):
    data = json.dumps(envelope)
    for reader in (READER, None):
        try:
            ENVELOPES.decode(data, reader)
        except InvalidMessage:
            pass
