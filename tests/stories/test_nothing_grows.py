"""Two hundred thousand tasks through one worker leave its memory, its descriptors and its file as they were."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from umbel import Umbel
from umbel.worker.worker import Worker

pytestmark = [pytest.mark.process, pytest.mark.slow]

BATCH = 10_000
BATCHES = 20


class Footprint:
    """What a worker and its children take at one moment."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        pids = [os.getpid(), *worker.pool.info()["processes"]]
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
        self.memory = sum(pages) * os.sysconf("SC_PAGE_SIZE")  # bytes resident
        self.descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        self.file = sum(path.stat().st_size for path in folder.glob("queue.db*") if path.is_file())  # bytes


@pytest.mark.timeout(240)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_two_hundred_thousand_tasks_leave_nothing_behind(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    app = Umbel("growth", broker=url, backend=url, result_expires=0.2)
    app.task(name="growth.echo")(lambda number: number)
    footprints: list[Footprint] = []

    def waiting() -> int:
        with closing(app.open_broker()) as broker:
            return sum(size.ready + size.delayed + size.claimed for size in broker.sizes().values())

    def feed(worker: Worker) -> None:
        try:
            for _ in range(BATCHES):
                app.publish([app.prepare("growth.echo", (number,), {}, {}) for number in range(BATCH)])
                while waiting():
                    time.sleep(0.02)
                time.sleep(0.25)  # results expire, and are swept by the next settlements
                footprints.append(Footprint(worker, tmp_path))
        finally:
            worker.stop()

    def ready(worker: Worker) -> None:
        threading.Thread(target=feed, args=(worker,)).start()

    Worker(app, pool="prefork", concurrency=2, on_ready=ready).start()

    assert len(footprints) == BATCHES
    early, late = footprints[0], footprints[-1]
    assert late.descriptors <= early.descriptors
    assert late.memory <= early.memory * 1.25
    assert late.file <= early.file * 2.5, "expired results and settled messages leave their room to the next"
    settled = footprints[BATCHES // 2]
    assert late.file <= settled.file * 1.25
    assert late.memory <= settled.memory * 1.1
    app.close()
