import pytest

from umbel import group
from umbel.exceptions import OperationalError


@pytest.fixture
def add(app):
    app.conf.task_track_queued = True
    return app.task(shared=False, name="add")(lambda x, y: x + y)


def test_what_was_sent_can_be_told_from_what_is_unknown(app, add, work):
    one, both = add.delay(1, 2), group(add.s(1, 1), add.s(2, 2))()
    states = [result.state for result in (one, *both)]
    unknown = app.AsyncResult("unknown").state

    work()

    assert (states, unknown) == (["QUEUED"] * 3, "PENDING")
    assert (one.get(), both.get()) == (3, [2, 4])


def test_what_was_not_sent_is_not_queued(app, add, monkeypatch):
    def fail(*_, **__):
        raise OperationalError("nobody there")

    monkeypatch.setattr(app.sender, "send", fail)

    with pytest.raises(OperationalError):
        add.apply_async((1, 2), task_id="one")
    assert app.AsyncResult("one").state == "PENDING"


def test_a_task_whose_result_nobody_wants_is_not_followed(app, add):
    assert add.apply_async((1, 2), ignore_result=True, task_id="one").id == "one"
    assert not app.AsyncResult("one").exists()
