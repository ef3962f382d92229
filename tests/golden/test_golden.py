"""What Celery wrote is read, and written again it is the same bytes."""

import base64
import datetime as dt
import decimal
import json
import uuid
from datetime import UTC, timedelta
from typing import Any

import msgspec
import pytest

from umbel.wire import command, compression, delayed, event, result
from umbel.wire.envelope import Envelope, Envelopes
from umbel.wire.message import Message
from umbel.wire.protocol import Body, MessageReader, as_protocol_1, decode_body, embed, encode_body
from umbel.wire.topology import Topology, match

NOW = dt.datetime(2026, 1, 1, tzinfo=UTC)


def written(case: dict[str, Any]) -> bytes:
    return case["text"].encode() if "text" in case else base64.b64decode(case["base64"])


def again(envelopes: Envelopes, case: dict[str, Any], read: Envelope, **changes: Any) -> str:
    """Write what was read, at the moment at which Celery wrote it."""
    expiration = json.loads(case["envelope"])["properties"].get("expiration")
    message, now = msgspec.structs.replace(read.message, **changes), NOW
    if message.expires is not None:
        now = message.expires - timedelta(milliseconds=int(expiration)) if expiration != "0" else message.expires
    return envelopes.encode(message, read.route, delivery_tag=read.delivery_tag, now=now).decode()


# -- Messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.row(
    "PRT-001", "PRT-002", "PRT-003", "PRT-004", "PRT-005", "PRT-006", "PRT-007", "PRT-008", "PRT-009",
    "PRT-010", "PRT-011", "PRT-012", "PRT-013", "PRT-014", "PRT-015", "PRT-016", "PRT-017", "PRT-018",
    "PRT-019", "PRT-020", "PRT-024", "PRT-025", "PRT-026", "PRT-027", "PRT-028", "PRT-029", "PRT-030",
    "PRT-118", "PRT-251",
)  # fmt: skip
@pytest.mark.golden("messages")
def test_a_task_message_comes_back_as_the_same_bytes(case, codecs, envelopes):
    reader = MessageReader(codecs, accept=None)

    read = envelopes.decode(case["envelope"], reader)

    assert (read.route.exchange, read.route.routing_key) == (case["exchange"], case["routing_key"])
    same_time = (
        case["envelope"]
        .replace('"2030-01-01T00:00:00"', '"2030-01-01T00:00:00+00:00"')
        .replace("00:00Z", "00:00+00:00")
    )
    assert again(envelopes, case, read) == same_time


@pytest.mark.row("PRT-031", "PRT-032", "PRT-109")
@pytest.mark.golden("messages")
def test_its_body_comes_back_as_the_same_bytes(case, codecs, envelopes):
    message = envelopes.decode(case["envelope"], MessageReader(codecs, accept=None)).message

    body = decode_body(message, codecs=codecs, accept=None)
    encoded = encode_body(*body, codecs=codecs, serializer=codecs.codec(message.content_type).name)

    assert list(body.embed) == (sorted(embed()) if "yaml" in message.content_type else list(embed()))
    plain = compression.decompress(message.body, message.compression) if message.compression else message.body
    assert encoded.content_type == message.content_type
    assert encoded.content_encoding == message.content_encoding
    assert encoded.body == plain


