"""A function the app knows by name, and the ways to call it: here, or wherever a worker is."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import Token
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, ParamSpec, TypeVar
from uuid import UUID

from umbel import current, result
from umbel._later import Later
from umbel.app.annotations import annotate
from umbel.app.arguments import Arguments
from umbel.app.models import Models
from umbel.app.secret import Hidden
from umbel.canvas.ids import ends_in_group, ends_of
from umbel.canvas.maps import chunks, xmap, xstarmap
from umbel.canvas.signature import Signature, maybe_signature
from umbel.exceptions import Ignore, ImproperlyConfigured, MaxRetriesExceededError, OperationalError, Retry
from umbel.execution.request import Request
from umbel.execution.retry import retry, signature_from_request
from umbel.wire.chord import ChordSize

if TYPE_CHECKING:
    import random
else:
    random = Later("random")

__all__ = ["AsyncTask", "Context", "PendingTask", "Task", "TaskType", "made"]

_BEHIND: Final = 1 << 30  # a place behind all that a chord's header can have

P = ParamSpec("P")
R = TypeVar("R")

Context = Request  # Celery's name
TaskType = type  # Celery's name


class Task(Generic[P, R]):
    """One task of one app; there is one instance in each process.

    ``@app.task`` makes a subclass of this for each function. To write one as a class, subclass it, define `run`, and
    give it to ``app.register_task``.
    """

    name: str = None  # type: ignore[assignment]  # given when it is made or registered
    app: Any = None  # an `Umbel`, given when it is bound
    abstract: bool = True  # Celery's name for a base class; subclasses are no base classes unless they say so

    # -- options; None in the second group means: as the setting says
    typing: bool = True  # check arguments against the signature before sending
    max_retries: int | None = 3  # None = without end
    default_retry_delay: float = 180.0  # seconds
    expires: float | datetime | timedelta | None = None  # of its messages; seconds or a moment
    compression: str | None = None
    throws: tuple[type[BaseException], ...] = ()  # expected: logged as info, without traceback
    trail: bool = True  # keep the results of what it sends as its children
    send_events: bool = True
    resultrepr_maxsize: int = 1024  # characters
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: Mapping[str, Any] = {}
    retry_backoff: bool | float = False  # seconds before the first retry; True = 1
    retry_backoff_max: float = 600.0  # seconds
    retry_jitter: bool = True

    rate_limit: str | float | None = None  # "10/s", "10/m", "10/h", or starts per second
    global_rate_limit: str | float | None = None  # the same for all workers together, where the broker has a ledger
    time_limit: float | None = None  # seconds until it is stopped
    soft_time_limit: float | None = None  # seconds until SoftTimeLimitExceeded is raised in it
    ignore_result: bool = None  # type: ignore[assignment]
    store_errors_even_if_ignored: bool = None  # type: ignore[assignment]
    store_eager_result: bool = None  # type: ignore[assignment]
    serializer: str = None  # type: ignore[assignment]
    track_started: bool = None  # type: ignore[assignment]
    acks_late: bool = None  # type: ignore[assignment]
    acks_on_failure_or_timeout: bool = None  # type: ignore[assignment]
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool = None  # type: ignore[assignment]
    priority: int | None = None

    from_config: ClassVar[tuple[tuple[str, str], ...]] = (
        ("rate_limit", "task_default_rate_limit"),
        ("time_limit", "task_time_limit"),
        ("soft_time_limit", "task_soft_time_limit"),
        ("ignore_result", "task_ignore_result"),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
        ("store_eager_result", "task_store_eager_result"),
        ("serializer", "task_serializer"),
        ("compression", "task_compression"),
        ("track_started", "task_track_started"),
        ("acks_late", "task_acks_late"),
        ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
        ("acks_on_failure", "task_acks_on_failure"),
        ("acks_on_timeout", "task_acks_on_timeout"),
        ("reject_on_worker_lost", "task_reject_on_worker_lost"),
        ("retry_on_worker_lost", "task_retry_on_worker_lost"),
        ("priority", "task_default_priority"),
    )

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    name_is_made_up: bool = False  # by `register_task`, from the class
    models: Models | None = None  # of a task made with pydantic=True
    hidden: Hidden | None = None  # arguments that nobody is to see; found when the class is made

    _arguments: Arguments | None = None  # of `run`; made when first needed
    _backend: Any = None
    _idle_request: Request | None = None
    _pushed: list[Token[Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._arguments = None
        cls.hidden = Hidden.of(cls.run, bound=not isinstance(inspect.getattr_static(cls, "run"), staticmethod))
        if cls.name_is_made_up and "name" not in vars(cls):
            cls.name, cls.name_is_made_up = None, False  # type: ignore[assignment]  # that was its parent's
        if "abstract" not in vars(cls):
            cls.abstract = False

    # -- what users define

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work."""
        raise NotImplementedError("Tasks must define the run method.")

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Be told, by the worker, that the task begins; an exception fails it."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Be told, by the worker, that the task returned *retval*."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Be told, by the worker, that the task is to be retried because of *exc*."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Be told, by the worker, that the task failed by *exc*."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Be told, by the worker, that the task succeeded or failed."""

    def shadow_name(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> str | None:
        """Return the name that people are shown for this call; None = the task's own."""

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Be told that the task was bound to *app*."""

    # -- binding

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Make this a task of *app*: options left open are read from its settings, annotations are applied."""
        cls.app = app
        conf = app.conf
        for attribute, setting in cls.from_config:
            if getattr(cls, attribute, None) is None:
                setattr(cls, attribute, conf[setting])
        if conf.task_annotations:
            annotate(cls, conf.task_annotations)
        cls.on_bound(app)
        return app

    # -- calling

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here and now, like the function it is; no result is stored."""
        frame = current.current_frame()
        if frame is not None and frame.task is self and not (frame.request.running or frame.request.called_directly):
            frame.request.running = True  # a worker came here through the user's own __call__
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]  # the user's function
        request = Request(args=args, kwargs=kwargs)
        if inspect.iscoroutinefunction(self.run):
            return self._call_async(request, args, kwargs)  # type: ignore[return-value]  # see AsyncTask
        token = current.enter(self, request)
        try:
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]  # the user's function
        finally:
            current.leave(token)

    async def _call_async(self, request: Request, args: Any, kwargs: Any) -> Any:
        token = current.enter(self, request)
        try:
            return await self.run(*args, **kwargs)
        finally:
            current.leave(token)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> result.AsyncResult[R]:
        """Send it to a worker; return the handle on its result.

        Raises:
            TypeError: the function does not take these arguments.
            EncodeError: an argument cannot travel with the task's serializer.
            OperationalError: the broker did not take it; the subclass says whether trying again is safe.
        """
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> result.AsyncResult[R]:
        """Send it to a worker with *options*; return the handle on its result. Raises as `delay` does.

        Options are ``countdown`` (seconds), ``eta``, ``expires``, ``queue``, ``priority``, ``time_limit``,
        ``headers``, and all others of the reference; what is none of them becomes a message property.
        """
        app = self.app
        if self.typing:
            self._check(args, kwargs)
        if self.models is not None and (options.get("serializer") or self.serializer) != "pickle":
            args, kwargs = self.models.dump(args or (), kwargs or {})
        if link is not None:
            options["link"] = link
        if link_error is not None:
            options["link_error"] = link_error
        if shadow is not None:
            options["shadow"] = shadow
        sent: result.AsyncResult[R]
        if app.conf.task_always_eager:
            sent = app.apply_eagerly(self, args, kwargs, {**options, "task_id": task_id})
            return sent
        if producer is not None:
            options["producer"] = producer
        sent = app.send_task(self.name, args, kwargs, task_id=task_id, task_type=self, **options)
        return sent

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> result.AsyncResult[R]:
        """As `delay`, for the running event loop, which goes on meanwhile; await the result for its value."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> result.AsyncResult[R]:
        """As `apply_async`, for the running event loop, which goes on meanwhile."""
        if self.app.conf.task_always_eager:
            return self.apply_async(args, kwargs, **options)  # it runs here: a debugger and its errors want one thread
        asyncio = importlib.import_module("asyncio")  # 15 ms that only who runs an event loop pays, and has paid
        sent: result.AsyncResult[R] = await asyncio.to_thread(self.apply_async, args, kwargs, **options)
        return sent

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> result.EagerResult[R]:
        """Run it here as a worker would, retries included, and return its result.

        With *throw* (None = setting ``task_eager_propagates``) its exception is raised.
        """
        options |= {"link": link, "link_error": link_error, "task_id": task_id, "headers": headers}
        options["retries"] = retries or 0
        done: result.EagerResult[R] = self.app.apply(
            self, args, kwargs, options, throw=throw, logfile=logfile, loglevel=loglevel
        )
        return done

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | str | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run it again later, as `execution.retry.retry` says; write ``raise self.retry(...)``."""
        return retry(
            self,
            self.request,
            args=args,
            kwargs=kwargs,
            exc=exc,
            throw=throw,
            eta=eta,
            countdown=countdown,
            max_retries=max_retries,
            **options,
        )

    def _check(self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> None:
        if (known := self._arguments) is None:
            known = type(self)._arguments = Arguments.of(self)
        known.check(args or (), kwargs or {})

    # -- signatures

    def signature(self, args: Sequence[Any] | None = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """Return a call of this task to be sent later, or to be part of a work-flow."""
        starkwargs.setdefault("app", self.app)
        made: Signature = self.app.signature(self, args, *starargs, **starkwargs)
        return made

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the call with these arguments; results of what runs before it come in front of them."""
        return Signature(self, args, kwargs, app=self.app)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the call with just these arguments."""
        return Signature(self, args, kwargs, immutable=True, app=self.app)

    def chunks(self, it: Iterable[Any], n: int) -> Any:
        """Return a group that calls it for all of *it*, *n* to a message."""
        return chunks(self.s(), it, n, app=self.app)

    def map(self, it: Iterable[Any]) -> Any:
        """Return one message that calls it with each of *it*."""
        return xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> Any:
        """Return one message that calls it with each tuple of *it* as its arguments."""
        return xstarmap(self.s(), it, app=self.app)

    def signature_from_request(
        self,
        request: Request | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: Any = None,
        **extra_options: Any,
    ) -> Signature:
        """Return the running call once more, with other arguments or options where they are given."""
        return signature_from_request(self, request or self.request, args, kwargs, queue, **extra_options)

    subtask_from_request = signature_from_request

    def replace(self, sig: Any) -> Any:
        """Let *sig* do the work of the running call: under its id, with all that follows from it.

        Of a group, also at the end of a chain or as a body, the list of its results becomes the result.

        Raises:
            Ignore: always, in a worker: it ends this run. Elsewhere the value of *sig* is returned.
            ImproperlyConfigured: *sig* is part of a chord, or an empty chain.
        """
        request = self.request
        sig = maybe_signature(sig, self.app).clone()
        if sig["options"].get("chord"):
            raise ImproperlyConfigured("a signature that replaces a task must not be part of a chord of its own")
        if sig["subtask_type"] == "chain" and not sig["kwargs"]["tasks"]:
            raise ImproperlyConfigured(f"task {self.name} cannot be replaced by an empty chain")
        if ends_in_group(sig):
            sig = sig | self.app.tasks["celery.accumulate"].s(index=0)
        for callback in request.callbacks or ():
            sig.link(callback)
        for errback in request.errbacks or ():
            sig.link_error(errback)
        sig["options"].pop("task_id", None)
        sig.freeze(
            request.id,
            group_id=request.group,
            chord=request.chord,
            root_id=request.root_id,
            group_index=request.group_index,
        )
        for step in reversed(request.chain or ()):
            sig = sig | maybe_signature(step, self.app)
        return self.on_replace(sig)

    def on_replace(self, sig: Any) -> Any:
        """Send *sig* when this run is settled, and end the run; where no worker runs it, return the value of *sig*."""
        request = self.request
        if request.is_eager or request.called_directly:
            return sig.apply().get(disable_sync_subtasks=False)
        request.outbox.extend(self.app.prepared(sig, replaced_task_nesting=request.replaced_task_nesting + 1))
        raise Ignore(f"replaced by {sig!r}")

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Have the body of the running task's chord wait for *sig* too; return its result.

        It is sent, and waited for, when this run is settled. With *lazy* it is waited for from now on, and returned to
        be sent by the caller before this task ends: if it never is, the body never runs. Who runs again because its
        worker died adds, in the same order, tasks of the same ids, which count once.

        Raises:
            ValueError: the running task belongs to no chord.
            NotImplementedError: the result backend cannot count.
        """
        request = self.request
        if not request.chord or not request.group:
            raise ValueError(f"task {self.name} is not a member of any chord, so nothing can be added to it")
        if not self.app.backend.counts_chords:
            raise NotImplementedError("this result backend does not count the parts of chords, so none can be added")
        sig = maybe_signature(sig, self.app).clone()
        sig.set(task_id=None, group_id=None)
        ends = list(ends_of(sig))
        if lazy:
            for end in ends:
                seed = f"{request.id} {request.retries} {next(request.added)}"
                end["options"]["task_id"] = str(UUID(int=random.Random(seed).getrandbits(128), version=4))
        index = _BEHIND if len(ends) > 1 else None  # members of a group count on from there
        result = sig.freeze(group_id=request.group, chord=request.chord, root_id=request.root_id, group_index=index)
        sizes = [
            ChordSize(group=request.group, added=end["options"]["task_id"], expires=self.app.chords.expires)
            for end in ends_of(sig)
        ]
        if lazy:
            self.app.backend.open_chords(sizes)
            return sig
        request.outbox.extend([*sizes, *self.app.prepared(sig, parent_id=request.id)])
        return self.add_trail(result)

    # -- while it runs

    def send_event(
        self, type_: str, retry: bool = True, retry_policy: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """Tell monitors something about this run: an event *type_*, such as ``task-progress``, with *fields*."""
        request = self.request
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            dispatcher.send(type_, uuid=request.id, retry=retry, retry_policy=retry_policy, **fields)

    @property
    def request(self) -> Request:
        """What this run of the task may know of its call."""
        found = current.request_of(self)
        if found is None:
            found = self._idle_request
            if found is None:
                found = self._idle_request = Request()
        return found  # type: ignore[no-any-return]  # ground floor knows no Request

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Begin a run of this task in this context, until `pop_request`; for tests."""
        self.__dict__.setdefault("_pushed", []).append(current.enter(self, Request(*args, **kwargs)))

    def pop_request(self) -> None:
        """End the run that `push_request` began."""
        current.leave(self._pushed.pop())

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Store *state* (any text) of the task, with *meta* as its result, for `AsyncResult.info`."""
        request = self.request
        self.backend.store_result(task_id or request.id, meta, state, request=request, **kwargs)

    def add_trail(self, result: Any) -> Any:
        """Count *result* among the children of the running call."""
        if self.trail:
            self.request.children.append(result)
        return result

    @property
    def backend(self) -> Any:
        """Where its results are kept: the app's store unless it was given its own."""
        return self._backend or self.app.backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    def AsyncResult(self, task_id: str, **kwargs: Any) -> result.AsyncResult[R]:  # noqa: N802 - Celery's name
        """Return the handle on the result of an earlier call."""
        made: result.AsyncResult[R] = self.app.AsyncResult(task_id, backend=self.backend, task_name=self.name, **kwargs)
        return made

    # -- being an object

    @property
    def __name__(self) -> str:
        return str(vars(type)["__name__"].__get__(type(self)))

    def __repr__(self) -> str:
        app: Any = self.app
        where = "" if app is None else f" of {app.main} at {id(app):#x}"
        return f"<@task: {self.name}{where}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _task_named, (self.name, type(self).__module__)


if TYPE_CHECKING:

    class AsyncTask(Task[P, R]):
        """A task made of an ``async def``: called here it gives an awaitable, its result is what that gives."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:  # type: ignore[override]
            """Run it here; await what this returns."""

else:
    AsyncTask = Task


class PendingTask(Task[P, R]):
    """A task whose class is not made yet, so that the app's configuration need not be known yet.

    Whoever looks at any of its attributes finds the task: it is made then, in place, and this same object is it.
    """

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__" and type(self) is PendingTask:
            # isinstance() asks this, and would not notice that the type changes meanwhile.
            return object.__getattribute__(self, "__dict__")["_base"]()
        return getattr(made(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(made(self), name, value)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return made(self)(*args, **kwargs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return repr(made(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return made(self).__reduce__()  # type: ignore[no-any-return]

    @staticmethod
    def of(make: Callable[[Any], object], base: Callable[[], type]) -> PendingTask[..., Any]:
        """Return a task that ``make(task)`` will turn into an instance of a subclass of ``base()``."""
        task = object.__new__(PendingTask)
        object.__getattribute__(task, "__dict__").update(_make=make, _base=base)
        return task


def made(task: Any) -> Any:
    """Return *task*, made now if it was pending."""
    # Another thread may have made it since the caller looked; then its class is no longer ours.
    if type(task) is PendingTask:
        make = object.__getattribute__(task, "__dict__").get("_make")
        if make is not None:
            make(task)
    return task


def _task_named(name: str, module: str | None) -> Any:
    """Return the task that a pickle names."""
    app = current.get_current_app()
    if name not in app.tasks and module and module != "__main__":
        importlib.import_module(module)
    return app.tasks[name]
