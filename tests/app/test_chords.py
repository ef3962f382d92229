"""Chords of an app: how long their counts are kept, and in which form their parts and bodies travel."""

import decimal

import pytest

from umbel import Umbel
from umbel.canvas.call import Call, Opening
from umbel.wire.chord import ChordSize

MEMBERS = [(("a", None), None), (("b", None), None)]


def app_with(**settings):
    return Umbel("chords", broker="memory://", backend="memory://", set_as_current=False, **settings)


@pytest.mark.row("CFG-051")
@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 86400.0),
        ({"result_expires": 60}, 60.0),
        ({"result_chord_expires": 5.0}, 5.0),
        ({"result_expires": 0}, None),
    ],
)
def test_unfinished_counts_are_kept_as_long_as_the_settings_say(settings, seconds):
    chords = app_with(**settings).chords

    assert chords.expires == seconds
    size = chords.open(Opening("g", 2, MEMBERS, {"options": {}}, {}))
    assert size == ChordSize(group="g", size=2, expires=seconds)


@pytest.mark.row("PRT-206", "CFG-054")
def test_where_the_store_cannot_count_a_task_is_sent_that_looks_at_the_queue_of_the_body():
    app = app_with(result_chord_retry_interval=0.5)
    app.backend.__dict__["counts_chords"] = False
    body = {"task": "b", "options": {"queue": "bodies", "priority": 3}}

    call = app.chords.open(Opening("g", 2, MEMBERS, body, {"queue": "headers"}))

    assert isinstance(call, Call)
    assert (call.task, call.args) == ("celery.chord_unlock", ("g", body))
    assert call.kwargs == {"result": MEMBERS}
    assert {key: call.options[key] for key in ("queue", "priority", "countdown")} == {
        "queue": "bodies",
        "priority": 3,
        "countdown": 1,
    }


@pytest.mark.row("PRT-196")
def test_a_part_is_the_list_that_celery_writes():
    chords = app_with().chords

    payload = chords.write_part("t", "SUCCESS", {"a": [1, "ü"]})

    assert payload == b'[1, "t", "SUCCESS", {"a": [1, "\\u00fc"]}]'
    assert chords.read_part(payload) == ("t", "SUCCESS", {"a": [1, "ü"]})


@pytest.mark.parametrize("serializer", ["json", "pickle", "msgpack"])
def test_failures_and_bodies_survive_every_serializer(serializer):
    chords = app_with(result_serializer=serializer, accept_content=["json", "pickle", "msgpack"]).chords

    task_id, state, exc = chords.read_part(chords.write_part("t", "FAILURE", KeyError("gone", 3)))
    assert (task_id, state, type(exc), exc.args) == ("t", "FAILURE", KeyError, ("gone", 3))

    signature = {"task": "b", "args": [1], "options": {"task_id": "x"}}
    for mime in ("application/json", "application/x-python-serialize", "application/x-msgpack"):
        assert chords.read_body(chords.write_body(signature, mime), mime) == signature


def test_values_of_json_keep_their_types():
    chords = app_with().chords
    assert chords.read_part(chords.write_part("t", "SUCCESS", decimal.Decimal("1.5")))[2] == decimal.Decimal("1.5")