def test_what_a_message_says_is_understood(codecs, envelopes, recorded):
    message = {
        name: envelopes.decode(case["envelope"], MessageReader(codecs, None)).message
        for name, case in recorded("messages").items()
    }

    assert message["plain"].task == "proj.add"
    assert message["plain"].id == message["plain"].root_id == "t-1"
    assert message["plain"].correlation_id is None
    assert message["plain"].headers == message["plain"].properties == {}
    assert message["eta in another zone"].eta == dt.datetime(2030, 1, 2, 3, 4, 5, 678, UTC)
    assert message["naive eta"].eta == message["text eta"].eta == dt.datetime(2030, 1, 1, tzinfo=UTC)
    assert (message["limits"].hard_limit, message["limits"].soft_limit) == (10, 5.5)
    assert message["priority"].priority == 3
    assert message["shadow"].shadow == "short name"
    assert message["headers"].headers == {"tenant": "acme", "nested": {"a": [1, None, "é"]}}
    assert message["another language"].headers == {"lang": "go"}
    assert message["transient"].delivery_mode == 1
    assert message["no result"].ignore_result is True
    assert (message["reply to"].reply_to, message["reply to"].correlation_id) == ("me", "another")
    assert message["properties"].properties["user_id"] == "u"
    assert message["properties"].properties["expiration"] == "12000"
    assert message["work-flow"].group == "g"
    assert (message["work-flow"].group_index, message["work-flow"].replaced_task_nesting) == (2, 1)
    assert message["stamps"].stamps == {"tenant": "acme", "tags": ["a", "b"]}
    assert message["stamps"].stamped_headers == ("tenant", "tags")
    assert message["retry"].retries == 2
    assert message["compression alias zlib"].compression == "application/x-gzip"
    assert decode_body(message["text beyond ASCII"], codecs=codecs, accept=None).args == ["é\u2028", "日本 😀"]


@pytest.mark.row("PRT-037", "PRT-038", "PRT-039", "PRT-040")
@pytest.mark.golden("protocol1")
def test_protocol_1_is_read_and_written(case, codecs, envelopes):
    reader = MessageReader(codecs, accept=None)
    plain = envelopes.decode(case["envelope"], None)
    serializer = codecs.codec(plain.message.content_type).name

    read = envelopes.decode(case["envelope"], reader)
    body = decode_body(read.message, codecs=codecs, accept=None)
    message = as_protocol_1(
        read.message, body, codecs=codecs, serializer=serializer, compression=plain.message.compression
    )

    assert again(envelopes, case, plain) == case["envelope"]
    assert read.message.task == "proj.add"
    assert read.message.id == json.loads(case["envelope"])["properties"]["correlation_id"]
    assert isinstance(body, Body)
    assert body.kwargs == ({} if case["name"] == "chain" else {"y": 3})
    assert again(envelopes, case, msgspec.structs.replace(read, message=message)) == case["envelope"]


def test_what_protocol_1_says_is_understood(codecs, envelopes, recorded):
    message = {
        name: envelopes.decode(case["envelope"], MessageReader(codecs, None)).message
        for name, case in recorded("protocol1").items()
    }

    assert message["times"].eta == dt.datetime(2030, 1, 2, 3, 4, 5, 678, UTC)
    assert message["times"].expires == dt.datetime(2030, 1, 2, 4, 4, 5, 678, UTC)
    assert (message["limits"].hard_limit, message["limits"].soft_limit) == (10, 5)
    assert (message["group"].group, message["group"].group_index) == ("g", 1)
    assert message["headers and priority"].headers == {"tenant": "acme"}
    assert message["compression"].compression is None
    links = decode_body(message["links"], codecs=codecs, accept=None).embed
    assert [one["args"] for one in links["callbacks"] + links["errbacks"]] == [[1], [2]]
    assert decode_body(message["chord"], codecs=codecs, accept=None).embed["chord"]["task"] == "proj.total"


# -- Codecs ------------------------------------------------------------------------------------------------------------


@pytest.mark.row(
    "PRT-084", "PRT-085", "PRT-086", "PRT-087", "PRT-092", "PRT-093", "PRT-094", "PRT-095", "PRT-096",
    "PRT-097", "PRT-098",
)  # fmt: skip
@pytest.mark.golden("codecs")
def test_a_value_is_encoded_to_the_same_bytes(case, codecs):
    names = {"datetime": dt, "inf": float("inf"), "Decimal": decimal.Decimal, "UUID": uuid.UUID}
    value = eval(case["value"], names)  # our own recording
    if "error" in case:
        with pytest.raises(Exception, match="serializer 'msgpack'"):
            codecs.encode(value, case["serializer"])
        return

    encoded = codecs.encode(value, case["serializer"])

    assert (encoded.content_type, encoded.content_encoding) == (case["content_type"], case["content_encoding"])
    assert encoded.body == written(case)


