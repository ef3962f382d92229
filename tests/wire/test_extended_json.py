import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.wire.extended_json import ExtendedJson

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.row("PRT-084")
def test_a_text_is_the_one_that_json_dumps_writes():
    value = {"a": [1, 2.5, None, True, "é\u2028"], "b": {"c": float("nan")}, "d": (1, 2)}

    assert ExtendedJson().encode(value) == json.dumps(value).encode()


@given(plain_json)
def test_plain_json_agrees_with_the_standard_library(value):
    text = json.dumps(value)

    assert ExtendedJson().encode(value) == text.encode()
    assert repr(ExtendedJson().decode(text.encode())) == repr(json.loads(text))


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused_as_the_standard_library_does(data):
    try:
        expected = json.loads(data)
    except ValueError:
        with pytest.raises(ValueError):
            ExtendedJson().decode(data)
    else:
        assert repr(ExtendedJson().decode(data)) == repr(expected)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 1, 2, 3, 4, 5, 678, UTC),
        datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=-3))),
        datetime(2024, 1, 2),
        date(2024, 1, 2),
        time(3, 4, 5),
        Decimal("1.50"),
        UUID(int=1),
        b"abc",
        b"\xff\x00",
        [{"deep": [b"", UUID(int=2)]}],
        {"__type__": "datetime"},
        {"__type__": "datetime", "__value__": "no date", "more": 1},
    ],
)
def test_a_value_comes_back(value):
    extended = ExtendedJson()

    assert extended.decode(extended.encode(value)) == value


def test_kinds_of_known_types_travel_as_them():
    class Colour(IntEnum):
        RED = 3

    class Moment(datetime):
        pass

    extended = ExtendedJson()

    assert extended.encode(Colour.RED) == b"3"
    assert extended.decode(extended.encode(Moment(2024, 1, 2))) == datetime(2024, 1, 2)


def test_a_date_may_be_written_as_a_moment_and_a_uuid_by_any_of_its_parts():
    extended = ExtendedJson()

    assert extended.decode(b'{"__type__": "date", "__value__": "2024-01-02T03:04:05"}') == date(2024, 1, 2)
    assert extended.decode(b'{"__type__": "uuid", "__value__": {"int": 5}}') == UUID(int=5)


@pytest.mark.row("PRT-099")
def test_an_object_may_say_how_it_travels():
    class Basket:
        def __json__(self):
            return {"eggs": [b"x"]}

    assert ExtendedJson().encode([Basket()]) == b'[{"eggs": [{"__type__": "bytes", "__value__": "x"}]}]'


@pytest.mark.row("PRT-103")
def test_a_registered_type_travels_both_ways_and_without_a_marker_one_way():
    class Point:
        def __init__(self, x):
            self.x = x

    class Fancy(Point):
        pass

    class Bare(Point):
        pass

    extended = ExtendedJson()
    extended.register(Point, "point", lambda point: point.x, Point)
    extended.register(Bare, None, lambda point: {"x": point.x}, Point)

    assert extended.encode(Fancy(3)) == b'{"__type__": "point", "__value__": 3}'
    assert extended.decode(extended.encode(Point(3))).x == 3
    assert extended.decode(extended.encode(Bare(3))) == {"x": 3}
    with pytest.raises(TypeError):
        ExtendedJson().encode(Point(3))  # nobody else knows it


def test_an_abstract_class_can_be_registered():
    class Row(Sequence):
        def __getitem__(self, i):
            return (0, 1)[i]

        def __len__(self):
            return 2

    extended = ExtendedJson()
    extended.register(Sequence, "row", list, tuple)

    assert extended.decode(extended.encode(Row())) == (0, 1)


@pytest.mark.row("PRT-101")
@pytest.mark.parametrize("value", [{1, 2}, object(), timedelta(1), {(1, 2): 3}, Enum("E", "A").A, bytearray(b"x")])
def test_what_cannot_travel_is_named(value):
    with pytest.raises(TypeError, match=r"cannot travel as JSON|keys must be"):
        ExtendedJson().encode(value)


def test_a_circle_ends():
    circle = []
    circle.append(circle)

    with pytest.raises(RecursionError):
        ExtendedJson().encode(circle)


@pytest.mark.row("PRT-102")
@pytest.mark.parametrize("marker", ['"nope"', "null", '["datetime"]'])
def test_an_unknown_type_is_refused(marker):
    with pytest.raises(ValueError, match="register_type"):
        ExtendedJson().decode(f'{{"__type__": {marker}, "__value__": 1}}')


def test_numbers_beyond_json_are_understood():
    assert math.isnan(ExtendedJson().decode(b"NaN"))
    assert ExtendedJson().decode(b'[Infinity, "\\ud800"]') == [math.inf, "\ud800"]


@pytest.mark.row("PRT-100")
def test_a_lazy_translation_of_django_travels_as_its_text():
    lazy = pytest.importorskip("django.utils.functional").lazystr

    assert ExtendedJson().encode({"greeting": lazy("hello")}) == b'{"greeting": "hello"}'
