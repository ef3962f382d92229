"""The tasks that are measured, on huey's stores."""

from __future__ import annotations

import os
from pathlib import Path

from huey import RedisHuey, SqliteHuey

from benchmarks.recorder import Recorder

_store = os.environ["BENCH_BROKER"]
huey = RedisHuey("bench", url=_store) if "://" in _store else SqliteHuey("bench", filename=_store)
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