@pytest.mark.golden("codecs")
def test_bytes_are_decoded_to_the_same_value(case, codecs):
    if "error" in case:
        return
    value = codecs.decode(written(case), case["content_type"], case["content_encoding"], accept=None)

    assert repr(value) == case["value"] if case["serializer"] == "pickle" else True
    assert codecs.encode(value, case["serializer"]).body == written(case)


@pytest.mark.row("PRT-104", "PRT-105", "PRT-106", "PRT-107")
@pytest.mark.golden("compressions")
def test_compressed_bytes_are_expanded(case):
    assert compression.decompress(written(case), case["mime"]) == case["plain"].encode()


# -- Results -----------------------------------------------------------------------------------------------------------


@pytest.mark.row(
    "PRT-156", "PRT-157", "PRT-158", "PRT-159", "PRT-160", "PRT-161", "PRT-162", "PRT-163", "PRT-168",
    "PRT-169", "PRT-170",
)  # fmt: skip
@pytest.mark.golden("results")
def test_a_result_meta_comes_back_as_the_same_bytes(case, codecs):
    payload, serializer = written(case), case["serializer"]
    method = payload.split(b"\0")[2].decode() if payload.startswith(b"\0") else None

    meta = result.decode_meta(payload, codecs=codecs, accept=None, serializer=serializer)
    written_again = result.encode_meta(meta, codecs=codecs, serializer=serializer, compression=method)

    assert case["key"] == f"celery-task-meta-{meta.task_id}"
    if serializer == "pickle":  # which strings are one object decides about its bytes
        mime = codecs.codec(serializer).content_type
        first, second = (codecs.decode(data, mime, accept=None) for data in (payload, written_again))
        assert repr(first) == repr(second)
    else:
        assert written_again == payload


@pytest.mark.row("PRT-165", "PRT-166")
@pytest.mark.golden("results")
def test_a_stored_exception_comes_back(case, codecs):
    meta = result.decode_meta(written(case), codecs=codecs, accept=None, serializer=case["serializer"])
    if meta.status not in {"FAILURE", "RETRY", "REVOKED"}:
        return

    exc = result.exception_from_data(meta.result)

    if isinstance(meta.result, dict):
        assert type(exc).__qualname__ == meta.result["exc_type"] or "Unpickleable" in meta.result["exc_type"]
        written_again = result.exception_to_data(exc, codecs=codecs)
        if type(exc).__module__ == meta.result["exc_module"]:
            assert written_again == meta.result


@pytest.mark.row("PRT-164", "PRT-172")
@pytest.mark.golden("groups")
def test_result_tuples_come_back(case, codecs):
    if "tuple" in case:
        assert result.node_to_tuple(result.node_from_tuple(case["tuple"])) == case["tuple"]
    else:
        node = result.decode_group(written(case), codecs=codecs, accept=None)
        assert result.encode_group(node, codecs=codecs) == written(case)
        assert node.parent == result.Node("before")
        assert [child.id for child in node.children] == ["a", "gi"]


# -- Events and commands -----------------------------------------------------------------------------------------------


@pytest.mark.row(
    "PRT-210", "PRT-211", "PRT-212", "PRT-213", "PRT-219", "PRT-220", "PRT-221", "PRT-222", "PRT-223",
    "PRT-224", "PRT-225", "PRT-226", "PRT-227", "PRT-228", "PRT-229", "PRT-230", "PRT-231",
)  # fmt: skip
@pytest.mark.golden("events")
def test_an_event_comes_back_as_the_same_bytes(case, codecs, envelopes):
    read = envelopes.decode(case["envelope"], None)

    events = event.read_events(read.message, codecs=codecs, accept=None)
    message, route = event.event_message(events if len(events) > 1 else _made_again(events[0]), codecs=codecs)

    assert again(envelopes, case, read) == case["envelope"]
    assert route == read.route
    assert again(envelopes, case, msgspec.structs.replace(read, message=message, route=route)) == case["envelope"]


