"""Run one task: call the user's code, and say what happened.

`_life` tells the whole story from top to bottom, in the order users are promised (API-186). It never calls user code
by itself: it *yields* each call, and whoever drives it makes the call, or awaits it, and sends back what came of it.
So `execute` and `aexecute` share all logic, and the only `except` around user code stands in the drivers.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import Any, Final, TypeAlias

import msgspec

from umbel import current, signals, states
from umbel._repr import safe_repr
from umbel.brokers.base import Delivery, Publication
from umbel.exceptions import (
    Ignore,
    InvalidTaskError,
    Reject,
    Retry,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
    WorkerShutdown,
    WorkerTerminate,
)
from umbel.execution.einfo import ExceptionInfo
from umbel.execution.follow_up import AfterSuccess, after_failure, after_success, lost_parts
from umbel.execution.loop import run_in_this_thread
from umbel.execution.outcome import Outcome
from umbel.execution.plan import Environment, TaskPlan
from umbel.execution.record import make_record
from umbel.execution.request import Request
from umbel.execution.retry import retry, retry_by_itself
from umbel.wire.chord import ChordPart, ChordSize
from umbel.wire.record import Record

__all__ = ["Ended", "aexecute", "conclude", "execute", "execute_request"]

_LOG: Final = logging.getLogger("celery.app.trace")
_NOTHING: Final[Mapping[str, Any]] = {}
_NO_FOLLOW_UPS: Final = AfterSuccess()

_Call: TypeAlias = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]
_Life: TypeAlias = Generator[_Call, Any, "Ended"]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """How a run ended, for this process; only the outcome leaves it."""

    outcome: Outcome
    retval: Any  # what the task returned, or the exception that ended it
    einfo: ExceptionInfo | None = None  # None = success
    errbacks: Sequence[_Call] = ()  # to be called in this process


# -- Ways in -----------------------------------------------------------------------------------------------------------


def execute(plan: TaskPlan, delivery: Delivery) -> Outcome:
    """Run *delivery* here and now and return what happened.

    Raises nothing but MemoryError, WorkerShutdown and WorkerTerminate, which end the process.
    """
    request = _read(plan, delivery)
    return request if isinstance(request, Outcome) else _drive(_life(plan, request)).outcome


async def aexecute(plan: TaskPlan, delivery: Delivery) -> Outcome:
    """As `execute`, on the running event loop and without blocking it: plain functions run in the default executor."""
    if not plan.is_async:
        asyncio = importlib.import_module("asyncio")  # 15 ms that only who runs an event loop pays, and has paid
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, copy_context().run, execute, plan, delivery)  # type: ignore[no-any-return]  # imported by name
    request = _read(plan, delivery)
    return request if isinstance(request, Outcome) else (await _adrive(_life(plan, request))).outcome


def execute_request(plan: TaskPlan, request: Request) -> Ended:
    """Run *request* in this process (`Task.apply`); the caller settles what it may."""
    return _drive(_life(plan, request))


def conclude(
    env: Environment,
    plan: TaskPlan | None,
    delivery: Delivery,
    exc: BaseException,
    *,
    reason: str = "",
    retries: bool = False,
    aside: Callable[[Callable[[], object]], None] | None = None,
) -> Outcome:
    """Return the outcome of a delivery that no run will report, for the worker's parent.

    *exc* says what happened: `TaskRevokedError` (revoked, expired, terminated) makes it REVOKED, `Retry` RETRY (that of
    a task which was cancelled, and which nobody sends again), everything else FAILURE. *plan* is None when the task is
    unknown here. *reason* is a line for people instead of the exception's. *retries*: it counts as a retry of the task,
    as long as it has one left. The task's hooks and its errbacks are called here where the run itself can no longer do
    it (API-182), or given to *aside*, which calls them later.
    """
    try:
        args, kwargs, embed = env.read(delivery.message)
    except Exception:  # noqa: BLE001 - it is over anyway; what its body would have said is lost, the end is not
        args, kwargs, embed = (), {}, {}
    request = Request.of_delivery(delivery, args, kwargs, embed, hostname=env.hostname)
    if isinstance(exc, TaskRevokedError):
        ended = _revoked(env, plan, request, exc)
    elif isinstance(exc, Retry) and plan is not None:
        ended = _retried(plan, request, exc)
        parts = lost_parts(env, request, states.FAILURE, exc)  # a chord does not wait for what nobody runs
        ended = msgspec.structs.replace(ended, outcome=msgspec.structs.replace(ended.outcome, parts=parts))
    else:
        try:
            ended = _retried_or_failed(env, plan, request, exc) if retries else _failed(env, plan, request, exc)
        except Exception as internal:  # noqa: BLE001 - as in `_ended_by`
            ended = _broken(env, plan, request, internal)
    tell = partial(_tell_of_conclusion, plan, request, ended)
    if aside is None:
        tell()
    else:
        aside(tell)
    outcome = _with_outbox(ended, request).outcome
    return msgspec.structs.replace(outcome, reason=reason) if reason else outcome


def _retried_or_failed(env: Environment, plan: TaskPlan | None, request: Request, exc: BaseException) -> Ended:
    if plan is None:
        return _failed(env, plan, request, exc)
    try:
        told = retry(plan.task, request, exc=exc, throw=False)
    except Exception as instead:  # noqa: BLE001 - exhausted: the exception itself, or the Reject of an unsent retry
        return _failed(env, plan, request, instead.with_traceback(None))
    return _retried(plan, request, told)


def _tell_of_conclusion(plan: TaskPlan | None, request: Request, ended: Ended) -> None:
    if not isinstance(ended.retval, TaskRevokedError):
        if plan is not None:
            _drive(_after_failure(plan, request, ended))
    elif signals.task_revoked.receivers:
        how = str(ended.retval)
        signals.task_revoked.send(
            plan.task if plan else request.task,
            request=request,
            terminated=how == "terminated",
            signum=None,
            expired=how == "expired",
        )


def _read(plan: TaskPlan, delivery: Delivery) -> Request | Outcome:
    try:
        args, kwargs, embed = plan.env.read(delivery.message)
    except Exception as exc:  # noqa: BLE001 - a pickle runs user code
        # No hook and no errback: whoever sent this is not known to have meant them.
        outcome = conclude(plan.env, plan, delivery, exc, aside=lambda _: None)
        _LOG.error("Task %s[%s] cannot be read: %r", plan.name, delivery.message.id, exc)
        return msgspec.structs.replace(outcome, unread=True, reason=outcome.reason or safe_repr(exc))
    return Request.of_delivery(delivery, args, kwargs, embed, hostname=plan.env.hostname)


# -- Drivers: the only places that run user code -----------------------------------------------------------------------


def _drive(life: _Life) -> Ended:
    try:
        function, args, kwargs = next(life)
        while True:
            try:
                value = function(*args, **kwargs)
                if type(value) is CoroutineType:
                    value = run_in_this_thread(value)
            except BaseException as exc:  # noqa: BLE001 - `_life` decides about every one
                function, args, kwargs = life.throw(exc)
            else:
                function, args, kwargs = life.send(value)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return] # a generator's return value is not typed


async def _adrive(life: _Life) -> Ended:
    try:
        function, args, kwargs = next(life)
        while True:
            try:
                value = function(*args, **kwargs)
                if type(value) is CoroutineType:
                    value = await value
            except BaseException as exc:  # noqa: BLE001 - `_life` decides about every one
                function, args, kwargs = life.throw(exc)
            else:
                function, args, kwargs = life.send(value)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return] # a generator's return value is not typed


# -- The life of a task ------------------------------------------------------------------------------------------------


def _life(plan: TaskPlan, request: Request) -> _Life:
    task, env = plan.task, plan.env
    task_id, args, kwargs = request.id, request.args, request.kwargs
    token = current.enter(task, request)
    try:
        began = time.perf_counter()
        try:
            if signals.task_prerun.receivers:
                signals.task_prerun.send(task, task_id=task_id, task=task, args=args, kwargs=kwargs)
            if env.on_task_begin is not None:
                env.on_task_begin(task_id or "", task)
            if plan.before_start is not None:
                yield plan.before_start, (task_id, args, kwargs), _NOTHING
            request.running = plan.calls_run
            value = yield plan.call, args, kwargs
            ended = _succeeded(plan, request, value)
        except (GeneratorExit, MemoryError, WorkerShutdown, WorkerTerminate):
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever ends a task is its outcome
            ended = _ended_by(plan, request, exc)
        if ended.einfo is None:
            ended = yield from _after_success(plan, request, ended, time.perf_counter() - began)
        else:
            ended = yield from _after_failure(plan, request, ended)
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                task,
                task_id=task_id,
                task=task,
                args=args,
                kwargs=kwargs,
                retval=ended.retval,
                state=ended.outcome.state,
            )
        if env.on_task_end is not None:
            env.on_task_end()
        return _with_outbox(ended, request)
    finally:
        current.leave(token)


def _after_success(plan: TaskPlan, request: Request, ended: Ended, runtime: float) -> _Life:
    if plan.on_success is not None:
        try:
            yield plan.on_success, (ended.retval, request.id, request.args, request.kwargs), _NOTHING
        except Reject as exc:
            return _rejected_late(request, ended, exc)
        except Exception as exc:  # noqa: BLE001 - the task has succeeded all the same
            _hook_failed("on_success", request, exc)
    if signals.task_success.receivers:
        signals.task_success.send(plan.task, result=ended.retval, runtime=runtime)
    if _LOG.isEnabledFor(logging.INFO):
        told = {
            "name": request.display_name,
            "id": request.id,
            "return_value": safe_repr(ended.retval, maxlen=plan.resultrepr_maxsize),
            "runtime": runtime,
            "args": safe_repr(request.args),
            "kwargs": safe_repr(request.kwargs),
        }
        _LOG.info("Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s", told, extra={"data": told})
    if plan.after_return is not None:
        yield from _after_return(plan, request, ended)
    return ended


def _after_failure(plan: TaskPlan, request: Request, ended: Ended) -> _Life:
    exc, einfo = ended.retval, ended.einfo
    match ended.outcome.state:
        case states.FAILURE:
            for errback in ended.errbacks:
                yield from _guarded("errback", request, errback)
            if plan.on_failure is not None:
                arguments = (exc, request.id, request.args, request.kwargs, einfo)
                yield from _guarded("on_failure", request, (plan.on_failure, arguments, _NOTHING))
            _tell_failure(plan, request, ended)
            if plan.after_return is not None:
                yield from _after_return(plan, request, ended)
        case states.RETRY:
            if plan.on_retry is not None:
                arguments = (exc.exc, request.id, request.args, request.kwargs, einfo)
                yield from _guarded("on_retry", request, (plan.on_retry, arguments, _NOTHING))
            if signals.task_retry.receivers:
                signals.task_retry.send(plan.task, request=request, reason=exc, einfo=einfo)
            _LOG.info("Task %s[%s] retry: %s", request.display_name, request.id, exc)
        case states.REJECTED:
            for errback in ended.errbacks:
                yield from _guarded("errback", request, errback)
            _LOG.warning("Task %s[%s] %r", request.display_name, request.id, exc, exc_info=exc)
        case states.IGNORED:
            _LOG.info("Task %s[%s] ignored", request.display_name, request.id)
        case states.REVOKED:
            if signals.task_revoked.receivers:
                signals.task_revoked.send(plan.task, request=request, terminated=True, signum=None, expired=False)
    return ended


def _after_return(plan: TaskPlan, request: Request, ended: Ended) -> Generator[_Call, Any, None]:
    if plan.after_return is None:
        return
    # The last argument is None as in Celery, also after a failure.
    arguments = (ended.outcome.state, ended.retval, request.id, request.args, request.kwargs, None)
    yield from _guarded("after_return", request, (plan.after_return, arguments, _NOTHING))


def _guarded(what: str, request: Request, call: _Call) -> Generator[_Call, Any, None]:
    """Make *call*; what it raises is logged and changes nothing, for the outcome stands."""
    try:
        yield call
    except Exception as exc:  # noqa: BLE001 - as said
        _hook_failed(what, request, exc)


# -- What a return value or an exception means -------------------------------------------------------------------------


def _succeeded(plan: TaskPlan, request: Request, value: Any) -> Ended:
    """Return the end of a run that returned *value*; raises when it cannot be encoded, or what follows not be sent."""
    children: Sequence[Any] = request.__dict__.get("children", ())
    follows = _NO_FOLLOW_UPS
    if request.callbacks or request.steps or request.chord:
        follows = after_success(plan.env, request, value)
        children = [*children, *follows.children]
    records: tuple[Any, ...] = ()
    if not _is_ignored(plan, request):
        records = (make_record(plan.env, request, states.SUCCESS, value, children=children),)
    outcome = Outcome(
        state=states.SUCCESS,
        records=records,
        follow_ups=follows.publications,
        sizes=follows.sizes,
        parts=follows.parts,
        shown=safe_repr(value, maxlen=plan.resultrepr_maxsize),
    )
    return Ended(outcome, value)


def _ended_by(plan: TaskPlan, request: Request, exc: BaseException) -> Ended:
    """Return the end of a run that raised *exc*, come what may: a second error must not hide the first."""
    try:
        return _meaning_of(plan, request, exc)
    except Exception as internal:  # noqa: BLE001 - say, an errback's queue is not allowed; the task is over all the same
        return _broken(plan.env, plan, request, internal)


def _meaning_of(plan: TaskPlan, request: Request, exc: BaseException) -> Ended:
    if plan.autoretry is not None:
        exc = retry_by_itself(plan.task, request, plan.autoretry, exc)
    match exc:
        case Ignore():
            return Ended(Outcome(state=states.IGNORED), exc, ExceptionInfo(exc))
        case Retry():
            return _retried(plan, request, exc)
        case Reject():
            return _rejected(plan, request, exc)
        case Terminated():
            return _revoked(plan.env, plan, request, TaskRevokedError("terminated"))
        case SystemExit() | KeyboardInterrupt():
            lost = WorkerLostError(f"Worker exited prematurely: the task raised {exc!r}")
            return _failed(plan.env, plan, request, lost.with_traceback(exc.__traceback__))
        case _:
            return _failed(plan.env, plan, request, exc)


def _failed(env: Environment, plan: TaskPlan | None, request: Request, exc: BaseException) -> Ended:
    einfo = ExceptionInfo(exc)
    store = _stores_errors(plan, request)
    records: tuple[Any, ...] = ()
    traceback = einfo.traceback if einfo.tb is not None else None
    follows = after_failure(env, request, exc, traceback, store=store)
    if store:
        children = request.__dict__.get("children", ())
        own = make_record(env, request, states.FAILURE, exc, traceback=traceback, children=children)
        records = (own, *follows.records)
    outcome = Outcome(
        state=states.FAILURE,
        records=records,
        follow_ups=follows.publications,
        sizes=follows.sizes,
        parts=follows.parts,
        reason=(shown := safe_repr(exc)),
        timed_out=isinstance(exc, TimeLimitExceeded),
        shown=shown,
        traceback=traceback,
    )
    return Ended(outcome, exc, einfo, follows.calls)


def _broken(env: Environment, plan: TaskPlan | None, request: Request, exc: Exception) -> Ended:
    """Return the end of a task whose outcome could not be worked out because of *exc*: it failed, nothing follows."""
    einfo = ExceptionInfo(exc)
    _LOG.critical("Task %s[%s] INTERNAL ERROR: %r", request.display_name, request.id, exc, exc_info=exc)
    if signals.task_internal_error.receivers:
        signals.task_internal_error.send(
            plan.task if plan else request.task,
            task_id=request.id,
            args=request.args,
            kwargs=request.kwargs,
            request=request,
            exception=exc,
            traceback=einfo.tb,
            einfo=einfo,
        )
    records: tuple[Any, ...] = ()
    parts: tuple[Any, ...] = ()
    try:
        records = (make_record(env, request, states.FAILURE, exc, traceback=einfo.traceback),)
        parts = lost_parts(env, request, states.FAILURE, exc)
    except Exception:  # noqa: BLE001 - then the store cannot be told; the log was
        pass
    shown, traceback = safe_repr(exc), einfo.traceback
    outcome = Outcome(
        state=states.FAILURE, records=records, parts=parts, reason=shown, shown=shown, traceback=traceback
    )
    return Ended(outcome, exc, einfo)


def _retried(plan: TaskPlan, request: Request, exc: Retry) -> Ended:
    einfo = ExceptionInfo(exc)
    records: tuple[Any, ...] = ()
    because = exc if exc.exc is None else exc.exc
    if _stores_errors(plan, request):
        children = request.__dict__.get("children", ())
        records = (make_record(plan.env, request, states.RETRY, because, traceback=einfo.traceback, children=children),)
    outcome = Outcome(
        state=states.RETRY, records=records, reason=str(exc), shown=safe_repr(because), traceback=einfo.traceback
    )
    return Ended(outcome, exc, einfo)


def _rejected(plan: TaskPlan, request: Request, exc: Reject) -> Ended:
    reason = safe_repr(exc.reason)
    if exc.requeue:
        return Ended(Outcome(state=states.REJECTED, requeue=True, reason=reason), exc, ExceptionInfo(exc))
    failed = _failed(plan.env, plan, request, exc)
    outcome = msgspec.structs.replace(failed.outcome, state=states.REJECTED, reason=reason)
    return msgspec.structs.replace(failed, outcome=outcome)


def _rejected_late(request: Request, ended: Ended, exc: Reject) -> Ended:
    """The task had succeeded, and `on_success` rejects the message: its result stands."""
    _LOG.warning("Task %s[%s] %r", request.display_name, request.id, exc, exc_info=exc)
    outcome = msgspec.structs.replace(
        ended.outcome, state=states.REJECTED, requeue=exc.requeue, reason=safe_repr(exc.reason)
    )
    return Ended(outcome, ended.retval)


def _revoked(env: Environment, plan: TaskPlan | None, request: Request, exc: TaskRevokedError) -> Ended:
    records = () if _is_ignored(plan, request) else (make_record(env, request, states.REVOKED, exc),)
    parts = lost_parts(env, request, states.REVOKED, exc)
    outcome = Outcome(state=states.REVOKED, records=records, parts=parts, reason=str(exc))
    return Ended(outcome, exc, ExceptionInfo(exc))


def _with_outbox(ended: Ended, request: Request) -> Ended:
    outbox = request.__dict__.get("outbox")
    if not outbox:
        return ended
    outcome = ended.outcome
    sent: dict[type, list[Any]] = {Publication: [], ChordSize: [], ChordPart: [], Record: []}
    for each in outbox:
        sent[type(each)].append(each)
    outcome = msgspec.structs.replace(
        outcome,
        follow_ups=(*outcome.follow_ups, *sent[Publication]),
        sizes=(*outcome.sizes, *sent[ChordSize]),
        parts=(*outcome.parts, *sent[ChordPart]),
        records=(*outcome.records, *sent[Record]),
    )
    return msgspec.structs.replace(ended, outcome=outcome)


def _is_ignored(plan: TaskPlan | None, request: Request) -> bool:
    if request.is_eager and plan is not None and not plan.store_eager_result:
        return True
    ignored = request.ignore_result
    if ignored is None:
        return plan is not None and plan.ignore_result
    return bool(ignored)


def _stores_errors(plan: TaskPlan | None, request: Request) -> bool:
    if request.is_eager and plan is not None and not plan.store_eager_result:
        return False
    return (plan is not None and plan.store_errors) or not _is_ignored(plan, request)


# -- What people are told ----------------------------------------------------------------------------------------------


def _tell_failure(plan: TaskPlan, request: Request, ended: Ended) -> None:
    exc, einfo = ended.retval, ended.einfo
    if signals.task_failure.receivers:
        signals.task_failure.send(
            plan.task,
            task_id=request.id,
            exception=exc,
            args=request.args,
            kwargs=request.kwargs,
            traceback=None if einfo is None else einfo.tb,
            einfo=einfo,
        )
    expected = isinstance(exc, plan.throws)
    level = logging.INFO if expected else logging.ERROR
    if not _LOG.isEnabledFor(level):
        return
    told = {
        "hostname": request.hostname,
        "id": request.id,
        "name": request.display_name,
        "exc": ended.outcome.reason,
        "traceback": None if einfo is None else einfo.traceback,
        "args": safe_repr(request.args),
        "kwargs": safe_repr(request.kwargs),
        "description": "raised expected" if expected else "raised unexpected",
        "internal": False,
    }
    _LOG.log(
        level,
        "Task %(name)s[%(id)s] %(description)s: %(exc)s",
        told,
        exc_info=None if expected or type(exc) is InvalidTaskError else exc,  # that one says it all by itself
        extra={"data": told},
    )


def _hook_failed(what: str, request: Request, exc: Exception) -> None:
    if request.is_eager:
        raise exc
    _LOG.error("Task %s[%s] %s handler raised: %r", request.display_name, request.id, what, exc, exc_info=exc)
