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


@pytest.mark.row("CLI-064")
def test_term_can_be_remapped_to_quit():
    asked: list[Manner] = []

    with listening(lambda manner, _signal: asked.append(manner), remap_term=True):
        os.kill(os.getpid(), signal.SIGTERM)

    assert asked == [Manner.COLD]


def test_the_former_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)

    with listening(lambda _manner, _signal: None):
        assert signal.getsignal(signal.SIGTERM) != before

    assert signal.getsignal(signal.SIGTERM) == before
