"""Chains, groups, chords and maps: how they are made, and what is sent when they start."""

import functools
import itertools
import json
import operator
import tracemalloc

import pytest

from umbel.canvas import chain, chord, chunks, group, signature, xmap


def sent(app):
    """What was sent: task and arguments."""
    return [(call.task, tuple(call.args)) for call in app.sent]


# -- chain


@pytest.mark.row("API-257", "API-217")
def test_arguments_of_a_chain_are_its_first_steps(app):
    (app.s("a", 1) | app.s("b", 2)).apply_async((0,), {"x": 9}, queue="q")

    (call,) = app.sent
    assert (call.args, call.kwargs, call.options["queue"]) == ((0, 1), {"x": 9}, "q")
    assert call.options["chain"][0]["args"] == (2,)


@pytest.mark.row("API-258")
def test_an_empty_chain_sends_nothing(app):
    assert chain(app=app)() is None
    assert chain(app=app).apply_async() is None
    assert app.sent == []


@pytest.mark.row("API-255")
def test_the_result_of_a_chain_is_its_last_and_leads_to_its_first(app):
    result = (app.s("a") | app.s("b") | app.s("c")).apply_async(task_id="last")

    first = result.parent.parent
    assert (result.id, first.id, first.parent) == ("last", app.sent[0].options["task_id"], None)


@pytest.mark.row("API-256")
def test_links_of_a_chain_are_its_last_steps_and_error_links_are_all_steps(app):
    made = app.s("a") | app.s("b") | chord([app.s("h")], app.s("c"))
    made.link(app.s("cb"))
    made.link_error(app.s("eb"))

    made.apply_async()

    (call,) = app.sent
    last, middle = call.options["chain"]
    assert call.options["link_error"] == middle["options"]["link_error"] == [app.s("eb")]
    assert last["kwargs"]["body"]["options"]["link"] == [app.s("cb")]
    assert last["kwargs"]["body"]["options"]["link_error"] == [app.s("eb")]
    assert "link" not in middle["options"]


def test_a_chain_gives_copies_of_its_steps_unchained(app):
    made = app.s("a") | app.s("b")
    made.link(app.s("cb"))
    made.link_error(app.s("eb"))

    first, last = made.unchain_tasks()

    assert first.options == {"link_error": [app.s("eb")]}
    assert last.options == {"link_error": [app.s("eb")], "link": [app.s("cb")]}
    assert made.tasks[0].options == {}


@pytest.mark.row("API-283", "API-254")
def test_chains_are_made_of_dicts_and_nothing_too(app):
    made = chain(dict(app.s("a")), None, dict(app.s("b")), app=app)

    assert repr(made) == "p.a() | b()"
    assert repr(chain([app.s("a"), app.s("b")], queue="q")) == "p.a() | b()"


@pytest.mark.row("API-259")
def test_empty_chains_in_a_group_are_skipped(app):
    result = group(app.s("a"), chain(app=app), app.s("b")).apply_async()

    assert [call.options["group_index"] for call in app.sent] == [0, 1]
    assert len(result.results) == 2


# -- group


@pytest.mark.row("API-260")
def test_the_forms_of_a_group(app):
    a, b = app.s("a"), app.s("b")

    assert [len(each) for each in (group(a, b), group([a, b]), group(iter([a, b])), group(group(a, b)), group(a))] == [
        2,
        2,
        2,
        2,
        1,
    ]
    assert len(group({**a}, None, app=app)) == 1


@pytest.mark.row("API-261", "API-264")
def test_a_group_is_sent_with_arguments_before_those_of_its_members(app):
    result = group(app.s("a", 1), signature("p.b", (2,), immutable=True, app=app))(0)

    assert sent(app) == [("p.a", (0, 1)), ("p.b", (2,))]
    assert [each.id for each in result.results] == [call.options["task_id"] for call in app.sent]
    assert {call.options["group_id"] for call in app.sent} == {result.id}


@pytest.mark.row("API-261")
@pytest.mark.parametrize("option", ["link", "link_error"])
def test_a_group_takes_no_links_when_it_is_sent(app, option):
    with pytest.raises(TypeError, match=r"use a chord|do that on individual tasks"):
        group(app.s("a")).apply_async(**{option: app.s("b")})


@pytest.mark.row("API-262")
def test_an_empty_group_sends_nothing(app):
    assert group(app=app).apply_async().results == []
    assert app.sent == []


def test_options_of_a_group_are_those_of_all_members(app):
    group(app.s("a"), app.s("b") | app.s("c")).set(queue="q").apply_async(priority=3)

    assert [(call.options["queue"], call.options["priority"]) for call in app.sent] == [("q", 3), ("q", 3)]


