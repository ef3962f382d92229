"""The small functions that programs import from Celery, under umbel's own roof."""

import pytest

from umbel.compat import pieces
from umbel.contrib.testing.app import TestApp
from umbel.result import AsyncResult, EagerResult, ResultBase


@pytest.mark.row("API-579")
def test_collections_are_handled_in_small_ways():
    assert list(pieces.chunks(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert pieces.first(None, [None, 0, 1]) == 0
    assert pieces.first(lambda x: x > 1, [1, 2]) == 2
    assert [pieces.maybe_list(value) for value in (None, "a", [1], {"a": 1})] == [None, ["a"], [1], [{"a": 1}]]
    assert pieces.dictfilter({"a": None}, b=1) == {"b": 1}
    assert pieces.dictfilter(a=None, b=1) == {"b": 1}
    assert pieces.str_to_list("a,b") == ["a", "b"]
    assert pieces.noop(1, a=2) is None


def test_text_is_handled_in_small_ways():
    assert (pieces.truncate("abcdefgh", 6), pieces.truncate("abc", 6)) == ("abc...", "abc")
    assert (pieces.pluralize(1, "task"), pieces.pluralize(2, "task")) == ("task", "tasks")


@pytest.mark.row("API-578")
def test_values_are_made_fit_for_travelling():
    class Local(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    assert [pieces.strtobool(term) for term in ("yes", "OFF", "1", 0)] == [True, False, True, 0]
    with pytest.raises(TypeError, match="cannot read 'perhaps' as yes or no"):
        pieces.strtobool("perhaps")
    assert pieces.jsonify({"a": (1, 2), "b": KeyError}) == {"a": [1, 2], "b": "<class 'KeyError'>"}
    assert pieces.b64decode(pieces.b64encode(b"abc")) == b"abc"
    error = KeyError("a")
    assert pieces.get_pickleable_exception(error) is error
    assert "Local" in str(pieces.get_pickleable_exception(Local(1, 2)))
    with pytest.raises(KeyError):
        pieces.reraise(KeyError, error)
    with pytest.raises(KeyError):
        pieces.raise_with_context(error)


@pytest.mark.row("API-576", "API-008")
def test_names_lead_to_objects():
    assert pieces.instantiate("collections:OrderedDict", a=1) == {"a": 1}
    assert (pieces.qualname(KeyError), pieces.qualname(KeyError())) == ("builtins.KeyError",) * 2
    assert pieces.maybe_patch_concurrency(["worker", "-P", "gevent"]) is None
    with TestApp("shop") as app:
        app.set_current()
        assert pieces.gen_task_name(app, "add", "tasks") == "tasks.add"
        assert pieces.get_loader_cls("app") is type(app.loader)
        assert pieces.get_loader_cls("umbel.app.loader:Loader") is type(app.loader)
        assert pieces.send_task("x", ignore_result=True).id
        assert "celery.chord" in pieces.tasks


def test_what_a_task_defines_itself_is_told_from_umbels_own():
    with TestApp("shop") as app:

        @app.task(shared=False, base=type("Own", (app.Task,), {"abstract": True, "__call__": lambda self: 1}))
        def own():
            """Do nothing."""

        @app.task(shared=False)
        def plain():
            """Do nothing."""

        assert [pieces.task_has_custom(task, "__call__") for task in (own, plain)] == [True, False]


@pytest.mark.row("API-587")
def test_results_have_one_base():
    assert issubclass(AsyncResult, ResultBase)
    assert issubclass(EagerResult, ResultBase)


def test_options_and_stores_are_left_to_umbel():
    assert pieces.handle_preload_options(len) is len
    assert not isinstance(object(), pieces.DisabledBackend)
