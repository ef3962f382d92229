"""Work-flows of which Celery does one part and umbel the other, on Redis and on RabbitMQ."""

import pytest
from umbel_interop_fleet import until

pytestmark = pytest.mark.process


@pytest.fixture(params=["celery", "umbel"])
def call(request, shared):
    """Run code in a client of one side; `here` is its own queue's worker, `there` that of the other."""
    mine, other = request.param, {"celery": "umbel", "umbel": "celery"}[request.param]
    client = shared.client(mine, mine)
    queues = {"here": shared.queue(mine), "there": shared.queue(other)}
    return lambda code, **values: client(code, here=queues["here"], there=queues["there"], me=mine, it=other, **values)


def test_chains_go_back_and_forth(call):
    assert call("""
        flow = chain(add.s(1, 2).set(queue=there), add.s(10).set(queue=here), add.s(100).set(queue=there), echo.s())
        result = flow.apply_async()
        value = result.get(timeout=40)
        return value, result.parent.get(timeout=40), result.parent.parent.parent.get(timeout=40)
    """) == [113, 113, 3]


def test_groups_are_done_by_both(call):
    values, sides = call("""
        both = group(add.s(i, i).set(queue=here if i % 2 else there) for i in range(10))
        who = group([side.si().set(queue=here), side.si().set(queue=there)])
        return both.apply_async().get(timeout=40), who.apply_async().get(timeout=40) + [me, it]
    """)
    assert values == [2 * i for i in range(10)]
    assert sides[:2] == sides[2:]


@pytest.mark.parametrize("body", ["here", "there"])
def test_a_chord_whose_header_is_done_by_both_calls_its_body_once(call, body):
    assert call(
        """
        header = [add.s(i, i).set(queue=here if i % 2 else there) for i in range(9)]
        results = [chord(header)(total.s().set(queue={"here": here, "there": there}[body])) for _ in range(3)]
        return [each.get(timeout=40) for each in results]
        """,
        body=body,
    ) == [72, 72, 72]


def test_a_chord_gets_its_results_in_order(call):
    assert call("""
        header = [echo.s(i).set(queue=there if i < 6 else here, countdown=0.05 * (12 - i) % 0.3) for i in range(12)]
        return chord(header)(echo.s().set(queue=there)).get(timeout=40)
    """) == list(range(12))


def test_a_chord_in_a_chain_and_a_chain_in_a_chord(call):
    assert call("""
        first = chain(group(add.s(i, 1).set(queue=there) for i in range(4)), total.s().set(queue=there),
                      add.s(5).set(queue=here))
        inner = [chain(add.s(i, 1).set(queue=there), add.s(1).set(queue=here)) for i in range(3)]
        second = chord(inner)(total.s().set(queue=there))
        return first.apply_async().get(timeout=40), second.get(timeout=40)
    """) == [15, 9]


def test_a_failure_in_a_header_fails_the_body(call):
    kind, text, state = call("""
        header = [add.s(1, 1).set(queue=here), fail.s("custom").set(queue=there), add.s(2, 2).set(queue=there)]
        body = chord(header)(total.s().set(queue=there))
        try:
            body.get(timeout=40, follow_parents=False)
        except Exception as exc:
            return type(exc).__name__, str(exc), body.state
    """)
    assert (kind, state) == ("ChordError", "FAILURE")
    assert "SoldOut" in text


def test_callbacks_and_errbacks_run_on_the_other_side(shared, call):
    good, bad = call("""
        good = add.apply_async((1, 2), queue=there, link=mark.si("linked " + UUID(int=3).hex + me).set(queue=here))
        bad = fail.apply_async(queue=there, link_error=told.s().set(queue=here))
        bad.get(timeout=40, propagate=False)
        return good.get(timeout=40), bad.id
    """)
    assert good == 3
    until(lambda: f"told {bad} ValueError" in shared.runs.read_text(), shared.runs.read_text)
    until(lambda: "linked " in shared.runs.read_text(), shared.runs.read_text)


def test_maps_and_chunks_run_on_the_other_side(call):
    assert call("""
        return [
            add.starmap([(1, 2), (3, 4)]).apply_async(queue=there).get(timeout=40),
            echo.map([1, 2]).apply_async(queue=there).get(timeout=40),
            add.chunks(zip(range(4), range(4)), 2).apply_async(queue=there).get(timeout=40),
        ]
    """) == [[3, 7], [1, 2], [[0, 2], [4, 6]]]


def test_a_task_replaced_by_a_group_there_is_waited_for_here(call):
    assert call("return spawn.apply_async((3,), queue=there).get(timeout=40)") == [0, 1, 2]


def test_a_failed_link_fails_the_chain(call):
    assert call("""
        result = chain(add.s(1, 2), fail.si("custom").set(queue=there), add.s(1).set(queue=here)).apply_async()
        try:
            result.get(timeout=40)
        except SoldOut as exc:
            return list(exc.args), result.state, result.parent.state
    """)[0] == ["tea", 3]


def test_saved_groups_are_restored_by_both(shared, call):
    name, values = call("""
        result = group(add.s(i, i).set(queue=there) for i in range(3)).apply_async()
        result.save()
        return result.id, result.get(timeout=40)
    """)
    for side in ("celery", "umbel"):
        found = shared.client(side, side)(
            "found = GroupResult.restore(name, app=app)\nreturn found.id, found.get(timeout=40)", name=name
        )
        assert found == [name, values]


def test_stamps_travel(call):
    headers, stamps = call("""
        sig = show.s().set(queue=there)
        sig.stamp(tenant="acme")
        seen = sig.apply_async().get(timeout=40)
        return seen["stamped_headers"], seen["stamps"]
    """)
    assert (headers, stamps) == (["tenant"], {"tenant": "acme"})
