"""A signature is a dict that can be called, sent, changed and combined."""

import copy
import json
import pickle
from types import SimpleNamespace

import pytest

from umbel.canvas import Signature, chain, chord, chunks, group, maybe_signature, signature, subtask, xmap, xstarmap


class Task:
    """A registered task that remembers how it was used."""

    def __init__(self, app, name="p.add"):
        self.name, self.app, self.used = name, app, []
        app.tasks[name] = self

    def __call__(self, *args, **kwargs):
        return args, kwargs

    def apply_async(self, args, kwargs, **options):
        self.used.append(("apply_async", args, kwargs, options))
        return SimpleNamespace(get=lambda: "value")

    def apply(self, args, kwargs, **options):
        self.used.append(("apply", args, kwargs, options))

    def AsyncResult(self, id):
        return self.app.AsyncResult(id)


@pytest.fixture
def add(app):
    return Task(app)


@pytest.mark.row("API-211", "API-212", "PRT-033")
def test_a_signature_is_a_dict_with_the_keys_of_the_wire(app, add):
    made = signature(add, (1, 2), {"x": 3}, {"queue": "q"}, immutable=True, countdown=5, app=app)

    assert list(made.items()) == [
        ("task", "p.add"),
        ("args", (1, 2)),
        ("kwargs", {"x": 3}),
        ("options", {"queue": "q", "countdown": 5}),
        ("subtask_type", None),
        ("immutable", True),
    ]
    assert signature("p.add", app=app).task == "p.add"


@pytest.mark.row("API-211")
def test_a_signature_of_a_signature_is_a_copy(app):
    one = app.s("add", 1)

    two = signature(one).set(queue="q")

    assert (one.options, two.options) == ({}, {"queue": "q"})


@pytest.mark.row("API-002")
def test_subtask_is_signature():
    assert subtask is signature


@pytest.mark.row("API-213", "API-283")
@pytest.mark.parametrize("kind", ["task", "chain", "group", "chord", "xmap", "xstarmap", "chunks"])
def test_dict_forms_become_what_they_were(app, kind):
    t = app.s("t", 1)
    made = {
        "task": t,
        "chain": chain(t, t),
        "group": group(t, t),
        "chord": chord([t], t),
        "xmap": xmap(t, [1]),
        "xstarmap": xstarmap(t, [(1,)]),
        "chunks": chunks(t, [1], 1),
    }[kind]

    travelled = json.loads(json.dumps(made))
    again = Signature.from_dict(travelled, app=app)

    assert type(again) is type(made)
    assert json.loads(json.dumps(again)) == travelled
    assert type(pickle.loads(pickle.dumps(made))) is type(made)


@pytest.mark.row("API-213")
def test_members_of_dict_forms_are_signatures_of_the_same_app(app):
    travelled = json.loads(json.dumps(group(app.s("t") | app.s("u"), app.s("v"))))

    again = signature(travelled, app=app)

    assert all(isinstance(each, Signature) and each.app is app for each in [*again.tasks, *again.tasks[0].tasks])


@pytest.mark.row("API-214")
def test_fields_are_attributes(app, add):
    made = signature("p.add", (1,), {"x": 2}, {"task_id": "i", "root_id": "r", "parent_id": "p"}, app=app)

    assert (made.task, made.name, made.args, made.kwargs) == ("p.add", "p.add", (1,), {"x": 2})
    assert (made.id, made.root_id, made.parent_id, made.immutable) == ("i", "r", "p", False)
    assert (made.type, made.app) == (add, app)


@pytest.mark.row("API-215")
def test_maybe_signature_lets_nothing_pass_and_binds_to_the_app(app):
    bare = signature("p.add")

    assert maybe_signature(None) is None
    assert maybe_signature(bare, app) is bare
    assert bare.app is app
    assert maybe_signature(dict(bare), app).app is app
    assert maybe_signature(bare, app, clone=True) is not bare


