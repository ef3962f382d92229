from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured, InvalidMessage
from umbel.wire.codecs import JSON_ONLY, Codecs
from umbel.wire.message import Message
from umbel.wire.protocol import (
    Body,
    MessageReader,
    Received,
    as_protocol_1,
    decode_body,
    embed,
    encode_body,
    headers_of,
    properties_of,
    read_plain,
)

CODECS = Codecs()
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
READER = MessageReader(CODECS, JSON_ONLY)

texts = st.none() | st.text(max_size=8)
moments = st.none() | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]))
whole = st.integers(min_value=-(2**31), max_value=2**31)
limits = st.none() | st.integers(0, 1000) | st.floats(0, 1000)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
own = st.dictionaries(st.sampled_from(["tenant", "x-trace", "é"]), st.text(max_size=5), max_size=2)
messages = st.builds(
    Message,
    id=st.text(min_size=1, max_size=8),
    task=st.text(min_size=1, max_size=8),
    body=st.binary(max_size=20),
    compression=st.none() | st.just("application/x-gzip"),
    eta=moments,
    expires=moments,
    retries=whole,
    hard_limit=limits,
    soft_limit=limits,
    root_id=texts,
    parent_id=texts,
    group=texts,
    group_index=st.none() | whole,
    shadow=texts,
    argsrepr=texts,
    kwargsrepr=texts,
    origin=texts,
    ignore_result=st.none() | st.booleans(),
    replaced_task_nesting=whole,
    stamped_headers=st.none() | st.just(("tenant",)),
    stamps=own,
    headers=own,
    reply_to=st.none() | st.text(min_size=1, max_size=8),
    priority=st.none() | st.integers(0, 255),
    delivery_mode=st.sampled_from([1, 2]),
    properties=st.dictionaries(st.sampled_from(["user_id", "type"]), st.text(max_size=5)),
)


def received(headers: Any = None, body: bytes = b"[[], {}, null]", **changes: Any) -> Received:
    fields = {"headers": headers, "properties": {}, "content_type": "application/json", "content_encoding": "utf-8"}
    return Received(**{**fields, "body": body, **changes})


def travelled(message: Message) -> Message:
    properties = properties_of(message, NOW)
    if message.priority is not None:
        properties["priority"] = message.priority
    content = {"content_type": message.content_type, "content_encoding": message.content_encoding}
    return READER.read(received(headers_of(message), message.body, properties=properties, **content))


# -- Protocol 2 --------------------------------------------------------------------------------------------------------


@given(messages)
def test_a_message_survives_its_headers_and_properties(message):
    assert travelled(message) == message


def test_headers_stand_in_celerys_order():
    message = Message(id="t", task="add", body=b"", headers={"tenant": "acme"}, compression="application/x-gzip")

    assert list(headers_of(message)) == [
        "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id",
        "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers",
        "stamps", "tenant", "compression",
    ]  # fmt: skip


@pytest.mark.row("PRT-029")
@pytest.mark.parametrize(("seconds", "expiration"), [(60, "60000"), (0.5, "500"), (0.0019, "1"), (-5, "0")])
def test_the_expiration_is_what_is_left_and_never_negative(seconds, expiration):
    message = Message(id="t", task="add", body=b"", expires=NOW + timedelta(seconds=seconds))

    assert properties_of(message, NOW)["expiration"] == expiration


def test_an_expiration_of_its_own_stays_a_property():
    message = READER.read(received({"task": "add", "id": "t"}, properties={"expiration": "12000"}))

    assert message.properties == {"expiration": "12000"}
    assert properties_of(message, NOW)["expiration"] == "12000"


@pytest.mark.row("PRT-051")
def test_only_task_and_id_must_be_there():
    assert READER.read(received({"task": "add", "id": "t"})) == Message(id="t", task="add", body=b"[[], {}, null]")


def test_null_means_the_same_as_nothing():
    headers = dict.fromkeys(headers_of(Message(id="t", task="add", body=b"")), None)

    assert READER.read(received({**headers, "task": "add", "id": "t"})) == READER.read(
        received({"task": "add", "id": "t"})
    )


@pytest.mark.row("PRT-021", "PRT-022")
def test_another_language_is_kept_and_the_mark_of_redelivery_is_not():
    message = READER.read(received({"task": "add", "id": "t", "lang": "go", "redelivered": True}))

    assert message.headers == {"lang": "go"}
    assert headers_of(message)["lang"] == "go"


