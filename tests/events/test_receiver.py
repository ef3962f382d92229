import io
import threading

import pytest

from umbel.events.dumper import Dumper
from umbel.events.snapshot import Polaroid
from umbel.exceptions import ImproperlyConfigured


def capture(app, act, limit, **options):
    """Return the events that a receiver heard while *act* ran."""
    heard, ready = [], threading.Event()

    def listen():
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": heard.append}, **options)
            receiver.wakeup_workers = lambda *_: ready.set()  # called when it hears
            receiver.capture(limit=limit, timeout=30)

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(30)
    act()
    thread.join(30)
    assert not thread.is_alive()
    return heard


@pytest.mark.row("API-505", "API-508")
def test_a_receiver_gives_each_event_to_its_handler(app):
    def act():
        with app.events.Dispatcher(hostname="me@host") as dispatcher:
            dispatcher.send("task-started", uuid="t1")
            dispatcher.send("task-failed", uuid="t1", exception="KeyError('x')")

    first, second = capture(app, act, limit=2)

    assert (first["type"], second["type"], second["exception"]) == ("task-started", "task-failed", "KeyError('x')")
    assert first["local_received"] >= first["timestamp"]
    assert app.clock.value > second["clock"]


@pytest.mark.row("API-505")
def test_a_receiver_may_hear_some_events_only(app):
    def act():
        with app.events.Dispatcher() as dispatcher:
            dispatcher.send("task-started", uuid="t1")
            dispatcher.send("worker-online")

    assert [event["type"] for event in capture(app, act, limit=1, routing_key="worker.#")] == ["worker-online"]


def test_a_receiver_gives_up(app):
    with pytest.raises(TimeoutError):
        app.events.Receiver().capture(limit=1, timeout=0.01, wakeup=False)


@pytest.mark.row("API-506")
def test_a_receiver_wakes_the_workers(app, monkeypatch):
    asked = []
    monkeypatch.setattr(app.control, "broadcast", lambda command, **_: asked.append(command))

    with pytest.raises(TimeoutError):
        app.events.Receiver().capture(timeout=0.01)
    assert asked == ["heartbeat"]


@pytest.mark.row("API-507", "CFG-188", "CFG-189")
def test_a_queue_of_events_cannot_be_exclusive_and_durable(app):
    app.conf.event_queue_durable = True

    with pytest.raises(ImproperlyConfigured, match="event_queue_exclusive"):
        app.events.Receiver()
    assert app.events.Receiver(queue_exclusive=False)


@pytest.mark.row("PRT-216")
def test_clocks_run_ahead_to_what_is_heard(app):
    receiver = app.events.Receiver()
    app.clock.value = 10

    kind, event = receiver.event_from_message({"type": "task-started", "clock": 50, "timestamp": 1.0, "utcoffset": 0})
    assert (kind, app.clock.value, event["timestamp"]) == ("task-started", 51, 1.0)
    _, event = receiver.event_from_message({"type": "task-sent", "clock": 9000, "timestamp": 1.0})
    assert event["clock"] == 50
    _, event = receiver.event_from_message({"type": "task-started", "timestamp": 1.0})
    assert event["clock"] == app.clock.value


@pytest.mark.row("CLI-090")
def test_events_are_printed_a_line_each(event):
    out = io.StringIO()
    dumper = Dumper(out)
    for each in (
        event("worker-online", freq=2.0),
        event("task-received", uuid="t1", name="app.add", args="(1, 2)", kwargs="{}"),
        event("task-succeeded", uuid="t1", result="3"),
        event("task-started", uuid="t2"),
    ):
        dumper.on_event(each)

    assert out.getvalue().splitlines() == [
        "w1@host [1970-01-12 13:46:40+00:00] started: clock=1, freq=2.0, local_received=1000000.0, pid=7, utcoffset=0",
        (
            "w1@host [1970-01-12 13:46:41+00:00] task received: app.add(t1) args=(1, 2) kwargs={} clock=2, "
            "local_received=1000001.0, pid=7, utcoffset=0"
        ),
        (
            "w1@host [1970-01-12 13:46:42+00:00] task succeeded: app.add(t1) args=(1, 2) kwargs={} clock=3, "
            "local_received=1000002.0, pid=7, result=3, utcoffset=0"
        ),
        "w1@host [1970-01-12 13:46:43+00:00] task started: t2 clock=4, local_received=1000003.0, pid=7, utcoffset=0",
    ]


@pytest.mark.row("API-517")
def test_a_camera_takes_pictures_of_the_cluster(app, event):
    seen = []

    class Camera(Polaroid):
        clear_after = True

        def on_shutter(self, state):
            seen.append(list(state.tasks))

        def on_cleanup(self):
            seen.append("cleaned")

    state = app.events.State()
    state.event(event("task-failed", uuid="t1"))
    camera = Camera(state, app=app, freq=0.001, cleanup_freq=0.0)
    camera.capture()
    assert seen == [["t1"]]
    assert not state.tasks

    with camera:
        for _ in range(3000):
            if "cleaned" in seen:
                break
            threading.Event().wait(0.01)
    assert "cleaned" in seen


@pytest.mark.row("API-517")
def test_a_camera_takes_no_more_pictures_than_it_may(app):
    seen = []

    class Camera(Polaroid):
        def on_shutter(self, state):
            seen.append(state)

    camera = Camera(app.events.State(), app=app, maxrate="1/h")
    camera.capture()
    camera.capture()

    assert len(seen) == 1
