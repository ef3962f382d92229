"""The examples do what they show, and leave nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def demo(tmp_path):
    """The demo, started with its temporary files below *tmp_path*."""

    def start() -> subprocess.Popen[str]:
        environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(EXAMPLES / "wordcount" / "demo.py")]
        return subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    (tmp_path / "tmp").mkdir()
    return start


def test_the_demo_counts_a_thousand_files_and_leaves_nothing(demo, tmp_path):
    with demo() as running:
        shown, _ = running.communicate(timeout=55)

    assert running.returncode == 0, shown
    assert "celery@" in shown
    assert "tasks/s" in shown
    assert int(shown.partition("Sent ")[2].partition(" tasks")[0].replace(",", "")) > 1000
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not _lives(running.pid)


def test_the_demo_stopped_half_way_leaves_nothing_either(demo, tmp_path):
    with demo() as running:
        for line in running.stdout:
            if line.startswith("Sent "):
                break
        running.send_signal(signal.SIGTERM)
        rest = running.communicate(timeout=30)[0]

    assert running.returncode in {143, 0}, rest
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not _lives(running.pid)


def test_the_smallest_app_greets(tmp_path):
    shutil.copy(EXAMPLES / "hello" / "hello.py", tmp_path)
    umbel = [sys.executable, "-m", "umbel", "-q", "worker", "-A", "hello"]

    with subprocess.Popen(umbel, cwd=tmp_path) as worker:
        try:
            command = [sys.executable, "hello.py"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=40, check=True)
        finally:
            worker.terminate()

    assert done.stdout == "hello world\n"
    assert worker.returncode == 0


def _lives(session: int) -> bool:
    """Tell whether a process of the demo's own session is still there."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True
