import sys
from datetime import UTC, datetime
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel import exceptions
from umbel.exceptions import ContentDisallowed, EncodeError, InvalidMessage, SecurityError
from umbel.wire.codecs import JSON_ONLY, Codecs
from umbel.wire.result import (
    Details,
    Node,
    ResultMeta,
    decode_group,
    decode_meta,
    encode_group,
    encode_meta,
    exception_from_data,
    exception_to_data,
    node_from_tuple,
    node_to_tuple,
)

CODECS = Codecs()
DONE = datetime(2026, 1, 1, tzinfo=UTC)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
nodes = st.recursive(
    st.builds(Node, st.text(max_size=3)),
    lambda inner: st.builds(
        Node, st.text(max_size=3), st.none() | inner, st.none() | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=6,
)


class Shop:
    class SoldOut(Exception):
        pass


class TwoNeeded(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first}-{second}")


class Mean:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack", "pickle"])
def test_a_meta_comes_back(serializer, compression):
    details = Details(
        name="add", args=[1], kwargs={"k": 2}, worker="w@h", retries=1, queue="q", stamps={"tenant": "acme"}
    )
    meta = ResultMeta(
        task_id="t", status="SUCCESS", result={"a": [1]}, children=[[["c", None], None]], date_done=DONE, group_id="g",
        parent_id="p", details=details,
    )  # fmt: skip

    payload = encode_meta(meta, codecs=CODECS, serializer=serializer, compression=compression)

    assert payload.startswith(b"\x00celery-compressed\x00") is (compression is not None)
    assert decode_meta(payload, codecs=CODECS, accept=None, serializer=serializer) == meta


def test_an_old_meta_without_id_gets_the_one_asked_for():
    assert (
        decode_meta(b'{"status": "SUCCESS", "result": 1}', codecs=CODECS, accept=JSON_ONLY, task_id="t").task_id == "t"
    )


@pytest.mark.row("PRT-194")
def test_an_unknown_task_is_pending():
    assert (ResultMeta(task_id="t").status, ResultMeta(task_id="t").result) == ("PENDING", None)


def test_a_result_that_cannot_travel_is_an_encode_error():
    with pytest.raises(EncodeError):
        encode_meta(ResultMeta(task_id="t", result={1}), codecs=CODECS)


@pytest.mark.row("PRT-167")
def test_a_meta_nobody_accepts_is_refused():
    payload = encode_meta(ResultMeta(task_id="t"), codecs=CODECS, serializer="pickle")

    with pytest.raises(ContentDisallowed):
        decode_meta(payload, codecs=CODECS, accept=JSON_ONLY, serializer="pickle")


@given(
    st.binary(max_size=40)
    | anything.map(lambda value: CODECS.encode(value).body)
    | st.dictionaries(st.sampled_from(["status", "children", "date_done", "name", "task_id"]), anything).map(
        lambda value: CODECS.encode(value).body
    )
    | st.binary(max_size=20).map(lambda data: b"\x00celery-compressed\x00" + data)
)
def test_whatever_a_store_holds_is_a_meta_or_an_invalid_message(payload):
    for decode in (decode_meta, decode_group):
        try:
            decode(payload, codecs=CODECS, accept=JSON_ONLY)
        except InvalidMessage:
            pass


# -- Exceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "data"),
    [
        (ValueError("boom", 1), {"exc_type": "ValueError", "exc_message": ["boom", 1], "exc_module": "builtins"}),
        (LookupError({1}, "set"), {"exc_type": "LookupError", "exc_message": ["{1}", "set"], "exc_module": "builtins"}),
        (Shop.SoldOut("tea"), {"exc_type": "Shop.SoldOut", "exc_message": ["tea"], "exc_module": __name__}),
        (
            exceptions.TaskRevokedError("expired"),
            {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"},
        ),
        (
            exceptions.WorkerLostError("gone"),
            {"exc_type": "WorkerLostError", "exc_message": ["gone"], "exc_module": "billiard.exceptions"},
        ),
    ],
)
def test_an_exception_becomes_data_and_comes_back(exc, data):
    assert exception_to_data(exc, codecs=CODECS) == data

    back = exception_from_data(data)

    assert type(back) is type(exc)
    assert list(back.args) == data["exc_message"]


def test_an_argument_whose_repr_fails_does_not_stop_the_error_from_being_told():
    data = exception_to_data(ValueError(Mean()), codecs=CODECS)

    assert len(data["exc_message"]) == 1
    assert isinstance(data["exc_message"][0], str)


def test_pickle_keeps_the_exception_itself_when_it_can_be_read_again():
    error, two, ours = ValueError("boom"), TwoNeeded(1, 2), exceptions.ChordError("part")

    assert exception_to_data(error, codecs=CODECS, serializer="pickle") is error
    assert exception_to_data(two, codecs=CODECS, serializer="pickle")["exc_message"] == ["1-2"]
    assert exception_to_data(ours, codecs=CODECS, serializer="pickle")["exc_module"] == "celery.exceptions"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"exc_type": "ValueError", "exc_message": "text", "exc_module": "builtins"}, "ValueError('text')"),
        ({"exc_type": "ValueError", "exc_module": "builtins"}, "ValueError('')"),
        ({"exc_type": "ValueError", "exc_message": ["x"]}, "ValueError('x')"),
        ({"exc_type": "Gone", "exc_message": ["x"], "exc_module": "not.imported"}, "Gone('x')"),
        ({"exc_type": "A.Gone", "exc_message": ["x"], "exc_module": "builtins"}, "Gone('x')"),
        (
            {
                "exc_type": "UnpickleableExceptionWrapper",
                "exc_message": ["elsewhere", "SoldOut", ["tea"], "SoldOut('tea')"],
                "exc_module": "celery.utils.serialization",
            },
            "SoldOut('tea')",
        ),
    ],
)
def test_what_peers_store_is_understood(data, shown):
    assert repr(exception_from_data(data)) == shown


