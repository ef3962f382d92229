"""What is shown of a value is short, and safe to log."""

import collections
from datetime import datetime
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel._repr import is_secret_name, mask_secrets, mask_url, safe_repr

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=30),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(max_size=5), inner) | st.just([]),
    max_leaves=40,
)


class Broken:
    def __repr__(self):
        raise RuntimeError("no repr")


class Wordy:
    def __repr__(self):
        return "w" * 100


@pytest.mark.row("PRT-013", "PRT-014")
@pytest.mark.parametrize(
    "value",
    [
        (2, 2),
        (),
        {},
        [],
        (1,),
        ({"a": 1, "b": (1,)}, "it's", b"x\n", None, True, 1.5, 2**80),
        {1},
        set(),
        frozenset({1}),
        frozenset(),
        {"when": datetime(2026, 1, 1)},
    ],
)
def test_small_values_are_shown_as_python_shows_them(value):
    assert safe_repr(value) == repr(value)


@pytest.mark.row("PRT-013", "CFG-022")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([[[[[1]]]]], "[[[[...]]]]"),
        (([1, [2, [3, [4]]]],), "([1, [2, [...]]],)"),
        ({"a": {"b": {"c": {"d": 1}}}}, "{'a': {'b': {'c': {...}}}}"),
        ([[[[]]]], "[[[[]]]]"),
        ({"a": [{frozenset({1})}]}, "{'a': [{frozenset({...})}]}"),
    ],
)
def test_deep_values_are_shown_to_three_levels(value, text):
    assert safe_repr(value) == text


@pytest.mark.row("CFG-022")
def test_zero_levels_is_no_limit():
    assert safe_repr([[[[[[1]]]]]], maxlevels=0) == "[[[[[[1]]]]]]"


def test_a_list_that_holds_itself_is_shown_and_ends():
    endless = [1]
    endless.append(endless)

    assert len(safe_repr(endless, maxlevels=0)) <= 1024


def test_containers_of_other_classes_are_shown_as_their_builtin_kind():
    class Point(NamedTuple):
        x: int
        y: int

    assert safe_repr([Point(1, 2), collections.OrderedDict(a=1)]) == "[(1, 2), {'a': 1}]"


@pytest.mark.row("PRT-013")
@pytest.mark.parametrize("value", [("x" * 5000,), list(range(5000)), [b"x" * 5000], [Wordy()] * 50, {1: "y" * 5000}])
def test_long_values_are_cut_at_the_limit(value):
    text = safe_repr(value, maxlen=100)

    assert len(text) == 100
    assert text.endswith("...")


def test_the_cost_does_not_grow_with_what_is_not_shown():
    class Counting(list):
        seen = 0

        def __iter__(self):
            for item in super().__iter__():
                Counting.seen += 1
                yield item

    safe_repr(Counting(range(100_000)), maxlen=100)

    assert Counting.seen < 100


@pytest.mark.parametrize("value", [Broken(), [Broken()], {1: Broken()}])
def test_a_repr_that_fails_is_told_and_not_raised(value):
    assert "<Broken: RuntimeError in its repr>" in safe_repr(value)


def test_a_container_that_cannot_be_read_is_told_and_not_raised():
    class Torn(dict):
        def __iter__(self):
            raise OSError("gone")

    assert "OSError while reading it" in safe_repr(Torn(a=1))


def test_an_integer_too_long_for_python_to_print_is_told_and_not_raised():
    assert "ValueError in its repr" in safe_repr([10**5000])


@given(PLAIN)
def test_whatever_is_plain_can_be_shown(value):
    text = safe_repr(value)

    assert len(text) <= 1024
    text.encode()
    assert safe_repr(value, maxlevels=0, maxlen=10**6) == repr(value)


@pytest.mark.row("CFG-007")
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s@h/0", "redis://:**@h/0"),
        ("amqp://u:p@h//", "amqp://u:**@h//"),
        ("redis://u@h", "redis://u@h"),
        ("sqs://key:s%2F@", "sqs://key:**@"),
        ("redis://h:6379/1", "redis://h:6379/1"),
        ("redis://h:6379/1?x=a@b", "redis://h:6379/1?x=a@b"),
        ("sentinel://:a@h1;sentinel://:b@h2", "sentinel://:**@h1;sentinel://:**@h2"),
        ("db+postgresql://u:p@h/d", "db+postgresql://u:**@h/d"),
        ("redis://u:p@ss@h/0", "redis://u:**@h/0"),
        ("redis://:pa/ss@h", "redis://:**@h"),
        ("redis://h/0?password=geheim&x=1", "redis://h/0?password=**&x=1"),
        ("cannot reach amqp://a:b@c now", "cannot reach amqp://a:**@c now"),
        ("no url: a@b", "no url: a@b"),
    ],
)
def test_passwords_in_urls_are_masked(url, shown):
    assert mask_url(url) == shown


@pytest.mark.row("CFG-007")
def test_secrets_are_masked_by_name_and_in_urls_at_any_depth():
    value = {"sentinel_kwargs": {"password": "x"}, "urls": ["amqp://u:p@h"], "pair": ("redis://:p@h", 1)}

    assert mask_secrets(value, "broker_transport_options") == {
        "sentinel_kwargs": {"password": "********"},
        "urls": ["amqp://u:********@h"],
        "pair": ("redis://:********@h", 1),
    }
    assert mask_secrets("x", "S3_SECRET_ACCESS_KEY") == "********"


@pytest.mark.row("CFG-007")
@pytest.mark.parametrize(
    "name",
    ["api_id", "a_token", "Key", "secret", "PASSWORD", "profanities_list", "signature", "database_url", "beat_dburi"],
)
def test_names_of_secrets_are_known_in_any_case(name):
    assert is_secret_name(name)
    assert not is_secret_name("timezone")
    assert not is_secret_name(3)
