"""What umbel writes, a real Celery reads: runs where one is installed, see conftest.py."""

import base64
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from umbel import exceptions
from umbel.wire import command, event
from umbel.wire.message import Message, Route
from umbel.wire.protocol import Body, as_protocol_1, embed, encode_body
from umbel.wire.result import Details, ResultMeta, encode_meta, exception_to_data

pytestmark = pytest.mark.process
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
QUEUE = Route("", "celery")


def call(id: str, codecs: Any, args: Any, *, task: str = "proj.add", kwargs: Any = None, **options: Any) -> Message:
    names = ("serializer", "compression")
    coding = {name: options.pop(name) for name in names if name in options}
    encoded = encode_body(args, kwargs or {}, embed(), codecs=codecs, **coding)
    parts = {name: getattr(encoded, name) for name in encoded.__struct_fields__}
    return Message(
        id=id, task=task, root_id=id, argsrepr=repr(args), kwargsrepr="{}", origin="gen1@here", **parts, **options
    )


def posted(envelopes: Any, messages: list[Message]) -> list[str]:
    return [envelopes.encode(m, QUEUE, delivery_tag=f"tag-{i}", now=NOW).decode() for i, m in enumerate(messages)]


@pytest.fixture(scope="module")
def ran(ask_peer, codecs, envelopes):
    """What a worker of Celery's made of all that the tests would have it run, by task id."""
    return ask_peer("run", posted(envelopes, [*plain(codecs), old(codecs), full(codecs)]))


def plain(codecs):
    messages = [call(name, codecs, (2, 3), serializer=name) for name in ("json", "yaml", "msgpack", "pickle")]
    messages += [call(name, codecs, (2, 3), compression=name) for name in ("gzip", "bzip2", "lzma", "brotli")]
    messages += [call("positional", codecs, [2], kwargs={"y": 3}), call("unicode", codecs, ["é", "日本"])]
    return messages


def old(codecs):
    return as_protocol_1(call("old", codecs, ()), Body([2], {"y": 3}, embed()), codecs=codecs, compression="zlib")


def full(codecs):
    return call(
        "full", codecs, (1,), task="proj.show", kwargs={"k": "v"}, eta=NOW, retries=2, hard_limit=10, soft_limit=5.5,
        parent_id="p", group="g", group_index=4, shadow="short", ignore_result=False, replaced_task_nesting=1,
        stamped_headers=("tenant",), stamps={"tenant": "acme"}, headers={"mine": [1, None]}, reply_to="me",
        correlation_id="full", priority=3,
    )  # fmt: skip


def test_celery_runs_our_tasks_in_every_serializer_and_compression(ran, codecs):
    expected = {message.id: ["SUCCESS", "5"] for message in plain(codecs)} | {"unicode": ["SUCCESS", "é日本"]}
    assert {name: ran[name] for name in expected} == expected


def test_celery_runs_our_tasks_of_protocol_1(ran):
    assert ran["old"] == ["SUCCESS", "5"]


def test_celery_sees_all_that_a_message_says(ran):
    state, shown = ran["full"]

    args, kwargs, seen = eval(shown)
    assert (state, args, kwargs) == ("SUCCESS", (1,), {"k": "v"})
    assert seen == {
        "id": "full", "eta": NOW.isoformat(), "expires": None, "retries": 2, "timelimit": [10, 5.5], "root_id": "full",
        "parent_id": "p", "group": "g", "group_index": 4, "shadow": "short", "ignore_result": False,
        "replaced_task_nesting": 1, "stamped_headers": ["tenant"], "stamps": {"tenant": "acme"}, "reply_to": "me",
        "correlation_id": "full", "headers": {"mine": [1, None]},
        "origin": "gen1@here",
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False},
    }  # fmt: skip


def test_celery_decodes_our_values(ask_peer, codecs):
    values = [
        NOW,
        date(2024, 1, 2),
        time(3, 4),
        Decimal("1.50"),
        UUID(int=7),
        b"abc",
        b"\xff",
        [{"a": 2**80}, "é\ud800"],
    ]
    coded = [codecs.encode(value) for value in values]
    plain = {"a": [1, 1.5, None, True, "é"]}
    coded += [codecs.encode(plain, serializer) for serializer in ("yaml", "msgpack", "pickle")]

    items = [
        {
            "body": base64.b64encode(one.body).decode(),
            "content_type": one.content_type,
            "content_encoding": one.content_encoding,
        }
        for one in coded
    ]

    assert ask_peer("values", items) == [repr(value) for value in [*values, plain, plain, plain]]


