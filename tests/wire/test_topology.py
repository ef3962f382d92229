"""Exchanges and bindings decide which queues a message reaches."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology, match, task_queue, topic_matches


@pytest.mark.row("PRT-119", "PRT-137")
def test_the_default_exchange_reaches_the_queue_named_by_the_key():
    assert match(Topology(), "", "celery") == ("celery",)


def test_an_unknown_exchange_reaches_nothing():
    assert match(Topology(), "nowhere", "celery") == ()


@pytest.mark.row("PRT-136")
def test_a_task_queue_is_reached_through_its_own_direct_exchange():
    topology = task_queue("mail")

    assert match(topology, "mail", "mail") == ("mail",)
    assert match(topology, "mail", "other") == ()


def test_a_direct_exchange_compares_whole_keys_and_names_each_queue_once():
    topology = Topology.of(
        Exchange("x"),
        Binding("x", "a", "k"),
        Binding("x", "b", "k"),
        Binding("x", "a", "k", {"reason": 2}),
        Binding("x", "c", "other"),
    )

    assert match(topology, "x", "k") == ("a", "b")


def test_a_fanout_exchange_ignores_the_key():
    topology = Topology.of(Exchange("x", "fanout"), Binding("x", "a", "k"), Binding("x", "b"))

    assert match(topology, "x", "whatever") == ("a", "b")


def test_exchanges_pass_on_to_exchanges_and_circles_end():
    topology = Topology.of(
        Exchange("in", "topic"),
        Exchange("out", "fanout"),
        Binding("in", "out", "news.#", to_exchange=True),
        Binding("out", "in", "", to_exchange=True),
        Binding("out", "a"),
        Binding("in", "b", "#"),
    )

    assert match(topology, "in", "news.sport") == ("b", "a")
    assert match(topology, "in", "weather") == ("b",)


@pytest.mark.parametrize(
    ("arguments", "headers", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": 2}, {"a": 1}, True),
        ({"x-match": "any", "a": 1, "b": 2}, {"a": 2}, False),
        ({"x-match": "any"}, {"a": 2}, False),
        ({"x-match": "all"}, {}, True),
        ({"a": None}, {"a": 7}, True),
        ({"a": None}, {}, False),
        ({"x-match": "all", "x-kind": 1}, {}, True),
        ({"x-match": "all-with-x", "x-kind": 1}, {}, False),
        ({"x-match": "any-with-x", "x-kind": 1}, {"x-kind": 1}, True),
    ],
)
def test_a_headers_exchange_compares_headers(arguments, headers, expected):
    topology = Topology.of(Exchange("h", "headers"), Binding("h", "q", arguments=arguments))

    assert bool(match(topology, "h", "ignored", headers)) is expected


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("#", "", True),
        ("*", "", False),
        ("", "", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "c", True),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.c", False),
        ("a.#.b.#.c", "a.x.b.y.b.z.c", True),
        ("#.b.#.b", "b", False),
        ("worker.#", "worker.heartbeat", True),
        ("task.*", "worker.online", False),
    ],
)
def test_a_topic_pattern_has_words_stars_and_hashes(pattern, key, expected):
    assert topic_matches(pattern, key) is expected


@given(
    st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=6),
)
def test_topic_patterns_agree_with_a_regular_expression(tokens, words):
    parts = {"#": r"(?:\w+\.)*", "*": r"\w+\."}
    regex = "".join(parts.get(token, f"{token}\\.") for token in tokens)

    expected = re.fullmatch(regex, "".join(f"{word}." for word in words)) is not None

    assert topic_matches(".".join(tokens), ".".join(words)) is expected


def test_merging_keeps_the_later_definition_and_equal_bindings_once():
    ours = task_queue("q")
    theirs = Topology.of(task_queue("q", max_priority=9), task_queue("r"))

    both = ours.merge(theirs)

    assert both.queues == {"q": QueueSpec("q", max_priority=9), "r": QueueSpec("r")}
    assert len(both.bindings) == 2


def test_deleting_a_queue_or_an_exchange_takes_its_bindings_along():
    topology = Topology.of(task_queue("q"), task_queue("r"), Binding("r", "q", "x", to_exchange=True))

    assert topology.without_queue("q").bindings == (Binding("r", "r", "r"), Binding("r", "q", "x", to_exchange=True))
    assert topology.without_exchange("q").bindings == (Binding("r", "r", "r"),)


def test_a_queue_tells_its_amqp_arguments_in_milliseconds():
    queue = QueueSpec("q", expires=10, message_ttl=0.5, max_priority=5, queue_type="quorum", arguments={"x-foo": 1})

    assert queue.amqp_arguments == {
        "x-foo": 1,
        "x-queue-type": "quorum",
        "x-max-priority": 5,
        "x-expires": 10000,
        "x-message-ttl": 500,
    }


def test_the_memory_of_matches_is_bounded():
    topology = Topology.of(Exchange("t", "topic"), Binding("t", "q", "#"))

    for i in range(10_000):
        assert match(topology, "t", f"key.{i}") == ("q",)

    assert len(topology._memo) <= 4096
