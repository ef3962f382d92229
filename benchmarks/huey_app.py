"""The tasks that are measured, on huey's SQLite store."""

from __future__ import annotations

import os
from pathlib import Path

from huey import SqliteHuey

from benchmarks.recorder import Recorder

huey = SqliteHuey("bench", filename=os.environ["BENCH_BROKER"])
_recorder = Recorder(Path(os.environ["BENCH_FOLDER"]))


@huey.task()
def noop() -> None:
    """Do nothing; huey keeps no result that is None."""
    _recorder.mark()


@huey.task()
def double(number: int) -> int:
    """Return something worth keeping."""
    _recorder.mark()
    return 2 * number
