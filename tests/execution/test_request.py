"""What a task sees as ``self.request``."""

from datetime import UTC, datetime

import pytest

from umbel.execution.request import Request
from umbel.wire.message import Route


@pytest.fixture
def request_of(delivery):
    def make(args=(), kwargs=None, embed=None, **fields):
        return Request.of_delivery(delivery(**fields), args, kwargs or {}, embed or {}, hostname="w@host")

    return make


@pytest.mark.row("API-194", "API-195", "API-203", "API-204", "API-205")
def test_the_identity_of_a_call(request_of):
    fields = {"root_id": "r", "parent_id": "p", "reply_to": "q", "origin": "gen1@h", "shadow": "s"}
    request = request_of([1], {"x": 2}, retries=3, **fields)

    assert (request.id, request.task, request.retries) == ("t1", "p.task", 3)
    assert (request.args, request.kwargs) == ([1], {"x": 2})
    assert (request.root_id, request.parent_id, request.reply_to, request.correlation_id) == ("r", "p", "q", "t1")
    assert (request.hostname, request.origin, request.shadow, request.utc) == ("w@host", "gen1@h", "s", True)
    assert (request.called_directly, request.is_eager, request.replaced_task_nesting) == (False, False, 0)
    assert (request.loglevel, request.logfile, request.ignore_result) == (None, None, None)


@pytest.mark.row("API-195")
def test_a_task_without_a_root_is_its_own(request_of):
    assert request_of().root_id == "t1"


@pytest.mark.row("API-196", "API-197")
def test_times_and_limits(request_of):
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    request = request_of(eta=moment, expires=moment, hard_limit=10.0, soft_limit=5.0)

    assert request.eta == request.expires == "2026-01-02T03:04:05+00:00"
    assert (request.timelimit, request.time_limit, request.soft_time_limit) == ([10.0, 5.0], 10.0, 5.0)


@pytest.mark.row("API-198", "API-199", "PRT-032")
def test_what_is_embedded(request_of):
    embed = {"callbacks": [1], "errbacks": [2], "chain": [3], "chord": 4, "custom": 5}
    request = request_of(embed=embed, group="g", group_index=7)

    assert (request.callbacks, request.errbacks, request.chain, request.chord) == ([1], [2], [3], 4)
    assert request.custom == 5
    assert (request.group, request.taskset, request.group_index) == ("g", "g", 7)


@pytest.mark.row("API-200", "PRT-055")
def test_how_it_came(request_of):
    request = request_of(route=Route("ex", "key"), priority=4, redelivered=True)

    assert request.delivery_info == {"exchange": "ex", "routing_key": "key", "priority": 4, "redelivered": True}


@pytest.mark.row("API-201", "API-202", "API-206")
def test_headers_are_only_the_senders_own(request_of):
    request = request_of(headers={"mine": 1}, stamped_headers=("a",), stamps={"a": 2}, properties={"x": 3})

    assert request.headers == {"mine": 1}
    assert request_of().headers is None
    assert (request.stamped_headers, request.stamps) == (["a"], {"a": 2})
    assert request.properties["x"] == 3
    assert request.properties["correlation_id"] == "t1"


@pytest.mark.row("API-207")
def test_children_are_kept(request_of):
    request = request_of()
    request.children.append("child")

    assert request.children == ["child"]


@pytest.mark.row("API-208", "API-204")
def test_outside_of_a_run_attributes_read_as_defaults():
    request = Request()

    assert request.called_directly
    assert (request.id, request.args, request.group, request.delivery_info, request.headers) == (None,) * 5
    assert (request.retries, request.children, request.replaced_task_nesting) == (0, [], 0)
    with pytest.raises(AttributeError):
        request.nonsense  # noqa: B018 - looking is the test


@pytest.mark.row("API-209", "API-210")
def test_attributes_can_be_set_and_asked_for(request_of):
    request = request_of()
    request.update({"a": 1}, b=2)
    request.group = "mine"

    assert (request.get("a"), request.get("b"), request.get("c", 3), request.get("retries", 9)) == (1, 2, 3, 0)
    assert request.group == "mine"
    request.clear()
    assert request.get("a") is None
    assert request.called_directly


@pytest.mark.row("API-209")
def test_a_request_says_how_to_send_it_again(request_of):
    embed = {"callbacks": ["cb"], "errbacks": ["eb"], "chain": ["next"], "chord": "body"}
    request = request_of(
        embed=embed, group="g", group_index=1, headers={"h": 1}, stamped_headers=("s",), stamps={"s": 9}, retries=2
    )

    options = request.as_execution_options()

    assert {key: value for key, value in options.items() if value is not None} == {
        "task_id": "t1",
        "root_id": "t1",
        "group_id": "g",
        "group_index": 1,
        "chord": "body",
        "chain": ["next"],
        "link": ["cb"],
        "link_error": ["eb"],
        "headers": {"h": 1},
        "retries": 2,
        "replaced_task_nesting": 0,
        "stamped_headers": ["s"],
        "s": 9,
    }
