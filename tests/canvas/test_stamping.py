"""Stamps: values that travel with every task of a work-flow."""

# ruff: noqa: PLR0917 - a test takes the parts it needs

import pytest

from umbel.canvas import StampingVisitor, chord, group, signature


class Visitor(StampingVisitor):
    """Stamps every task with `v`, and remembers what it was asked."""

    def __init__(self, **hooks):
        self.asked, self.hooks = [], hooks

    def on_signature(self, sig, **headers):
        self.asked.append(("on_signature", sig.task))
        return self.hooks.get("on_signature", {"v": 1})

    def _hook(name):  # noqa: N805 - makes methods
        def hook(self, sig, **headers):
            self.asked.append((name, sig.task))
            return self.hooks.get(name)

        return hook

    on_chain_start, on_chain_end = _hook("on_chain_start"), _hook("on_chain_end")
    on_group_start, on_group_end = _hook("on_group_start"), _hook("on_group_end")
    on_chord_body, on_callback, on_errback = _hook("on_chord_body"), _hook("on_callback"), _hook("on_errback")


def stamps(sig):
    """Return the stamps of a signature."""
    options = sig["options"]
    return {name: options[name] for name in options.get("stamped_headers", ())}


@pytest.mark.row("API-228", "PRT-081")
def test_a_stamp_is_an_option_that_is_named(app):
    made = app.s("t")

    made.stamp(tenant="acme")

    assert made.options == {"tenant": "acme", "stamped_headers": ["tenant"]}


@pytest.mark.row("API-284", "API-286")
def test_a_visitor_says_the_stamps_of_each_task(app):
    made = app.s("t")

    made.stamp(Visitor(on_signature={"a": 1, "b": 2, "stamped_headers": ["a"]}))

    assert stamps(made) == {"a": 1}
    assert made.options["b"] == 2


@pytest.mark.row("API-289", "API-290")
@pytest.mark.parametrize(
    ("there", "visitors", "given", "append", "found"),
    [
        (0, 1, 9, False, 9),
        (0, 1, None, False, 1),
        (0, 1, 9, True, [9, 1, 0]),
        ([0], 1, 9, False, [9, 0]),
        (0, None, [8, 9], False, [8, 9, 0]),
    ],
)
def test_of_several_values_the_enclosing_one_wins_or_all_are_kept(app, there, visitors, given, append, found):
    made = signature("p.t", options={"stamped_headers": ["v"], "v": there}, app=app)
    visitor = Visitor(on_signature={} if visitors is None else {"v": visitors})

    made.stamp(visitor, append_stamps=append, **({} if given is None else {"v": given}))

    assert stamps(made) == {"v": found}


@pytest.mark.row("API-285", "API-288")
def test_a_visitor_walks_over_all_there_is(app):
    made = app.s("a") | group(app.s("b"), app.s("c")) | app.s("d")
    made.tasks[0].link(app.s("cb"))
    made.tasks[0].link_error(dict(app.s("eb")))
    visitor = Visitor(on_chain_start={"in": "chain"})

    made.stamp(visitor, z=1)

    assert visitor.asked == [
        ("on_chain_start", "celery.chain"),
        ("on_callback", "p.cb"),
        ("on_signature", "p.cb"),
        ("on_errback", "p.eb"),
        ("on_signature", "p.eb"),
        ("on_signature", "p.a"),
        ("on_group_start", "celery.group"),
        ("on_signature", "p.b"),
        ("on_signature", "p.c"),
        ("on_chord_body", "celery.chord"),
        ("on_signature", "p.d"),
        ("on_chain_end", "celery.chain"),
    ]
    first, last = made.tasks
    everything = [first, first.options["link"][0], first.options["link_error"][0], *last.tasks, last.body]
    assert all(stamps(each) == {"z": 1, "in": "chain", "v": 1} for each in everything)


@pytest.mark.row("API-287")
def test_a_chords_header_is_stamped_as_a_group(app):
    made = chord([app.s("a")], app.s("b"))

    made.stamp(Visitor(on_group_start={"in": "group"}, on_chord_body={"in": "body"}))

    assert stamps(made.tasks[0]) == {"in": "group", "v": 1}
    assert stamps(made.body) == {"in": "group", "v": 1}


@pytest.mark.row("API-291")
def test_members_of_a_generator_are_stamped_when_they_come(app):
    taken = []

    def members():
        for i in range(3):
            taken.append(i)
            yield app.s("t", i)

    made = group(members(), app=app)

    made.stamp(x=1)
    assert taken == []
    assert [stamps(task) for task in made.tasks] == [{"x": 1}] * 3


@pytest.mark.row("PRT-081")
def test_stamps_are_sent_with_each_task(app):
    made = app.s("a") | app.s("b")
    made.stamp(x=1)

    made.apply_async()

    (call,) = app.sent
    assert stamps({"options": call.options}) == stamps(call.options["chain"][0]) == {"x": 1}
