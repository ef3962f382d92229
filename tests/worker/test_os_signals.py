"""What each OS signal asks of a worker."""

from __future__ import annotations

import os
import signal

import pytest

from umbel.worker.facts import Manner
from umbel.worker.os_signals import listening


@pytest.mark.row("CLI-064", "CLI-065", "CLI-066", "CLI-068")
@pytest.mark.parametrize(
    ("sent", "manners"),
    [
        (["SIGTERM"], [Manner.WARM]),
        (["SIGTERM", "SIGTERM"], [Manner.WARM, Manner.WARM]),
        (["SIGINT"], [Manner.WARM]),
        (["SIGINT", "SIGINT"], [Manner.WARM, Manner.COLD]),
        (["SIGTERM", "SIGINT"], [Manner.WARM, Manner.COLD]),
        (["SIGQUIT"], [Manner.COLD]),
    ],
)
def test_signals_ask_for_their_manner_of_stopping(sent: list[str], manners: list[Manner]):
    asked: list[Manner] = []

    with listening(lambda manner, _signal: asked.append(manner)):
        for name in sent:
            os.kill(os.getpid(), getattr(signal, name))

    assert asked == manners


@pytest.mark.row("CLI-064", "CFG-261")
def test_term_can_be_remapped_to_quit():
    asked: list[Manner] = []

    with listening(lambda manner, _signal: asked.append(manner), remap_term=True):
        os.kill(os.getpid(), signal.SIGTERM)

    assert asked == [Manner.COLD]


@pytest.mark.row("CLI-071")
def test_hup_stops_a_service_unless_it_is_to_be_ignored():
    asked: list[tuple[Manner, str]] = []
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening(lambda manner, number: asked.append((manner, number.name)), hang_up=True):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not asked
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with listening(lambda manner, number: asked.append((manner, number.name)), hang_up=True):
            os.kill(os.getpid(), signal.SIGHUP)
        assert asked == [(Manner.WARM, "SIGHUP")]
    finally:
        signal.signal(signal.SIGHUP, ignored)


def test_the_former_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)

    with listening(lambda _manner, _signal: None):
        assert signal.getsignal(signal.SIGTERM) != before

    assert signal.getsignal(signal.SIGTERM) == before
