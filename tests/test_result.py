import asyncio
import copy
import pickle
import threading
from datetime import datetime

import pytest

from umbel import Umbel, current
from umbel.exceptions import IncompleteStream, TaskRevokedError, TimeoutError  # noqa: A004 - Celery's name
from umbel.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    denied_join_result,
    result_from_tuple,
)

SECOND = 1.0


@pytest.fixture
def app():
    with Umbel("results", broker="memory://", backend="memory://") as made:
        yield made
    current.set_current_app(None)


@pytest.fixture
def store(app):
    """Store a state of a task, as a worker would."""

    def keep(task_id, result=None, state="SUCCESS", **fields):
        return app.backend.store_result(task_id, result, state, **fields)

    return keep


def later(action):
    """Start *action* in another thread when the caller certainly waits or is about to."""
    thread = threading.Timer(0.02, action)
    thread.start()
    return thread


# -- What is known of one ----------------------------------------------------------------------------------------------


@pytest.mark.row("API-294")
def test_a_result_is_its_id(app):
    result = app.AsyncResult("t1")

    assert isinstance(result, AsyncResult)
    assert result == app.AsyncResult("t1") == AsyncResult("t1", app=app)
    assert result == "t1"
    assert result != "t2"
    assert result != app.AsyncResult("t2")
    assert {result, app.AsyncResult("t1")} == {result}
    assert (str(result), repr(result)) == ("t1", "<AsyncResult: t1>")
    with pytest.raises(ValueError, match="requires a valid id"):
        app.AsyncResult(None)


@pytest.mark.row("API-297")
def test_the_id_has_two_names(app):
    result = app.AsyncResult("t1")

    result.task_id = "t2"

    assert (result.id, result.task_id) == ("t2", "t2")


@pytest.mark.row("API-295", "API-296", "PRT-194")
def test_an_unknown_task_is_pending(app):
    result = app.AsyncResult("nobody")

    assert (result.state, result.status, result.result, result.info) == ("PENDING", "PENDING", None, None)
    assert (result.traceback, result.children, result.date_done) == (None, None, None)
    assert not result.ready()
    assert not result.exists()


@pytest.mark.row("API-295", "API-296", "API-308", "API-309", "API-314")
@pytest.mark.parametrize(
    ("state", "value", "ended"),
    [
        ("STARTED", {"pid": 1}, (False, False, False)),
        ("PROGRESS", {"done": 3}, (False, False, False)),
        ("RETRY", ValueError("x"), (False, False, False)),
        ("SUCCESS", 42, (True, True, False)),
        ("FAILURE", ValueError("x"), (True, False, True)),
        ("REVOKED", TaskRevokedError("revoked"), (True, False, False)),
    ],
)
def test_a_result_knows_how_far_its_task_is(app, store, state, value, ended):
    store("t1", value, state)

    result = app.AsyncResult("t1")

    assert result.state == state
    assert result.exists()
    assert (result.ready(), result.successful(), result.failed()) == ended
    if not isinstance(value, BaseException):
        assert result.result == result.info == value


@pytest.mark.row("API-297", "API-298")
def test_a_failed_task_has_a_traceback_and_an_end(app, store):
    store("t1", ValueError("x"), "FAILURE", traceback="Traceback: …")

    result = app.AsyncResult("t1")

    assert result.traceback == "Traceback: …"
    assert isinstance(result.date_done, datetime)
    assert result.date_done.tzinfo is not None


@pytest.mark.row("API-299")
def test_more_is_known_only_with_extended_results(app, store):
    store("t1", 1)
    store("t2", 1, name="add", args=[1], kwargs={"y": 2}, worker="w@h", retries=1, queue="celery")

    plain, extended = app.AsyncResult("t1"), app.AsyncResult("t2")

    assert (plain.name, plain.args, plain.kwargs, plain.worker, plain.retries, plain.queue) == (None,) * 6
    assert (extended.name, extended.args, extended.kwargs) == ("add", [1], {"y": 2})
    assert (extended.worker, extended.retries, extended.queue) == ("w@h", 1, "celery")


