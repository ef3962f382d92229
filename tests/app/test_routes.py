import re
import sys
import types

import pytest

from umbel.app.queues import QueueDefaults, Queues
from umbel.app.routes import Router
from umbel.exceptions import ImproperlyConfigured, QueueNotFound
from umbel.wire.message import Route


def router(routes=None, queues=None, **defaults):
    return Router(routes, Queues(queues, QueueDefaults(**defaults)))


def goes_to(routes, name, *args, **options):
    return router(routes).route(options, name, args)


@pytest.mark.row("API-450", "API-451")
@pytest.mark.parametrize(
    "routes",
    [
        {"feed.tasks.fetch": "feeds"},
        {"feed.tasks.fetch": {"queue": "feeds"}},
        {"feed.*": "feeds"},
        {re.compile(r"feed\.(tasks|jobs)\..*"): {"queue": "feeds"}},
        [("feed.*", {"queue": "feeds"})],
        ([("feed.*", {"queue": "feeds"})],),
        [{"video.*": "video"}, {"feed.*": "feeds"}],
        lambda name, args, kwargs, options, task=None, **kw: "feeds" if name.startswith("feed.") else None,
        [lambda name, *_, **kw: {"queue": "feeds"}],
    ],
)
def test_routes_come_in_many_forms(routes):
    assert goes_to(routes, "feed.tasks.fetch") == {"queue": "feeds"}
    assert goes_to({"x": "y"}, "feed.tasks.fetch") == {}


@pytest.mark.row("API-454")
def test_a_bare_name_is_that_of_a_queue():
    found = router({"feed.*": "feeds"})

    assert found.lookup("feed.fetch", (), {}, {}) == {"queue": "feeds"}
    assert found.destination({"queue": "feeds"})[0] == Route("", "feeds")


class Custom:
    def route_for_task(self, task, args=None, kwargs=None):
        return {"queue": f"for-{args[0]}"} if args else None


@pytest.mark.row("API-450")
@pytest.mark.parametrize("routes", [Custom(), [Custom()], Custom, "routing_module:Custom", ["routing_module.Custom"]])
def test_a_route_may_be_an_object_its_class_or_their_dotted_path(routes, monkeypatch):
    module = types.ModuleType("routing_module")
    module.Custom = Custom
    monkeypatch.setitem(sys.modules, "routing_module", module)

    assert goes_to(routes, "any", "acme") == {"queue": "for-acme"}
    assert goes_to(routes, "any") == {}


@pytest.mark.row("API-452")
def test_an_exact_name_comes_before_patterns_and_patterns_in_their_order():
    routes = {"a.*": "first", "a.b*": "second", "a.c": "exact"}

    assert goes_to(routes, "a.c")["queue"] == "exact"
    assert goes_to(routes, "a.bc")["queue"] == "first"


@pytest.mark.row("API-452")
def test_the_first_router_with_an_answer_counts():
    assert goes_to([{"b": "no"}, {"a": "yes"}, {"a": "too late"}], "a") == {"queue": "yes"}


@pytest.mark.row("API-453")
def test_options_of_the_call_win_unless_they_are_none():
    routes = {"a": {"queue": "q", "priority": 3}}

    assert goes_to(routes, "a", priority=9, queue=None) == {"queue": "q", "priority": 9}


@pytest.mark.row("API-450")
def test_what_is_no_route_is_an_error():
    with pytest.raises(ImproperlyConfigured, match="42 in 'task_routes' is no route"):
        router([42])


@pytest.mark.row("API-457", "API-458")
def test_a_call_without_routing_goes_straight_to_the_default_queue():
    route, queue = router().destination({})

    assert route == Route("", "celery")
    assert queue.name == "celery"


@pytest.mark.row("API-458")
def test_a_queue_with_a_direct_exchange_is_reached_by_its_name():
    known = router(queues={"images": {"exchange": "media", "routing_key": "media.image"}})

    assert known.destination({"queue": "images"})[0] == Route("", "images")


@pytest.mark.row("API-459")
@pytest.mark.parametrize("kind", ["topic", "fanout"])
def test_a_queue_with_another_exchange_is_reached_through_it(kind):
    known = router(queues={"images": {"exchange": "media", "exchange_type": kind, "routing_key": "media.image"}})

    assert known.destination({"queue": "images"})[0] == Route("media", "media.image")
    assert known.destination({"queue": "images", "routing_key": "k"})[0] == Route("media", "k")


@pytest.mark.row("API-142")
def test_an_exchange_and_a_key_may_be_named_without_a_queue():
    assert router().destination({"exchange": "x", "routing_key": "k"}) == (Route("x", "k"), None)
    assert router().destination({"routing_key": "k"}) == (Route("celery", "k"), None)
    assert router().destination({"exchange": "x"}) == (Route("x", "celery"), None)


@pytest.mark.row("API-455", "CFG-124")
def test_an_unknown_queue_is_an_error_when_none_may_be_made():
    known = router(queues={"images": {}}, create_missing=False)

    with pytest.raises(QueueNotFound, match=r"Queue 'image' missing from task_queues; did you mean 'images'?"):
        known.destination({"queue": "image"})


@pytest.mark.row("API-142")
def test_a_queue_may_be_given_as_an_object():
    class ForeignQueue:
        name, exchange, routing_key = "images", "media", "k"

    assert router().destination({"queue": ForeignQueue()})[0] == Route("", "images")


def test_answers_that_depend_on_the_name_alone_may_be_remembered():
    assert router({"a": "q"}).by_name_only
    assert not router(lambda *_, **kw: None).by_name_only
