"""When and how a task runs again."""

# ruff: noqa: PLR0917 - a test takes the parts it needs

import json

import pytest

from umbel.exceptions import EncodeError, MaxRetriesExceededError, Reject, Retry
from umbel.execution.execute import execute, execute_request
from umbel.execution.request import Request
from umbel.execution.retry import retry, signature_from_request
from umbel.wire.message import Route


def retrying(**how):
    """A task that asks for a retry in its first run."""

    def run(self, a=0, b=0, c=0):
        from umbel import current

        request = current.request_of(self)
        if request.retries == 0:
            retry(self, request, **how)
        return [a, b, c]

    return run


def again(outcome):
    (publication,) = outcome.follow_ups
    return publication


@pytest.mark.row("API-162", "PRT-059", "PRT-012")
def test_a_retry_is_the_same_call_once_more(plan, delivery, sig):
    embed = {"callbacks": [sig("p.cb")], "errbacks": [sig("p.err")], "chain": [sig("p.next")], "chord": sig("p.body")}
    job = delivery([1], {"b": 2}, embed=embed, root_id="r", group="g", group_index=4, headers={"h": 1}, priority=3)

    sent = again(execute(plan(retrying(countdown=7)), job))

    message = sent.message
    assert (message.id, message.retries, message.root_id, message.parent_id) == ("t1", 1, "r", "t1")
    assert (message.group, message.group_index, message.priority, message.headers) == ("g", 4, 3, {"h": 1})
    assert message.properties["countdown"] == 7
    args, kwargs, kept = json.loads(message.body)
    assert (args, kwargs) == ([1], {"b": 2})
    assert [kept["link"][0]["task"], kept["link_error"][0]["task"]] == ["p.cb", "p.err"]
    assert [kept["chain"][0]["task"], kept["chord"]["task"]] == ["p.next", "p.body"]


@pytest.mark.row("PRT-059")
@pytest.mark.parametrize(
    ("came", "goes"),
    [
        (Route("", "video"), Route("", "video")),
        (Route("media", "video.hd"), Route("media", "video.hd")),
    ],
)
def test_a_retry_goes_where_the_call_came_from(plan, delivery, came, goes):
    assert again(execute(plan(retrying()), delivery(route=came))).route == goes


@pytest.mark.row("API-167")
def test_options_of_a_retry_win(plan, delivery):
    sent = again(execute(plan(retrying(queue="slow", priority=9)), delivery(priority=1)))

    assert (sent.route, sent.message.priority) == (Route("", "slow"), 9)


@pytest.mark.row("API-088")
def test_without_a_time_the_default_delay_counts(plan, delivery):
    sent = again(execute(plan(retrying(), default_retry_delay=11), delivery()))

    assert sent.message.properties["countdown"] == 11


@pytest.mark.row("PRT-169", "API-183", "API-429", "CLI-061")
def test_a_retry_is_told_with_its_cause(plan, delivery, metas, told, caplog):
    caplog.set_level("INFO", "celery.app.trace")
    cause = KeyError("x")

    outcome = execute(plan(retrying(exc=cause, countdown=3), on_retry=told.hook("on_retry")), delivery([1]))

    record = metas(outcome)[0]
    assert (outcome.state, record["status"], record["result"]["exc"]) == ("RETRY", "RETRY", "KeyError")
    assert record["children"] == [[["t1", None], None]]
    assert told.log[0][1:4] == (cause, "t1", [1])
    assert caplog.messages == ["Task p.task[t1] retry: Retry in 3s: KeyError('x')"]


@pytest.mark.row("API-087", "API-164")
@pytest.mark.parametrize(
    ("limit", "done", "state"), [(3, 2, "RETRY"), (3, 3, "FAILURE"), (0, 0, "FAILURE"), (None, 999, "RETRY")]
)
def test_a_task_is_retried_as_often_as_it_may(plan, delivery, limit, done, state):
    def run(self):
        from umbel import current

        retry(self, current.request_of(self), countdown=1)

    assert execute(plan(run, max_retries=limit), delivery(retries=done)).state == state