@pytest.mark.row("API-322")
def test_states_are_read_anew_until_the_end_and_then_remembered(app, store):
    result = app.AsyncResult("t1")
    assert result.state == "PENDING"
    store("t1", state="STARTED")
    assert result.state == "STARTED"
    store("t1", 42)
    assert result.state == "SUCCESS"

    app.backend.forget("t1")

    assert result.state == "SUCCESS"
    assert app.AsyncResult("t1").state == "PENDING"


@pytest.mark.row("API-321")
def test_a_result_can_be_copied_and_pickled_by_its_id(app, store):
    store("t1", 42)
    result = app.AsyncResult("t1", parent=app.AsyncResult("t0"))

    for other in (copy.copy(result), pickle.loads(pickle.dumps(result))):
        assert other == result
        assert other.parent == "t0"
        assert other.get() == 42
    assert result.supports_native_join


@pytest.mark.row("API-319", "API-320", "API-331", "PRT-164")
def test_a_result_is_made_again_from_its_tuple(app):
    result = app.AsyncResult("t2", parent=app.AsyncResult("t1"))

    assert result.as_tuple() == (("t2", (("t1", None), None)), None)
    assert result.as_list() == ["t2", "t1"]
    again = result_from_tuple([["t2", [["t1", None], None]], None], app)
    assert (again, again.parent) == (result, result.parent)
    assert result_from_tuple(result) is result


# -- Waiting for one ---------------------------------------------------------------------------------------------------


@pytest.mark.row("API-300")
def test_get_returns_what_is_there(app, store):
    store("t1", 42)

    assert app.AsyncResult("t1").get() == 42
    assert app.AsyncResult("t1").wait(timeout=10 * SECOND) == 42


@pytest.mark.row("API-300")
def test_get_waits_until_it_is_there(app, store):
    thread = later(lambda: [store("t1", state="STARTED"), store("t1", 42)])

    assert app.AsyncResult("t1").get(timeout=10 * SECOND) == 42
    thread.join()


@pytest.mark.row("API-301")
def test_get_ends_when_time_is_over(app):
    with pytest.raises(TimeoutError):
        app.AsyncResult("t1").get(timeout=0.01)
    with pytest.raises(AsyncResult.TimeoutError):
        app.AsyncResult("t1").get(timeout=0)


@pytest.mark.row("API-300", "API-302", "API-310")
def test_get_raises_what_the_task_raised(app, store):
    store("t1", ValueError("x"), "FAILURE")

    result = app.AsyncResult("t1")

    with pytest.raises(ValueError, match="x"):
        result.get()
    with pytest.raises(ValueError, match="x"):
        result.maybe_throw()
    with pytest.raises(ValueError, match="x"):
        result.maybe_reraise()
    assert isinstance(result.get(propagate=False), Exception)
    assert isinstance(result.maybe_throw(propagate=False), Exception)


@pytest.mark.row("API-303")
def test_get_gives_the_value_to_a_callback(app, store):
    store("t1", 42)
    told = []

    app.AsyncResult("t1").get(callback=lambda task_id, value: told.append((task_id, value)))

    assert told == [("t1", 42)]


@pytest.mark.row("API-300")
def test_get_tells_what_it_hears_meanwhile(app, store):
    heard = []
    store("t1", {"done": 1}, "PROGRESS")
    thread = later(lambda: store("t1", 42))

    app.AsyncResult("t1").get(timeout=10 * SECOND, on_message=lambda meta: heard.append(meta["status"]))
    thread.join()

    assert heard == ["PROGRESS", "SUCCESS"]


@pytest.mark.row("API-307")
def test_get_calls_back_while_it_waits(app, store):
    def beat():
        beats.append(1)
        if len(beats) == 3:
            store("t1", 42)

    beats = []

    assert app.AsyncResult("t1").get(timeout=10 * SECOND, interval=0.001, on_interval=beat) == 42
    assert len(beats) >= 3


