"""Run a scheduler: tick, sleep, tick, until somebody stops it."""

# ruff: noqa: FBT001, FBT002, N802, PLR0917 - Celery's names and signatures
from __future__ import annotations

import importlib.metadata
import logging
import multiprocessing
import threading
import time
from functools import cached_property
from typing import Any, Final

from umbel import signals
from umbel._names import gethostname, host_format, nodename, symbol_by_name
from umbel._repr import mask_url
from umbel._time import humanize_seconds
from umbel.beat.answer import Answerer
from umbel.beat.persistent import PersistentScheduler
from umbel.beat.scheduler import DEFAULT_MAX_INTERVAL
from umbel.beat.shared import SharedScheduler
from umbel.exceptions import ImproperlyConfigured, OperationalError

__all__ = ["EmbeddedService", "Service", "scheduler_class"]

_logger: Final = logging.getLogger("celery.beat")
_GROUPS: Final = ("umbel.beat_schedulers", "celery.beat_schedulers")  # entry points that name schedulers
_RETRY: Final = 2.0  # seconds until a broker that cannot be reached is tried again
_SILENCE: Final = 60.0  # seconds without a tick until a beat no longer answers, at least
_EMBEDDED: Final = 1.0  # seconds: longest sleep in a thread of a worker


def scheduler_class(app: Any, wanted: Any = None) -> Any:
    """Return the class of scheduler that *wanted*, or the setting ``beat_scheduler``, or the broker asks for.

    Who names none gets what the broker allows: a `SharedScheduler` where it has a ledger, else Celery's file.

    Raises:
        ImproperlyConfigured: nothing is called so.
        OperationalError: the broker must be asked, and cannot be reached.
    """
    named = wanted or (app.conf.beat_scheduler if app.conf.value_set_for("beat_scheduler") else None)
    if named is None:
        broker = app.open_broker(write=True)
        try:
            return SharedScheduler if broker.features.ledger else PersistentScheduler
        finally:
            broker.close()
    aliases = {point.name: point.value for group in _GROUPS for point in importlib.metadata.entry_points(group=group)}
    try:
        return symbol_by_name(named, aliases)
    except (ImportError, AttributeError) as exc:
        raise ImproperlyConfigured(f"the scheduler {named!r} cannot be imported: {exc}") from exc


class Service:
    """Beat: `start` blocks until `stop`, which may be called from any thread and from signal handlers."""

    scheduler_cls: Any = PersistentScheduler

    def __init__(
        self,
        app: Any,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval
        if scheduler_cls is None and schedule_filename is not None and not app.conf.value_set_for("beat_scheduler"):
            scheduler_cls = PersistentScheduler  # who names a file wants that scheduler
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        self._wanted = scheduler_cls
        self.remote_control = app.conf.beat_enable_remote_control if remote_control is None else remote_control
        self.hostname = hostname
        self._ticked = 0.0  # monotonic: when the last tick began
        self._stop = threading.Event()
        self._stopped = threading.Event()

    def start(self, embedded_process: bool = False) -> None:
        """Run until stopped."""
        try:
            scheduler = self.wait_for_scheduler()
            if scheduler is None:
                return
            _logger.info("beat: Starting...")
            _logger.debug("beat: Ticking with max interval->%s", humanize_seconds(scheduler.max_interval))
            signals.beat_init.send(sender=self)
            if embedded_process:
                signals.beat_embedded_init.send(sender=self)
            answers = self._answerer(scheduler)
            try:
                while not self._stop.is_set():
                    self._turn(scheduler)
            finally:
                _logger.info("beat: Shutting down...")
                if answers is not None:
                    answers.stop()
                scheduler.close()
        finally:
            self._stopped.set()

    def _answerer(self, scheduler: Any) -> Answerer | None:
        """Return what answers commands, begun, if that is wanted."""
        if not self.remote_control:
            return None
        limit = self.app.conf.beat_remote_control_max_tick_age
        if limit is None:
            limit = max(2 * scheduler.max_interval, _SILENCE)
        self._ticked = time.monotonic()
        node = host_format(self.hostname or nodename("celerybeat", gethostname()))
        answers = Answerer(self.app, node, lambda: not limit or time.monotonic() - self._ticked <= limit)
        answers.start()
        return answers

    def _turn(self, scheduler: Any) -> None:
        self._ticked = time.monotonic()
        try:
            seconds = scheduler.tick()
        except Exception:
            # A mistake in one entry or in a class of the user's must not end all the others.
            _logger.exception("beat: a tick failed; beat goes on")
            seconds = _RETRY
        if seconds and seconds > 0:
            if scheduler.should_sync():
                getattr(scheduler, "_do_sync", scheduler.sync)()
            self._stop.wait(seconds)

    def wait_for_scheduler(self) -> Any:
        """Return the scheduler, as soon as the broker can be reached; None = stopped before."""
        told = False
        while not self._stop.is_set():
            try:
                return self.scheduler
            except OperationalError as exc:
                if not told:
                    told = True
                    _logger.error("beat: the broker cannot be reached: %s Trying again every %g s.", exc, _RETRY)
                self._stop.wait(_RETRY)
        return None

    def stop(self, wait: bool = False) -> None:
        """Ask it to stop; with *wait* return when it has."""
        self._stop.set()
        if wait:
            self._stopped.wait()

    def sync(self) -> None:
        """Have the scheduler write down what it knows."""
        self.scheduler.sync()

    def get_scheduler(self, lazy: bool = False) -> Any:
        """Return a new scheduler."""
        cls = scheduler_class(self.app, self._wanted)
        if cls is PersistentScheduler and self._wanted is None:
            _logger.warning(
                "the broker %s keeps no ledger, so it cannot tell whether another beat has sent a task already: "
                "run exactly one beat for this app, or every task is sent as many times as beats run.",
                mask_url(self.app.broker_url(write=True)),
            )
        options = {"max_interval": self.max_interval, "lazy": lazy, "schedule_filename": self.schedule_filename}
        return cls(app=self.app, **options)

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler, made when it is first needed."""
        return self.get_scheduler()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.app, self.max_interval, self.schedule_filename, self._wanted)


class _Thread(threading.Thread):
    """Beat in a thread of a worker; if it dies it is raised again."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="umbel-beat", daemon=True)
        self.service = service

    def run(self) -> None:
        while not self.service._stop.is_set():
            try:
                self.service.start(embedded_process=True)
            except ImproperlyConfigured as exc:
                _logger.critical("beat: cannot run, and no periodic task is sent by this worker: %s", exc)
                return
            except Exception:
                _logger.exception("beat: died; starting again in %g s", _RETRY)
                self.service._stop.wait(_RETRY)

    def stop(self) -> None:
        """Stop beat and wait for a moment."""
        self.service.stop()
        self.join(5.0)


class _Process(multiprocessing.Process):
    """Beat in a process of its own."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="Beat", daemon=True)
        self.service = service

    def run(self) -> None:
        self.service.start(embedded_process=True)

    def stop(self) -> None:
        """End the process."""
        self.terminate()
        self.join(5.0)


def EmbeddedService(app: Any, max_interval: float | None = None, *, thread: bool = False, **options: Any) -> Any:
    """Return beat as a process, or with *thread* as a thread, to be started with `start` and ended with `stop`."""
    if thread:
        return _Thread(Service(app, max_interval=max_interval or _EMBEDDED, **options))
    return _Process(Service(app, max_interval=max_interval or DEFAULT_MAX_INTERVAL, **options))