@pytest.mark.row("API-164", "API-399")
def test_the_last_retry_says_what_could_not_be_retried(plan, delivery, metas):
    told = metas(execute(plan(retrying(), max_retries=0), delivery([1], {"b": 2})))[0]["result"]

    assert told["exc"] == "MaxRetriesExceededError"
    assert told["args"] == ["Can't retry p.task[t1] args:[1] kwargs:{'b': 2}"]


@pytest.mark.row("API-164")
def test_the_last_retry_raises_its_cause_if_there_is_one(plan, delivery, metas):
    told = metas(execute(plan(retrying(exc=KeyError("x")), max_retries=0), delivery()))[0]["result"]

    assert told["exc"] == "KeyError"


@pytest.mark.row("API-168")
def test_a_limit_given_to_retry_counts(plan, delivery):
    assert execute(plan(retrying(max_retries=5), max_retries=0), delivery()).state == "RETRY"


@pytest.mark.row("API-166")
@pytest.mark.parametrize(
    ("called", "how", "called_again"),
    [
        (([1, 2], {"c": 3}), {}, [[1, 2], {"c": 3}]),
        (([1, 2], {"c": 3}), {"args": (5,)}, [[5], {"c": 3}]),
        (([], {"a": 1, "b": 2}), {"args": (5,)}, [[5], {"b": 2}]),
        (([1, 2], {"c": 3}), {"kwargs": {"a": 5}}, [[5, 2], {}]),
        (([1, 2], {}), {"kwargs": {"c": 5}}, [[1, 2], {"c": 5}]),
        (([], {"a": 1, "b": 2}), {"kwargs": {"a": 5}}, [[], {"a": 5}]),
        (([1, 2], {"c": 3}), {"args": (5,), "kwargs": {"b": 6}}, [[5], {"b": 6}]),
    ],
)
def test_arguments_given_to_retry_replace_those_of_the_call(plan, delivery, called, how, called_again):
    sent = again(execute(plan(retrying(**how)), delivery(*called)))

    assert json.loads(sent.message.body)[:2] == called_again


@pytest.mark.row("API-165")
def test_a_retry_that_cannot_be_sent_rejects_the_message(plan, delivery, metas):
    outcome = execute(plan(retrying(args=({1},))), delivery())

    assert (outcome.state, outcome.requeue, outcome.follow_ups) == ("REJECTED", False, ())


def test_a_swallowed_retry_is_sent_all_the_same(plan, delivery, metas):
    def run(self):
        from umbel import current

        try:
            retry(self, current.request_of(self), countdown=0)
        except Retry:
            return "went on"

    outcome = execute(plan(run), delivery())

    assert (outcome.state, metas(outcome)[0]["result"]) == ("SUCCESS", "went on")
    assert again(outcome).message.retries == 1


@pytest.mark.row("API-162")
def test_throw_false_returns_the_retry(plan, delivery, metas):
    def run(self):
        from umbel import current

        return str(retry(self, current.request_of(self), countdown=2, throw=False))

    outcome = execute(plan(run), delivery())

    assert metas(outcome)[0]["result"] == "Retry in 2s"
    assert again(outcome).message.retries == 1


@pytest.mark.row("API-163")
def test_a_task_called_as_a_function_cannot_be_retried(plan):
    task = plan(lambda: None).task

    with pytest.raises(Retry):
        retry(task, Request())
    with pytest.raises(KeyError):
        retry(task, Request(), exc=KeyError("x"))


@pytest.mark.row("API-158")
def test_an_eager_retry_carries_its_next_call(plan):
    request = Request(id="t1", task="p.task", args=(1,), kwargs={}, called_directly=False, is_eager=True)

    ended = execute_request(plan(retrying()), request)

    assert ended.retval.is_eager
    assert (ended.retval.sig.args, ended.retval.sig.options["retries"]) == ((1,), 1)
    assert ended.outcome.follow_ups == ()


