"""The app: tasks by name, settings, and the way to broker and results."""

# ruff: noqa: FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Literal, ParamSpec, Protocol, Self, TypeVar, overload

from umbel import current, signals
from umbel._clock import LamportClock
from umbel._later import Later
from umbel._names import close_match, symbol_by_name, task_name, uuid
from umbel._time import as_seconds, now, timezone_of
from umbel.app.builtins import add_builtin_tasks
from umbel.app.home import find_home
from umbel.app.loader import make_loader
from umbel.app.models import Models, with_models
from umbel.app.registry import TaskRegistry
from umbel.app.settings import Settings, parse_assignments
from umbel.app.settings_table import BY_NAME, BY_OLD_NAME
from umbel.app.task import AsyncTask, PendingTask, Task, made
from umbel.canvas.call import Call, Opening
from umbel.canvas.expand import expand
from umbel.canvas.signature import signature
from umbel.exceptions import AlwaysEagerIgnored, DuplicateTaskNameWarning, ImproperlyConfigured, OperationalError
from umbel.local import Proxy
from umbel.result import AsyncResult, EagerResult, GroupResult, ResultSet
from umbel.signals import Signal
from umbel.wire.chord import ChordSize, ReadyChord

if TYPE_CHECKING:
    import pathlib

    from umbel.app import (
        chords,
        coding,
        connections,
        eager,
        link,
        parts,
        perform,
        redis_settings,
        report,
        security,
        sending,
        store,
    )
    from umbel.app.amqp import AMQP
    from umbel.backends.base import Backend
    from umbel.brokers import memory_store
    from umbel.brokers.base import Broker, Delivery, Publication
    from umbel.execution.outcome import Outcome
    from umbel.wire import codecs
    from umbel.wire.record import Record
else:  # who only defines tasks needs none of these (benchmark import: 60 ms of 100)
    chords, coding, connections = Later("umbel.app.chords"), Later("umbel.app.coding"), Later("umbel.app.connections")
    eager, link, parts = Later("umbel.app.eager"), Later("umbel.app.link"), Later("umbel.app.parts")
    perform, redis_settings = Later("umbel.app.perform"), Later("umbel.app.redis_settings")
    report, security = Later("umbel.app.report"), Later("umbel.app.security")
    sending, store = Later("umbel.app.sending"), Later("umbel.app.store")
    pathlib, memory_store, codecs = Later("pathlib"), Later("umbel.brokers.memory_store"), Later("umbel.wire.codecs")

__all__ = ["Celery", "Umbel", "shared_task"]