@pytest.mark.row("API-216")
def test_calling_a_signature_calls_the_task_here(app, add):
    assert app.s("add", 2, x=3)(1, y=4) == ((1, 2), {"x": 3, "y": 4})


@pytest.mark.row("API-217", "API-218")
def test_sending_puts_arguments_before_its_own(app, add):
    made = signature("p.add", (2,), {"x": 3}, {"queue": "q", "priority": 1}, app=app)

    made.apply_async((1,), {"x": 4}, queue=None, priority=2)
    made.delay(1)

    assert add.used == [
        ("apply_async", (1, 2), {"x": 4}, {"queue": "q", "priority": 2}),
        ("apply_async", (1, 2), {"x": 3}, {"queue": "q", "priority": 1}),
    ]


@pytest.mark.row("API-219")
def test_an_immutable_signature_keeps_its_arguments_but_takes_options(app, add):
    made = signature("p.add", (2,), immutable=True, app=app)

    made.apply_async((1,), {"x": 4}, queue="q")

    assert add.used == [("apply_async", (2,), {}, {"queue": "q"})]


@pytest.mark.row("API-218")
def test_a_group_id_and_stamps_stay_as_they_are(app, add):
    made = signature("p.add", options={"group_id": "g", "stamped_headers": ["a"], "a": 1}, app=app)

    made.apply_async(group_id="other", a=2)

    assert add.used[0][3] == {"group_id": "g", "stamped_headers": ["a"], "a": 1}


@pytest.mark.row("API-232")
def test_an_unknown_name_is_sent_by_name(app):
    app.s("far", 1).apply_async(queue="q")

    assert app.sent == [("p.far", (1,), {}, {"queue": "q"})]


def test_the_name_that_decides_the_route_goes_with_it(app, add):
    app.s("far", 1).apply_async(route_name="p.other")
    signature("p.add", app=app).apply_async(route_name="p.other")

    assert app.sent == [("p.far", (1,), {}, {"route_name": "p.other"})]
    assert add.used[0][3] == {"route_name": "p.other"}


@pytest.mark.row("API-217")
def test_apply_runs_it_here(app, add):
    app.s("add", 2).apply((1,), queue="q")

    assert add.used == [("apply", (1, 2), {}, {"queue": "q"})]


@pytest.mark.row("API-220")
def test_a_clone_shares_no_options(app):
    one = signature("p.add", (1,), {"x": 1}, {"headers": {"h": 1}}, app=app)

    two = one.clone((0,), {"y": 2}, queue="q")
    two.options["headers"]["h"] = 2
    two.kwargs["x"] = 9

    assert (one.args, one.kwargs, one.options) == ((1,), {"x": 1}, {"headers": {"h": 1}})
    assert (two.args, two.kwargs) == ((0, 1), {"x": 9, "y": 2})
    assert two.options == {"headers": {"h": 2}, "queue": "q"}
    assert one.partial((0,)).args == (0, 1)


@pytest.mark.row("API-221", "API-222", "API-223")
def test_fields_can_be_replaced_and_set(app):
    one = signature("p.add", (1,), {"x": 1}, {"queue": "q"}, app=app)

    two = one.replace(args=(5,), options={})

    assert (two.args, two.kwargs, two.options) == ((5,), {"x": 1}, {})
    assert one.set(immutable=True, queue="r") is one
    assert (one.immutable, one.options) == (True, {"queue": "r"})


@pytest.mark.row("API-223")
def test_immutability_of_a_work_flow_is_that_of_its_tasks(app):
    made = chord([app.s("a"), app.s("b")], app.s("c") | app.s("d"))

    made.set_immutable(True)

    assert all(each.immutable for each in [*made.tasks, *made.body.tasks])


@pytest.mark.row("API-224", "API-225", "API-149")
def test_links_are_kept_once(app):
    one, two, three = app.s("one"), app.s("two"), app.s("three")

    assert one.link(two) is two
    one.link(app.s("two"))
    assert one.on_error(three) is one
    one.link_error(three)

    assert one.options == {"link": [two], "link_error": [three]}


