"""The tasks that are measured, on dramatiq."""

from __future__ import annotations

import os
from pathlib import Path

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.recorder import Recorder

broker = RabbitmqBroker(url=os.environ["BENCH_BROKER"], confirm_delivery=bool(os.environ.get("BENCH_CONFIRM")))
dramatiq.set_broker(broker)
_recorder = Recorder(Path(os.environ["BENCH_FOLDER"]))


@dramatiq.actor(max_retries=0)
def _noop() -> None:
    """Do nothing, and keep nothing."""
    _recorder.mark()


def noop() -> None:
    """Send it."""
    _noop.send()
