"""A proxy is the object it finds, each time anew."""

import pickle

import pytest

from umbel.local import Proxy, maybe_evaluate


class Thing:
    """A thing."""

    def __init__(self, name):
        self.name = name

    def __call__(self, number):
        return self.name * number

    def __repr__(self):
        return f"<thing {self.name}>"


def test_a_proxy_follows_what_it_stands_for():
    found = [Thing("a")]
    proxy = Proxy(lambda: found[0])
    assert proxy.name == "a"

    found[0] = Thing("b")

    assert proxy.name == "b"
    assert proxy(2) == "bb"


@pytest.mark.row("API-584")
def test_a_proxy_passes_for_its_object():
    thing = Thing("a")
    proxy = Proxy(lambda: thing)

    assert isinstance(proxy, Thing)
    assert proxy == thing
    assert proxy == Proxy(lambda: thing)
    assert hash(proxy) == hash(thing)
    assert repr(proxy) == str(proxy) == "<thing a>"
    assert proxy.__doc__ == "A thing."
    assert "name" in dir(proxy)
    assert vars(proxy) == {"name": "a"}
    assert maybe_evaluate(proxy) is thing
    assert maybe_evaluate(thing) is thing


def test_what_is_set_on_a_proxy_is_set_on_its_object():
    thing = Thing("a")
    proxy = Proxy(lambda: thing)

    proxy.color = "red"
    assert thing.color == "red"
    del proxy.color
    assert not hasattr(thing, "color")


def test_a_proxy_of_a_container_is_a_container():
    proxy = Proxy(lambda: {"a": 1})

    assert (len(proxy), list(proxy), proxy["a"], "a" in proxy, proxy | {"b": 2}) == (
        1,
        ["a"],
        1,
        True,
        {"a": 1, "b": 2},
    )
    assert pickle.loads(pickle.dumps(Proxy(lambda: 1 + 2j))) == 1 + 2j


def test_a_proxy_of_nothing_is_false():
    assert not Proxy(lambda: None)
