"""Run a service in the background: detached, with a file that holds its process id, as another user."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from umbel._names import node_format
from umbel.app.settings import parse_assignments
from umbel.cli.session import CannotStart, Session
from umbel.exceptions import ImproperlyConfigured

__all__ = [
    "Daemon",
    "Held",
    "cut_loose",
    "daemon_options",
    "detach",
    "drop_privileges",
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


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    """How the process of a service is to be; None = as its settings say, `worker_pidfile` for example."""

    loglevel: str = "WARNING"
    logfile: str | None = None
    pidfile: str | None = None
    uid: str | None = None  # user, by name or number
    gid: str | None = None
    umask: str | None = None  # octal if it begins with 0
    executable: str | None = None  # Python that runs it when it is detached

    def detach(self, session: Session, service: str, settings: Sequence[str] = (), *, node: str | None = None) -> int:
        """Run the same command in the background, as *node*; return 0 at once. Arguments and errors as of `enter`."""
        # Who names a user wants the app imported under that name only.
        known = self if self.uid or self.gid else self._completed(_read_app(session, settings, service).conf, service)
        held = node_format(known.pidfile, node) if known.pidfile and node else known.pidfile
        return detach(session.argv, held=held, umask=known.umask, executable=known.executable)

    def enter(self, session: Session, service: str, settings: Sequence[str] = ()) -> tuple[Any, Daemon]:
        """Become what the options and the settings of *service* say; return the app, and both together.

        *settings* are the words ``name=value`` of the command line.

        Raises:
            CannotStart: as `drop_privileges` and `mode_of`.
            click.UsageError: one of *settings* is none.
        """
        drop_privileges(self.uid, self.gid)
        app = _read_app(session, settings, service)
        known = self._completed(app.conf, service)
        if known.umask is not None:
            os.umask(mode_of(known.umask))
        if not (self.uid or self.gid):
            drop_privileges(known.uid, known.gid)
        return app, known

    def _completed(self, conf: Any, service: str) -> Daemon:
        # Who names a user or a group as an option had the app imported under that name: no setting adds another.
        names = {"logfile", "pidfile", "umask", "executable"} | (set() if self.uid or self.gid else {"uid", "gid"})
        said = {name: conf[f"{service}_{name}"] for name in names if getattr(self, name) is None}
        return msgspec.structs.replace(self, **{name: str(each) for name, each in said.items() if each is not None})


def _read_app(session: Session, settings: Sequence[str], service: str) -> Any:
    """Return the app, with the words ``name=value`` of the command line as its settings.

    Raises:
        click.UsageError: one of them is none.
    """
    app = session.app
    try:
        app.conf.update(parse_assignments(settings, namespace="worker" if service == "worker" else "celery"))
    except (ImproperlyConfigured, TypeError, ValueError) as exc:
        raise click.UsageError(str(exc)) from exc
    return app


_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


def daemon_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a service that may run in the background; *command* gets them as one value, ``daemon``."""

    @wraps(command)
    def gathered(*args: Any, **options: Any) -> Any:
        named = {name: options.pop(name) for name in Daemon.__struct_fields__}
        return command(*args, daemon=Daemon(**named), **options)

    for option in reversed(
        (
            click.option("-l", "--loglevel", type=click.Choice(_LEVELS, case_sensitive=False), default="WARNING",
                         show_default=True, help="What is logged."),
            click.option("-f", "--logfile", metavar="FILE", help="File to log to, %h is the host. Default: stderr."),
            click.option("--pidfile", metavar="FILE", help="File that holds the process id while this runs."),
            click.option("--uid", metavar="USER", help="User to run as, by name or number."),
            click.option("--gid", metavar="GROUP", help="Group to run as, by name or number."),
            click.option("--umask", metavar="MASK", help="File mode mask; octal if it begins with 0."),
            click.option("--executable", metavar="PYTHON", help="Python that runs it when it is detached."),
        )
    ):  # fmt: skip
        gathered = option(gathered)
    return gathered


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
    if os.environ.get("C_FAKEFORK"):
        os.execv(words[0], words)  # noqa: S606 - as below
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return 0
    try:
        cut_loose(None if umask is None else mode_of(umask))
        os.closerange(3, min(_MANY, os.sysconf("SC_OPEN_MAX")))
        os.execv(words[0], words)  # noqa: S606 - our own program, without a shell
    finally:
        os._exit(1)  # only if that failed: nothing of the foreground may go on here


def cut_loose(umask: int | None) -> None:
    """Let the caller, a fork of its own, go on in a process that has no terminal and no standard streams."""
    os.setsid()
    if os.fork():
        os._exit(0)  # so that its child leads no session, and never gets a terminal
    if umask is not None:
        os.umask(umask)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


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


def _refuse_if_held(path: Path) -> None:
    pid = pid_in(path)
    if pid is not None and process_lives(pid):
        raise Held(f"the pidfile {path} says that process {pid} runs already; stop it first")
