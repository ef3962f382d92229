import pytest

from umbel import group


@pytest.fixture
def add(app):
    return app.task(name="proj.add")(lambda x, y: x + y)


@pytest.mark.row("API-312", "API-465")
def test_a_revoked_task_is_known_to_whoever_claims_it(app, add):
    result = add.delay(1, 2)

    result.revoke()

    assert app.open_broker().revoked() == {result.id}


@pytest.mark.row("API-328", "API-465")
def test_a_group_is_revoked_as_a_whole(app, add):
    result = group(add.s(1, 2), add.s(3, 4))()

    result.revoke()

    assert app.open_broker().revoked() == {child.id for child in result}


@pytest.mark.row("API-482")
def test_waiting_messages_can_be_dropped(app, add, sent):
    for _ in range(3):
        add.delay(1, 2)

    assert app.control.purge() == 3
    assert sent() == []


@pytest.fixture
def told(app, monkeypatch):
    """The commands that were sent, with their arguments and options."""
    seen = []
    monkeypatch.setattr(app.control, "broadcast", lambda command, **options: seen.append((command, options)))
    return seen


@pytest.mark.row("API-312", "API-313", "API-468")
def test_results_tell_workers_to_stop(app, add, told):
    result = add.delay(1, 2)

    result.revoke(terminate=True, signal="KILL", wait=True, timeout=3.0)
    result.revoke_by_stamped_headers({"tenant": "acme"}, terminate=True)
    app.control.terminate(result.id, destination=["w1@host"])

    assert [(command, options["arguments"]) for command, options in told] == [
        ("revoke", {"task_id": result.id, "terminate": True, "signal": "KILL"}),
        ("revoke_by_stamped_headers", {"headers": {"tenant": "acme"}, "terminate": True, "signal": None}),
        ("revoke", {"task_id": result.id, "terminate": True, "signal": "SIGTERM"}),
    ]
    assert (told[0][1]["reply"], told[0][1]["timeout"]) == (True, 3.0)
    assert told[2][1]["destination"] == ["w1@host"]


@pytest.mark.row("API-473", "API-476", "API-478", "API-471", "API-472", "API-481")
def test_each_command_has_its_arguments(app, told):
    control = app.control
    control.add_consumer("q", exchange="x", exchange_type="topic", routing_key="k.#", options={"durable": False})
    control.cancel_consumer("q")
    control.pool_grow(2)
    control.pool_shrink(3)
    control.autoscale(9, 1)
    control.rate_limit("proj.add", "9/s")
    control.time_limit("proj.add", soft=1, hard=2)
    control.pool_restart(reload=True)
    control.election("e1", "task", {"task": "proj.add"})
    for name in ("enable_events", "disable_events", "heartbeat", "shutdown", "ping"):
        getattr(control, name)()

    assert [(command, options["arguments"]) for command, options in told] == [
        (
            "add_consumer",
            {"queue": "q", "exchange": "x", "exchange_type": "topic", "routing_key": "k.#", "durable": False},
        ),
        ("cancel_consumer", {"queue": "q"}),
        ("pool_grow", {"n": 2}),
        ("pool_shrink", {"n": 3}),
        ("autoscale", {"max": 9, "min": 1}),
        ("rate_limit", {"task_name": "proj.add", "rate_limit": "9/s"}),
        ("time_limit", {"task_name": "proj.add", "hard": 2, "soft": 1}),
        ("pool_restart", {"modules": None, "reload": True, "reloader": None}),
        ("election", {"id": "e1", "topic": "task", "action": {"task": "proj.add"}}),
        *((name, {}) for name in ("enable_events", "disable_events", "heartbeat", "shutdown", "ping")),
    ]


@pytest.mark.row("API-470")
def test_a_ping_waits_for_replies(app, told):
    app.control.ping(["w1@host"], timeout=3.0)

    [(_, options)] = told
    assert (options["reply"], options["timeout"], options["destination"]) == (True, 3.0, ["w1@host"])