@pytest.mark.row("API-226")
def test_links_of_links_are_found(app):
    one, two, three = app.s("one"), app.s("two"), app.s("three")
    one.link(two)
    two.link(three)

    assert one.flatten_links() == [one, two, three]


@pytest.mark.row("API-227")
def test_freezing_fixes_the_ids(app):
    one = app.s("one")

    result = one.freeze("id", group_id="g", group_index=2, root_id="r", parent_id="p", chord=app.s("body"))

    assert result.id == one.id == "id"
    assert one.options == {
        "task_id": "id",
        "reply_to": "me",
        "group_id": "g",
        "chord": app.s("body"),
        "group_index": 2,
        "root_id": "r",
        "parent_id": "p",
    }
    assert one.freeze("other").id == "id"


@pytest.mark.row("API-227", "API-255")
def test_a_frozen_work_flow_is_sent_under_its_ids(app):
    made = app.s("a") | group(app.s("b"), app.s("c"))

    frozen = made.freeze()
    sent = made.apply_async()

    assert sent.as_tuple() == frozen.as_tuple()
    assert app.sent[0].options["task_id"] == frozen.parent.id


def test_sending_twice_gives_new_ids(app):
    made = app.s("a") | app.s("b")

    assert made.apply_async().id != made.apply_async().id
    assert "task_id" not in made.tasks[0].options


@pytest.mark.row("API-230")
def test_tilde_sends_and_waits(app, add):
    assert ~app.s("add") == "value"


@pytest.mark.row("API-231")
def test_own_kinds_can_be_registered(app):
    @Signature.register_type()
    class twice(Signature):  # noqa: N801 - a kind's name
        pass

    try:
        assert type(signature({**app.s("t"), "subtask_type": "twice"}, app=app)) is twice
    finally:
        del Signature.types["twice"]


@pytest.mark.row("API-233", "API-234", "API-235", "API-236")
def test_signatures_are_shown_as_they_would_be_written(app):
    t, u = app.s("t", 1, y="z"), app.s("u")

    assert repr(t) == "p.t(1, y='z')"
    assert repr(t | u) == "p.t(1, y='z') | u()"
    assert repr(group(t, u)) == "group((p.t(1, y='z'), u()))"
    assert repr(group(app.s("i", i) for i in range(3))) == "group(<lazy>)"
    assert repr(chord([t], u)) == "%p.u([t(1, y='z')])"
    assert repr(chord([t], u) | t) == "%(p.u([t(1, y='z')]) | t(1, y='z'))"
    assert repr(xmap(u, [1, 2])) == "[p.u(x) for x in [1, 2]]"
    assert repr(xstarmap(u, [(1, 2)])) == "[p.u(*x) for x in [(1, 2)]]"
    assert repr(chunks(u, [1], 2)) == "celery.chunks(task=p.u(), it=[1], n=2)"
    assert repr(chain()) == "<chain: empty>"
    assert t.reprcall(0) == "p.t(0, 1, y='z')"


@pytest.mark.row("API-253")
@pytest.mark.parametrize("other", [1, None, "p.add", [1]])
def test_only_signatures_can_follow(app, other):
    with pytest.raises(TypeError):
        app.s("t") | other


def test_joining_changes_neither_side(app):
    t, g, b = app.s("t"), group(app.s("a"), app.s("c")), app.s("b")
    sides = [t, g, b, chord([t], b), chain(t, b)]
    before = copy.deepcopy(sides)

    for left in sides:
        for right in sides:
            left | right

    assert sides == before


@pytest.mark.row("API-229", "PRT-232")
def test_of_all_workers_one_is_elected_to_run_it(app):
    asked = []
    app.control = SimpleNamespace(election=lambda *arguments: asked.append(arguments))

    result = app.s("a", 1).election()

    ((name, topic, elected),) = asked
    assert (name, topic, elected.id) == (result.id, "task", result.id)
    assert elected.args == (1,)
