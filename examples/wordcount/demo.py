"""Count the words of Python's standard library on a queue and a worker of its own, then tidy everything away.

``make demo`` runs it. Nothing is left: the queue lies in a temporary folder, and the worker is stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

HERE = Path(__file__).resolve().parent
PATIENCE = 300.0  # seconds for everything
TOP = 15  # words shown


def main() -> int:
    """Run the demo; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worker is stopped then, too
    sys.dont_write_bytecode = True
    for name in [name for name in os.environ if name.startswith("CELERY_")]:
        del os.environ[name]  # the demo is about its own queue
    console = Console(highlight=False)
    paths = library(Path(sysconfig.get_path("stdlib")))
    with tempfile.TemporaryDirectory(prefix="umbel-wordcount-") as folder:
        os.environ["WORDCOUNT_QUEUE"] = f"sqlite:///{folder}/queue.db"
        with running_worker(Path(folder), console) as worker:
            words, seconds = count(paths, worker, console)
    console.print(f"\nThe words of {len(paths):,} files of the standard library of Python {sys.version.split()[0]}:\n")
    for word, number in words:
        console.print(f"  {word:<14} {number:>9,}")
    console.print(
        f"\n[bold]{len(paths):,} tasks and the one that merged them in {seconds:.2f} s: "
        f"{len(paths) / seconds:,.0f} tasks/s[/], from the first one sent to the words above.",
        soft_wrap=True,
    )
    return 0


def library(folder: Path) -> list[Path]:
    """Return every Python file in *folder*, but those of installed packages."""
    inside = (path for path in folder.rglob("*.py") if path.is_file())
    return sorted(path for path in inside if not {"site-packages", "dist-packages"} & set(path.parts))


def count(paths: list[Path], worker: subprocess.Popen[str], console: Console) -> tuple[list[tuple[str, int]], float]:
    """Send a chord: a task for each of *paths*, and one that merges; return the top words and the seconds it took."""
    from tasks import count_words, merge

    from umbel import chord

    def look() -> None:
        if worker.poll() is not None:
            raise RuntimeError(f"the worker ended with exit code {worker.returncode}")

    began = time.perf_counter()
    words = chord((count_words.s(str(path)) for path in paths), merge.s(TOP)).apply_async()
    sent = time.perf_counter() - began
    console.print(f"Sent {len(paths):,} tasks, one for each file, in {sent:.2f} s.")
    with progress(len(paths), console) as advance:
        for _ in words.parent.iter_native(timeout=PATIENCE, on_interval=look):
            advance()
    return words.get(timeout=PATIENCE, on_interval=look), time.perf_counter() - began


@contextmanager
def progress(total: int, console: Console) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal, else a line for each tenth; the block calls what it is given for each step."""
    if console.is_terminal:
        with Progress(
            "Counting", BarColumn(), MofNCompleteColumn(), "files", TimeElapsedColumn(), console=console
        ) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            console.print(f"Counting: {done:,} of {total:,} files")

    yield advance


@contextmanager
def running_worker(folder: Path, console: Console) -> Iterator[subprocess.Popen[str]]:
    """Run a worker while the block runs; show its banner, and its log if anything goes wrong."""
    log = folder / "worker.log"
    command = [sys.executable, "-B", "-m", "umbel", "-A", "tasks", "--workdir", str(HERE), "worker"]
    with log.open("w") as errors:
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert worker.stdout is not None
        for line in worker.stdout:
            console.print(line.rstrip(), markup=False, soft_wrap=True)
            if line.rstrip().endswith(" ready."):
                break
        else:
            raise RuntimeError(f"the worker ended with exit code {worker.wait()} before it was ready")
        yield worker
    except Exception:
        console.print(log.read_text(), markup=False, style="red")
        raise
    finally:
        worker.terminate()  # warm: it ends what it has begun
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
