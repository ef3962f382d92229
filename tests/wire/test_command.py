import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import ContentDisallowed, InvalidMessage
from umbel.wire.codecs import JSON_ONLY, Codecs
from umbel.wire.command import (
    Command,
    Reply,
    command_message,
    is_for,
    node_mailbox,
    read_command,
    read_reply,
    reply_mailbox,
    reply_message,
)
from umbel.wire.message import Message, Route
from umbel.wire.topology import match

CODECS = Codecs()
ASKED = Command(
    method="rate_limit", arguments={"task_name": "add"}, destination=["a@h"], ticket="1", reply_to=Route("r", "me"),
    clock=3, expires=12.5,
)  # fmt: skip


def test_a_command_comes_back_and_goes_to_all_nodes():
    message, route = command_message(ASKED, codecs=CODECS)
    topology = node_mailbox("a@h").merge(node_mailbox("b@h"))

    assert read_command(message, codecs=CODECS, accept=JSON_ONLY) == ASKED
    assert (message.headers, message.delivery_mode) == ({"clock": 3, "expires": 12.5}, 2)
    assert match(topology, route.exchange, route.routing_key) == ("a@h.celery.pidbox", "b@h.celery.pidbox")


@pytest.mark.row("PRT-142", "PRT-239")
def test_a_reply_comes_back_and_goes_to_whoever_asked():
    topology = reply_mailbox("me").merge(reply_mailbox("you"))
    reply = Reply(values={"a@h": {"ok": "pong"}}, ticket="1", clock=4)

    message, route = reply_message(reply, Route("reply.celery.pidbox", "me"), codecs=CODECS)

    assert read_reply(message, codecs=CODECS, accept=JSON_ONLY) == reply
    assert (message.headers, message.delivery_mode) == ({"ticket": "1", "clock": 4}, 1)
    assert match(topology, route.exchange, route.routing_key) == ("me.reply.celery.pidbox",)


@pytest.mark.row("PRT-141")
def test_a_mailbox_goes_with_its_owner():
    queue = node_mailbox("a@h").queues["a@h.celery.pidbox"]

    assert (queue.exclusive, queue.auto_delete, queue.durable) == (True, True, False)
    assert queue.amqp_arguments == {"x-expires": 10000, "x-message-ttl": 300000}


@pytest.mark.row("PRT-238")
@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ({}, True),
        ({"destination": []}, True),
        ({"destination": ["a@h", "b@h"]}, True),
        ({"destination": ["b@h"], "pattern": "a*", "matcher": "glob"}, False),
        ({"pattern": "a@*", "matcher": "glob"}, True),
        ({"pattern": "A@*", "matcher": "glob"}, False),
        ({"pattern": "a@(h|i)", "matcher": "pcre"}, True),
        ({"pattern": "@h", "matcher": "pcre"}, False),
        ({"pattern": "a@h"}, True),
        ({"pattern": "a@"}, False),
    ],
)
def test_a_node_knows_whether_it_is_meant(choice, meant):
    assert is_for(Command(method="ping", **choice), "a@h") is meant


@pytest.mark.parametrize("choice", [{"pattern": "(", "matcher": "pcre"}, {"pattern": "a", "matcher": "sql"}])
def test_a_pattern_that_cannot_be_read_is_refused(choice):
    with pytest.raises(InvalidMessage, match="'ping'"):
        is_for(Command(method="ping", **choice), "a@h")


def test_what_nobody_accepts_is_refused():
    message, _ = command_message(ASKED, codecs=CODECS, serializer="pickle")

    with pytest.raises(ContentDisallowed):
        read_command(message, codecs=CODECS, accept=JSON_ONLY)


@given(
    st.binary(max_size=30)
    | st.sampled_from(
        [b"{}", b"[]", b'{"method": 3}', b'{"method": "a", "reply_to": 3}', b'{"method": "a", "arguments": []}']
    ),
    st.dictionaries(
        st.sampled_from(["clock", "expires", "ticket"]), st.none() | st.text() | st.integers() | st.floats()
    ),
)
def test_other_bodies_hold_no_command_and_no_reply(body, headers):
    message = Message(id="", task="", body=body, headers=headers)
    for read in (read_command, read_reply):
        try:
            read(message, codecs=CODECS, accept=JSON_ONLY)
        except InvalidMessage:
            pass
