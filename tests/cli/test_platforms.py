"""What programs import from celery.platforms."""

import os
import signal
import subprocess
import sys
import time

import pytest

from umbel.cli import platforms


@pytest.mark.row("API-580", "API-414")
def test_a_pidfile_is_held_and_given_back(tmp_path):
    path = tmp_path / "a.pid"
    held = platforms.Pidfile(str(path))

    with held:
        assert (held.is_locked(), held.read_pid()) == (True, os.getpid())
        with pytest.raises(platforms.LockFailed):
            platforms.create_pidlock(str(path))
    assert not held.is_locked()
    path.write_text("1\n")
    assert not held.remove_if_stale()
    path.write_text("4194305\n")
    assert held.remove_if_stale()
    platforms.create_pidlock(str(path)).release()
    assert held.read_pid() is None


@pytest.mark.row("API-580")
def test_signals_have_names():
    signals = platforms.signals
    before = signals["USR1"]
    try:
        signals.ignore("USR1")
        assert signals["USR1"] == signals.ignored
        signals.update(USR1=print)
        assert signals["SIGUSR1"] is print
        signals["NO_SUCH"] = print
        signals.reset("USR1")
        assert signals["USR1"] == signals.default
    finally:
        signals["USR1"] = before
    assert (signals.signum("term"), signals.signum(9), signals.supported("nope")) == (signal.SIGTERM, 9, False)
    signals.arm_alarm(60)
    assert signals.reset_alarm() > 0


@pytest.mark.row("API-580")
def test_a_fake_daemon_stays_here(tmp_path):
    with platforms.detached(pidfile=str(tmp_path / "a.pid"), fake=True):
        here = os.getpid()
    assert here == os.getpid()
    assert platforms.set_process_title("umbel test", "of a title") == "[umbel test] of a title"


@pytest.mark.process
@pytest.mark.row("API-580")
def test_a_daemon_leaves_the_terminal(tmp_path):
    program = (
        "import os, sys; from umbel.cli.platforms import DaemonContext\n"
        f"read, write = os.pipe(); first = os.getpid()\n"
        f"with DaemonContext(workdir={str(tmp_path)!r}, umask=0o27):\n"
        f"    open('said.tmp', 'w').write(repr((os.getpid() != first, os.getsid(0) != os.getpid(), os.umask(0))))\n"
        f"    os.rename('said.tmp', 'said'); print('nobody hears this')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    until = time.monotonic() + 60
    while not (tmp_path / "said").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert (tmp_path / "said").read_text() == "(True, True, 23)"
