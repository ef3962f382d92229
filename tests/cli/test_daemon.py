import os
import subprocess
import sys
import textwrap
import time

import pytest

from umbel import Umbel
from umbel.cli.daemon import Daemon, Held, detach, drop_privileges, mode_of, pid_in, pidfile
from umbel.cli.session import CannotStart, Session


@pytest.mark.row("CLI-056", "CLI-142")
def test_a_pidfile_is_held_for_a_block(tmp_path):
    path = tmp_path / "a.pid"

    with pidfile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(Held, match=f"says that process {os.getpid()} runs already") as refused, pidfile(str(path)):
            pass
    assert refused.value.exit_code == 73
    assert not path.exists()


@pytest.mark.row("CLI-056")
@pytest.mark.parametrize("left", ["", "nonsense\n", "4194305\n"])
def test_a_stale_or_broken_pidfile_is_replaced(tmp_path, left):
    path = tmp_path / "a.pid"
    path.write_text(left)

    with pidfile(str(path)):
        assert pid_in(path) == os.getpid()


def test_a_pidfile_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(CannotStart, match=r"nowhere/a\.pid cannot be written"), pidfile(f"{tmp_path}/nowhere/a.pid"):
        pass


@pytest.mark.row("CLI-058")
def test_a_umask_is_octal_if_it_begins_with_0():
    assert (mode_of("022"), mode_of("18")) == (0o022, 18)
    with pytest.raises(CannotStart, match="'o22' is no number"):
        mode_of("o22")


@pytest.mark.row("CLI-057")
def test_an_unknown_user_is_named():
    with pytest.raises(CannotStart, match="no user 'nobody-of-that-name'"):
        drop_privileges("nobody-of-that-name", None)
    drop_privileges(None, None)


@pytest.mark.process
@pytest.mark.row("CLI-057")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become somebody else")
def test_root_becomes_somebody_else_for_good():
    program = """
        import os
        from umbel.cli.daemon import drop_privileges
        drop_privileges("nobody", None)
        print(0 in {os.getuid(), os.geteuid(), os.getgid(), os.getegid()})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=50, check=False
    )

    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.fixture
def mask():
    """Return the file mode mask of this process; it is afterwards as it was."""

    def now():
        mask = os.umask(0)
        os.umask(mask)
        return mask

    before = now()
    yield now
    os.umask(before)


@pytest.mark.row("CFG-231", "CFG-232", "CFG-233", "CFG-237", "CFG-238", "CFG-239")
@pytest.mark.parametrize("service", ["worker", "beat"])
def test_user_group_and_mask_come_from_the_settings_where_no_option_says_them(umbel, hello, mask, service):
    for option, setting, masked in (((), "027", 0o027), (("--umask", "026"), "077", 0o026)):
        ran = umbel("-A", "hello", service, *option, f"{service}_umask={setting}", f"{service}_uid=nobody-of-that-name")

        assert ran.code != 0
        assert "there is no user 'nobody-of-that-name'" in ran.err
        assert mask() == masked
    assert "no group 'no-such'" in umbel("-A", "hello", service, f"{service}_gid=no-such").err
    assert "the umask 'o22' is no number" in umbel("-A", "hello", service, f"{service}_umask=o22").err


@pytest.mark.row("CLI-095")
def test_so_does_a_monitor(umbel, folder, mask):
    with Umbel(set_as_current=False) as app:
        app.conf.update({"events_umask": "027", "events_uid": "nobody-of-that-name"})
        ran = umbel("events", "--dump", "-l", "debug", app=app)
        assert "'loud' is not one of" in umbel("events", "--dump", "-l", "loud", app=app).err

    assert "there is no user 'nobody-of-that-name'" in ran.err
    assert mask() == 0o027


def test_a_setting_adds_nothing_to_the_user_that_an_option_names(mask):
    app = Umbel(set_as_current=False)
    app.conf.update({"worker_uid": "nobody-of-that-name", "worker_gid": "no-such"})

    Daemon(uid=str(os.getuid())).enter(Session(None, app=app), "worker")
    with pytest.raises(CannotStart, match="'nobody-of-that-name'"):
        Daemon().enter(Session(None, app=app), "worker")


@pytest.mark.row("CLI-013", "CLI-023", "CLI-028")
def test_what_is_wrong_is_said_before_anything_goes_into_the_background(umbel, hello):
    (hello / "w.pid").write_text(f"{os.getpid()}\n")

    assert "no module 'helo'" in umbel("-A", "helo", "worker", "--detach").err
    held = umbel("-A", "hello", "beat", "--detach", f"beat_pidfile={hello}/w.pid")

    assert held.code == 73
    assert f"process {os.getpid()} runs already" in held.err


@pytest.mark.process
@pytest.mark.row("CFG-234", "CFG-240")
@pytest.mark.parametrize("service", ["worker", "beat"])
def test_the_python_of_a_detached_service_comes_from_its_settings_too(umbel, hello, service):
    python = hello / "python"
    python.write_text(f'#!/bin/sh\necho "$@" > {hello}/said; mv {hello}/said {hello}/done\n')
    python.chmod(0o755)

    assert umbel("-A", "hello", service, "--detach", f"{service}_executable={python}").code == 0

    await_file(hello / "done")
    assert (hello / "done").read_text() == f"-m umbel -A hello {service} {service}_executable={python}\n"


@pytest.mark.process
@pytest.mark.row("CFG-252")
def test_a_fake_fork_runs_it_right_here(hello):
    (hello / "python").write_text('#!/bin/sh\necho "$@" >&2\necho here\n')
    (hello / "python").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "umbel", "-A", "hello", "beat", "--detach", "--executable", str(hello / "python")],
        env={**os.environ, "C_FAKEFORK": "1"}, cwd=hello, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "here\n")
    assert done.stderr.startswith("-m umbel -A hello beat --executable")


def await_file(path):
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.process
@pytest.mark.row("CLI-028", "CLI-058", "CLI-059", "CLI-078", "CLI-141")
def test_a_detached_service_is_tied_to_nothing(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$@" > {tmp_path}/said\n'
        f"umask >> {tmp_path}/said\n"
        f"pwd >> {tmp_path}/said\n"
        f"readlink /proc/self/fd/0 /proc/self/fd/2 >> {tmp_path}/said\n"
        f"mv {tmp_path}/said {tmp_path}/done\n"
    )
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    words = ["-A", "proj", "beat", "--detach", "--umask", "027"]

    assert detach(words, umask="027", executable=str(python)) == 0

    await_file(tmp_path / "done")
    command, umask, folder, *streams = (tmp_path / "done").read_text().splitlines()
    assert command == "-m umbel -A proj beat --umask 027"
    assert umask.endswith("027")
    assert folder == str(tmp_path)
    assert streams == ["/dev/null", "/dev/null"]
