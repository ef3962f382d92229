"""Take snapshots of a cluster at intervals: cameras."""

# ruff: noqa: PLR0917 - Celery's signatures
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Self

from umbel import current
from umbel._names import cwd_importable, symbol_by_name
from umbel._time import parse_rate
from umbel.signals import Signal

__all__ = ["Polaroid", "evcam"]

_logger: Final = logging.getLogger("celery.evcam")


class Polaroid:
    """A camera: subclass it, and override `on_shutter`, which is given the cluster's state every *freq* seconds.

    As a context it takes pictures in a thread of its own. With *maxrate* (``10/m``) a picture that would come too
    early is left out; every *cleanup_freq* seconds there is `on_cleanup`. `clear_after` makes the state forget what is
    over after each picture. *timer* is accepted and not needed.
    """

    app: Any = None
    clear_after = False
    shutter_signal = Signal(name="shutter_signal", providing_args={"state"})
    cleanup_signal = Signal(name="cleanup_signal")

    def __init__(
        self,
        state: Any,
        freq: float = 1.0,
        maxrate: str | float | None = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Any = None,
    ) -> None:
        self.app = app or self.app or current.get_current_app()
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        rate = parse_rate(maxrate)
        self._interval = 1 / rate if rate else 0.0  # seconds between pictures at the least
        self._last = -float("inf")  # monotonic
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_shutter(self, state: Any) -> None:
        """Do something with the *state*; nothing changes in it meanwhile."""

    def on_cleanup(self) -> None:
        """Throw away what is too old."""

    def install(self) -> None:
        """Begin to take pictures."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="umbel-camera", daemon=True)
            self._thread.start()

    def capture(self) -> None:
        """Take a picture now."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def shutter(self) -> None:
        """Show the state to `on_shutter`, unless it is too early for another picture."""
        now = time.monotonic()
        if now - self._last < self._interval:
            return
        self._last = now
        _logger.debug("Shutter: %s", self.state)
        self.shutter_signal.send(sender=self.state)
        self.on_shutter(self.state)

    def cleanup(self) -> None:
        """Have what is too old thrown away."""
        _logger.debug("Cleanup: Running...")
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def cancel(self) -> None:
        """Take no more pictures."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _run(self) -> None:
        cleanup_at = time.monotonic() + self.cleanup_freq
        while not self._ended.wait(self.freq):
            _guarded(self.capture)
            if time.monotonic() >= cleanup_at:
                cleanup_at = time.monotonic() + self.cleanup_freq
                _guarded(self.cleanup)


def _guarded(act: Callable[[], object]) -> None:
    try:
        act()
    except Exception:
        _logger.exception("the camera failed; it goes on")


def evcam(
    camera: Any,
    freq: float = 1.0,
    maxrate: str | float | None = None,
    loglevel: int | str = 0,
    logfile: str | None = None,
    pidfile: str | None = None,
    timer: Any = None,
    app: Any = None,
    **kwargs: Any,
) -> None:
    """Take pictures of the cluster with *camera*, a class like `Polaroid` or its name, until interrupted."""
    app = app or current.get_current_app()
    with cwd_importable():
        cls = symbol_by_name(camera)
    app.log.setup_logging_subsystem(loglevel, logfile)
    print(f"-> evcam: Taking snapshots with {camera} (every {freq} secs.)", flush=True)  # noqa: T201 - it is a program
    state = app.events.State()
    taking = cls(state, app=app, freq=freq, maxrate=maxrate, timer=timer)
    with taking, app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, app=app, handlers={"*": state.event})
        try:
            receiver.capture(limit=None)
        except KeyboardInterrupt:
            pass
