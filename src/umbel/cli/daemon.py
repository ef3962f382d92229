"""Run a service in the background: detached, with a file that holds its process id, as another user."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from umbel.cli.session import CannotStart

__all__ = [
    "Held",
    "daemon_options",
    "detach",
    "drop_privileges",
    "follow_settings",
    "mode_of",
    "pid_in",
    "pidfile",
    "process_lives",
]

_HELD: Final = 73  # EX_CANTCREAT
_GIVEN_UP: Final = ("-D", "--detach")  # words that the detached process does not get


class Held(CannotStart):
    """Say that a living process holds the pidfile."""

    exit_code = _HELD


def daemon_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a service that may run in the background."""
    for option in reversed(
        (
            click.option("--pidfile", metavar="FILE", help="File that holds the process id while this runs."),
            click.option("--uid", metavar="USER", help="User to run as, by name or number."),
            click.option("--gid", metavar="GROUP", help="Group to run as, by name or number."),
            click.option("--umask", metavar="MASK", help="File mode mask; octal if it begins with 0."),
            click.option("--executable", metavar="PYTHON", help="Python that runs it when it is detached."),
        )
    ):
        command = option(command)
    return command


def detach(
    argv: Sequence[str], *, held: str | None = None, umask: str | None = None, executable: str | None = None
) -> int:
    """Run ``umbel`` with *argv* again, as a process that nothing ties to this terminal; return 0 at once.

    Args:
        argv: words behind the program's name.
        held: its pidfile, looked at before anything starts.
        umask: file mode mask of the process.
        executable: its Python; None = ours.

    Raises:
        Held: a living process holds the pidfile.
    """
    if held:
        _refuse_if_held(Path(held))
    words = [executable or sys.executable, "-m", "umbel", *(word for word in argv if word not in _GIVEN_UP)]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return 0
    try:
        os.setsid()
        if os.fork():
            os._exit(0)  # so that its child leads no session, and never gets a terminal
        if umask is not None:
            os.umask(mode_of(umask))
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.closerange(3, min(_MANY, os.sysconf("SC_OPEN_MAX")))
        os.execv(words[0], words)  # noqa: S606 - our own program, without a shell
    finally:
        os._exit(1)  # only if that failed: nothing of the foreground may go on here


_MANY: Final = 65536  # descriptors; where the limit is higher nobody has that many open


@contextmanager
def pidfile(name: str | None) -> Iterator[None]:
    """Hold a file with our process id during the block.

    Raises:
        Held: a living process holds it.
        CannotStart: it cannot be written.
    """
    if not name:
        yield
        return
    path = Path(name).expanduser().absolute()
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _refuse_if_held(path)
            path.unlink(missing_ok=True)  # left behind by one that died
        except OSError as exc:
            raise CannotStart(f"the pidfile {name} cannot be written: {exc.strerror}") from exc
        else:
            os.write(descriptor, f"{os.getpid()}\n".encode())
            os.close(descriptor)
            break
    try:
        yield
    finally:
        if pid_in(path) == os.getpid():
            path.unlink(missing_ok=True)


def pid_in(path: Path) -> int | None:
    """Return the process id in a pidfile; None where there is none."""
    try:
        return int(path.expanduser().read_text())
    except (OSError, ValueError):
        return None


def process_lives(pid: int) -> bool:
    """Return whether a process *pid* exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def mode_of(umask: str) -> int:
    """Return the number that *umask* means: octal if it begins with 0.

    Raises:
        CannotStart: it is no number.
    """
    try:
        return int(umask, 8 if umask.startswith("0") else 10)
    except ValueError:
        raise CannotStart(f"the umask {umask!r} is no number, such as 022") from None


def drop_privileges(uid: str | None, gid: str | None) -> None:
    """Become the user *uid* and group *gid* (names or numbers), for good; the user's groups where no group is given.

    Raises:
        CannotStart: there is no such user or group, or we may not, or root could be had again.
    """
    if uid is None and gid is None:
        return
    try:
        user = None if uid is None else (pwd.getpwuid(int(uid)) if uid.isdigit() else pwd.getpwnam(uid))
        group = None if gid is None else int(gid) if gid.isdigit() else grp.getgrnam(gid).gr_gid
        if group is None and user is not None:
            group = user.pw_gid
        if group is not None:
            os.setgid(group)
        if user is not None:
            if group is not None and os.geteuid() == 0:
                os.initgroups(user.pw_name, group)
            os.setuid(user.pw_uid)
    except KeyError:
        raise CannotStart(f"there is no user {uid!r} or no group {gid!r} on this machine") from None
    except PermissionError as exc:
        raise CannotStart(f"only root may become user {uid!r} and group {gid!r}") from exc
    if user is not None and user.pw_uid != 0:
        try:
            os.setuid(0)
        except OSError:
            return
        raise CannotStart(f"as user {uid!r} this process could become root again; that is refused")


def follow_settings(conf: Any, service: str, *, uid: str | None, gid: str | None, umask: str | None) -> None:
    """Take the file mode mask, user and group of *service* from its settings where the options name none.

    Who names a user or a group as an option had the app imported under that name: then no setting adds another.

    Raises:
        CannotStart: as `drop_privileges` and `mode_of`.
    """
    mask = conf[f"{service}_umask"] if umask is None else umask
    if mask is not None:
        os.umask(mode_of(str(mask)))
    if uid is None and gid is None:
        user, group = conf[f"{service}_uid"], conf[f"{service}_gid"]
        drop_privileges(None if user is None else str(user), None if group is None else str(group))


def _refuse_if_held(path: Path) -> None:
    pid = pid_in(path)
    if pid is not None and process_lives(pid):
        raise Held(f"the pidfile {path} says that process {pid} runs already; stop it first")
