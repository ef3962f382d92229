"""Keep a worker running in development, and restart it warm when a source file changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol

import click

from umbel.exceptions import MissingExtra

__all__ = ["keep_running"]

_LOOK: Final = 200  # milliseconds between looks at whether the worker has ended by itself
_PATIENCE: Final = 30.0  # seconds that running tasks get to end at a restart

Changes = Iterator[set[Path]]
"""Files that changed, in batches; an empty set every `_LOOK` milliseconds otherwise."""


class _Watch(Protocol):
    def __call__(self, folder: Path, stop: threading.Event) -> Changes: ...


def keep_running(argv: Sequence[str], *, folder: Path | None = None, watch: _Watch | None = None) -> int:
    """Run the worker that *argv* describes in a process of its own, and again when a .py file below *folder* changes.

    Returns its exit code once it was told to stop. One that cannot start (a file was saved half-written) is started
    again after the next change.

    Raises:
        MissingExtra: watchfiles is not installed.
    """
    watch = watch or _watch_files()
    folder = folder or Path.cwd()
    command = [sys.executable, "-m", "umbel", *(word for word in argv if word != "--reload")]
    environ = {name: value for name, value in os.environ.items() if name != "CELERY_WORKER_RELOAD"}
    stop = threading.Event()
    worker = subprocess.Popen(command, env=environ)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        stop.set()
        # A terminal has sent Ctrl+C to the worker as well.
        if worker.poll() is None and not (number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty()):
            worker.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}
    reported = False
    try:
        for changed in watch(folder, stop):
            if stop.is_set():
                break
            if worker.poll() is not None and not changed:
                if not reported and worker.returncode:
                    click.echo(
                        f"The worker ended with {worker.returncode}; it starts again when a file changes.", err=True
                    )
                    reported = True
                elif worker.returncode == 0:
                    break
                continue
            if changed:
                click.echo(f"{_names(changed, folder)} changed: restarting the worker.", err=True)
                _end(worker)
                worker = subprocess.Popen(command, env=environ)
                reported = False
        return worker.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Stop *worker* warm; cold if its tasks take too long, so that their messages go back to the queue."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        if worker.poll() is None:
            worker.send_signal(number)
            try:
                worker.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                continue
    if worker.poll() is None:
        worker.kill()
        worker.wait()


def _names(changed: set[Path], folder: Path) -> str:
    names = sorted(str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in changed)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _watch_files() -> _Watch:
    try:
        import watchfiles
    except ImportError:
        raise MissingExtra("--reload", "reload") from None
    python: Callable[..., Any] = watchfiles.PythonFilter()

    def watch(folder: Path, stop: threading.Event) -> Changes:
        batches = watchfiles.watch(
            folder,
            watch_filter=python,
            stop_event=stop,
            rust_timeout=_LOOK,
            yield_on_timeout=True,
            raise_interrupt=False,
        )
        for batch in batches:
            yield {Path(path) for _, path in batch}

    return watch
