"""AMQP's bytes: what kombu wrote is read and written alike, and no garbage does more than raise its error."""

import random
import struct
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import InvalidMessage
from umbel.wire import amqp
from umbel.wire.amqp import FrameReader

# Recorded from Celery 5.7 with RabbitMQ 3.10: add.apply_async((1, 2), queue="sniffq", priority=3, expires=60,
# headers={"a": 1, "big": 2**40, "f": 1.5, "l": [1, "x", None, True], "d": {"k": "v"}, "n": -5, "by": b"xx", …}).
ID = b"8f147004-fe26-40e2-a31b-e52f7a1aa1a5"
REPLY = b"f33c826c-434a-342c-962e-d1b9e31c41a2"
PROPERTIES = (
    b"\xff\x00\x10application/json\x05utf-8\x00\x00\x01\xdd\x04langS\x00\x00\x00\x02py\x04taskS\x00\x00\x00\x05x.add"
    b"\x02idS\x00\x00\x00$" + ID + b"\x06shadowV\x03etaV\x07expiresS\x00\x00\x00 2026-11-24T23:44:00.373471+00:00"
    b"\x05groupV\x0bgroup_indexV\x07retriesI\x00\x00\x00\x00\ttimelimitA\x00\x00\x00\x02VV\x07root_idS\x00\x00\x00$"
    + ID + b"\tparent_idV\x08argsreprS\x00\x00\x00\x06(1, 2)\nkwargsreprS\x00\x00\x00\x02{}\x06originS\x00\x00\x00\x0b"
    b"gen14248@vm\rignore_resultt\x00\x15replaced_task_nestingI\x00\x00\x00\x00\x0fstamped_headersV\x06stampsF\x00\x00"
    b"\x00\x00\x01aI\x00\x00\x00\x01\x03bigL\x00\x00\x01\x00\x00\x00\x00\x00\x01fd?\xf8\x00\x00\x00\x00\x00\x00\x01lA"
    b"\x00\x00\x00\x0eI\x00\x00\x00\x01S\x00\x00\x00\x01xVt\x01\x01dF\x00\x00\x00\x08\x01kS\x00\x00\x00\x01v\x01nI\xff"
    b"\xff\xff\xfb\x02byS\x00\x00\x00\x02xx\x04whenT\x00\x00\x00\x00e\x92\x00\x80\x04boolt\x00\x02\x03$"
    + ID + b"$" + REPLY + b"\x0560000"
)  # fmt: skip
BODY = b'[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
PUBLISH = b"\x01\x00\x01\x00\x00\x00\x0f\x00<\x00(\x00\x00\x00\x06sniffq\x00\xce"
CONTENT = (
    b"\x02\x00\x01\x00\x00\x02X\x00<\x00\x00\x00\x00\x00\x00\x00\x00\x00Q" + PROPERTIES + b"\xce"
    b"\x03\x00\x01\x00\x00\x00Q" + BODY + b"\xce"
)
DECLARE_REPLIES = (
    b"\x01\x00\x01\x00\x00\x00?\x002\x00\n\x00\x00$" + REPLY + b"\n\x00\x00\x00\x0f\tx-expiresI\x05&\\\x00\xce"
)
DELIVER = b"\x00<\x00<\x05None3" + struct.pack(">Q", 7) + b"\x01\x08celeryev\x10worker.heartbeat"
pytestmark = pytest.mark.row("PRT-030", "PRT-136", "PRT-144")


def frame(kind, payload, channel=1):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def test_what_kombu_wrote_is_read():
    properties = amqp.decode_properties(PROPERTIES)

    headers = properties["headers"]
    assert list(properties) == [
        *("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to"),
        "expiration",
    ]
    assert (properties["priority"], properties["expiration"]) == (3, "60000")
    assert (headers["task"], headers["timelimit"], headers["stamps"], headers["retries"]) == (
        "x.add",
        [None, None],
        {},
        0,
    )
    assert headers["big"] == 2**40
    assert (headers["f"], headers["l"], headers["d"], headers["n"]) == (1.5, [1, "x", None, True], {"k": "v"}, -5)
    assert (headers["when"], headers["bool"]) == (datetime(2024, 1, 1, tzinfo=UTC), False)


