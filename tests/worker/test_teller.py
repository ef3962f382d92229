"""What monitors are told of tasks that no outcome ends."""

import pytest

from umbel.brokers.base import Delivery, Publication
from umbel.wire.message import Message, Route
from umbel.worker.teller import Teller


@pytest.mark.row("PRT-227")
def test_a_task_that_is_ended_before_its_time_is_told_of_as_cancelled():
    told = []

    def pack(events):
        told.extend(events)
        return Publication(message=Message(id="", task="", body=b""), route=Route("celeryev", "task.multi"))

    teller = Teller(
        pack,
        {"hostname": "w1@host", "utcoffset": 0, "pid": 7, "clock": 0},
        wants_events=lambda task: task != "proj.secret",
        running=lambda: (),
        busy=lambda: 0,
        enabled=True,
    )
    for number, task in enumerate(("proj.add", "proj.secret")):
        message = Message(id=f"t{number}", task=task, body=b"")
        teller.cancelled(Delivery(message=message, queue="q", route=Route("", "q"), tag=number, token=1))

    assert teller.news() is not None
    (event,) = told
    assert event.pop("timestamp") > 0
    assert event == {
        "hostname": "w1@host", "utcoffset": 0, "pid": 7, "clock": 0, "uuid": "t0", "type": "task-cancelled"
    }  # fmt: skip
    assert teller.news() is None
