"""Tell a class of the user's own what becomes of the deliveries of a task: its ``Request``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, Protocol

import msgspec

from umbel import states
from umbel._names import symbol_by_name
from umbel.brokers.base import Delivery
from umbel.execution.outcome import Outcome
from umbel.worker.orders import Ending, Why

__all__ = ["Request", "Requests", "request_class"]

_logger: Final = logging.getLogger("celery.worker.request")
_SPARE: Final = 64  # requests kept beyond what the worker holds, until those that were given back are looked for


class Request:
    """One delivery in a worker's hand, for subclasses that a task's class names: ``Request = MyRequest``.

    Its methods are called in the worker's own process, not where the task runs: also of a task whose process was
    killed. They are told what has been decided, and change none of it; only `revoked` does. By themselves they do
    nothing. All but `revoked` run beside the worker's loop, one after the other.
    """

    def __init__(self, delivery: Delivery, *, task: Any, hostname: str, app: Any) -> None:
        message = delivery.message
        self.delivery: Final = delivery
        self.message: Final = message
        self.app: Final = app
        self.task: Final = task
        self.id = self.task_id = message.id
        self.name = self.task_name = self.type = message.task
        self.argsrepr, self.kwargsrepr = message.argsrepr, message.kwargsrepr
        self.hostname = hostname
        self.eta, self.expires = message.eta, message.expires
        self.time_limits = (message.hard_limit, message.soft_limit)
        self.root_id, self.parent_id, self.correlation_id = message.root_id, message.parent_id, message.correlation_id
        self.acknowledged = False
        self.time_start: float | None = None  # unix seconds
        self.worker_pid: int | None = None

    @property
    def delivery_info(self) -> dict[str, Any]:
        """How it came."""
        route = self.delivery.route
        return {
            "exchange": route.exchange,
            "routing_key": route.routing_key,
            "priority": self.message.priority or 0,
            "redelivered": self.delivery.redelivered,
        }

    def revoked(self) -> bool:
        """Return whether it is not to be run; asked in the worker's loop when it arrives, so be quick."""
        return False

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Learn that it runs since *time_accepted* (unix seconds) in the process *pid*."""

    def on_timeout(self, soft: bool, timeout: float | None) -> None:  # noqa: FBT001 - Celery's signature
        """Learn that it has run for *timeout* seconds, its *soft* or its hard limit; on_failure follows a hard one."""

    def on_success(self, failed__retval__runtime: tuple[bool, Any, float | None], **kwargs: Any) -> None:
        """Learn that it succeeded: False, its value as a repr, and how many seconds it ran."""

    def on_retry(self, exc_info: Any) -> None:
        """Learn that it will be tried again because of an exception; *exc_info* as for `on_failure`."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """Learn that it failed: *exc_info* has ``type``, ``exception`` and ``traceback`` (text)."""

    def acknowledge(self) -> None:
        """Learn that its message is done with."""
        self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """Learn that its message was rejected, and whether it goes back to its queue."""
        self.acknowledged = True

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - Celery's signature
        """Return what people want to know of it."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr,
            "kwargs": self.kwargsrepr,
            "type": self.type,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}[{self.id}]>"


class Aside(Protocol):
    """Makes calls beside the loop, in order."""

    def __call__(self, call: Callable[[], object]) -> None: ...


def request_class(task: Any) -> type[Request] | None:
    """Return the class that the class of *task* names in ``Request``; None = it names none.

    Raises:
        TypeError: it is no subclass of `Request`.
    """
    named = getattr(task, "Request", None)
    cls = symbol_by_name(named) if isinstance(named, str) else named
    if cls is None or cls is Request:
        return None
    if not (isinstance(cls, type) and issubclass(cls, Request)):
        raise TypeError(
            f"the Request of task {task.name} is {cls!r}: it must be a subclass of umbel.worker.request.Request"
        )
    return cls


