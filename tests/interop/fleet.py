"""Workers and clients of Celery and of umbel, as processes, on one broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["CELERY", "PATIENCE", "Client", "Fleet", "Member", "until"]

HERE = Path(__file__).parent
CELERY = Path(os.environ.get("UMBEL_TEST_PEER_PYTHON") or HERE.parents[1] / ".venv-peer" / "bin" / "python")
PATIENCE = 40.0  # seconds that a stalled machine is given


class Fleet:
    """All processes of one test module, and what their tasks noted."""

    def __init__(self, broker: str, backend: str, folder: Path, **settings: Any) -> None:
        """Give every member *settings*."""
        self.broker, self.results = broker, backend
        self._mark = os.urandom(3).hex()  # a RabbitMQ may run for longer than a test
        self.folder = folder
        self.runs = folder / "runs"
        self.runs.touch()
        self._settings = {"broker_url": broker, "result_backend": backend, **settings}
        self._members: list[Member] = []
        self._clients: dict[tuple[str, str], Client] = {}

    def worker(self, side: str, *queues: str, options: tuple[str, ...] = (), **settings: Any) -> Member:
        """Start a worker of *side* on *queues*; its tasks send to the first."""
        name = f"{side}-{self._mark}-{len(self._members)}"
        program = [CELERY, "-m", "celery"] if side == "celery" else [sys.executable, "-m", "umbel"]
        options = options or ("-c", "2")
        words = [
            "-A",
            "proj",
            "worker",
            "-n",
            f"{name}@here",
            "-Q",
            ",".join(map(self.queue, queues)),
            "-l",
            "INFO",
            *options,
        ]
        member = Member(name, [*program, *words], self._environment(side, queues[0], settings), self.folder)
        self._members.append(member)
        return member

    def queue(self, name: str) -> str:
        """Return the name of a queue that nobody has used before."""
        return f"{name}-{self._mark}"

    def client(self, side: str, queue: str) -> Client:
        """Return a client of *side* whose calls go to *queue*."""
        if (side, queue) not in self._clients:
            program = CELERY if side == "celery" else sys.executable
            self._clients[side, queue] = Client(
                [program, HERE / "project" / "client.py"], self._environment(side, queue)
            )
        return self._clients[side, queue]

    def noted(self, name: str) -> list[str]:
        """Return who ran what is called *name*, once for each time."""
        lines = [line.rpartition(" ") for line in self.runs.read_text().splitlines()]
        return [who for what, _, who in lines if what == name]

    def note(self, line: str) -> None:
        """Tell something to tasks that wait for it."""
        with self.runs.open("a") as runs:
            runs.write(line + "\n")

    def close(self) -> None:
        """End all of them."""
        for member in self._members:
            member.stop()
        for client in self._clients.values():
            client.close()
        for member in self._members:
            member.wait()

    def _environment(self, side: str, queue: str, settings: dict[str, Any] | None = None) -> dict[str, str]:
        said = {**self._settings, "task_default_queue": self.queue(queue), **(settings or {})}
        return {
            **os.environ,
            "PYTHONPATH": str(HERE / "project"),
            "C_FORCE_ROOT": "1",  # the tests of a container run as root, and accept pickle
            "INTEROP_SIDE": side,
            "INTEROP_SETTINGS": json.dumps(said),
            "INTEROP_RUNS": str(self.runs),
        }


class Member:
    """A worker."""

    def __init__(self, name: str, command: list[Any], environment: dict[str, str], folder: Path) -> None:
        self.name = f"{name}@here"
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def ready(self) -> Member:
        """Wait until it takes tasks."""
        until(lambda: "ready." in self.log.read_text() or self._process.poll() is not None, self.log.read_text)
        assert self._process.poll() is None, self.log.read_text()
        return self

    def kill(self) -> None:
        """Kill it with its children, as a machine that goes down."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """Ask it to end at once."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGQUIT)

    def wait(self) -> None:
        """Wait until it has ended."""
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


class Client:
    """A process that calls tasks."""

    def __init__(self, command: list[Any], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._read() == "ready"

    def __call__(self, code: str, **values: Any) -> Any:
        """Run *code*, the body of a function, with *values* as names in it; return what it returns, as JSON has it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([code, values]) + "\n")
        answer = self._read()
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the client ended"
        return json.loads(line)


def until(claim: Callable[[], object], what: Callable[[], str] = str, patience: float = PATIENCE) -> None:
    """Wait until *claim* holds; tell *what* when it does not."""
    deadline = time.monotonic() + patience
    while not claim():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
