"""Signals call who asked for them, and nobody else."""

import functools
import gc
import logging

import pytest

from umbel import signals
from umbel.exceptions import CDeprecationWarning
from umbel.local import Proxy
from umbel.signals import Signal

ARGUMENTS = {
    "before_task_publish": "body exchange routing_key headers properties declare retry_policy",
    "after_task_publish": "headers body exchange routing_key",
    "task_sent": "task_id task args kwargs eta taskset",
    "task_received": "request",
    "task_prerun": "task_id task args kwargs",
    "task_postrun": "task_id task args kwargs retval state",
    "task_success": "result runtime",
    "task_failure": "task_id exception args kwargs traceback einfo",
    "task_internal_error": "task_id args kwargs request exception traceback einfo",
    "task_retry": "request reason einfo",
    "task_revoked": "request terminated signum expired",
    "task_unknown": "message exc name id",
    "task_rejected": "message exc",
    "import_modules": "",
    "celeryd_init": "instance conf options",
    "celeryd_after_setup": "instance conf",
    "worker_init": "",
    "worker_before_create_process": "",
    "worker_ready": "",
    "worker_process_init": "",
    "worker_process_shutdown": "pid exitcode",
    "worker_shutting_down": "sig how exitcode",
    "worker_shutdown": "",
    "heartbeat_sent": "",
    "setup_logging": "loglevel logfile format colorize",
    "after_setup_logger": "logger loglevel logfile format colorize",
    "after_setup_task_logger": "logger loglevel logfile format colorize",
    "beat_init": "",
    "beat_embedded_init": "",
    "eventlet_pool_started": "",
    "eventlet_pool_preshutdown": "",
    "eventlet_pool_postshutdown": "",
    "eventlet_pool_apply": "target args kwargs",
    "user_preload_options": "app options",
}


class Sender:
    """Something that sends."""


class Ear:
    def __init__(self):
        self.heard = []

    def hear(self, sender, **named):
        self.heard.append((sender, named))
        return "heard"


@pytest.fixture
def signal():
    return Signal(name="test", providing_args=["value"])


@pytest.mark.row(*(f"API-{number}" for number in range(420, 450)))
def test_every_signal_knows_its_arguments():
    known = {name: getattr(signals, name) for name in signals.__all__ if name != "Signal"}

    assert {name: signal.providing_args for name, signal in known.items()} == {
        name: frozenset(arguments.split()) for name, arguments in ARGUMENTS.items()
    }
    assert all(signal.name == name for name, signal in known.items())


@pytest.mark.row("API-419")
def test_receivers_get_signal_sender_and_arguments_and_their_answers_come_back_in_order(signal):
    calls = []

    @signal.connect
    def first(**named):
        calls.append(named)
        return 1

    @signal.connect
    def second(value, **named):
        return value * 2

    assert signal.send(sender="me", value=3) == [(first, 1), (second, 6)]
    assert calls == [{"signal": signal, "sender": "me", "value": 3}]


@pytest.mark.row("API-419")
def test_an_exception_is_logged_and_stands_for_the_answer(signal, caplog):
    error = ValueError("x")

    @signal.connect
    def broken(**_):
        raise error

    @signal.connect
    def well(**_):
        return "ok"

    with caplog.at_level(logging.ERROR):
        assert signal.send(None) == [(broken, error), (well, "ok")]
    assert "signal test failed" in caplog.text


@pytest.mark.row("API-444")
def test_setup_logging_raises_what_its_receiver_raises():
    def broken(**_):
        raise ValueError("no such folder")

    signals.setup_logging.connect(broken)
    try:
        with pytest.raises(ValueError, match="no such folder"):
            signals.setup_logging.send(None)
    finally:
        signals.setup_logging.disconnect(broken)


@pytest.mark.row("API-415")
@pytest.mark.parametrize("sender", ["proj.add", Sender()])
def test_a_receiver_hears_only_the_sender_it_was_connected_to(signal, sender):
    ear = Ear()
    signal.connect(sender=sender)(ear.hear)

    signal.send(sender, value=1)
    signal.send(Sender(), value=2)
    signal.send("proj.mul", value=3)

    assert [named["value"] for _, named in ear.heard] == [1]