@pytest.mark.row("API-305")
def test_an_ignored_result_is_none_at_once(app):
    result = app.AsyncResult("t1")
    result.ignored = True

    assert result.get() is None


@pytest.mark.row("API-306")
def test_a_failed_parent_is_raised_first(app, store):
    first = app.AsyncResult("t1")
    last = app.AsyncResult("t3", parent=app.AsyncResult("t2", parent=first))
    thread = later(lambda: store("t1", ValueError("first"), "FAILURE"))

    with pytest.raises(ValueError, match="first"):
        last.get(timeout=10 * SECOND)
    thread.join()
    with pytest.raises(TimeoutError):
        last.get(timeout=0.01, follow_parents=False)


def test_a_parent_that_is_revoked_while_one_waits_ends_the_wait(app, store):
    last = app.AsyncResult("t2", parent=app.AsyncResult("t1"))
    revoking = later(lambda: store("t1", TaskRevokedError("revoked"), "REVOKED"))

    with pytest.raises(TaskRevokedError):  # at first only the end of a chain is watched
        last.get(timeout=60 * SECOND)
    revoking.join()


def test_a_parent_that_succeeds_while_one_waits_changes_nothing(app, store):
    last = app.AsyncResult("t2", parent=app.AsyncResult("t1"))
    working = later(lambda: (store("t1", 1), store("t2", 2)))

    assert last.get(timeout=60 * SECOND) == 2
    working.join()


@pytest.mark.row("API-304", "API-332", "TB-170")
def test_waiting_may_be_refused_and_allowed(app, store):
    store("t1", 42)
    result = app.AsyncResult("t1")

    with denied_join_result():
        with pytest.raises(RuntimeError, match=r"Never call result.get"):
            result.get()
        with pytest.raises(RuntimeError, match=r"Never call result.get"):
            ResultSet([result]).join()
        assert result.get(disable_sync_subtasks=False) == 42
        with allow_join_result():
            assert result.get() == 42
    assert result.get() == 42


@pytest.mark.row("API-315")
def test_who_waits_for_a_result_is_called_when_it_is_seen(app, store):
    told = []
    good, bad = app.AsyncResult("t1"), app.AsyncResult("t2")
    good.then(told.append)
    bad.then(told.append, on_error=lambda result: told.append(("error", result)))
    store("t1", 42)
    store("t2", ValueError(), "FAILURE")

    good.get()
    bad.get(propagate=False)
    good.then(told.append)

    assert told == [good, ("error", bad), good]


def test_an_event_loop_waits_without_being_blocked(app, store):
    async def main():
        ticks = []

        async def tick():
            for _ in range(3):
                await asyncio.sleep(0)
                ticks.append(1)
            await asyncio.to_thread(store, "t1", 42)

        ticking = asyncio.create_task(tick())
        values = await app.AsyncResult("t1").aget(timeout=10 * SECOND), await app.AsyncResult("t1")
        await ticking
        with pytest.raises(TimeoutError):
            await app.AsyncResult("t2").aget(timeout=0.01)
        return values, len(ticks)

    assert asyncio.run(main()) == ((42, 42), 3)


# -- Acting on one -----------------------------------------------------------------------------------------------------


@pytest.mark.row("API-311", "TB-153")
def test_forgetting_deletes_a_result_and_its_parents(app, store):
    store("t1", 1)
    store("t2", 2)

    app.AsyncResult("t2", parent=app.AsyncResult("t1")).forget()

    assert app.AsyncResult("t1").state == app.AsyncResult("t2").state == "PENDING"


# -- What came of it ---------------------------------------------------------------------------------------------------


class _Asked:
    """A request with children."""

    group = parent_id = reply_to = None

    def __init__(self, *children):
        self.children = children


@pytest.fixture
def tree(app, store):
    """t1 sent t2 and t3, t2 sent t4."""
    results = {task_id: app.AsyncResult(task_id) for task_id in ("t1", "t2", "t3", "t4")}
    store("t4", 4)
    store("t3", 3)
    store("t2", 2, request=_Asked(results["t4"]))
    store("t1", 1, request=_Asked(results["t2"], results["t3"]))
    return results


