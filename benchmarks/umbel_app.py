"""The tasks that are measured, on umbel."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.recorder import Recorder
from umbel import Umbel

app = Umbel("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ.get("BENCH_BACKEND"))
_recorder = Recorder(Path(os.environ["BENCH_FOLDER"]))


@app.task(ignore_result=True)
def noop() -> None:
    """Do nothing, and keep nothing."""
    _recorder.mark()


@app.task
def double(number: int) -> int:
    """Return something worth keeping."""
    _recorder.mark()
    return 2 * number


@app.task
def total(numbers: list[int]) -> int:
    """Return what a chord's body comes to."""
    return sum(numbers)
