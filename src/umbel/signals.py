"""Call back whoever asked to hear of a moment in the life of an app, a task or a worker.

A signal without receivers costs one truth test at its sender::

    if signals.task_prerun.receivers:
        signals.task_prerun.send(task, task_id=task_id, task=task, args=args, kwargs=kwargs)
"""

# ruff: noqa: FBT001, FBT002 - the signatures of connect and Signal are Celery's

from __future__ import annotations

import logging
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar, overload

from umbel.exceptions import CDeprecationWarning
from umbel.local import Proxy

__all__ = [
    "Signal",
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "beat_embedded_init",
    "beat_init",
    "before_task_publish",
    "celeryd_after_setup",
    "celeryd_init",
    "eventlet_pool_apply",
    "eventlet_pool_postshutdown",
    "eventlet_pool_preshutdown",
    "eventlet_pool_started",
    "heartbeat_sent",
    "import_modules",
    "setup_logging",
    "task_failure",
    "task_internal_error",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_sent",
    "task_success",
    "task_unknown",
    "user_preload_options",
    "worker_before_create_process",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
]

_Receiver = TypeVar("_Receiver", bound=Callable[..., Any])

_LOG: Final = logging.getLogger("celery.signals")
_VARKEYWORDS: Final = 0x08  # inspect.CO_VARKEYWORDS, without importing inspect
_RETRY_FIRST, _RETRY_LAST = 2.0, 30.0  # seconds between attempts of a receiver connected with retry=True


class _Connection(NamedTuple):
    """One receiver, and whose sending it wants to hear."""

    key: object  # dispatch_uid, or the receiver's identity
    sender_key: object  # text, identity of the sender, or None = any
    receiver: Callable[[], Any]  # gives the receiver, or None when it is gone
    sender: Callable[[], Any] | None  # gives the sender, or None when it is gone; None = any
    retry: bool  # call again until it succeeds

    def hears(self, sender: object) -> bool:
        if self.sender is None:
            return True
        wanted = self.sender()
        return wanted is sender or (isinstance(wanted, str) and wanted == sender)

    def is_alive(self) -> bool:
        return self.receiver() is not None and (self.sender is None or self.sender() is not None)


