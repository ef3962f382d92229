from datetime import UTC, datetime

import pytest

from umbel.exceptions import ContentDisallowed, EncodeError
from umbel.states import FAILURE, RETRY, STARTED, SUCCESS


@pytest.fixture
def written(app):
    """Return what is read of a written state."""

    def write_and_read(state=SUCCESS, result=None, **fields):
        given = {"traceback": None, "children": [], "group_id": None, "parent_id": None, "extended": None, **fields}
        payload = app.coder.write(task_id="t1", state=state, result=result, **given)
        return app.coder.read_meta(payload, "t1")

    return write_and_read


@pytest.mark.row("PRT-156", "PRT-157", "PRT-158", "PRT-159", "PRT-160", "PRT-161", "PRT-162")
def test_a_state_is_read_as_it_was_written(written):
    before = datetime.now(UTC)

    known = written(result=[1, {"a": None}], children=[[["c1", None], None]], group_id="g1", parent_id="p1")

    assert before <= known.pop("date_done") <= datetime.now(UTC)
    assert known == {
        "status": "SUCCESS",
        "result": [1, {"a": None}],
        "traceback": None,
        "children": [[["c1", None], None]],
        "group_id": "g1",
        "parent_id": "p1",
        "task_id": "t1",
    }


@pytest.mark.row("PRT-160")
def test_only_what_has_ended_has_an_end(written, app):
    assert written(STARTED, {"pid": 1})["date_done"] is None

    app.conf.timezone = "Asia/Tokyo"
    assert written()["date_done"].utcoffset().total_seconds() == 9 * 3600


@pytest.mark.row("PRT-165", "PRT-166", "PRT-169")
@pytest.mark.parametrize("state", [FAILURE, RETRY])
def test_exceptions_come_back_as_themselves(written, state):
    known = written(state, KeyError("missing", 1), traceback="Traceback: …")

    assert isinstance(known["result"], KeyError)
    assert known["result"].args == ("missing", 1)
    assert known["traceback"] == "Traceback: …"


@pytest.mark.row("PRT-163", "CFG-048")
def test_more_fields_and_stamps_are_kept(written):
    known = written(extended={"name": "add", "queue": "q", "stamped_headers": ["tenant"], "tenant": "acme"})

    assert (known["name"], known["queue"], known["stamps"]) == ("add", "q", {"tenant": "acme"})


@pytest.mark.row("CFG-046", "CFG-047", "PRT-168")
def test_results_are_serialized_and_compressed_as_the_settings_say(app, written):
    app.conf.update(result_serializer="pickle", result_compression="zlib", result_accept_content=["pickle"])

    assert written(result={1, 2})["result"] == {1, 2}
    payload = app.coder.write(
        task_id="t1", state=SUCCESS, result=1, traceback=None, children=[], group_id=None, parent_id=None, extended=None
    )
    assert payload.startswith(b"\x00celery-compressed\x00application/x-gzip\x00")


@pytest.mark.row("CFG-013", "PRT-167")
def test_results_are_read_only_if_their_serializer_is_accepted(app, written):
    app.conf.result_serializer = "pickle"

    with pytest.raises(ContentDisallowed):
        written()
    app.conf.result_accept_content = ["pickle"]
    assert written(result=1)["result"] == 1


def test_a_result_that_cannot_travel_is_an_error(written):
    with pytest.raises(EncodeError):
        written(result=object())


@pytest.mark.row("PRT-172")
def test_groups_are_kept_as_tuples(app):
    data = [["g1", [["p1", None], None]], [[["t1", None], None]]]

    assert app.coder.read_group(app.coder.write_group(data)) == data