class Requests:
    """The requests of tasks that want them, by tag. Used by the loop's thread alone."""

    def __init__(self, app: Any, hostname: str, aside: Aside, held: Callable[[], Iterable[Delivery]]) -> None:
        """Look through the tasks of *app*; *held* returns what the worker holds now."""
        self._app = app
        self._hostname = hostname
        self._aside = aside
        self._held = held
        found = ((name, request_class(task)) for name, task in app.tasks.items())
        self._classes: Final[Mapping[str, type[Request]]] = {name: cls for name, cls in found if cls is not None}
        self._live: dict[int | str, Request] = {}

    def __bool__(self) -> bool:
        """Return whether any task wants them."""
        return bool(self._classes)

    def arrived(self, deliveries: Iterable[Delivery]) -> tuple[Delivery, ...]:
        """Make requests of these; return them, marked where one says that it is revoked."""
        return tuple(self._arrived(each) for each in deliveries)

    def _arrived(self, delivery: Delivery) -> Delivery:
        cls = self._classes.get(delivery.message.task)
        if cls is None or delivery.invalid is not None:
            return delivery
        try:
            request = cls(delivery, task=self._app.tasks[delivery.message.task], hostname=self._hostname, app=self._app)
            is_revoked = request.revoked()
        except Exception:
            _logger.exception("the Request of task %s[%s] raised", delivery.message.task, delivery.message.id)
            return delivery
        if len(self._live) > self._most:
            held = {each.tag for each in self._held()}
            self._live = {tag: each for tag, each in self._live.items() if tag in held}
            self._most = len(self._live) * 2 + _SPARE
        self._live[delivery.tag] = request
        return msgspec.structs.replace(delivery, revoked=True) if is_revoked else delivery

    _most: int = _SPARE

    def begun(self, delivery: Delivery, pid: int) -> None:
        """Tell that one runs."""
        if request := self._live.get(delivery.tag):
            request.worker_pid, request.time_start = pid, time.time()
            self._aside(lambda: request.on_accepted(pid, request.time_start or 0.0))

    def warned(self, delivery: Delivery) -> None:
        """Tell that one has reached its soft limit."""
        if request := self._live.get(delivery.tag):
            self._aside(lambda: request.on_timeout(True, self._limit(request, "soft_time_limit")))

    def ended(self, endings: Sequence[Ending]) -> None:
        """Tell what became of these."""
        for ending in endings:
            if request := self._live.pop(ending.delivery.tag, None):
                for call in self._calls(request, ending):
                    self._aside(call)

    def _calls(self, request: Request, ending: Ending) -> Iterable[Callable[[], object]]:
        outcome = ending.outcome
        if ending.why is Why.TIMEOUT:
            yield lambda: request.on_timeout(False, self._limit(request, "time_limit"))
        match outcome.state:
            case states.SUCCESS:
                yield lambda: request.on_success((False, outcome.shown, ending.runtime))
            case states.RETRY:
                yield lambda: request.on_retry(self._exc_info(outcome))
            case states.FAILURE:
                yield lambda: request.on_failure(self._exc_info(outcome))
            case _:
                pass
        if outcome.state == states.REJECTED:
            yield lambda: request.reject(requeue=outcome.requeue)
        else:
            yield request.acknowledge

    def _limit(self, request: Request, name: str) -> float | None:
        """Return its limit in seconds: the message's, else its task's, else that of the settings."""
        limits = dict(zip(("time_limit", "soft_time_limit"), request.time_limits, strict=True))
        return limits[name] or getattr(request.task, name, None) or self._app.conf[f"task_{name}"]

    def _exc_info(self, outcome: Outcome) -> Any:
        told = outcome.shown or outcome.reason
        exception: BaseException = Exception(told)
        if outcome.records:  # none where errors are not stored: then there is only its text
            record = outcome.records[0]
            try:
                exception = self._app.coder.read_meta(record.payload, record.id)["result"]
            except Exception:
                _logger.debug("the exception of task %s cannot be read", record.id, exc_info=True)
        return SimpleNamespace(type=type(exception), exception=exception, traceback=outcome.traceback or told)