def test_a_class_that_is_not_imported_is_made_up_and_nothing_is_imported():
    exc = exception_from_data({"exc_type": "Gone", "exc_message": ["x"], "exc_module": "wsgiref.validate"})

    assert type(exc).__module__ == "celery.exceptions"
    assert "wsgiref.validate" not in sys.modules


def test_a_module_that_imports_on_access_is_not_made_to(monkeypatch):
    lazy = ModuleType("lazy")
    lazy.__getattr__ = lambda name: pytest.fail("looked up")  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy", lazy)

    assert repr(exception_from_data({"exc_type": "Gone", "exc_message": [], "exc_module": "lazy"})) == "Gone()"


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "int"), ("builtins", "print"), ("sys", "modules")]
)
def test_what_is_no_exception_class_is_never_called(module, name):
    with pytest.raises(SecurityError, match="no exception class"):
        exception_from_data({"exc_type": name, "exc_message": ["true"], "exc_module": module})


def test_a_class_that_wants_other_arguments_is_told_as_text():
    exc = exception_from_data({"exc_type": "TwoNeeded", "exc_message": ["1-2"], "exc_module": __name__})

    assert type(exc) is Exception
    assert "TwoNeeded" in str(exc)
    assert "1-2" in str(exc)


@given(
    anything
    | st.dictionaries(
        st.sampled_from(["exc_type", "exc_message", "exc_module"]), anything | st.sampled_from(["ValueError", "os"])
    )
)
def test_whatever_is_stored_is_an_exception_or_refused(data):
    try:
        assert isinstance(exception_from_data(data), BaseException)
    except (InvalidMessage, SecurityError):
        pass


# -- Trees -------------------------------------------------------------------------------------------------------------


@given(nodes)
def test_a_tree_comes_back(node):
    assert node_from_tuple(node_to_tuple(node)) == node
    assert decode_group(encode_group(node, codecs=CODECS), codecs=CODECS, accept=JSON_ONLY) == node


@pytest.mark.parametrize(
    ("data", "node"),
    [
        (["id", None], Node("id")),
        ([["id", ["p", None]], None], Node("id", Node("p"))),
        ((("g", None), [("x", None)]), Node("g", None, (Node("x"),))),
        ([["g", None], []], Node("g", None, ())),
    ],
)
def test_all_forms_of_result_tuples_are_read(data, node):
    assert node_from_tuple(data) == node


@given(anything)
def test_other_trees_are_invalid(data):
    try:
        node_from_tuple(data)
    except InvalidMessage:
        pass


def test_a_bottomless_tree_is_invalid():
    data = ["id", None]
    for _ in range(100_000):
        data = [["id", data], None]

    with pytest.raises(InvalidMessage):
        node_from_tuple(data)