def _made_again(found: dict[str, Any]) -> dict[str, Any]:
    common = ("hostname", "timestamp", "clock", "pid", "utcoffset", "type")
    fields = {name: value for name, value in found.items() if name not in common}
    return event.event(**{name: found[name] for name in common}, fields=fields)


@pytest.mark.row("PRT-235", "PRT-236", "PRT-237", "PRT-238", "PRT-239", "PRT-240")
@pytest.mark.golden("control")
def test_a_command_or_reply_comes_back_as_the_same_bytes(case, codecs, envelopes):
    read = envelopes.decode(case["envelope"], None)

    message: Message
    if case["name"] == "reply":
        reply = command.read_reply(read.message, codecs=codecs, accept=None)
        message, route = command.reply_message(reply, read.route, codecs=codecs)
    else:
        asked = command.read_command(read.message, codecs=codecs, accept=None)
        assert asked.method == case["name"]
        message, route = command.command_message(asked, codecs=codecs)

    assert again(envelopes, case, read) == case["envelope"]
    assert again(envelopes, case, msgspec.structs.replace(read, message=message, route=route)) == case["envelope"]


# -- Delayed delivery --------------------------------------------------------------------------------------------------


@pytest.mark.row("PRT-149", "PRT-150", "PRT-151", "PRT-152")
@pytest.mark.golden("delays")
def test_delays_are_declared_and_addressed_as_celery_does(case):
    if case["name"] == "key":
        route = delayed.delayed_route(case["seconds"], delayed.Route("", case["key"]))
        assert (route.exchange, route.routing_key) == ("celery_delayed_27", case["out"])
        return

    topology: Topology = delayed.delay_topology(case["queue_type"])

    ours = sorted([b.source, b.destination, b.routing_key] for b in topology.bindings if not b.to_exchange)
    between = sorted([b.source, b.destination, b.routing_key] for b in topology.bindings if b.to_exchange)
    assert sorted(topology.exchanges) == sorted(name for name, _ in case["exchanges"])
    assert {exchange.type for exchange in topology.exchanges.values()} == {kind for _, kind in case["exchanges"]}
    assert {name: queue.amqp_arguments for name, queue in topology.queues.items()} == case["queues"]
    assert ours == sorted(case["queue_bindings"])
    assert between == sorted(case["exchange_bindings"])


@pytest.mark.row("PRT-153")
@pytest.mark.parametrize("seconds", [1, 2, 5, 30, 86400, delayed.LONGEST_DELAY, delayed.LONGEST_DELAY * 2])
def test_a_delayed_message_waits_its_time_and_arrives(seconds):
    topology = delayed.delay_topology().merge(delayed.target_topology("shop", "mail", "mail.out"))
    topology = topology.merge(Topology.of(delayed.Exchange("shop", "topic")))
    route = delayed.delayed_route(seconds, delayed.Route("shop", "mail.out"))
    waited = 0.0

    queues = match(topology, route.exchange, route.routing_key)
    while queues != ("mail",):
        (queue,) = queues
        waited += topology.queues[queue].message_ttl
        queues = match(topology, topology.queues[queue].arguments["x-dead-letter-exchange"], route.routing_key)

    assert waited == min(seconds, delayed.LONGEST_DELAY)


@pytest.mark.row("PRT-154")
def test_a_delay_in_a_key_is_taken_off_or_replaced():
    once = delayed.delayed_route(5, delayed.Route("shop", "a.b"))

    assert delayed.undelayed_key(once.routing_key) == "a.b"
    assert delayed.delayed_route(0.9, once).routing_key == "a.b"
    assert delayed.undelayed_key("0.1.a") == "0.1.a"
