"""An afternoon at the command line: a worker, its banner and its log, and how it ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

SHOP = """
import os, signal, time
from umbel import Umbel
from umbel.utils.log import get_task_logger

app = Umbel("shop")
logger = get_task_logger(__name__)


@app.task
def sell(thing):
    logger.info("selling %s", thing)
    print("printed", thing)
    return thing.upper()


@app.task(throws=(KeyError,))
def fail(expected):
    raise KeyError("on purpose") if expected else ValueError("by accident")


@app.task(bind=True)
def again(self):
    if not self.request.retries:
        raise self.retry(countdown=0, exc=ValueError("not yet"))


@app.task
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def nap(path, seconds):
    open(path, "w").close()
    time.sleep(seconds)
    return "rested"
"""


class Terminal:
    """A shell in the folder of a project."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack

    def umbel(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "umbel", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def start(self, *words: str) -> "Running":
        running = Running(self.folder, words)
        self.stack.callback(running.kill)
        return running


class Running:
    """A worker in the background, and what it has written."""

    def __init__(self, folder: Path, words: tuple[str, ...]) -> None:
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "umbel", "worker", *words], cwd=folder, stdout=out, stderr=err, env=environ,
                start_new_session=True,
            )  # fmt: skip

    def read(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def wait_for(self, pattern: str, *, times: int = 1) -> None:
        wait_until(
            lambda: len(re.findall(pattern, self.read(), re.MULTILINE)) >= times,
            lambda: f"{pattern!r} is not in:\n{self.read()}",
        )

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(90)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(90)


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)