def test_what_kombu_wrote_is_written_alike():
    assert amqp.encode_properties(amqp.decode_properties(PROPERTIES)) == PROPERTIES
    assert amqp.method_frame(1, "basic.publish", 0, "", "sniffq", False, False) == PUBLISH
    assert amqp.content_frames(1, PROPERTIES, BODY, 131072) == CONTENT
    expires = {"x-expires": 86_400_000}
    name = REPLY.decode()
    assert amqp.method_frame(1, "queue.declare", 0, name, False, True, False, True, False, expires) == DECLARE_REPLIES


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_frames_may_be_cut_anywhere(size):
    stream = frame(1, DELIVER) + CONTENT + amqp.HEARTBEAT + amqp.ack(1, 9, multiple=True)
    reader = FrameReader()

    found = [each for at in range(0, len(stream), size) for each in reader.feed(stream[at : at + size])]

    deliver, beat, ack = found
    assert deliver.name == "basic.deliver"
    assert deliver.arguments == ("None3", 7, True, "celeryev", "worker.heartbeat")
    assert (deliver.properties, deliver.body) == (PROPERTIES, BODY)
    assert beat.name == ""
    assert (ack.name, ack.arguments) == ("basic.ack", (9, True))


def test_a_long_body_is_cut_into_frames_and_put_together():
    body = random.Random(1).randbytes(100_000)
    frames = frame(1, DELIVER) + amqp.content_frames(1, b"\x00\x00", body, 4096)

    (incoming,) = FrameReader(4096).feed(frames)

    assert incoming.body == body


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no AMQP frame"),
        (b"AMQP\x00\x00\x09\x01", "no AMQP frame"),
        (struct.pack(">BHI", 1, 1, 1 << 30) + b"x", "no AMQP frame"),
        (struct.pack(">BHI", 1, 1, 4) + b"\x00<\x00<" + b"\x00", "does not end in CE"),
        (frame(1, b"\x00"), "no AMQP method"),
        (frame(1, b"\x12\x34\x56\x78"), "unknown AMQP method"),
        (frame(1, b"\x00<\x00<\xff"), "damaged"),
        (frame(1, b"\x00<\x00P"), "damaged"),
        (frame(2, b"\x00" * 20), "belongs to nothing"),
        (frame(3, b"x"), "belongs to nothing"),
        (frame(1, DELIVER) + frame(1, DELIVER), "where content was due"),
        (frame(1, DELIVER) + frame(3, b"x"), "longer than announced"),
        (frame(1, DELIVER) + frame(2, b"\x00<"), "no content header"),
        (frame(1, DELIVER) + frame(2, struct.pack(">HHQH", 60, 0, 1 << 60, 0)), "announced"),
        (frame(1, DELIVER) + frame(2, struct.pack(">HHQH", 60, 0, 1, 0)) + frame(3, b"xy"), "longer than announced"),
    ],
)
def test_what_is_no_amqp_is_refused(stream, problem):
    with pytest.raises(InvalidMessage, match=problem):
        FrameReader().feed(stream)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data):
    reader = FrameReader()
    for stream in (data, frame(1, data), frame(1, DELIVER) + frame(2, data)):
        try:
            reader.feed(stream)
        except InvalidMessage:
            reader = FrameReader()


@given(st.integers(0, len(PROPERTIES) - 1), st.integers(0, 255), st.integers(0, len(PROPERTIES)))
def test_damaged_properties_raise_nothing_else(at, byte, cut):
    damaged = PROPERTIES[:at] + bytes((byte,)) + PROPERTIES[at + 1 :]
    for data in (damaged, PROPERTIES[:cut], damaged[:cut]):
        try:
            amqp.decode_properties(data)
        except InvalidMessage:
            pass


def test_nesting_has_an_end():
    bomb = b"\x01aS\x00\x00\x00\x00"
    for _ in range(1000):
        bomb = b"\x01aF" + len(bomb).to_bytes(4, "big") + bomb
    with pytest.raises(InvalidMessage, match="nested"):
        amqp.decode_properties(b"\x20\x00" + len(bomb).to_bytes(4, "big") + bomb)
    deep: list[object] = []
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(TypeError, match="nested"):
        amqp.encode_properties({"headers": {"deep": deep}})


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.floats(allow_nan=False)
    | st.just(Decimal("1.50")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=20), _values, max_size=5))
def test_headers_come_back_as_they_went(headers):
    assert amqp.decode_properties(amqp.encode_properties({"headers": headers})) == {"headers": headers}


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ({"headers": {"odd": object()}}, "a header cannot be a object"),
        ({"headers": {"long": 1 << 64}}, "no integer as long"),
        ({"correlation_id": "x" * 256}, "at most 255 bytes"),
        ({"priority": 300}, "'priority' cannot be 300"),
        ({"content_type": 7}, "'content_type' cannot be 7"),
    ],
)
def test_what_amqp_cannot_carry_is_an_error_that_says_so(properties, problem):
    with pytest.raises(TypeError, match=problem):
        amqp.encode_properties(properties)