_logger = logging.getLogger("celery.app")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Decorator(Protocol):
    """What ``@app.task(...)`` is."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...


class _BoundDecorator(Protocol):
    """What ``@app.task(bind=True)`` is: the function's first argument is the task."""

    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class Umbel:
    """Tasks, settings, and the way to a broker and to results.

    Creating one connects to nothing and reads no configuration. It may be used from any thread, and after a fork.
    """

    # What a subclass may replace.
    task_cls: Any = Task
    loader_cls: Any = None
    registry_cls: type[TaskRegistry] = TaskRegistry
    amqp_cls: Any = "umbel.app.amqp:AMQP"
    log_cls: Any = "umbel.app.log:Logging"
    control_cls: Any = "umbel.app.control:Control"
    events_cls: Any = "umbel.app.events:Events"
    builtin_fixups: ClassVar[Iterable[str]] = ("umbel.fixups.django:fixup",)
    as_celery: ClassVar[bool] = False  # the few defaults that differ from Celery's are Celery's

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: str | None = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | Sequence[str] | None = None,
        include: str | Iterable[str] | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Any = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        """Name the app *main*: the prefix of tasks defined in the script itself.

        *broker* and *backend* are URLs; without a broker there is a durable queue in a SQLite file beside the module
        that creates the app. All other keywords are settings.

        Raises:
            TypeError: a keyword is no setting but resembles an argument of this function.
            ImproperlyConfigured: a keyword resembles a setting.
        """
        _refuse_misspelt(kwargs)
        named = {"broker_url": broker, "result_backend": backend, "include": include}
        given = {key: value for key, value in named.items() if value is not None}
        self.main = main
        self.strict_typing = strict_typing
        self.autofinalize = autofinalize
        self.finalized = False
        self.fixups = self.builtin_fixups if fixups is None else fixups
        self._folder, embedded = find_home(self, main)
        self.embedded_url = f"sqlite:///{embedded}"
        if not hasattr(type(self), "on_configure"):
            self.on_configure: Any = Signal(name="app.on_configure")
        self.on_after_configure = Signal(name="app.on_after_configure", providing_args=("source",))
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        self.on_after_fork = Signal(name="app.on_after_fork")
        self.user_options: dict[str, Any] = {}
        self.steps: dict[str, set[Any]] = {"worker": set(), "consumer": set()}
        self.clock = LamportClock()
        if task_cls is not None:
            self.task_cls = task_cls
        self.loader_name = loader or os.environ.get("CELERY_LOADER") or self.loader_cls
        self._components = {"amqp": amqp, "events": events, "log": log, "control": control}
        self._config_source = config_source
        self.conf = Settings(
            {**(changes or {}), **kwargs, **given},
            as_celery=self.as_celery,
            fallback="celeryconfig" if self.loader_name == "default" else None,
            before_load=self._before_load,
            after_load=self._after_load,
        )
        if config_source is not None:
            self.conf.config_from_object(config_source, silent=config_source_silent, namespace=namespace)
        self.conf.on_change(self._settings_changed)
        self._namespace = namespace
        self._lock = threading.RLock()
        self._tasks = tasks if isinstance(tasks, TaskRegistry) else self.registry_cls(tasks or {})
        self._named: dict[str, tuple[Callable[..., Any], Any]] = {}  # functions and their tasks, by task name
        self._borrowed: set[str] = set()  # names of tasks that other apps shared with us
        self._warned: set[str] = set()  # names said to be taken twice
        self._pending: deque[Any] = deque()  # tasks to be made when the app is finalised
        self._periodic: list[tuple[str, dict[str, Any]]] = []  # until the configuration is read
        self._ids = threading.local()
        if set_as_current:
            self.set_current()
        current.register_app(self)
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _after_fork(this()))
        self._fixed = [made for made in (symbol_by_name(each)(self) for each in self.fixups) if made is not None]
        self.on_init()

    def on_init(self) -> None:
        """Do what a subclass wants at the end of creation."""

    # -- tasks

    @overload
    def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fun: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Any) -> _BoundDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = False, **options: Any) -> _Decorator: ...

    def task(self, *args: Any, **options: Any) -> Any:
        """Make a task of a function: ``@app.task``, or ``@app.task(...)`` with options.

        Options of this decorator are ``name``, ``base`` (a subclass of `Task`), ``bind`` (the function's first
        argument is the task), ``shared`` (False: other apps of this process do not get it too), ``lazy`` and
        ``filter`` (called with the task, its answer is returned). All others become attributes of the task.

        Raises:
            TypeError: it was not given one function.
        """
        function = _single_function(args)
        return self._task(function, **options) if function else lambda fun: self._task(fun, **options)

    def _task(
        self,
        fun: Callable[..., Any],
        *,
        shared: bool = True,
        lazy: bool = True,
        filter: Callable[[Any], Any] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Any:
        if not callable(fun):
            raise TypeError(f"argument 1 to @task() must be a callable, not {fun!r}")
        name = name or self.gen_task_name(getattr(fun, "__name__", type(fun).__name__), fun.__module__)
        task = self.add_task(fun, name=name, lazy=lazy, complain=True, **options)
        if shared:
            this = weakref.ref(self)  # the app may go, its shared tasks stay
            current.share(lambda app: None if app is this() else app.add_task(fun, name=name, borrowed=True, **options))
        return filter(task) if filter is not None else task

    def add_task(
        self,
        fun: Callable[..., Any],
        *,
        name: str,
        lazy: bool = True,
        complain: bool = False,
        borrowed: bool = False,
        **options: Any,
    ) -> Any:
        """Return the task *name* made of *fun*, or the one that has this name already (and *complain* about that).

        One *borrowed* from another app gives way to one of our own.
        """
        with self._lock:
            known, task = self._named.get(name, (None, None))
            if task is None and name in self._tasks:
                task = dict.__getitem__(self._tasks, name)
            if task is not None and (borrowed or name not in self._borrowed):
                if complain and known is not fun:
                    self._complain(name, fun, stacklevel=5)
                return task
            task = PendingTask.of(
                lambda pending: self._make(pending, fun, name, **options), lambda: options.get("base") or self.Task
            )
            self._named[name] = fun, task
            (self._borrowed.add if borrowed else self._borrowed.discard)(name)
            if self.finalized or not lazy or os.environ.get("FORKED_BY_MULTIPROCESSING"):
                self._make(task, fun, name, **options)
            else:
                self._pending.append(task)
            return task

    def _make(
        self, task: Any, fun: Callable[..., Any], name: str, *, base: Any = None, bind: bool = False, **options: Any
    ) -> None:
        """Turn the pending *task* into what it is to be."""
        with self._lock:
            if type(task) is not PendingTask:
                return  # another thread was faster
            if not self.finalized and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            models = None
            if options.pop("pydantic", False):
                models = Models(
                    fun,
                    strict=options.pop("pydantic_strict", None),
                    context={
                        "celery_app": self,
                        "celery_task_name": name,
                        **(options.pop("pydantic_context", None) or {}),
                    },
                    dump=options.pop("pydantic_dump_kwargs", None) or {},
                )
                fun = with_models(fun, models)
            attributes = {
                "app": self,
                "name": name,
                "models": models,
                "run": fun if bind else staticmethod(fun),
                "__doc__": fun.__doc__,
                "__module__": fun.__module__,
                "__annotations__": getattr(fun, "__annotations__", {}),
                "__wrapped__": fun if bind else staticmethod(fun),
                "_decorated": True,
                **options,
            }
            cls: Any = type(getattr(fun, "__name__", type(fun).__name__), (base or self.Task,), attributes)
            cls.__qualname__ = getattr(fun, "__qualname__", cls.__name__)
            cls.bind(self)
            vars_of_pending = object.__getattribute__(task, "__dict__")
            vars_of_pending.clear()
            object.__setattr__(task, "__class__", cls)
            cls.__init__(task)
            self._tasks[name] = task

    def register_task(self, task: Any, **options: Any) -> Any:
        """Add a task written as a class, or an instance of one; return the instance. *options* become attributes."""
        instance = task() if isinstance(task, type) else task
        cls = type(instance)
        if not instance.name:
            cls.name = self.gen_task_name(cls.__name__, cls.__module__)
            cls.name_is_made_up = True
        for option, value in options.items():
            setattr(instance, option, value)
        with self._lock:
            name = instance.name
            known = dict.get(self._tasks, name) or self._named.get(name, (None, None))[1]
            if known is not None and known is not instance:
                self._complain(name, cls, stacklevel=3)
            self._tasks[name] = instance
            self._named.pop(name, None)
            cls.app = self
            if self.finalized:
                cls.bind(self)
        return instance

    def _complain(self, name: str, newcomer: Any, *, stacklevel: int) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"two callables claim the task name {name!r}; {newcomer.__module__}.{newcomer.__qualname__} came last. "
                f"Give one of them another name=",
                DuplicateTaskNameWarning,
                stacklevel=stacklevel,
            )

    def gen_task_name(self, name: str, module: str) -> str:
        """Return the task name of the function *name* in *module*."""
        return task_name(name, module, self.main)

    @property
    def tasks(self) -> TaskRegistry:
        """All tasks by name; looking finalises the app."""
        if not self.finalized:
            self.finalize(auto=True)
        return self._tasks

    def finalize(self, auto: bool = False) -> None:
        """Make all tasks that were defined, once.

        Raises:
            RuntimeError: this is *auto*matic, and the app was made with ``autofinalize=False``.
        """
        with self._lock:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            self.finalized = True
            add_builtin_tasks(self)
            for constructor in current.shared_constructors():
                constructor(self)
            by_class = list(self._tasks.values())
            while self._pending:
                made(self._pending.popleft())
            for task in by_class:
                task.bind(self)
        self.on_after_finalize.send(sender=self)

    @cached_property
    def Task(self) -> Any:  # noqa: N802 - Celery's name
        """The base class of this app's tasks; assign another before tasks are made."""
        return self.subclass_with_self(symbol_by_name(self.task_cls), "Task", abstract=True, typing=self.strict_typing)

    def subclass_with_self(self, cls: Any, name: str | None = None, **attributes: Any) -> Any:
        """Return a subclass of *cls* whose ``app`` is this one."""
        cls = symbol_by_name(cls)
        given = {"app": self, "__module__": cls.__module__, "__doc__": cls.__doc__, **attributes}
        return type(name or cls.__name__, (cls,), given)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """Return a call to be sent later; see `umbel.canvas.signature`."""
        kwargs["app"] = self
        return signature(*args, **kwargs)

    # -- sending

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: datetime | str | None = None,
        task_id: str | None = None,
        *,
        task_type: Any = None,
        add_to_parent: bool = True,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send the task *name*, which need not exist here; options and errors as `Task.apply_async`."""
        if self.conf.task_always_eager:
            warnings.warn(
                "task_always_eager has no effect on send_task: the task is published", AlwaysEagerIgnored, stacklevel=2
            )
        if countdown is not None:
            options["countdown"] = countdown
        if eta is not None:
            options["eta"] = eta
        options["task_id"] = task_id = task_id or uuid()
        if task_type is None:
            task_type = dict.get(self.tasks, name)
        publication = self.amqp.publisher.prepare(name, args, kwargs, options, task=task_type)
        self.publish([publication], options)
        result = (options.get("result_cls") or self.AsyncResult)(task_id)
        message = publication.message
        if message.ignore_result:
            result.ignored = True
        frame = current.current_frame()
        if frame is not None and add_to_parent and frame.task.trail:
            frame.request.children.append(result)
        return result  # type: ignore[no-any-return]  # the caller's class

    def prepare(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Publication:
        """Return the message that `send_task` would send, for somebody else to publish: the parent of a worker."""
        publisher = self.amqp.publisher
        publication = publisher.prepare(name, args, kwargs, options or {}, task=dict.get(self.tasks, name))
        self.sender.declare([publication], publisher.needs)
        if signals.after_task_publish.receivers or signals.task_sent.receivers:
            publisher.tell_published([publication])  # a moment early, but in the process that listens
        return publication

    def prepared(self, sig: Any, **options: Any) -> list[Publication | ChordSize]:
        """Return what sending *sig* would write, for somebody else to write; *options* replace those of messages."""
        found: list[Publication | ChordSize] = []
        for each in self.expand(sig)[1]:
            call = self.chords.open(each) if isinstance(each, Opening) else each
            if isinstance(call, Call):
                found.append(self.prepare(call.task, call.args, call.kwargs, {**call.options, **options}))
            else:
                found.append(call)
        return found

    def send_calls(self, calls: Iterable[Call | Opening], **options: Any) -> None:
        """Send *calls*, many to an exchange; return when the broker has them all."""
        prepare = self.amqp.publisher.prepare
        publications: list[Publication] = []
        for each in calls:
            call = self.chords.open(each) if isinstance(each, Opening) else each
            if isinstance(call, ChordSize):
                self.backend.open_chords([call])  # before its header is sent: it must be known when a part ends
                continue
            task = dict.get(self.tasks, call.task)
            publications.append(prepare(call.task, call.args, call.kwargs, call.options, task=task))
            if len(publications) >= _BULK:
                self.publish(publications, options)
                publications = []
        if publications:
            self.publish(publications, options)

    def publish(self, publications: Sequence[Publication], options: Mapping[str, Any] | None = None) -> None:
        """Hand *publications* to the broker, all in one exchange; return when it has them.

        *options* may hold ``retry``, ``retry_policy``, ``timeout`` (or ``confirm_timeout``), ``declare`` (queues),
        ``connection`` and ``producer`` as for `Task.apply_async`.

        Raises:
            OperationalError: it has not taken them; the subclass says whether trying again is safe.
        """
        options = options or {}
        policy = None
        if options.get("retry") is False:
            policy = sending.NO_RETRY
        elif options.get("retry") or options.get("retry_policy"):
            policy = sending.RetryPolicy.of(self.conf.task_publish_retry_policy, options.get("retry_policy"))
        over = options.get("producer") or options.get("publisher") or options.get("connection")
        if over is not None and not isinstance(over, link.Link):
            raise TypeError(f"'connection' and 'producer' must come from the app, such as app.pool; not {over!r}")
        if declared := options.get("declare"):
            with self.lend_broker() as broker:
                for queue in self.amqp.Queues(list(declared)).values():
                    broker.declare(queue.topology)
        needs = self.amqp.publisher.needs
        queued = self._mark_queued(publications) if self.conf.task_track_queued else []
        if self.conf.task_send_sent_event:
            told = self.events.of_sending(publications)
            publications, needs = [*publications, *told], {**needs, **self.events.needs}
        try:
            timeout = options.get("timeout") or options.get("confirm_timeout")
            self.sender.send(publications, needs, policy=policy, timeout=timeout, over=over)
        except OperationalError:
            if queued:
                self.backend.forget(*queued)
            raise
        if signals.after_task_publish.receivers or signals.task_sent.receivers:
            self.amqp.publisher.tell_published(publications)

    def _mark_queued(self, publications: Sequence[Publication]) -> list[str]:
        """Store QUEUED for tasks that are about to be sent, before a worker can store anything; return their ids."""
        messages = [each.message for each in publications if each.message.task]
        ids = [message.id for message in messages if not (message.ignore_result or message.retries)]
        if ids and self.backend_url() is not None:
            self.backend.store_queued(ids)
            return ids
        return []

    # -- parts

    @cached_property
    def home(self) -> pathlib.Path:
        """The folder that relative names of files are relative to."""
        return pathlib.Path(self._folder)

    @cached_property
    def memory(self) -> memory_store.MemoryStores:
        """The stores that live in this process."""
        return memory_store.MemoryStores()

    @cached_property
    def amqp(self) -> AMQP:
        """Queues and routes."""
        cls: Any = symbol_by_name(self._components["amqp"] or self.amqp_cls)
        return cls(self)  # type: ignore[no-any-return]  # a subclass the user named

    @cached_property
    def log(self) -> Any:
        """What sets up logging."""
        return symbol_by_name(self._components["log"] or self.log_cls)(self)

    @cached_property
    def control(self) -> Any:
        """What steers workers."""
        return symbol_by_name(self._components["control"] or self.control_cls)(self)

    @cached_property
    def events(self) -> Any:
        """What tells and hears events."""
        return symbol_by_name(self._components["events"] or self.events_cls)(self)

    @cached_property
    def loader(self) -> Any:
        """What imports the modules with tasks."""
        return make_loader(self, self.loader_name)

    @cached_property
    def codecs(self) -> codecs.Codecs:
        """The serializers by name; more may be registered."""
        return codecs.Codecs()

    @cached_property
    def coder(self) -> coding.Coder:
        """What encodes bodies and results."""
        return coding.Coder(self.conf, self.codecs, self.now, columns=parts.has_columns(self.backend_url()))

    @cached_property
    def sender(self) -> sending.Sender:
        """The way out."""
        conf = self.conf
        limit, setting = redis_settings.most_senders(self.broker_url(write=True), conf)
        lines = connections.Connections(
            lambda: sending.Line(self.open_broker(write=True)),
            limit=limit,
            timeout=conf.broker_pool_acquire_timeout,
            setting=setting,
        )
        policy = sending.RetryPolicy.of(conf.task_publish_retry_policy) if conf.task_publish_retry else sending.NO_RETRY
        return sending.Sender(lines, timeout=conf.publish_timeout, policy=policy)

    @cached_property
    def backend(self) -> Any:
        """Where results are kept; may be used in any thread."""
        return store.ResultStore(
            self.open_backend,
            self.coder,
            expires=as_seconds(self.conf.result_expires) or None,
            count_chords=(self.conf.result_backend_transport_options or {}).get("count_chords", True),
            limit=redis_settings.most_results_connections(self.backend_url(), self.conf),
            url=self.backend_url(),
        )

    def broker_url(self, *, write: bool = False) -> str:
        """Return where the broker is: as the settings say, else the embedded queue."""
        url = self.conf.broker_write_url if write else self.conf.broker_read_url
        if isinstance(url, (list, tuple)):
            url = ";".join(url)
        return url or self.embedded_url

    def backend_url(self) -> str | None:
        """Return where results are kept: as the settings say, else beside an embedded queue; None = nowhere."""
        url: str | None = self.conf.result_backend
        if url:
            return None if url.partition(":")[0] == "disabled" else url
        broker = self.broker_url()
        return broker if broker == self.embedded_url else None

    def shown_url(self, url: str) -> str:
        """Return *url* as people want to see it: a file with its folder."""
        scheme, _, path = url.partition(":///")
        return f"{scheme}:///{self.home / path}" if scheme == "sqlite" and path else url

    def bugreport(self) -> str:
        """Return what the app is made of, for people."""
        return report.bugreport(self)

    def open_broker(
        self, *, write: bool = False, url: str | None = None, options: Mapping[str, Any] | None = None
    ) -> Broker:
        """Return a new connection to the broker (or that at *url*), of the caller's own."""
        return parts.open_broker(url or self.broker_url(write=write), self._site("broker_transport_options", options))

    def lend_broker(self) -> AbstractContextManager[Broker]:
        """Lend one of the app's own connections to the broker for a block."""
        return self.sender.lend()

    def connection_for_write(self, url: str | None = None, **parts: Any) -> link.Link:
        """Return a connection for sending (to *url*, or as the settings say), of the caller's own, not yet open."""
        return self._link(url or self.broker_url(write=True), **parts)

    def connection_for_read(self, url: str | None = None, **parts: Any) -> link.Link:
        """Return a connection for receiving, of the caller's own, not yet open."""
        return self._link(url or self.broker_url(), **parts)

    def connection(
        self,
        hostname: str | None = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        ssl: Any = None,
        connect_timeout: float | None = None,
        transport: str | None = None,
        transport_options: Mapping[str, Any] | None = None,
        heartbeat: float | None = None,
        login_method: str | None = None,
        failover_strategy: Any = None,
        **_: Any,
    ) -> link.Link:
        """Return a connection for sending, where the arguments overrule the settings; *hostname* may be a URL."""
        url = link.url_with(
            self.broker_url(write=True),
            hostname=hostname,
            userid=userid,
            password=password,
            virtual_host=virtual_host,
            port=port,
            transport=transport,
        )
        said = {"ssl": ssl, "connect_timeout": connect_timeout, "heartbeat": heartbeat, "login_method": login_method}
        options = {key: value for key, value in said.items() if value is not None}
        return self._link(url, {**(transport_options or {}), **options})

    broker_connection = connection

    def _link(self, url: str, options: Mapping[str, Any] | None = None) -> link.Link:
        return link.Link(lambda: self.open_broker(url=url, options=options), url)

    @property
    def pool(self) -> link.LinkPool:
        """The app's connections for sending, of which ``broker_pool_limit`` may be in use."""
        return link.LinkPool(self.sender.lines, self.broker_url(write=True))

    producer_pool = pool

    def connection_or_acquire(self, connection: Any = None, pool: bool = True) -> AbstractContextManager[Any]:
        """Lend *connection*, or one of the app's own to the broker (without *pool*, a new one), for a block."""
        if connection is not None:
            return nullcontext(connection)
        return self.pool.acquire(block=True) if pool else self.connection_for_write()

    default_connection = connection_or_acquire

    def producer_or_acquire(self, producer: Any = None) -> AbstractContextManager[Any]:
        """Lend *producer*, or one of the app's own connections for sending, for a block."""
        return self.connection_or_acquire(producer)

    default_producer = producer_or_acquire

    def setup_security(
        self,
        allowed_serializers: Iterable[str] | None = None,
        key: str | None = None,
        key_password: bytes | None = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str | None = None,
        serializer: str = "json",
    ) -> None:
        """Sign all messages with *key*, and run only those signed by owners of a certificate in *store*.

        The files are those of the settings `security_…` where none are given. Messages are encoded by *serializer*;
        of the other serializers only the *allowed_serializers* remain.

        Raises:
            ImproperlyConfigured: `task_serializer` and `accept_content` do not say "auth", or a file is missing.
            SecurityError: a key or certificate cannot be used.
            MissingExtra: the library that signs is not installed.
        """
        security.secure(
            self.conf,
            self.codecs,
            allowed_serializers=allowed_serializers,
            key=key,
            key_password=key_password,
            cert=cert,
            store=store,
            digest=digest,
            serializer=serializer,
        )

    def select_queues(self, queues: str | Iterable[str] | None = None) -> None:
        """Consume only these queues."""
        self.amqp.queues.select(queues)

    def open_backend(self) -> Backend | None:
        """Return a new connection to the result store, of the caller's own; None = results are not kept."""
        url = self.backend_url()
        return None if url is None else parts.open_backend(url, self._site("result_backend_transport_options"))

    def is_fused(self) -> bool:
        """Return whether broker and result store are one server, so that one write settles both."""
        return parts.same_server(self.broker_url(), self.backend_url(), self._site("broker_transport_options"))

    def _site(self, options: str, also: Mapping[str, Any] | None = None) -> parts.Site:
        return parts.Site(
            home=self.home,
            memory=self.memory,
            options={**(self.conf[options] or {}), **(also or {})},
            conf=self.conf,
            codecs=self.codecs,
            timezone=self.timezone,
            broker_url=self.broker_url(write=True),
            replies=self.replies if options == "result_backend_transport_options" else None,
        )

    @cached_property
    def replies(self) -> Any:
        """What reads the reply queues of this process, where results come by rpc; None = they do not."""
        url = self.backend_url()
        if url is None or url.partition(":")[0] != "rpc":
            return None
        return parts.make_replies(self.broker_url(write=True), self._site("broker_transport_options"))

    # -- running

    def make_runner(self, hostname: str) -> perform.TaskRunner:
        """Return what runs deliveries in a pool's children."""
        return perform.TaskRunner(self, hostname)

    def plans(self, hostname: str) -> perform.Plans:
        """Return what is needed to run tasks, or to end them without running."""
        return perform.Plans(self, hostname)

    def expand(self, *args: Any) -> Any:
        """Return the calls that a signature in dict form consists of; see `canvas.expand`."""
        return expand(self, *args)

    @cached_property
    def chords(self) -> chords.Chords:
        """How chords are counted."""
        return chords.Chords(self)

    def fire(self, ready: ReadyChord, aside: Callable[[Callable[[], object]], None] | None = None) -> Outcome:
        """Return what a chord comes to that is complete."""
        return self._own_plans.fire(ready, aside)

    def conclude(
        self, delivery: Delivery, why: str, evidence: str, aside: Callable[[Callable[[], object]], None] | None = None
    ) -> Outcome:
        """Return the outcome of a delivery that no user code will report; *why* is a value of `worker.orders.Why`."""
        return self._own_plans.conclude(delivery, why, evidence, aside)

    def started_record(self, delivery: Delivery, pid: int, hostname: str) -> Record | None:
        """Return the STARTED record of a task that wants one."""
        return self._own_plans.started(delivery, pid, hostname)

    @cached_property
    def _own_plans(self) -> perform.Plans:
        return perform.Plans(self, "")

    def import_modules(self) -> None:
        """Import what the settings and autodiscovery name, and finalise."""
        self.loader.import_default_modules()
        self.finalize()

    def apply(
        self,
        task: Any,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        *,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
    ) -> EagerResult[Any]:
        """Run *task* here as a worker would; see `Task.apply`."""
        return eager.apply(self, task, args, kwargs, options, throw=throw, logfile=logfile, loglevel=loglevel)

    def apply_eagerly(
        self, task: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> EagerResult[Any]:
        """Run *task* here instead of sending it; its arguments travel through the serializer all the same."""
        return eager.apply_async(self, task, args, kwargs, options)

    # -- results

    @cached_property
    def AsyncResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of results, bound to this app."""
        return self.subclass_with_self(AsyncResult)

    @cached_property
    def GroupResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of groups' results, bound to this app."""
        return self.subclass_with_self(GroupResult)

    @cached_property
    def ResultSet(self) -> Any:  # noqa: N802 - Celery's name
        """The class of sets of results, bound to this app."""
        return self.subclass_with_self(ResultSet)

    # -- configuration

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from *obj*, an object or the name of one or of a module; when needed, or now with *force*."""
        self._config_source = obj
        self._namespace = namespace = namespace or self._namespace
        force = force or self.configured
        self.conf.config_from_object(obj, silent=silent, force=force, namespace=namespace)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Read settings from the module that the environment variable names; return whether it names one.

        Raises:
            ImproperlyConfigured: it is not set, and this is not *silent*.
        """
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(
                f"the environment variable {variable_name!r} is not set, so there is no configuration; "
                f"set it to the name of a module with settings"
            )
        self.config_from_object(module, silent=silent, force=force)
        return True

    def config_from_cmdline(self, argv: Sequence[str], namespace: str = "celery") -> None:
        """Set what ``key=value`` words of a command line say."""
        self.conf.update(parse_assignments(argv, namespace=namespace))

    def add_defaults(self, fun: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add settings that lose against everybody's but win over our defaults."""
        self.conf.add_defaults(fun)

    @property
    def configured(self) -> bool:
        """Whether the configuration has been read."""
        return self.conf.loaded

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Import the module *related_name* of each of *packages* together with other task modules; now with *force*."""

        def discover(**_: Any) -> None:
            found = packages() if callable(packages) else packages
            if found is None:
                found = self._packages_of_fixups()
            self.loader.autodiscover_tasks(found, related_name)

        if force:
            discover()
        else:
            signals.import_modules.connect(discover, sender=self, weak=False)

    def _packages_of_fixups(self) -> list[str]:
        return [name for each in self._fixed for name in each.autodiscover_tasks()]

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Have beat send *sig* on *schedule*; return the entry's name."""
        key = name or repr(sig)
        if not name and (key in dict(self._periodic) or (self.configured and key in self.conf.beat_schedule)):
            _logger.warning("the periodic task %s is added twice; the last one counts. Give each its own name=", key)
        entry = {
            "task": sig["task"],
            "schedule": schedule,
            "args": (*args, *sig["args"]),
            "kwargs": {**sig["kwargs"], **(kwargs or {})},
            "options": {**sig["options"], **opts},
        }
        if self.configured:
            self.conf.beat_schedule[key] = entry
        else:
            self._periodic.append((key, entry))
        return key

    def prepare_config(self, conf: Settings) -> Settings:
        """Do what a subclass wants with the settings before anybody reads them."""
        return conf

    def either(self, default_key: str, *defaults: Any) -> Any:
        """Return the first of *defaults* that is not None, else the setting *default_key*."""
        return next((value for value in defaults if value is not None), self.conf[default_key])

    def _before_load(self) -> None:
        if isinstance(self.on_configure, Signal):
            self.on_configure.send(sender=self)
        else:
            self.on_configure()

    def _after_load(self, conf: Settings) -> None:
        self.prepare_config(conf)
        conf.maybe_warn_deprecated_settings()
        for key, entry in self._periodic:
            conf.beat_schedule[key] = entry
        self._periodic.clear()
        self.on_after_configure.send(sender=self, source=conf)

    def _settings_changed(self, names: frozenset[str]) -> None:
        for part, settings in _READ_BY.items():
            if not settings.isdisjoint(names) and part in self.__dict__:
                dropped = self.__dict__.pop(part)
                if hasattr(dropped, "close"):
                    dropped.close()

    # -- time and identity

    def now(self) -> datetime:
        """Return the current moment in the app's time zone."""
        return now(self.timezone)

    @cached_property
    def timezone(self) -> tzinfo:
        """The time zone that the settings mean."""
        return timezone_of(self.conf.timezone, utc=self.conf.enable_utc)

    def uses_utc_timezone(self) -> bool:
        """Return whether that is UTC."""
        return self.timezone == timezone_of(None)

    @property
    def oid(self) -> str:
        """An id of this app in this process."""
        return self._id_of(self.__dict__.setdefault("_oid", [0, ""]))

    @property
    def thread_oid(self) -> str:
        """An id of this app in this thread."""
        try:
            pid, oid = self._ids.own
            if pid == current.process_id():
                return oid  # type: ignore[no-any-return]  # what we put there
        except AttributeError:
            pass
        own: str = uuid()
        if self.replies is not None:
            self.replies.open(own)
        self._ids.own = current.process_id(), own
        return own

    @staticmethod
    def _id_of(place: list[Any]) -> str:
        if place[0] != os.getpid():
            place[:] = os.getpid(), uuid()
        return place[1]  # type: ignore[no-any-return]  # what we put there

    @property
    def current_task(self) -> Any:
        """The innermost running task of this app, here; None outside of tasks."""
        return current.get_current_task(self)

    @property
    def current_worker_task(self) -> Any:
        """The same, but only one that a worker runs."""
        return current.get_current_worker_task(self)

    def set_current(self) -> None:
        """Make it the app of this thread."""
        current.set_current_app(self)

    def set_default(self) -> None:
        """Make it the app of all threads that have none."""
        current.set_default_app(self)

    # -- ending, and being an object

    def close(self) -> None:
        """Close all connections that are not in use; the app may be used again and opens new ones."""
        for part in ("sender", "backend", "replies"):
            if (kept := self.__dict__.pop(part, None)) is not None:
                kept.close()
        current.forget_app(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at {id(self):#x}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.__reduce_keys__())

    def __reduce_keys__(self) -> dict[str, Any]:
        """Return the arguments with which the app is made again."""
        return {
            "main": self.main,
            "changes": self.conf.changes,
            "loader": self.loader_name,
            **self._components,
            "task_cls": self.task_cls if isinstance(self.task_cls, str) else None,
            "config_source": self._config_source,
            "namespace": self._namespace,
            "set_as_current": False,
        }

    # -- the doors to what stands above

    def Worker(self, **options: Any) -> Any:  # noqa: N802 - Celery's name
        """Return a worker for this app; `start` runs it."""
        from umbel.worker.worker import Worker

        itself: Any = self  # what the worker asks of an app may be read-only here
        return Worker(itself, **options)

    WorkController = Worker

    def Beat(self, **options: Any) -> Any:  # noqa: N802 - Celery's name
        """Return beat for this app; `start` runs it."""
        from umbel.beat.service import Service

        return Service(self, **options)

    @cached_property
    def schedule(self) -> Any:
        """The periodic tasks, to be listed and changed at run time; see `umbel.beat.Book`."""
        from umbel.beat.book import Book

        return Book(self)

    def start(self, argv: Sequence[str] | None = None) -> Any:
        """Run the command line for this app and return its exit code."""
        from umbel.cli.main import main

        return main(list(argv) if argv is not None else None, app=self)

    def worker_main(self, argv: Sequence[str] | None = None) -> Any:
        """Run a worker as *argv* says.

        Raises:
            ValueError: *argv* does not name the command ``worker``.
        """
        argv = sys.argv if argv is None else argv
        if "worker" not in argv:
            raise ValueError("worker_main() runs the command 'worker': put it into argv, or use start() for others")
        return self.start(argv)


Celery = Umbel

_BULK = 1000  # calls to an exchange: bounds the memory of a large group, and how long it holds the broker
_READ_BY = {
    "sender": frozenset(name for name in BY_NAME if name.startswith(("broker_", "task_publish_", "publish_"))),
    "backend": frozenset(name for name in BY_NAME if name.startswith(("result_", "accept_", "broker_"))),
    "chords": frozenset(name for name in BY_NAME if name.startswith(("result_", "accept_"))),
    "coder": frozenset({"accept_content", "result_accept_content", "result_serializer", "result_compression"}),
    "timezone": frozenset({"timezone", "enable_utc"}),
}  # parts that are made anew when one of these settings changes


@overload
def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Any) -> _BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Any) -> _Decorator: ...


def shared_task(*args: Any, **options: Any) -> Any:
    """Make a task of a function for all apps, also those to come: ``@shared_task``, or with options.

    What it returns stands for the task of whatever app is current when it is used.

    Raises:
        TypeError: it was not given one function, or a task.
    """
    function = _single_function(args)
    return _share(function, options) if function else lambda fun: _share(fun, options)


def _share(fun: Callable[..., Any], options: dict[str, Any]) -> Any:
    if isinstance(fun, (Proxy, Task)):
        raise TypeError(f"shared_task was applied to {fun!r}, which is a task already; apply it once")
    options = dict(options)
    name = options.pop("name", None)

    def name_in(app: Any) -> str:
        return name or app.gen_task_name(fun.__name__, fun.__module__)  # type: ignore[no-any-return]  # an app's

    def give(app: Any) -> Any:
        return app.add_task(fun, name=name_in(app), **options)

    current.share(give)
    for app in current.live_apps():
        if app.finalized:
            give(app)
    return Proxy(lambda: (app := current.get_current_app()).tasks[name_in(app)])


def _single_function(args: tuple[Any, ...]) -> Any:
    if len(args) == 1:
        if callable(args[0]):
            return args[0]
        raise TypeError(f"argument 1 to @task() must be a callable, not {args[0]!r}")
    if args:
        raise TypeError(f"@task() takes exactly 1 argument ({len(args)} given); options are keywords")
    return None


def _refuse_misspelt(kwargs: Mapping[str, Any]) -> None:
    for key in kwargs:
        if key not in BY_NAME and key not in BY_OLD_NAME and (meant := close_match(key, _ARGUMENTS, cutoff=0.75)):
            raise TypeError(f"Umbel() has no argument {key!r}; did you mean {meant!r}?")


_ARGUMENTS = [name for name in Umbel.__init__.__annotations__ if name not in {"kwargs", "return"}]


def _after_fork(app: Umbel | None) -> None:
    if app is not None:
        app._lock = threading.RLock()  # another thread of our parent may have held it
        app.on_after_fork.send(sender=app)


def _unpickled(cls: Any, arguments: dict[str, Any]) -> Any:
    return cls(**arguments)


def _default_app() -> Umbel:
    app = Umbel("default", loader=os.environ.get("CELERY_LOADER") or "default", set_as_current=False)
    app.home = pathlib.Path.cwd()  # it belongs to no module
    return app


current.make_default_app_with(_default_app)
