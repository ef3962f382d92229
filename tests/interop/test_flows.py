"""Whole work-flows that one side sends and the other executes, at the end to the same value."""

import subprocess
import sys
from pathlib import Path

import pytest
from umbel_interop_fleet import CELERY

pytestmark = pytest.mark.process

FLOWS = {
    "add.s(1, 1) | add.s(2) | add.s(3)": 7,
    "group(add.s(i, i) for i in range(5))": [0, 2, 4, 6, 8],
    "group(echo.s(1), echo.s(2) | add.s(5))": [1, 7],
    "chord([echo.s(1), echo.s(2)], total.s())": 3,
    "group(echo.s(1), echo.s(2)) | total.s() | add.s(10)": 13,
    "add.s(1, 1) | group(add.s(1), add.s(2)) | total.s()": 7,
    "add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(100)": 107,
    "chord([echo.s(1), echo.s(2) | add.s(5)], total.s())": 8,
    "chord([echo.s(1) | add.s(1) | add.s(1), echo.s(4)], echo.s())": [3, 4],
    "chord([chord([echo.s(1), echo.s(2)], total.s()), echo.s(9)], total.s())": 12,
    "chord([group(echo.s(1), echo.s(2)), echo.s(4)], total.s())": 7,
    "chord([echo.s(1) | group(add.s(1), add.s(2)), echo.s(4)], echo.s())": [[2, 3], 4],
    "group(echo.s(1) | group(echo.s(), echo.s() | group(add.s(1), add.s(2))), echo.s(4)) | echo.s()": [
        [1, [2, 3]],
        4,
    ],
    "chord([echo.s(3)], total.s() | add.s(1) | add.s(2))": 6,
    "chord([echo.s(1)], chord([total.s(), total.s()], total.s()))": 2,
    "chord([echo.s(1), echo.s(2)], total.s()) | add.s(4)": 7,
    "chain(echo.s(1), chord([add.s(1), add.s(2)], total.s()), add.s(5))": 10,
    "chord([echo.s(2)], group(total.s(), total.s()))": [2, 2],
    "chain(echo.si(1), group(echo.si(2), echo.si(3)), echo.si(4))": 4,
    "chord([], echo.s())": [],
}

SEND = """
results = [eval(flow).apply_async() for flow in flows]
return [each.get(timeout=40) for each in results]
"""


@pytest.mark.row("PRT-202")
@pytest.mark.parametrize("sender", ["celery", "umbel"])
def test_a_work_flow_of_one_side_comes_to_the_same_on_the_other(shared, sender):
    worker = {"celery": "umbel", "umbel": "celery"}[sender]

    values = shared.client(sender, worker)(SEND, flows=list(FLOWS))

    assert dict(zip(FLOWS, values, strict=True)) == FLOWS


@pytest.mark.parametrize("sender", ["celery", "umbel"])
def test_one_worker_of_each_side_shares_a_work_flow(shared, sender):
    client = shared.client(sender, sender)
    here, there = shared.queue(sender), shared.queue({"celery": "umbel", "umbel": "celery"}[sender])
    values = client(
        """
        def on(sig, number):
            return sig.set(queue=here if number % 2 else there)
        inner = [chord([on(echo.s(i), i), on(echo.s(1), i + 1)], on(total.s(), i)) for i in range(4)]
        outer = chord([*inner, on(echo.s(100), 1), on(echo.s(200), 2) | on(add.s(1), 1)], on(echo.s(), 0))
        return outer.apply_async().get(timeout=40)
        """,
        here=here,
        there=there,
    )

    assert values == [1, 2, 3, 4, 100, 201]


@pytest.mark.skipif(not CELERY.exists(), reason="no real Celery: make .venv-peer/.celery")
def test_random_work_flows_that_are_run_at_once_come_to_what_they_come_to_in_celery():
    script = Path(__file__).parent / "project" / "at_once.py"
    asked = [
        subprocess.Popen([python, script, side, "1", "200"], stdout=subprocess.PIPE)
        for side, python in (("celery", CELERY), ("umbel", sys.executable))
    ]
    there, here = (process.communicate(timeout=100)[0].splitlines() for process in asked)

    assert len(here) == 200
    assert here == there
