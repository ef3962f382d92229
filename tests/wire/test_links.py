from datetime import date

import pytest

from umbel.wire.codecs import JSON_ONLY, Codecs
from umbel.wire.links import Links
from umbel.wire.message import Message
from umbel.wire.protocol import decode_body, decode_body_with_links, embed, encode_body

CODECS = Codecs()


def signature(number, task="shop.step"):
    return {"task": task, "args": [number, "é"], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}


def message_with(chain, args=(1,), serializer="json", **follow_ups):
    encoded = encode_body(args, {"a": None}, embed(chain=chain, **follow_ups), codecs=CODECS, serializer=serializer)
    return Message(id="1", task="t", body=encoded.body, content_type=encoded.content_type)


def read(message):
    return decode_body_with_links(message, codecs=CODECS, accept=None)


def test_a_long_chain_stays_unread_until_somebody_asks():
    chain = [signature(number) for number in range(50)]

    links = read(message_with(chain)).embed["chain"]

    assert type(links) is Links
    assert (len(links), links[-1], [*links]) == (50, chain[-1], chain)


def test_what_is_handed_on_is_written_as_if_it_had_been_read():
    chain = [signature(number) for number in range(50)]
    rest = read(message_with(chain)).embed["chain"][:-1]
    others = {"callbacks": [signature(7)], "chord": signature(8)}

    assert message_with(rest, **others) == message_with(chain[:-1], **others)


@pytest.mark.parametrize("serializer", ["pickle", "yaml"])
def test_another_serializer_writes_plain_signatures(serializer):
    chain = [signature(number) for number in range(50)]
    rest = read(message_with(chain)).embed["chain"]

    body = decode_body(message_with(rest, serializer=serializer), codecs=CODECS, accept=None)

    assert (type(body.embed["chain"]), body.embed["chain"]) == (list, chain)


@pytest.mark.parametrize(
    "message",
    [
        message_with(None, args=("x" * 3000,)),
        message_with([signature(1)]),
        message_with([signature(number) for number in range(50)], args=(date(2026, 1, 2),)),
        message_with([signature(number) for number in range(50)], serializer="pickle"),
        Message(id="1", task="t", body=b'[[1], {}, {"chain": [1], "later": "' + b"x" * 3000 + b'"}]'),
        Message(id="1", task="t", body=b'[[NaN], {}, {"chain": ["' + b"x" * 3000 + b'"]}]'),
    ],
    ids=["no chain", "short", "a type of our own", "pickle", "a peer's own key", "NaN"],
)
def test_all_others_are_read_at_once(message):
    body = read(message)

    assert type(body.embed.get("chain")) is not Links
    assert repr(body) == repr(decode_body(message, codecs=CODECS, accept=None))


def test_a_content_type_that_is_not_accepted_is_refused_all_the_same():
    message = message_with([signature(number) for number in range(50)])

    with pytest.raises(Exception, match="json"):
        decode_body_with_links(message, codecs=CODECS, accept={"application/x-yaml"})
    assert decode_body_with_links(message, codecs=CODECS, accept=JSON_ONLY).args == [1]