@pytest.mark.row("PRT-005", "PRT-057")
@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2030-01-01T00:00:00", datetime(2030, 1, 1, tzinfo=UTC)),
        ("2030-01-01T00:00:00Z", datetime(2030, 1, 1, tzinfo=UTC)),
        ("2030-01-01T02:00:00+02:00", datetime(2030, 1, 1, tzinfo=UTC)),
        (datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_all_the_ways_peers_write_it(written, moment):
    assert READER.read(received({"task": "add", "id": "t", "eta": written})).eta == moment


@pytest.mark.row("PRT-046", "PRT-049")
@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("eta", "tomorrow", "unreadable eta: 'tomorrow'"),
        ("expires", 12.5, "unreadable expires"),
        ("eta", "9999-12-31T23:59:59-12:00", "unreadable eta"),
        ("retries", "many", r"\$.retries"),
        ("timelimit", [1], r"\$.timelimit"),
        ("timelimit", [1, 2, 3], r"\$.timelimit"),
        ("timelimit", "ab", r"\$.timelimit"),
        ("id", 7, r"\$.id"),
        ("id", "", r"\$.id"),
        ("task", "", r"\$.task"),
        ("stamps", ["a"], r"\$.stamps"),
        ("group_index", 1.5, r"\$.group_index"),
    ],
)
def test_a_bad_field_is_named(name, value, problem):
    with pytest.raises(InvalidMessage, match=problem):
        READER.read(received({"task": "add", "id": "t", name: value}))


@pytest.mark.row("PRT-047")
def test_a_content_type_nobody_accepts_is_refused_before_the_task_runs():
    with pytest.raises(ContentDisallowed):
        READER.read(received({"task": "add", "id": "t"}, content_type="application/x-python-serialize"))


@pytest.mark.parametrize("headers", [{"task": "add", "id": "t", 3: 4}, {"task": "add", "id": "t", None: 4}])
def test_names_of_headers_are_text(headers):
    with pytest.raises(InvalidMessage, match="Expected `str`"):
        READER.read(received(headers))
    with pytest.raises(InvalidMessage):
        READER.read(received({"task": "add", "id": "t"}, properties=headers))


@pytest.mark.row("PRT-044")
@pytest.mark.parametrize("headers", [None, [], "text", 3])
def test_without_headers_it_is_no_task_message(headers):
    with pytest.raises(InvalidMessage, match="headers"):
        READER.read(received(headers))


headers_like = st.dictionaries(
    st.sampled_from(sorted(headers_of(Message(id="t", task="a", body=b"", compression="x")))) | st.text(max_size=5),
    anything | st.sampled_from(["add", "2030-01-01T00:00:00", "application/x-gzip"]),
)


@given(
    headers=headers_like | headers_like.map(lambda found: {"task": "add", "id": "t", **found}) | anything,
    properties=st.dictionaries(st.sampled_from(["reply_to", "priority", "correlation_id"]), anything) | anything,
    body=st.binary(max_size=30) | anything.map(lambda value: CODECS.encode(value).body),
    content_type=st.sampled_from(["application/json", "application/x-yaml", "application/data", "", None]),
    content_encoding=st.sampled_from(["utf-8", "binary", "nonsense", None]),
)
def test_whatever_arrives_is_a_message_or_an_invalid_one(headers, properties, body, content_type, content_encoding):
    found = Received(headers, properties, body, content_type, content_encoding)
    for accept in (JSON_ONLY, None):
        for read in (MessageReader(CODECS, accept).read, read_plain):
            try:
                message = read(found)
                headers_of(message)
                properties_of(message, NOW)
                decode_body(message, codecs=CODECS, accept=accept)
            except InvalidMessage:
                pass


# -- Protocol 1 --------------------------------------------------------------------------------------------------------


@given(
    fields=st.dictionaries(
        st.sampled_from(
            ["id", "args", "kwargs", "eta", "expires", "utc", "timelimit", "group", "taskset", "callbacks"]
        ),
        anything,
    )
)
def test_whatever_protocol_1_holds_is_a_message_or_an_invalid_one(fields):
    body = CODECS.encode({"task": "add", "id": "t", **fields}).body
    try:
        message = READER.read(received({}, body))
    except InvalidMessage:
        return
    assert isinstance(decode_body(message, codecs=CODECS, accept=JSON_ONLY), Body)


@given(messages)
def test_protocol_1_carries_what_it_can(message):
    body = Body([1, "é"], {"k": None}, embed([{"task": "next"}], None, None, {"task": "body"}))

    old = as_protocol_1(message, body, codecs=CODECS)
    plain = received(headers_of(old), old.body, properties=properties_of(old, NOW))
    read = READER.read(plain)

    assert decode_body(read, codecs=CODECS, accept=JSON_ONLY) == body
    for name in ("id", "task", "eta", "expires", "retries", "hard_limit", "soft_limit", "group_index", "headers"):
        assert getattr(read, name) == getattr(message, name)
    assert (read.group or None) == (message.group or None)
    assert read.root_id is read.parent_id is read.origin is None