@pytest.fixture
def terminal(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    with contextlib.ExitStack() as stack:
        yield Terminal(tmp_path, stack)


@pytest.mark.row("CLI-071")
def test_a_service_that_is_hung_up_starts_again(terminal):
    worker = terminal.start("-l", "info", "-n", "w1@here", "-c", "1")
    worker.wait_for(r"w1@here ready\.$")

    worker.process.send_signal(signal.SIGHUP)

    worker.wait_for(r"w1@here ready\.$", times=2)
    sold = terminal.umbel("call", "shop.sell", "-a", '["tea"]')
    assert terminal.umbel("result", sold) == "TEA"
    assert worker.end() == 0


@pytest.mark.row("CLI-017", "CLI-060", "CLI-061", "CLI-064")
def test_a_worker_says_what_it_is_and_logs_what_it_does(terminal):
    worker = terminal.start("-l", "info", "-n", "w1@here", "-c", "1")
    worker.wait_for(r"w1@here ready\.$")

    sold = terminal.umbel("call", "shop.sell", "-a", '["tea"]')
    assert terminal.umbel("result", sold) == "TEA"
    for name, args in [("fail", "[true]"), ("fail", "[false]"), ("again", "[]"), ("die", "[]")]:
        terminal.umbel("call", f"shop.{name}", "-a", args)

    where = f"sqlite:///{terminal.folder / 'shop.umbel.db'}"
    for shown in (
        "umbel 0.1.0", "w1@here", f"transport:   {where}", f"results:     {where}", "concurrency: 1 (prefork)",
        "exchange=celery(direct) key=celery", "  . shop.sell",
    ):  # fmt: skip
        assert shown in worker.read()
    for logged in (
        rf"INFO/MainProcess\] Connected to {re.escape(where)}",
        rf"INFO/MainProcess\] Task shop\.sell\[{sold}\] received",
        rf"INFO/ForkPoolWorker-1\] shop\.sell\[{sold}\]: selling tea",
        r"WARNING/ForkPoolWorker-1\] printed tea",
        rf"Task shop\.sell\[{sold}\] succeeded in [\d.e-]+s: 'TEA'",
        r"INFO.*Task shop\.fail\[.*\] raised expected: KeyError\('on purpose'\)",
        r"ERROR.*Task shop\.fail\[.*\] raised unexpected: ValueError\('by accident'\)",
        r"Task shop\.again\[.*\] retry: Retry in 0s: ValueError\('not yet'\)",
        r"Task shop\.again\[.*\] succeeded in",
        r"Task shop\.die\[.*\] .*SIGKILL",
    ):
        worker.wait_for(logged)
    assert worker.end() == 0
    assert "warm shutdown" in worker.read()


@pytest.mark.row("CLI-018", "CLI-065")
def test_ctrl_c_lets_a_task_end_and_exits_with_1(terminal, tmp_path):
    worker = terminal.start("-c", "1")
    worker.wait_for(r"ready\.$")
    nap = terminal.umbel("call", "shop.nap", "-a", f'["{tmp_path}/began", 0.5]')
    wait_until((tmp_path / "began").exists)

    assert worker.end(signal.SIGINT) == 1
    assert "Hitting Ctrl+C again will initiate cold shutdown" in worker.read()
    assert terminal.umbel("result", nap) == "rested"


@pytest.mark.row("CLI-019", "CLI-067", "CLI-070", "CLI-072", "CLI-075")
def test_a_worker_shows_its_stacks_and_stops_in_two_steps(terminal, tmp_path):
    worker = terminal.start("-c", "1", "worker_soft_shutdown_timeout=600")
    worker.wait_for(r"ready\.$")
    terminal.umbel("call", "shop.nap", "-a", f'["{tmp_path}/began", 600]')
    wait_until((tmp_path / "began").exists)

    worker.process.send_signal(signal.SIGUSR1)
    worker.wait_for(r"hread 0x.*most recent call first")
    worker.process.send_signal(signal.SIGQUIT)
    worker.wait_for("Initiating Soft Shutdown, terminating in 600 seconds")

    assert worker.end(signal.SIGQUIT) == 0  # at once
    assert terminal.umbel("list", "queues").splitlines()[1].split()[:2] == ["celery", "1"]


@pytest.mark.row("CLI-008", "CLI-030", "CLI-060")
def test_a_quiet_worker_says_nothing(terminal):
    worker = terminal.start("--quiet", "-P", "solo")

    assert terminal.umbel("result", terminal.umbel("call", "shop.again")) == "None"
    assert worker.end() == 0
    assert worker.out.read_text() == ""
    assert "succeeded" not in worker.err.read_text()


@pytest.mark.row("CLI-018")
def test_a_worker_whose_queue_is_unusable_says_so_in_one_line(terminal, tmp_path):
    (tmp_path / "shop.umbel.db").write_text("no database at all, but text long enough to be looked at")
    worker = terminal.start("-c", "1")

    assert worker.process.wait(25) == 1
    assert (
        worker.err.read_text().splitlines()[-1].startswith(f"Error: {tmp_path}/shop.umbel.db is not a SQLite database")
    )


@pytest.mark.row("CLI-042")
def test_purge_at_the_start_says_how_many_it_dropped(terminal):
    ids = [terminal.umbel("call", "shop.sell", "-a", '["tea"]') for _ in range(2)]
    worker = terminal.start("--purge", "-P", "threads")
    worker.wait_for(r"^purge: Erased 2 messages from the queue\.$")
    worker.wait_for(r"ready\.$")

    assert ["celery", "0"] in [line.split()[:2] for line in terminal.umbel("list", "queues").splitlines()]
    assert not any(task_id in worker.read() for task_id in ids)
    assert worker.end() == 0


@pytest.mark.row("CLI-055", "CLI-124", "CLI-125")
def test_each_process_may_log_to_a_file_of_its_own(terminal, tmp_path):
    worker = terminal.start("-l", "info", "-c", "1", "-n", "w1@here", "-f", "%n%I.log")
    worker.wait_for(r"")
    wait_until(lambda: (tmp_path / "w1.log").exists() and "ready." in (tmp_path / "w1.log").read_text())
    terminal.umbel("result", terminal.umbel("call", "shop.sell", "-a", '["tea"]'))
    wait_until(lambda: (tmp_path / "w1-1.log").exists() and "selling tea" in (tmp_path / "w1-1.log").read_text())

    assert "received" in (tmp_path / "w1.log").read_text()
    assert "selling tea" not in (tmp_path / "w1.log").read_text()
    assert worker.end() == 0


@pytest.mark.row("API-444")
def test_a_project_that_logs_in_its_own_way_is_left_to_it(terminal, tmp_path):
    with (tmp_path / "shop.py").open("a") as shop:
        shop.write(
            "import logging\nfrom umbel.signals import setup_logging\n\n@setup_logging.connect\ndef mine(**_):\n"
            "    logging.basicConfig(filename='mine.log', level='INFO', format='MINE %(message)s')\n"
        )
    worker = terminal.start("-l", "info", "-c", "1")
    wait_until(lambda: (tmp_path / "mine.log").exists() and "ready." in (tmp_path / "mine.log").read_text())
    terminal.umbel("result", terminal.umbel("call", "shop.sell", "-a", '["tea"]'))
    wait_until(lambda: "MINE selling tea" in (tmp_path / "mine.log").read_text())

    assert worker.end() == 0
    assert "ready" not in worker.err.read_text()


def test_a_killer_of_processes_is_found_among_the_dead_and_sent_back(terminal):
    worker = terminal.start("-c", "1", "task_crash_limit=2")
    killer = terminal.umbel("call", "shop.die")
    wait_until(lambda: killer in terminal.umbel("dead", "list"))

    shown = terminal.umbel("dead", "show", killer)
    assert "reason:    crashed" in shown
    assert shown.count("SIGKILL") == 2
    assert worker.end() == 0
    assert terminal.umbel("dead", "retry", killer) == "1 task went back to its queue."
    assert terminal.umbel("purge", "-f") == "Purged 1 message from 1 known task queue."
    assert terminal.umbel("dead", "list") == "No dead letters."


def test_the_worker_starts_again_when_a_source_file_changes(terminal, tmp_path):
    pytest.importorskip("watchfiles")
    worker = terminal.start("--reload", "-A", "shop", "-c", "1")
    worker.wait_for(r"ready\.$")
    shop = (tmp_path / "shop.py").read_text()

    (tmp_path / "shop.py").write_text(shop.replace("thing.upper()", "thing.title()"))
    worker.wait_for(r"ready\.$", times=2)
    assert terminal.umbel("result", terminal.umbel("call", "shop.sell", "-a", '["tea"]')) == "Tea"

    (tmp_path / "shop.py").write_text("app = (\n")  # saved half-written
    worker.wait_for(r"SyntaxError")
    worker.wait_for(r"starts again when a file changes")
    (tmp_path / "shop.py").write_text(shop)
    worker.wait_for(r"ready\.$", times=3)
    assert terminal.umbel("result", terminal.umbel("call", "shop.sell", "-a", '["tea"]')) == "TEA"

    assert "shop.py changed: restarting the worker." in worker.read()
    assert worker.end() == 0
