"""Drive each peer the same way: a folder (and an empty server) of its own, a producer in a child, a worker process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from umbel.brokers.amqp_address import dialling
from umbel.brokers.amqp_link import connect
from umbel.brokers.redis_address import parse_address
from umbel.brokers.redis_link import Link

__all__ = [
    "CELERY_RABBITMQ",
    "CELERY_REDIS",
    "DRAMATIQ_RABBITMQ",
    "HUEY",
    "HUEY_REDIS",
    "UMBEL",
    "UMBEL_RABBITMQ",
    "UMBEL_REDIS",
    "Peer",
]

_ROOT = Path(__file__).resolve().parent.parent
_CELERY = _ROOT / ".venv-peer/bin/python"  # apart, so that `import celery` means the same as ever beside umbel


class Peer:
    """One queue and how to use it."""

    def __init__(
        self,
        name: str,
        *,
        store: str,
        module: str,
        worker: list[str],
        python: str = sys.executable,
        server: str = "",
        backend: str | None = None,
    ) -> None:
        self.name = name
        self._store = store  # with {folder} and {server}
        self._backend = backend  # None = as the store
        self._module = module
        self._worker = worker
        self._python = python
        self._server = f"UMBEL_TEST_{server.upper()}" if server else ""  # variable with its URL

    @property
    def is_here(self) -> bool:
        """Whether the interpreter and the server it needs are there."""
        return Path(self._python).exists() and (not self._server or self._server in os.environ)

    def prepare(self) -> None:
        """Empty the server."""
        if self._server == "UMBEL_TEST_REDIS":
            link = Link(parse_address(os.environ[self._server], {}))
            link.call("FLUSHDB")
            link.close()
        elif self._server == "UMBEL_TEST_RABBITMQ":
            away = connect(dialling(self.environment(Path())["BENCH_BROKER"]), heartbeat=False)
            for queue in ("celery", "default", "umbel.dead", "umbel.state"):
                away.call(1, "queue.delete", 0, queue, False, False, False)
            away.close()

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment in which the peer's app module is imported."""
        server = os.environ.get(self._server, "")
        if self._server == "UMBEL_TEST_RABBITMQ":
            server = server.removesuffix("/")  # its virtual host is "/"
        store = self._store.format(folder=folder, server=server)
        return os.environ | {
            "BENCH_FOLDER": str(folder / "spans"),
            "BENCH_BROKER": store,
            "BENCH_BACKEND": self._backend or store,
            "PYTHONPATH": str(_ROOT),
        }

    def run(self, workload: str, folder: Path, *arguments: int) -> float:
        """Run a function of `benchmarks.producers` for this peer in a fresh process; return its figure."""
        command = [self._python, "-m", "benchmarks.producers", self._module, workload, *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment(folder), cwd=folder, check=True, capture_output=True, text=True, timeout=120
        )
        return float(json.loads(done.stdout.splitlines()[-1]))

    @contextmanager
    def worker(self, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the peer's worker while the block runs."""
        with (folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [self._python, *self._worker, *options],
                env=self.environment(folder),
                cwd=folder,
                stdout=log,
                stderr=log,
            )
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def wait_for(condition: object, seconds: float, what: str) -> None:
    """Look until *condition* holds; raise TimeoutError naming *what* after *seconds*."""
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


UMBEL = Peer(
    "umbel",
    store="sqlite:///{folder}/queue.db",
    module="benchmarks.umbel_app",
    worker=["-m", "umbel", "worker", "-A", "benchmarks.umbel_app", "-l", "ERROR", "--quiet"],
)
HUEY = Peer(
    "huey",
    store="{folder}/queue.db",
    module="benchmarks.huey_app",
    worker=["-m", "huey.bin.huey_consumer", "benchmarks.huey_app.huey", "-w", "1", "-q", "-n"],
)

UMBEL_REDIS = Peer(
    "umbel",
    store="{server}",
    module="benchmarks.umbel_app",
    worker=["-m", "umbel", "worker", "-A", "benchmarks.umbel_app", "-l", "ERROR", "--quiet"],
    server="redis",
)
HUEY_REDIS = Peer(
    "huey",
    store="{server}",
    module="benchmarks.huey_app",
    worker=["-m", "huey.bin.huey_consumer", "benchmarks.huey_app.huey", "-w", "1", "-q", "-n"],
    server="redis",
)
CELERY_REDIS = Peer(
    "celery",
    store="{server}",
    module="benchmarks.celery_app",
    worker=["-m", "celery", "-A", "benchmarks.celery_app", "worker", "-l", "ERROR"],
    python=str(_CELERY),
    server="redis",
)

# A virtual host of its own (scripts/services.py makes it): the queue "celery" may be anybody's.
UMBEL_RABBITMQ = Peer(
    "umbel",
    store="{server}test-1",
    module="benchmarks.umbel_app",
    worker=["-m", "umbel", "worker", "-A", "benchmarks.umbel_app", "-l", "ERROR", "--quiet"],
    server="rabbitmq",
    backend="rpc://",
)
CELERY_RABBITMQ = Peer(
    "celery",
    store="{server}test-1",
    module="benchmarks.celery_app",
    worker=["-m", "celery", "-A", "benchmarks.celery_app", "worker", "-l", "ERROR"],
    python=str(_CELERY),
    server="rabbitmq",
    backend="rpc://",
)
DRAMATIQ_RABBITMQ = Peer(
    "dramatiq",
    store="{server}test-1",
    module="benchmarks.dramatiq_app",
    worker=["-m", "dramatiq", "benchmarks.dramatiq_app", "--processes", "1", "--threads", "8"],
    server="rabbitmq",
)