@pytest.mark.row("API-265")
def test_skew_spreads_the_members_over_time(app):
    made = group(app.s("a") for _ in range(4)).skew(start=1, stop=3)

    assert [task.options["countdown"] for task in made.tasks] == [1, 2, 3, 3]


@pytest.mark.row("API-266")
def test_a_link_of_a_group_is_an_immutable_one_on_its_first_member(app):
    made = group(app.s("a"), app.s("b"))

    made.link(app.s("cb"))
    made.link_error(app.s("eb"))

    assert [task.options.get("link", []) for task in made.tasks] == [[app.s("cb").set(immutable=True)], []]
    assert [task.options["link_error"] for task in made.tasks] == [[app.s("eb")], [app.s("eb")]]


def test_a_generator_is_used_once_and_then_known(app):
    made = group(app.s("a", i) for i in itertools.islice(itertools.count(), 3))

    assert [task.args for task in made.tasks] == [(0,), (1,), (2,)]
    assert [task.args for task in made.tasks] == [(0,), (1,), (2,)]
    assert made.clone() == made


def test_the_calls_of_a_great_group_are_made_as_they_are_sent(app):
    made = []

    def members():
        for i in range(1000):
            made.append(i)
            yield app.s("a", i)

    def send_calls(calls, **_):
        for count, _call in enumerate(calls, 1):
            assert len(made) == count

    app.send_calls = send_calls
    result = group(members(), app=app).apply_async()

    assert len(result.results) == 1000


def test_a_group_takes_so_little_memory_that_a_hundred_thousand_fit_in_200_mb(app):
    app.send_calls = lambda calls, **_: sum(1 for _ in calls)
    members = 10_000

    tracemalloc.start()
    group((app.s("a", i) for i in range(members)), app=app).apply_async()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak / members < 1800  # bytes; it is 1,100


# -- chord


@pytest.mark.row("API-268", "API-269")
@pytest.mark.parametrize("form", ["list", "group", "generator", "dicts"])
def test_the_forms_of_a_chord(app, form):
    a, b = app.s("a"), app.s("b")
    header = {"list": [a, b], "group": group(a, b), "generator": iter([a, b]), "dicts": [{**a}, {**b}]}[form]

    result = chord(header, app=app)(app.s("body"))

    assert sent(app) == [("p.a", ()), ("p.b", ())]
    body = app.sent[0].options["chord"]
    assert (body["task"], body["options"]["task_id"]) == ("p.body", result.id)
    assert body["options"]["group_id"] == result.parent.id == app.sent[0].options["group_id"]
    assert [each.id for each in result.parent.results] == [call.options["task_id"] for call in app.sent]


@pytest.mark.row("API-270", "API-271")
def test_options_of_a_chord_belong_to_header_or_body(app):
    made = chord([app.s("a")], app.s("body"))

    result = made.apply_async(countdown=5, task_id="id", link=app.s("cb"), link_error=app.s("eb"))

    (call,) = app.sent
    body = call.options["chord"]["options"]
    assert (result.id, body["task_id"], body["link"], body["link_error"]) == ("id", "id", [app.s("cb")], [app.s("eb")])
    assert call.options["countdown"] == 5
    assert "countdown" not in body
    assert made.body.options == {}


@pytest.mark.row("API-272")
def test_a_chord_of_nothing_sends_its_body_with_nothing(app):
    result = chord([], app.s("body", 1), app=app)()

    assert sent(app) == [("p.body", ([], 1))]
    assert app.sent[0].options["task_id"] == result.id


@pytest.mark.row("CFG-032")
@pytest.mark.parametrize("allowed", [True, False])
def test_error_links_reach_the_header_if_wished(app, allowed):
    app.conf.task_allow_error_cb_on_chord_header = allowed
    made = chord([app.s("a")], app.s("body"))

    made.link_error(app.s("eb"))

    assert made.body.options["link_error"] == [app.s("eb")]
    assert bool(made.tasks[0].options.get("link_error")) == allowed


@pytest.mark.row("API-279", "PRT-075")
def test_a_chord_counts_the_leaves_of_its_header(app):
    t = app.s("t")

    made = chord([t, t | t, group(t, t | group(t, t)), chord([t, t], t), chain(app=app)], t)

    assert made.__length_hint__() == 1 + 1 + 3 + 1