@pytest.mark.row("API-416")
def test_a_lazy_sender_is_looked_up_when_something_is_sent(signal):
    ear = Ear()
    found = []
    signal.connect(ear.hear, sender=Proxy(lambda: found[0]))
    found.append(Sender())

    signal.send(found[0])
    signal.send(Sender())

    assert [sender for sender, _ in ear.heard] == found


@pytest.mark.row("API-416")
def test_the_same_receiver_hears_a_sender_once(signal):
    ear = Ear()
    signal.connect(ear.hear)
    signal.connect(ear.hear)
    signal.connect(ear.hear, sender="proj.add")

    signal.send("proj.mul")

    assert len(ear.heard) == 1


@pytest.mark.row("API-415")
def test_a_dispatch_uid_stands_for_the_receiver(signal):
    first, second = Ear(), Ear()
    signal.connect(first.hear, dispatch_uid="log")
    signal.connect(second.hear, dispatch_uid="log")

    signal.send(None)

    assert (len(first.heard), len(second.heard)) == (1, 0)
    assert signal.disconnect(dispatch_uid="log") is True


@pytest.mark.row("API-416")
def test_a_receiver_must_accept_any_keyword(signal):
    class Callable:
        def __call__(self, sender):
            """Hear."""

    for receiver in (lambda sender: None, Callable(), functools.partial(lambda sender: None)):
        with pytest.raises(ValueError, match=r"must accept \*\*kwargs"):
            signal.connect(receiver)


@pytest.mark.row("API-416")
def test_receivers_without_python_code_are_taken_at_their_word(signal):
    answer = signal.connect(dict, weak=False)

    assert signal.send("me") == [(answer, {"signal": signal, "sender": "me"})]


@pytest.mark.row("API-416")
def test_a_receiver_is_held_weakly_unless_told_otherwise(signal):
    weak, strong = Ear(), Ear()
    heard = strong.heard
    signal.connect(weak.hear)
    signal.connect(strong.hear, weak=False)
    del weak, strong
    gc.collect()

    signal.send(None)

    assert len(heard) == 1
    assert len(signal.receivers) == 1


def test_a_sender_is_not_kept_alive_by_those_who_hear_it(signal):
    ear = Ear()
    sender = Sender()
    signal.connect(ear.hear, sender=sender)
    del sender
    gc.collect()

    assert signal.send(Sender()) == []
    assert signal.receivers == ()


@pytest.mark.row("API-417")
def test_a_receiver_with_retry_is_called_until_it_succeeds(caplog):
    waited, failures = [], [OSError("down")] * 3
    signal = Signal(name="test", pause=waited.append)

    @signal.connect(retry=True)
    def connect_database(**_):
        if failures:
            raise failures.pop()
        return "connected"

    with caplog.at_level(logging.WARNING):
        assert signal.send(None) == [(connect_database, "connected")]
    assert waited == [2.0, 4.0, 6.0]
    assert len(caplog.records) == 2  # when it began, and when it ended


@pytest.mark.row("API-418")
def test_disconnect_says_whether_it_removed_something(signal):
    ear = Ear()
    signal.connect(ear.hear, sender="proj.add")

    assert signal.disconnect(ear.hear) is False
    assert signal.disconnect(ear.hear, sender="proj.add") is True
    assert signal.disconnect(ear.hear, sender="proj.add") is False


@pytest.mark.row("API-418")
def test_disconnect_warns_of_weak(signal):
    with pytest.warns(CDeprecationWarning, match="weak"):
        signal.disconnect(Ear().hear, weak=True)


@pytest.mark.row("API-418")
def test_has_listeners_asks_for_one_sender(signal):
    ear = Ear()
    assert not signal.has_listeners()

    signal.connect(ear.hear, sender="proj.add")

    assert signal.has_listeners("proj.add")
    assert not signal.has_listeners("proj.mul")


def test_without_receivers_there_is_nothing_to_do(signal):
    assert not signal.receivers
    assert signal.send(None) == []