class Signal:
    """Know who wants to hear of one kind of moment, and tell them.

    Receivers are called in the order they were connected, in the thread that sends. Connecting and sending may happen
    in any thread.
    """

    receivers: tuple[_Connection, ...]  # replaced as a whole, so that sending needs no lock

    def __init__(
        self,
        providing_args: Iterable[str] | None = None,
        use_caching: bool = False,  # accepted as in Celery; nothing here needs a cache
        name: str | None = None,
        *,
        robust: bool = True,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Name the signal and the arguments it sends.

        With ``robust=False`` a receiver's exception reaches the sender. *pause* waits between the attempts of a
        receiver connected with ``retry=True``.
        """
        self.name = name
        self.providing_args = frozenset(providing_args or ())
        self.receivers = ()
        self._robust = robust
        self._pause = pause
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Signal: {self.name} providing_args={sorted(self.providing_args)}>"

    @overload
    def connect(
        self,
        receiver: _Receiver,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: object = None,
        retry: bool = False,
    ) -> _Receiver: ...

    @overload
    def connect(
        self,
        receiver: None = None,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: object = None,
        retry: bool = False,
    ) -> Callable[[_Receiver], _Receiver]: ...

    def connect(
        self,
        receiver: _Receiver | None = None,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: object = None,
        retry: bool = False,
    ) -> Any:
        """Call *receiver* with ``signal``, ``sender`` and the signal's arguments from now on; return it.

        Without *receiver* a decorator is returned. Only what *sender* sends is heard when one is given; a lazy task
        may be given, it is looked up when something is sent. A *weak* receiver is forgotten when nobody else holds it.
        Connecting the same receiver (or *dispatch_uid*) to the same sender again does nothing. With *retry* a failing
        receiver is called again until it succeeds, with growing pauses, while the sender waits.

        Raises:
            ValueError: the receiver does not accept ``**kwargs``.
        """
        if receiver is None:
            return lambda function: self.connect(function, sender, weak, dispatch_uid, retry)
        if not _accepts_any_keyword(receiver):
            raise ValueError(
                f"the receiver {receiver!r} of signal {self.name!r} must accept **kwargs, "
                f"because later versions may send more arguments"
            )
        connection = _Connection(
            key=_identity(receiver) if dispatch_uid is None else dispatch_uid,
            sender_key=_sender_identity(sender),
            receiver=_reference(receiver) if weak else _held(receiver),
            sender=None if sender is None else _reference(sender),
            retry=retry,
        )
        with self._lock:
            alive = tuple(known for known in self.receivers if known.is_alive())
            if not any(known[:2] == connection[:2] for known in alive):
                alive += (connection,)
            self.receivers = alive
        return receiver

    def disconnect(
        self,
        receiver: Callable[..., Any] | None = None,
        sender: object = None,
        weak: bool | None = None,
        dispatch_uid: object = None,
    ) -> bool:
        """Forget the receiver (or *dispatch_uid*) connected to *sender*; return whether it was connected."""
        if weak is not None:
            warnings.warn("disconnect() ignores 'weak'; leave it out", CDeprecationWarning, stacklevel=2)
        key = (_identity(receiver) if dispatch_uid is None else dispatch_uid, _sender_identity(sender))
        with self._lock:
            alive = tuple(known for known in self.receivers if known.is_alive())
            self.receivers = tuple(known for known in alive if known[:2] != key)
            return len(self.receivers) < len(alive)

    def has_listeners(self, sender: object = None) -> bool:
        """Return whether sending from *sender* would call anybody."""
        return any(known.hears(sender) for known in self._alive())

    def send(self, sender: object = None, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call everybody who listens to *sender*; return pairs of receiver and response.

        A receiver's exception is logged and takes the place of its response, so that one cannot spoil it for others.
        """
        if not self.receivers:
            return []
        responses: list[tuple[Callable[..., Any], Any]] = []
        for known in self._alive():
            receiver = known.receiver()
            if receiver is None or not known.hears(sender):
                continue
            try:
                response = self._call(receiver, sender, named, retry=known.retry)
            except Exception as exc:
                if not self._robust:
                    raise
                _LOG.exception("receiver %r of signal %s failed", receiver, self.name)
                response = exc
            responses.append((receiver, response))
        return responses

    send_robust = send

    def _call(self, receiver: Callable[..., Any], sender: object, named: dict[str, Any], *, retry: bool) -> Any:
        failures = 0
        while True:
            try:
                response = receiver(signal=self, sender=sender, **named)
            except Exception:
                if not retry:
                    raise
                failures += 1
                if failures == 1:
                    _LOG.exception("receiver %r of signal %s failed; calling it until it succeeds", receiver, self.name)
                self._pause(min(_RETRY_FIRST * failures, _RETRY_LAST))
            else:
                if failures:
                    _LOG.warning("receiver %r of signal %s succeeded after %d failures", receiver, self.name, failures)
                return response

    def _alive(self) -> tuple[_Connection, ...]:
        connections = self.receivers
        if all(known.is_alive() for known in connections):
            return connections
        with self._lock:
            self.receivers = tuple(known for known in self.receivers if known.is_alive())
            return self.receivers


def _accepts_any_keyword(receiver: Any) -> bool:
    receiver = getattr(receiver, "func", receiver)  # functools.partial
    function = getattr(receiver, "__func__", receiver)
    if not hasattr(function, "__code__"):
        function = type(receiver).__call__
    code = getattr(function, "__code__", None)
    return code is None or bool(code.co_flags & _VARKEYWORDS)  # built in: nothing is known of it


def _identity(receiver: Any) -> object:
    if hasattr(receiver, "__func__"):
        return id(receiver.__self__), id(receiver.__func__)
    return id(receiver)


def _sender_identity(sender: object) -> object:
    # The type is asked, not isinstance: that would look up what a lazy sender stands for.
    return sender if sender is None or issubclass(type(sender), str) else id(sender)


def _reference(target: Any) -> Callable[[], Any]:
    if issubclass(type(target), Proxy):
        return target._get_current_object  # type: ignore[no-any-return]
    try:
        return weakref.WeakMethod(target) if hasattr(target, "__func__") else weakref.ref(target)
    except TypeError:
        return _held(target)  # text, numbers and slotted objects cannot be held weakly


def _held(target: Any) -> Callable[[], Any]:
    return lambda: target


before_task_publish: Final = Signal(
    name="before_task_publish",
    providing_args=("body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"),
)
after_task_publish: Final = Signal(
    name="after_task_publish", providing_args=("headers", "body", "exchange", "routing_key")
)
task_sent: Final = Signal(name="task_sent", providing_args=("task_id", "task", "args", "kwargs", "eta", "taskset"))
task_received: Final = Signal(name="task_received", providing_args=("request",))
task_prerun: Final = Signal(name="task_prerun", providing_args=("task_id", "task", "args", "kwargs"))
task_postrun: Final = Signal(
    name="task_postrun", providing_args=("task_id", "task", "args", "kwargs", "retval", "state")
)
task_success: Final = Signal(name="task_success", providing_args=("result", "runtime"))
task_failure: Final = Signal(
    name="task_failure", providing_args=("task_id", "exception", "args", "kwargs", "traceback", "einfo")
)
task_internal_error: Final = Signal(
    name="task_internal_error",
    providing_args=("task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"),
)
task_retry: Final = Signal(name="task_retry", providing_args=("request", "reason", "einfo"))
task_revoked: Final = Signal(name="task_revoked", providing_args=("request", "terminated", "signum", "expired"))
task_unknown: Final = Signal(name="task_unknown", providing_args=("message", "exc", "name", "id"))
task_rejected: Final = Signal(name="task_rejected", providing_args=("message", "exc"))

import_modules: Final = Signal(name="import_modules")
celeryd_init: Final = Signal(name="celeryd_init", providing_args=("instance", "conf", "options"))
celeryd_after_setup: Final = Signal(name="celeryd_after_setup", providing_args=("instance", "conf"))
worker_init: Final = Signal(name="worker_init")
worker_before_create_process: Final = Signal(name="worker_before_create_process")
worker_ready: Final = Signal(name="worker_ready")
worker_process_init: Final = Signal(name="worker_process_init")
worker_process_shutdown: Final = Signal(name="worker_process_shutdown", providing_args=("pid", "exitcode"))
worker_shutting_down: Final = Signal(name="worker_shutting_down", providing_args=("sig", "how", "exitcode"))
worker_shutdown: Final = Signal(name="worker_shutdown")
heartbeat_sent: Final = Signal(name="heartbeat_sent")

_LOGGING_ARGUMENTS = ("loglevel", "logfile", "format", "colorize")
setup_logging: Final = Signal(name="setup_logging", providing_args=_LOGGING_ARGUMENTS, robust=False)
after_setup_logger: Final = Signal(name="after_setup_logger", providing_args=("logger", *_LOGGING_ARGUMENTS))
after_setup_task_logger: Final = Signal(name="after_setup_task_logger", providing_args=("logger", *_LOGGING_ARGUMENTS))

beat_init: Final = Signal(name="beat_init")
beat_embedded_init: Final = Signal(name="beat_embedded_init")
eventlet_pool_started: Final = Signal(name="eventlet_pool_started")
eventlet_pool_preshutdown: Final = Signal(name="eventlet_pool_preshutdown")
eventlet_pool_postshutdown: Final = Signal(name="eventlet_pool_postshutdown")
eventlet_pool_apply: Final = Signal(name="eventlet_pool_apply", providing_args=("target", "args", "kwargs"))
user_preload_options: Final = Signal(name="user_preload_options", providing_args=("app", "options"))