@pytest.mark.row("PRT-042")
def test_naive_times_of_protocol_1_are_in_the_apps_zone_unless_it_says_utc():
    berlin = timezone(timedelta(hours=1))
    reader = MessageReader(CODECS, JSON_ONLY, timezone=berlin)
    call = {"task": "add", "id": "t", "args": [], "kwargs": {}, "eta": "2030-01-01T00:00:00"}

    local = reader.read(received({}, CODECS.encode(call | {"utc": False}).body))
    universal = reader.read(received({}, CODECS.encode(call | {"utc": True}).body))

    assert local.eta == datetime(2030, 1, 1, tzinfo=berlin)
    assert universal.eta == datetime(2030, 1, 1, tzinfo=UTC)


def test_protocol_1_may_leave_out_everything_but_task_and_id():
    message = READER.read(received({}, b'{"task": "add", "id": "t"}'))

    assert decode_body(message, codecs=CODECS, accept=JSON_ONLY) == Body([], {}, embed())


@pytest.mark.row("PRT-043")
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[1]", "holds no mapping with a task"),
        (b"{}", "holds no mapping with a task"),
        (b'{"task": "add"}', r"\$.id|field `id`"),
        (b'{"task": "add", "id": "t", "args": "ab"}', "args of a task must be a list"),
        (b'{"task": "add", "id": "t", "kwargs": [1]}', "kwargs of a task must be a mapping"),
        (b"junk", "cannot decode"),
    ],
)
def test_other_bodies_without_header_are_no_task_message(body, problem):
    with pytest.raises(InvalidMessage, match=problem):
        READER.read(received({}, body))


# -- Bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack", "pickle"])
def test_a_body_comes_back(serializer, compression):
    after = embed(callbacks=[{"task": "next"}], chain=[{"task": "last"}])

    encoded = encode_body([1, "é"], {"k": 2}, after, codecs=CODECS, serializer=serializer, compression=compression)
    message = Message(
        id="t", task="add", body=encoded.body, content_type=encoded.content_type, compression=encoded.compression
    )

    assert decode_body(message, codecs=CODECS, accept=None) == Body([1, "é"], {"k": 2}, after)


@pytest.mark.row("PRT-035")
def test_arguments_of_the_wrong_shape_are_the_callers_mistake():
    with pytest.raises(TypeError, match="list or tuple, not str: 'ab'"):
        encode_body("ab", {}, embed(), codecs=CODECS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="mapping, not list"):
        encode_body([], [], embed(), codecs=CODECS)  # type: ignore[arg-type]
    with pytest.raises(EncodeError):
        encode_body([{1}], {}, embed(), codecs=CODECS)
    with pytest.raises(ImproperlyConfigured):
        encode_body([], {}, embed(), codecs=CODECS, compression="zip")


@pytest.mark.row("PRT-050")
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"[[], {}]",
        b"3",
        b"{}",
        b"[[], [], {}]",
        b'["ab", {}, {}]',
        b"[[], {}, 3]",
        b'"abc"',
        b'{"args": 1, "kwargs": {}}',
    ],
)
def test_other_bodies_are_invalid(body):
    with pytest.raises(InvalidMessage):
        decode_body(Message(id="t", task="add", body=body), codecs=CODECS, accept=JSON_ONLY)


def test_a_mapping_under_new_headers_is_understood():
    body = b'{"args": [1], "kwargs": {}, "callbacks": [{"task": "next"}], "chord": null}'

    found = decode_body(Message(id="t", task="add", body=body), codecs=CODECS, accept=JSON_ONLY)

    assert found == Body([1], {}, embed(callbacks=[{"task": "next"}]))


def test_a_compressed_bomb_is_refused():
    encoded = encode_body(["\0" * 100_000], {}, embed(), codecs=CODECS, compression="zlib")
    message = Message(id="t", task="add", body=encoded.body, compression=encoded.compression)

    with pytest.raises(DecodeError, match="refused"):
        decode_body(message, codecs=CODECS, accept=JSON_ONLY, limit=1000)


# -- Plain messages ----------------------------------------------------------------------------------------------------


def test_of_a_plain_message_only_its_own_headers_travel():
    message = Message(id="", task="", body=b"{}", headers={"hostname": "w@h"}, delivery_mode=1)

    assert headers_of(message) == {"hostname": "w@h"}
    assert properties_of(message, NOW) == {"delivery_mode": 1}
    assert read_plain(received(headers_of(message), b"{}", properties=properties_of(message, NOW))) == message