def test_the_parts_of_a_chord_have_the_places_they_were_written_in(app):
    t = app.s("t")
    chord([t, group(t, t | group(t, t)), t | t, chord([t], t)], t).apply_async()

    places = []

    def collect(options):
        if options.get("group_id") == body["options"]["group_id"] and options.get("chord"):
            places.append(options["group_index"])

    body = app.sent[0].options["chord"]
    for call in app.sent:
        collect(call.options)
        for link in call.options.get("chain") or ():
            for each in link["kwargs"].get("tasks") or [link]:
                collect(each["options"])
        inner = call.options.get("chord")
        if inner and inner["options"].get("chord"):
            collect(inner["options"])

    assert places == [0, 1, 2, 3, 4, 5]


def test_bytes_of_a_chain_of_chords_grow_with_its_length_only(app):
    def size(length):
        app.sent.clear()
        chain([chord([app.s("t")] * 10, app.s("b")) for _ in range(length)]).apply_async()
        return sum(len(json.dumps([call.args, dict(call.options)])) for call in app.sent)

    assert size(8) < 2.5 * size(4)


# -- maps


@pytest.mark.row("API-277", "PRT-077", "API-170")
def test_a_map_is_one_message(app):
    made = xmap(app.s("t"), (i for i in range(3)))

    assert (made.task, made.kwargs, made.immutable) == ("celery.map", {"task": app.s("t"), "it": [0, 1, 2]}, True)


@pytest.mark.row("API-276", "PRT-078")
def test_chunks_are_a_group_of_starmaps(app):
    result = chunks(app.s("t"), ((i,) for i in range(5)), 2)()

    assert [(call.task, call.kwargs["it"]) for call in app.sent] == [
        ("celery.starmap", [(0,), (1,)]),
        ("celery.starmap", [(2,), (3,)]),
        ("celery.starmap", [(4,)]),
    ]
    assert len(result.results) == 3


# -- inside a task


@pytest.mark.row("API-153", "API-207")
def test_what_a_task_sends_becomes_its_child(app):
    from types import SimpleNamespace

    from umbel import current

    trail = []
    task = SimpleNamespace(add_trail=trail.append, app=app)
    token = current.enter(task, SimpleNamespace(called_directly=False))
    try:
        result = group(app.s("a")).apply_async()
        group(app.s("a")).apply_async(add_to_parent=False)
    finally:
        current.leave(token)

    assert trail == [result]


# -- size


def message_bytes(app, signature):
    """Return the bytes of the largest message that starts *signature*."""
    app.sent.clear()
    signature.apply_async()
    return max(len(json.dumps([call.args, call.kwargs, call.options], default=list)) for call in app.sent)


@pytest.mark.parametrize("nest", [False, True], ids=["joined", "bodies in bodies"])
def test_messages_of_a_chain_of_chords_grow_linearly(app, nest):
    def chords(count):
        parts = [chord([app.s("h", i) for i in range(10)], app.s("b")) for _ in range(count)]
        if nest:
            return functools.reduce(lambda inner, each: chord(each.tasks, each.body | inner), reversed(parts))
        return functools.reduce(operator.or_, parts)

    few, more, many = (message_bytes(app, chords(count)) for count in (10, 20, 40))

    assert many - more == pytest.approx(2 * (more - few), rel=0.05)
    assert many < 40 * 3000


def test_a_chord_says_how_many_values_it_waits_for_before_its_header_is_sent(app):
    inner = chord([app.s("a"), app.s("b")], app.s("c"))

    chord([group(app.s("d"), inner), app.s("e") | group(app.s("f"), app.s("g"))], app.s("h")).apply_async()

    first, second = app.opened
    assert (first.body["task"], first.size) == ("p.h", 4)
    assert (second.body["task"], second.size) == ("p.c", 2)
    ids = [call.options["task_id"] for call in app.sent if call.options.get("group_id") == second.group]
    assert second.results == [((task_id, None), None) for task_id in ids]


@pytest.mark.row("API-263", "API-267")
def test_a_group_alone_in_a_group_is_that_group(app):
    inner = group(app.s("a"), app.s("b"))

    result = group([inner]).apply_async()

    assert len(inner) == len(result.results) == 2
    assert [call.options["group_index"] for call in app.sent] == [0, 1]


def test_what_a_generator_feeds_belongs_to_the_app_of_its_members(app):
    given = []

    def members():
        for i in range(3):
            given.append(i)
            yield app.s("a", i)

    header = group(members())
    count = chord(members(), signature("b"))

    assert header.bound_app() is app
    assert count.bound_app() is app
    assert given == [0, 0], "nobody needs all of them to know"
    header.apply_async()
    assert [args for _, args in sent(app)] == [(0,), (1,), (2,)]