def test_celery_reads_our_results(ask_peer, codecs):
    failures = [
        ValueError("boom", 1),
        LookupError({1}),
        exceptions.TaskRevokedError("expired"),
        exceptions.WorkerLostError("gone"),
        exceptions.BrokerUnavailable("down"),
    ]
    metas, serializers = [], []
    for serializer in ("json", "yaml", "msgpack", "pickle"):
        done = ResultMeta(
            task_id=f"{serializer}-ok", status="SUCCESS", result={"a": [1]}, children=[[["c", None], None]],
            date_done=NOW, group_id="g", parent_id="p",
            details=Details(name="n", args=[1], kwargs={}, worker="w@h", retries=0, queue="q"),
        )  # fmt: skip
        metas.append(done)
        metas += [
            ResultMeta(
                task_id=f"{serializer}-{i}", status="FAILURE", traceback="Traceback…", date_done=NOW,
                result=exception_to_data(exc, codecs=codecs, serializer=serializer),
            )
            for i, exc in enumerate(failures)
        ]  # fmt: skip
        serializers += [serializer] * (len(failures) + 1)

    items = [
        {
            "id": meta.task_id,
            "serializer": serializer,
            "payload": base64.b64encode(encode_meta(meta, codecs=codecs, serializer=serializer)).decode(),
        }
        for meta, serializer in zip(metas, serializers, strict=True)
    ]
    answers = iter(ask_peer("results", items))

    for serializer in ("json", "yaml", "msgpack", "pickle"):
        assert next(answers) == ["SUCCESS", "{'a': [1]}", None, ["c"], str(NOW)]
        shown = [next(answers) for _ in failures]
        assert [state for state, *_ in shown] == ["FAILURE"] * len(failures)
        assert [error[:2] for _, error, *_ in shown] == [
            ["builtins", "ValueError"],
            ["builtins", "LookupError"],
            ["celery.exceptions", "TaskRevokedError"],
            ["billiard.exceptions", "WorkerLostError"],
            ["celery.exceptions", "BrokerUnavailable"],
        ]
        assert shown[0][1][2] == "('boom', 1)"
        assert shown[1][1][2] == ("({1},)" if serializer in {"pickle", "yaml"} else "('{1}',)")


def test_celery_receives_our_events(ask_peer, codecs, envelopes):
    started = event.event("task-started", hostname="w@h", timestamp=1.5, clock=7, pid=1, fields={"uuid": "t"})
    beat = event.event(
        "worker-heartbeat", hostname="w@h", timestamp=2.5, clock=8, pid=1, fields={"freq": 2.0, "active": 0}
    )
    sent = [event.event_message(one, codecs=codecs) for one in (started, beat, [started, started])]

    texts = [envelopes.encode(message, route, delivery_tag="x", now=NOW).decode() for message, route in sent]
    seen = ask_peer("events", texts)

    assert [one["type"] for one in seen] == ["task-started", "worker-heartbeat", "task-started", "task-started"]
    assert {"uuid": "t", "clock": 7, "hostname": "w@h", "pid": 1}.items() <= seen[0].items()


def test_celery_answers_our_commands(ask_peer, codecs, envelopes):
    reply_to = Route("reply.celery.pidbox", "me")
    asked = [
        command.Command(method="shout", arguments={"text": "hi"}, ticket="1", reply_to=reply_to, clock=3),
        command.Command(
            method="shout", arguments={"text": "no"}, destination=["other@h"], ticket="2", reply_to=reply_to
        ),
        command.Command(
            method="shout", arguments={"text": "yes"}, pattern="peer*", matcher="glob", ticket="3", reply_to=reply_to
        ),
        command.Command(method="shout", arguments={}, ticket="4", reply_to=reply_to),
    ]

    texts = [
        envelopes.encode(*command.command_message(one, codecs=codecs), delivery_tag="x", now=NOW).decode()
        for one in asked
    ]
    read = [envelopes.decode(text, None) for text in ask_peer("commands", texts)]
    replies = [command.read_reply(one.message, codecs=codecs, accept=None) for one in read]

    assert [one.route for one in read] == [reply_to] * 3
    assert [reply.ticket for reply in replies] == ["1", "3", "4"]
    assert [reply.values.get("peer@here") for reply in replies[:2]] == [{"ok": "HI"}, {"ok": "YES"}]
    assert "TypeError" in json.dumps(replies[2].values)
