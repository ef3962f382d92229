"""What follows from a chord that is complete."""

import json

import msgspec
import pytest

from umbel.execution.chord_part import Body, make_part
from umbel.execution.fire import fire
from umbel.execution.request import Request
from umbel.wire.chord import ReadyChord


def ready(env, body, *parts, priority=None):
    header = Body(json.dumps(body).encode(), "application/json", parent_id="last", root_id="root", priority=priority)
    payloads = tuple(env.chords.write_part(f"h{i}", *part) for i, part in enumerate(parts))
    return ReadyChord(group="g", parts=payloads, body=msgspec.msgpack.encode(header))


def sent(outcome):
    return [(each.message.task, json.loads(each.message.body)[0]) for each in outcome.follow_ups]


def test_the_body_gets_the_values_before_its_own_arguments(env, sig):
    outcome = fire(env, ready(env, sig("p.body", 7, task_id="b"), ("SUCCESS", 1), ("SUCCESS", [2])))

    (publication,) = outcome.follow_ups
    assert sent(outcome) == [("p.body", [[1, [2]], 7])]
    assert (publication.message.id, publication.message.parent_id, publication.message.root_id) == ("b", "last", "root")
    assert (outcome.state, outcome.records, outcome.parts) == ("SUCCESS", (), ())


def test_a_body_that_is_immutable_gets_nothing(env, sig):
    assert sent(fire(env, ready(env, sig("p.body", 7, immutable=True), ("SUCCESS", 1)))) == [("p.body", [7])]


@pytest.mark.parametrize(("inherits", "found"), [(True, 5), (False, None)])
def test_the_body_has_the_priority_of_who_completed_it_if_that_is_inherited(make_env, sig, inherits, found):
    env = make_env(inherit_priority=inherits)

    (publication,) = fire(env, ready(env, sig("p.body"), ("SUCCESS", 1), priority=5)).follow_ups

    assert publication.message.priority == found


@pytest.mark.row("API-274", "PRT-201", "PRT-208")
def test_a_failed_part_fails_the_body_its_errbacks_its_rest_and_the_chord_around_it(env, sig, metas):
    outer = sig("p.outer", task_id="o")
    rest = sig("p.rest", task_id="r", chord=outer, group_id="og", group_index=4)
    body = sig("p.body", task_id="b", link_error=[sig("p.eb")], chain=[rest])

    outcome = fire(env, ready(env, body, ("SUCCESS", 1), ("FAILURE", ValueError("no"))))

    assert outcome.state == "FAILURE"
    assert outcome.reason == "Dependency h1 raised ValueError('no')"
    assert sent(outcome) == [("p.eb", ["b"])]
    assert [(meta["task_id"], meta["result"]["exc"]) for meta in metas(outcome)] == [
        ("b", "ChordError"),
        ("r", "ChordError"),
    ]
    (part,) = outcome.parts
    assert (part.group, part.index, part.id) == ("og", 4, "r")
    assert json.loads(part.payload)[1:3] == ["r", "FAILURE"]


def test_errbacks_that_want_more_are_called_here_and_what_they_raise_changes_nothing(env, sig, app, plan):
    told = []

    def errback(request, exc, traceback):
        told.append((request.id, str(exc), traceback))
        raise RuntimeError("also broken")

    plan(errback, name="p.eb")
    body = sig("p.body", task_id="b", link_error=[sig("p.eb")])

    waiting = []
    outcome = fire(env, ready(env, body, ("REVOKED", ValueError("x"))), waiting.append)
    assert told == []
    for call in waiting:  # beside the worker's loop, which must not wait for them
        call()

    assert told == [("b", "Dependency h0 raised ValueError('x')", None)]
    assert len(outcome.records) == 1


def test_a_body_that_cannot_be_sent_fails(make_env, app, sig, metas):
    def prepare(name, args, kwargs, options):
        if name == "p.body":
            raise LookupError("no queue 'x'")
        return app.prepare(name, args, kwargs, options)

    env = make_env(prepare=prepare)
    body = sig("p.body", task_id="b", link_error=[sig("p.eb")])

    outcome = fire(env, ready(env, body, ("SUCCESS", 1)))

    assert (outcome.state, sent(outcome)) == ("FAILURE", [("p.eb", ["b"])])
    assert "no queue 'x'" in outcome.reason
    assert [meta["task_id"] for meta in metas(outcome)] == ["b"]


def test_an_errback_that_cannot_be_sent_does_not_keep_the_body_waiting(make_env, sig, metas):
    def prepare(*_):
        raise LookupError("no queue 'x'")

    body = sig("p.body", task_id="b", link_error=[sig("p.eb")])
    env = make_env(prepare=prepare)

    outcome = fire(env, ready(env, body, ("FAILURE", ValueError("x"))))

    assert (outcome.follow_ups, [meta["task_id"] for meta in metas(outcome)]) == ((), ["b"])


def test_a_body_that_cannot_be_read_is_given_up(env):
    outcome = fire(env, ReadyChord(group="g", parts=(), body=b"\xc1 nonsense"))

    assert (outcome.state, outcome.follow_ups, outcome.records) == ("FAILURE", (), ())


def test_a_part_bears_its_chord_its_place_and_its_value(env, sig):
    body = sig("p.body", task_id="b")
    request = Request(id="t", chord=body, group="g", group_index=3, root_id="root")

    part = make_part(env, request, "SUCCESS", [1])

    assert (part.group, part.index, part.id, part.expires) == ("g", 3, "t", 60.0)
    assert json.loads(part.payload) == [1, "t", "SUCCESS", [1]]
    outcome = fire(env, ReadyChord(group="g", parts=(part.payload,), body=part.body))
    assert sent(outcome) == [("p.body", [[[1]]])]
    assert outcome.follow_ups[0].message.parent_id == "t"
