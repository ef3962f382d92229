"""Keep what programs import from ``celery.platforms``: pidfiles, daemons, OS signals by name."""

from __future__ import annotations

import atexit
import importlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from umbel.cli.daemon import Held, cut_loose, drop_privileges, pid_in, pidfile, process_lives

__all__ = [
    "DaemonContext",
    "LockFailed",
    "Pidfile",
    "Signals",
    "create_pidlock",
    "detached",
    "maybe_drop_privileges",
    "set_process_title",
    "signals",
]

LockFailed = Held


class Pidfile:
    """A file that holds our process id while we hold it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._held = ExitStack()

    def acquire(self) -> Pidfile:
        """Hold it.

        Raises:
            LockFailed: a living process holds it.
        """
        self._held.enter_context(pidfile(self.path))
        return self

    __enter__ = acquire

    def is_locked(self) -> bool:
        """Return whether there is such a file."""
        return Path(self.path).exists()

    def release(self, *_: object) -> None:
        """Hold it no longer."""
        self._held.close()

    __exit__ = release

    def read_pid(self) -> int | None:
        """Return the process id in it; None where there is none."""
        return pid_in(Path(self.path))

    def remove(self) -> None:
        """Remove the file, whoever holds it."""
        Path(self.path).unlink(missing_ok=True)

    def remove_if_stale(self) -> bool:
        """Remove the file if no living process holds it; return whether it may be held now."""
        pid = self.read_pid()
        if pid is not None and pid != os.getpid() and process_lives(pid):
            return False
        self.remove()
        return True


def create_pidlock(pidfile: str) -> Pidfile:
    """Hold a pidfile until this process ends.

    Raises:
        LockFailed: a living process holds it.
    """
    held = Pidfile(pidfile).acquire()
    atexit.register(held.release)
    return held


class DaemonContext:
    """Run the block in a process of its own that nothing ties to the terminal; the process that was here ends."""

    def __init__(
        self, pidfile: str | None = None, workdir: str | None = None, umask: int | None = None, fake: bool = False,  # noqa: FBT001, FBT002
        **_: Any,
    ) -> None:  # fmt: skip
        self.workdir, self.umask, self.fake = workdir or ".", umask, fake

    def open(self) -> None:
        """Become that process, unless it is to be *fake*."""
        if self.fake:
            return
        if os.fork():
            os._exit(0)
        cut_loose(self.umask)
        os.chdir(self.workdir)

    def close(self, *_: object) -> None:
        """Do nothing: there is no way back."""

    def __enter__(self) -> Self:
        self.open()
        return self

    __exit__ = close


@contextmanager
def detached(
    logfile: str | None = None, pidfile: str | None = None, uid: Any = None, gid: Any = None, **options: Any
) -> Iterator[None]:
    """Run the block as `DaemonContext` does, as another user, if nobody holds the pidfile.

    Raises:
        LockFailed: a living process holds it.
        CannotStart: we may not become that user.
    """
    if pidfile:
        with Pidfile(pidfile):
            pass
    maybe_drop_privileges(uid, gid)
    with DaemonContext(**options):
        yield


def maybe_drop_privileges(uid: Any = None, gid: Any = None) -> None:
    """Become another user and group, for good.

    Raises:
        CannotStart: there are none such, or we may not.
    """
    drop_privileges(None if uid is None else str(uid), None if gid is None else str(gid))


def set_process_title(progname: str, info: str | None = None) -> str:
    """Have `ps` show this, if the package setproctitle is there; return it."""
    title = f"[{progname}]" + (f" {info}" if info else "")
    try:
        importlib.import_module("setproctitle").setproctitle(title)
    except ModuleNotFoundError:
        pass  # then ps shows the command line
    return title


_Handler = Callable[[int, FrameType | None], Any]


class Signals:
    """OS signals by name: ``signals["INT"] = handler``, ``signals.ignore("HUP")``."""

    ignored: Final = signal.SIG_IGN
    default: Final = signal.SIG_DFL

    def signum(self, name: str | int) -> int:
        """Return the number of a signal.

        Raises:
            AttributeError: there is none of that name here.
        """
        return name if isinstance(name, int) else int(getattr(signal, f"SIG{name.upper().removeprefix('SIG')}"))

    def supported(self, name: str) -> bool:
        """Return whether there is such a signal here."""
        return hasattr(signal, f"SIG{name.upper().removeprefix('SIG')}")

    def __setitem__(self, name: str, handler: Any) -> None:
        if self.supported(name):
            signal.signal(self.signum(name), handler)

    def __getitem__(self, name: str) -> Any:
        return signal.getsignal(self.signum(name))

    def update(self, _d_: Mapping[str, _Handler] | None = None, **handlers: _Handler) -> None:
        """Handle several."""
        for name, handler in {**(_d_ or {}), **handlers}.items():
            self[name] = handler

    def reset(self, *names: str) -> None:
        """Handle these as a process does by default."""
        self.update(dict.fromkeys(names, self.default))  # type: ignore[arg-type]  # as good as a function to `signal`

    def ignore(self, *names: str) -> None:
        """Take no notice of these."""
        self.update(dict.fromkeys(names, self.ignored))  # type: ignore[arg-type]  # as above

    def arm_alarm(self, seconds: float) -> None:
        """Have SIGALRM sent in so many seconds."""
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def reset_alarm(self) -> int:
        """Send it not; return how many seconds were left."""
        return signal.alarm(0)


signals: Final = Signals()