@pytest.mark.row("API-297", "API-316", "API-317")
def test_children_are_found_level_by_level(app, tree):
    root = app.AsyncResult("t1")

    assert root.children == [tree["t2"], tree["t3"]]
    assert list(root.iterdeps()) == [(None, "t1"), ("t1", "t2"), ("t1", "t3"), ("t2", "t4")]
    assert list(root.collect()) == [("t1", 1), ("t2", 2), ("t3", 3), ("t4", 4)]


@pytest.mark.row("API-318")
def test_the_last_descendant_and_the_graph(app, tree):
    root = app.AsyncResult("t1")

    assert root.get_leaf() == 4
    assert root.graph == root.build_graph() == {"t1": ["t2", "t3"], "t2": ["t4"], "t3": [], "t4": []}
    assert root.graph.edges() == ["t1", "t2"]


@pytest.mark.row("API-317")
def test_a_tree_that_is_not_ready_is_incomplete(app, store):
    store("t1", 1, request=_Asked(app.AsyncResult("t2")))

    with pytest.raises(IncompleteStream):
        list(app.AsyncResult("t1").iterdeps())
    assert [node for _, node in app.AsyncResult("t1").iterdeps(intermediate=True)] == ["t1", "t2"]


# -- Several -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(app):
    return app.ResultSet([app.AsyncResult(f"t{i}") for i in range(3)])


@pytest.mark.row("API-323")
def test_a_set_of_results_can_be_changed(app, three):
    extra = app.AsyncResult("extra")
    three.add(extra)
    three.add(extra)
    assert (len(three), three[3], list(three)[-1]) == (4, extra, extra)

    three.remove("extra")
    three.discard(extra)
    with pytest.raises(KeyError):
        three.remove(extra)

    three.update([extra, three[0]])
    assert len(three) == 4
    three.clear()
    assert len(three) == 0


@pytest.mark.row("API-324")
def test_a_set_knows_how_far_it_is(store, three):
    store("t0", 0)
    store("t1", ValueError(), "FAILURE")
    assert (three.ready(), three.waiting(), three.successful(), three.failed()) == (False, True, False, True)
    assert three.completed_count() == 1

    store("t2", 2)
    assert (three.ready(), three.waiting(), three.completed_count()) == (True, False, 2)


@pytest.mark.row("API-325", "API-326", "API-327")
@pytest.mark.parametrize("method", ["join", "join_native", "get"])
def test_joining_waits_for_all_and_keeps_their_order(app, store, three, method):
    thread = later(lambda: [store(f"t{i}", i) for i in (2, 0, 1)])

    assert getattr(three, method)(timeout=10 * SECOND) == [0, 1, 2]
    thread.join()


@pytest.mark.row("API-325")
def test_joining_gives_values_to_a_callback(store, three):
    for i in range(3):
        store(f"t{i}", i)
    told = []

    assert three.join(callback=lambda task_id, value: told.append((task_id, value))) == []
    assert told == [("t0", 0), ("t1", 1), ("t2", 2)]


@pytest.mark.row("API-325")
def test_joining_raises_the_first_failure_it_sees(store, three):
    store("t2", ValueError("broken"), "FAILURE")

    with pytest.raises(ValueError, match="broken"):
        three.join(timeout=10 * SECOND)


@pytest.mark.row("API-325", "API-328")
def test_joining_without_propagation_returns_failures(store, three):
    store("t0", 0)
    store("t1", ValueError("broken"), "FAILURE")
    store("t2", 2)

    first, second, third = three.join(propagate=False)

    assert (first, str(second), third) == (0, "broken", 2)
    with pytest.raises(ValueError, match="broken"):
        three.maybe_throw()


@pytest.mark.row("API-325")
def test_the_time_to_join_is_for_all_together(store, three):
    store("t0", 0)

    with pytest.raises(TimeoutError):
        three.join(timeout=0.01)


