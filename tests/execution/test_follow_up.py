"""What an outcome sends on its way: callbacks, the next link, errbacks; and what fails with a failure."""

# ruff: noqa: PLR0917 - a test takes the parts it needs

import json

import pytest

from umbel.execution.execute import execute


def body_of(publication):
    return json.loads(publication.message.body)


@pytest.mark.row("PRT-065", "PRT-066")
def test_a_callback_gets_the_value_before_its_own_arguments(plan, delivery, sig, metas):
    outcome = execute(plan(lambda: 5), delivery(root_id="r", embed={"callbacks": [sig("p.next", 1, task_id="n1")]}))

    (sent,) = outcome.follow_ups
    assert (sent.message.task, sent.message.id, body_of(sent)[0]) == ("p.next", "n1", [5, 1])
    assert (sent.message.parent_id, sent.message.root_id) == ("t1", "r")
    assert metas(outcome)[0]["children"] == [[["n1", None], None]]


@pytest.mark.row("PRT-066")
def test_an_immutable_callback_gets_its_own_arguments_only(plan, delivery, sig):
    outcome = execute(plan(lambda: 5), delivery(embed={"callbacks": [sig("p.next", 1, immutable=True)]}))

    assert body_of(outcome.follow_ups[0])[0] == [1]


def test_a_first_task_is_the_root_of_what_follows(plan, delivery, sig):
    outcome = execute(plan(lambda: 5), delivery(embed={"callbacks": [sig("p.next")]}))

    assert outcome.follow_ups[0].message.root_id == "t1"


@pytest.mark.row("PRT-067")
def test_of_several_callbacks_groups_go_one_by_one_and_the_others_as_one_group(plan, delivery, sig, metas):
    group = {
        "task": "celery.group",
        "args": [],
        "kwargs": {"tasks": [sig("p.a"), sig("p.b")]},
        "options": {"task_id": "g1"},
        "subtask_type": "group",
        "immutable": False,
    }
    embed = {"callbacks": [sig("p.c"), group, sig("p.d", 2)]}

    outcome = execute(plan(lambda: 5), delivery(embed=embed))

    sent = [(each.message.task, each.message.group_index, body_of(each)[0]) for each in outcome.follow_ups]
    assert sent == [("p.a", 0, [5]), ("p.b", 1, [5]), ("p.c", 0, [5]), ("p.d", 1, [5, 2])]
    groups = [each.message.group for each in outcome.follow_ups]
    assert groups[0] == groups[1] == "g1"
    assert groups[2] == groups[3] != "g1"
    assert all(each.message.parent_id == each.message.root_id == "t1" for each in outcome.follow_ups)
    assert [child[0][0] for child in metas(outcome)[0]["children"]] == ["g1", groups[2]]


@pytest.mark.row("PRT-068", "API-277")
def test_a_chain_goes_on_with_its_next_link_and_the_rest_of_it(plan, delivery, sig, metas):
    chain = [sig("p.last", 9, task_id="n2"), sig("p.next", 1, task_id="n1")]

    outcome = execute(plan(lambda: 5), delivery(embed={"chain": chain}))

    (sent,) = outcome.follow_ups
    args, _, embed = body_of(sent)
    assert (sent.message.id, args) == ("n1", [5, 1])
    assert [each["options"]["task_id"] for each in embed["chain"]] == ["n2"]
    assert metas(outcome)[0]["children"] == [[["n1", None], None]]


def test_a_link_that_is_a_work_flow_is_sent_as_its_messages(plan, delivery, sig):
    group = {
        "task": "celery.group",
        "args": [],
        "kwargs": {"tasks": [sig("p.a", task_id="a1"), sig("p.b", task_id="b1")]},
        "options": {"task_id": "g1"},
        "subtask_type": "group",
        "immutable": False,
    }

    outcome = execute(plan(lambda: 5), delivery(embed={"chain": [group]}))

    assert [(each.message.id, each.message.group, body_of(each)[0]) for each in outcome.follow_ups] == [
        ("a1", "g1", [5]),
        ("b1", "g1", [5]),
    ]


@pytest.mark.row("CFG-122")
@pytest.mark.parametrize(("inherit", "priority"), [(True, 7), (False, None)])
def test_priority_is_inherited_if_wished(plan, delivery, sig, make_env, inherit, priority):
    made = plan(lambda: 5, env=make_env(inherit_priority=inherit))

    outcome = execute(made, delivery(priority=7, embed={"callbacks": [sig("p.next")]}))

    assert outcome.follow_ups[0].message.priority == priority


def test_callbacks_are_sent_also_when_the_result_is_ignored(plan, delivery, sig):
    outcome = execute(plan(lambda: 5, ignore_result=True), delivery(embed={"callbacks": [sig("p.next")]}))

    assert (len(outcome.records), len(outcome.follow_ups)) == (0, 1)


