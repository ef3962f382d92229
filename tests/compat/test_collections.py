"""The containers that programs import from Celery."""

import pytest

from umbel.compat.collections import AttributeDict, BufferMap, ConfigurationView, DictAttribute, LimitedSet


@pytest.mark.row("API-581")
def test_keys_are_attributes_and_attributes_keys():
    box = AttributeDict(a=1)
    box.b = 2
    assert (box.a, box["b"]) == (1, 2)
    with pytest.raises(AttributeError):
        _ = box.c

    view = DictAttribute(box)
    view["c"] = 3
    assert (box.c, view["a"], view.get("d", 4), "a" in view, len(view) > 3) == (3, 1, 4, True, True)

    class Thing:
        """Has attributes."""

    thing = Thing()
    DictAttribute(thing)["x"] = 1
    assert (thing.x, "x" in list(DictAttribute(thing))) == (1, True)
    del DictAttribute(thing)["x"]
    with pytest.raises(KeyError):
        DictAttribute(thing)["x"]


@pytest.mark.row("API-581")
def test_a_configuration_is_changes_before_defaults():
    changes = {"a": 1}
    view = ConfigurationView(changes, [{"a": 2, "b": 2}, {"c": 3}])
    view["d"] = 4
    view.add_defaults({"b": 5})

    assert (view.a, view["b"], view.c, changes) == (1, 5, 3, {"a": 1, "d": 4})
    with pytest.raises(AttributeError, match="no setting 'e'"):
        _ = view.e


@pytest.mark.row("API-581")
def test_a_limited_set_holds_the_newest():
    known = LimitedSet(maxlen=2, expires=10, data=["a"])
    known.update({"b": 5.0})
    known.add("c")
    known.add("a")

    assert (list(known), len(known), "b" in known) == (["c", "a"], 2, False)
    known.add("c", now=1.0)
    known.add("a", now=2.0)
    known.purge(now=11.5)
    assert known.as_dict() == {"a": 2.0}
    other = LimitedSet()
    other.update(known)
    assert (other.pop(), other.pop("none"), repr(known)) == (
        "a", "none", "<LimitedSet(1): maxlen=2, expires=10, minlen=0>",
    )  # fmt: skip
    known.discard("a")
    known.clear()
    assert not known


@pytest.mark.row("API-581")
def test_a_buffer_map_bounds_all_lines_together():
    buffers = BufferMap(3, [("x", 1)], bufmaxsize=2)
    buffers.extend("y", [2, 3])
    buffers.put("x", 4)

    assert (buffers.total, dict(buffers)) == (3, {"y": [3], "x": [1, 4]} | {"y": buffers["y"], "x": buffers["x"]})
    assert [buffers.take("y"), buffers.take("x"), buffers.take("x"), buffers.take("x", None)] == [3, 1, 4, None]
    with pytest.raises(BufferMap.Empty):
        buffers.take("x")