@pytest.mark.row("API-326", "TB-146")
def test_results_may_be_taken_as_they_come(store, three):
    store("t2", 2)
    found = three.iter_native(timeout=10 * SECOND)
    assert next(found)[0] == "t2"

    store("t0", 0)
    task_id, meta = next(found)
    assert (task_id, meta["result"]) == ("t0", 0)

    store("t1", 1)
    assert [task_id for task_id, _ in found] == ["t1"]


@pytest.mark.row("API-328")
def test_a_set_is_forgotten_as_a_whole(app, store, three):
    store("t0", 0)

    three.forget()

    assert app.AsyncResult("t0").state == "PENDING"


@pytest.mark.row("API-315")
def test_a_set_calls_back_when_all_are_ready(store, three):
    told = []
    three.then(told.append)

    for i in range(3):
        assert told == []
        store(f"t{i}", i)
        three.ready()

    assert told == [three]


def test_a_set_is_awaited_in_an_event_loop(store, three):
    async def main():
        await asyncio.to_thread(lambda: [store(f"t{i}", i) for i in range(3)])
        return await three, await three.aget(timeout=10 * SECOND)

    assert asyncio.run(main()) == ([0, 1, 2], [0, 1, 2])


# -- Groups ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def group(app):
    inner = app.GroupResult("inner", [app.AsyncResult("t2")])
    return app.GroupResult("g1", [app.AsyncResult("t1"), inner], parent=app.AsyncResult("t0"))


@pytest.mark.row("API-329", "API-319", "API-331", "PRT-164")
def test_a_group_is_made_again_from_its_tuple(app, group):
    assert group.as_tuple() == (
        ("g1", (("t0", None), None)),
        [(("t1", None), None), (("inner", None), [(("t2", None), None)])],
    )
    again = result_from_tuple(group.as_tuple(), app)
    assert (again, again.parent, again.children) == (group, group.parent, group.results)
    assert str(group) == "g1"
    assert repr(group) == "<GroupResult: g1 [t1, <GroupResult: inner [t2]>]>"
    assert pickle.loads(pickle.dumps(group)) == group


@pytest.mark.row("API-329")
def test_a_group_is_saved_and_restored(app, group):
    group.save()

    assert app.GroupResult.restore("g1") == group
    assert GroupResult.restore("g1", app=app) == group
    group.delete()
    assert app.GroupResult.restore("g1") is None


@pytest.mark.row("API-329")
def test_an_empty_group_without_id_is_nothing(app):
    assert not app.GroupResult()
    assert app.GroupResult("g1")
    assert app.GroupResult(results=[app.AsyncResult("t1")])


@pytest.mark.row("API-325", "API-329")
def test_groups_within_groups_are_joined_with_them(store, group):
    store("t1", 1)
    thread = later(lambda: store("t2", 2))

    assert group.get(timeout=10 * SECOND) == [1, [2]]
    thread.join()


# -- Eager results -----------------------------------------------------------------------------------------------------


@pytest.mark.row("API-330")
def test_an_eager_result_is_there_at_once():
    good, bad = EagerResult("t1", 42, "SUCCESS"), EagerResult("t2", ValueError("x"), "FAILURE", traceback="…")

    assert (good.get(), good.ready(), good.state, good.successful()) == (42, True, "SUCCESS", True)
    assert (bad.ready(), bad.failed(), bad.traceback) == (True, True, "…")
    with pytest.raises(ValueError, match="x"):
        bad.get()
    assert str(bad.get(propagate=False)) == "x"
    good.revoke()
    assert good.state == "REVOKED"
    assert copy.copy(bad).failed()
    assert repr(bad) == "<EagerResult: t2>"


@pytest.mark.row("API-330")
def test_eager_results_are_joined_with_others(app, store):
    store("t1", 1)

    assert app.ResultSet([EagerResult("e1", 0, "SUCCESS"), app.AsyncResult("t1")]).join(timeout=10 * SECOND) == [0, 1]