# -- failure


def fail():
    raise ValueError("boom")


@pytest.mark.row("PRT-080")
def test_an_errback_is_published_with_the_failed_id(plan, delivery, sig):
    outcome = execute(plan(fail), delivery(root_id="r", embed={"errbacks": [sig("p.unknown", 3)]}))

    (sent,) = outcome.follow_ups
    assert (sent.message.task, body_of(sent)[0]) == ("p.unknown", ["t1", 3])
    assert (sent.message.parent_id, sent.message.root_id, sent.message.group_index) == ("t1", "r", 0)


@pytest.mark.row("PRT-080")
def test_an_errback_of_one_argument_is_published_even_if_known(plan, delivery, sig):
    plan(lambda task_id: None, name="p.err")

    outcome = execute(plan(fail), delivery(embed={"errbacks": [sig("p.err")]}))

    assert [each.message.task for each in outcome.follow_ups] == ["p.err"]


@pytest.mark.row("PRT-080")
def test_an_errback_of_several_arguments_is_called_here(plan, delivery, sig):
    calls = []
    plan(lambda request, exc, traceback: calls.append((request.id, exc, traceback)), name="p.old")

    outcome = execute(plan(fail), delivery(embed={"errbacks": [sig("p.old")]}))

    ((task_id, exc, traceback),) = calls
    assert (task_id, repr(exc)) == ("t1", "ValueError('boom')")
    assert traceback.startswith("Traceback")
    assert outcome.follow_ups == ()


def test_a_failing_errback_is_told_and_changes_nothing(plan, delivery, sig, caplog):
    plan(lambda request, exc, traceback: 1 / 0, name="p.old")

    outcome = execute(plan(fail), delivery(embed={"errbacks": [sig("p.old")]}))

    assert outcome.reason == "ValueError('boom')"
    assert "errback handler raised: ZeroDivisionError" in caplog.text


@pytest.mark.row("PRT-079", "API-278")
def test_the_rest_of_a_chain_fails_with_its_link(plan, delivery, sig, metas):
    body = {
        "task": "celery.chord",
        "args": [],
        "kwargs": {"header": [sig("p.h", task_id="h1")], "body": sig("p.b", task_id="b1")},
        "options": {},
        "subtask_type": "chord",
        "immutable": False,
    }
    chain = [body, sig("p.next", task_id="n1", group_id="g")]

    outcome = execute(plan(fail), delivery(embed={"chain": chain}))

    told = [(each["task_id"], each["status"], each["result"]["args"], each["group_id"]) for each in metas(outcome)]
    assert told == [
        ("t1", "FAILURE", ["boom"], None),
        ("n1", "FAILURE", ["boom"], "g"),
        ("h1", "FAILURE", ["boom"], None),
        ("b1", "FAILURE", ["boom"], None),
    ]


def test_a_failure_that_is_not_stored_does_not_store_its_chains(plan, delivery, sig):
    outcome = execute(plan(fail, ignore_result=True), delivery(embed={"chain": [sig("p.next", task_id="n1")]}))

    assert outcome.records == ()


_HALF = {"task": "p.next"}  # a signature that lacks the rest


@pytest.mark.parametrize("embed", [{"callbacks": [1]}, {"callbacks": "p.next"}, {"chain": [_HALF]}, {"chain": 7}])
def test_damaged_follow_ups_of_a_success_make_one_line_of_the_log(plan, delivery, metas, caplog, embed):
    outcome = execute(plan(lambda: 5), delivery(embed=embed, group="g"))

    assert (outcome.state, outcome.follow_ups) == ("FAILURE", ())
    assert metas(outcome)[0]["result"]["exc"] == "InvalidTaskError"
    (line,) = caplog.records
    assert f"the message is damaged: its {next(iter(embed))} hold" in line.getMessage()
    assert line.exc_info is None


@pytest.mark.parametrize("embed", [{"errbacks": ["p.err"]}, {"errbacks": [{}]}, {"chain": [_HALF]}, {"chain": 7}])
def test_a_failure_stands_although_what_would_follow_is_damaged(plan, delivery, metas, caplog, embed):
    outcome = execute(plan(fail), delivery(embed=embed, group="g"))

    assert (outcome.state, outcome.follow_ups) == ("FAILURE", ())
    assert metas(outcome)[0]["result"]["exc"] == "ValueError"
    damage, failure = caplog.records
    assert damage.getMessage().startswith("Task p.task[t1]: the message is damaged: its ")
    assert damage.exc_info is None
    assert "raised unexpected: ValueError" in failure.getMessage()