def test_a_request_gives_its_call_as_a_signature(plan, delivery):
    task = plan(lambda: None).task
    request = Request.of_delivery(delivery([1], queue="q", priority=2), [1], {}, {})

    made = signature_from_request(task, request, kwargs={"x": 1}, countdown=5)

    assert (made.task, made.args, made.kwargs) == ("p.task", (1,), {"x": 1})
    assert {key: made.options[key] for key in ("task_id", "queue", "priority", "countdown")} == {
        "task_id": "t1",
        "queue": "q",
        "priority": 2,
        "countdown": 5,
    }


# -- by itself


def failing(exc):
    def run():
        raise exc

    return run


@pytest.mark.row("API-114", "API-115", "API-120")
@pytest.mark.parametrize(
    ("exc", "state"),
    [
        (ConnectionError("down"), "RETRY"),
        (ConnectionResetError("excluded"), "FAILURE"),
        (ValueError("other"), "FAILURE"),
        (Reject("no", requeue=True), "REJECTED"),
    ],
)
def test_listed_exceptions_retry_by_themselves(plan, delivery, exc, state):
    made = plan(failing(exc), autoretry_for=(OSError, Reject), dont_autoretry_for=(ConnectionResetError,))

    assert execute(made, delivery()).state == state


@pytest.mark.row("API-120")
def test_an_exhausted_autoretry_ends_with_the_exception(plan, delivery, metas):
    made = plan(failing(OSError("down")), autoretry_for=(OSError,), retry_kwargs={"max_retries": 2})

    assert execute(made, delivery(retries=1)).state == "RETRY"
    outcome = execute(made, delivery(retries=2))
    assert (outcome.state, metas(outcome)[0]["result"]["exc"]) == ("FAILURE", "OSError")


@pytest.mark.row("API-117", "API-118")
@pytest.mark.parametrize(
    ("backoff", "maximum", "retries", "countdown"),
    [(True, 600, 0, 1), (True, 600, 3, 8), (2.9, 600, 2, 8), (0.5, 600, 0, 1), (10, 30, 5, 30)],
)
def test_backoff_doubles_the_delay_up_to_its_maximum(plan, delivery, backoff, maximum, retries, countdown):
    made = plan(
        failing(OSError()),
        autoretry_for=(OSError,),
        max_retries=None,
        retry_backoff=backoff,
        retry_backoff_max=maximum,
        retry_jitter=False,
    )

    assert again(execute(made, delivery(retries=retries))).message.properties["countdown"] == countdown


@pytest.mark.row("API-119")
def test_jitter_makes_the_delay_anything_up_to_it(plan, delivery):
    made = plan(failing(OSError()), autoretry_for=(OSError,), retry_backoff=4, max_retries=None)

    delays = {again(execute(made, delivery())).message.properties["countdown"] for _ in range(100)}

    assert delays == {0, 1, 2, 3, 4}


@pytest.mark.row("API-168")
def test_a_limit_given_by_hand_holds_for_autoretry_too(plan, delivery, metas):
    def run(self):
        from umbel import current

        retry(self, current.request_of(self), exc=OSError("down"), max_retries=1)

    outcome = execute(plan(run, autoretry_for=(OSError,), max_retries=9), delivery(retries=1))

    assert (outcome.state, outcome.follow_ups) == ("FAILURE", ())


def test_a_task_called_as_a_function_does_not_retry_by_itself(plan, delivery):
    with pytest.raises(MaxRetriesExceededError):
        retry(plan(lambda: None, max_retries=0).task, Request.of_delivery(delivery(), (), {}, {}))


def test_what_cannot_be_encoded_says_so(plan, delivery, metas):
    outcome = execute(plan(retrying(args=({1},))), delivery())

    assert "not JSON serializable" in outcome.reason
    assert EncodeError.__name__ in outcome.reason
