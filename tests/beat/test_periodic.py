import logging

import pytest

from umbel import Umbel
from umbel.beat import Book, Service
from umbel.schedules import crontab


def app_with_task(**settings):
    app = Umbel("periodic", broker="memory://", set_as_current=False, **settings)

    @app.task(name="t")
    def t(*args, **kwargs):
        pass

    return app, t


@pytest.mark.row("API-046")
def test_periodic_tasks_are_added_before_and_after_the_settings_are_read():
    app, t = app_with_task()
    assert app.add_periodic_task(10, app.signature("t", (2,), {"k": 1}), (1,), name="early", expires=5) == "early"
    assert not app.configured
    app.conf.task_queues  # noqa: B018 - reads the settings
    key = app.add_periodic_task(crontab(0), t.s().set(queue="q"))

    assert key == "t()"
    entry = app.schedule.get("early")
    assert (entry.task, entry.args, entry.kwargs, entry.options["expires"]) == ("t", (1, 2), {"k": 1}, 5)
    assert app.schedule.get("t()").options == {"queue": "q"}
    assert Umbel("other", set_as_current=False).conf.beat_schedule == {}
    app.close()


@pytest.mark.row("API-046")
def test_the_same_call_twice_without_a_name_is_warned_of(caplog):
    app, t = app_with_task()
    for _ in range(2):
        app.add_periodic_task(10, app.signature("t"))
    app.conf.task_queues  # noqa: B018 - reads the settings
    app.add_periodic_task(20, t.s())
    app.add_periodic_task(10, t.s(), name="n")
    app.add_periodic_task(10, t.s(), name="n")

    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert app.schedule.get("t()").schedule.seconds == 20
    app.close()


@pytest.mark.row("API-075", "API-076")
@pytest.mark.parametrize("signal", ["on_after_configure", "on_after_finalize"])
def test_periodic_tasks_may_be_added_when_the_app_is_ready(signal):
    app, t = app_with_task()

    @getattr(app, signal).connect
    def add(sender, **_):
        sender.add_periodic_task(10, t.s(), name="added")

    app.finalize()
    assert list(app.schedule.entries()) == ["added"]
    app.close()


@pytest.mark.row("API-044")
def test_the_app_opens_beat_and_its_schedule():
    app, _ = app_with_task()
    assert isinstance(app.Beat(max_interval=3), Service)
    assert isinstance(app.schedule, Book)
    app.close()
