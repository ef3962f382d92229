"""Start a worker from an application, keep it running, and stop it as it was asked to."""

from __future__ import annotations

import importlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

import msgspec

from umbel import signals
from umbel._names import default_nodename
from umbel.backends.base import Backend
from umbel.bootsteps import Blueprint
from umbel.brokers.base import Broker, Delivery, Settlement
from umbel.exceptions import BackendError, BrokerUnavailable, InvalidMessage, NotRegistered, OperationalError
from umbel.execution.outcome import Outcome
from umbel.execution.request import Request
from umbel.pools.base import Pool, Runner
from umbel.pools.kinds import make_pool
from umbel.pools.solo import SoloPool
from umbel.wire.chord import ReadyChord
from umbel.wire.record import Record
from umbel.worker.aside import Aside
from umbel.worker.commands import is_stamped, stats
from umbel.worker.control import CommandState
from umbel.worker.core import Rules, WorkerState
from umbel.worker.desk import Desk
from umbel.worker.facts import Autoscaled, Fact, Manner, Recycled, Stopped
from umbel.worker.ledger import Ledger
from umbel.worker.loop import Connection, Loop
from umbel.worker.orders import Ending, Why
from umbel.worker.os_signals import listening
from umbel.worker.policies import policies
from umbel.worker.request import Requests
from umbel.worker.settle import Apart, Fused, Settler
from umbel.worker.teller import Teller

__all__ = ["Application", "Worker", "bounds"]

_logger: Final = logging.getLogger("celery.worker")
_HEARTBEAT: Final = 2.0  # seconds between heartbeats
_FAREWELL: Final = 5.0  # seconds that hooks of lost tasks may take when all else has ended

T = TypeVar("T")


class Application(Protocol):
    """What a worker needs of an application (`app/app.py`)."""

    conf: Any
    steps: Mapping[str, Any]  # the project's own, by "worker" and "consumer"
    loader: Any  # .on_worker_init, .on_worker_shutdown: a project's own hooks
    events: Any  # .common(hostname), .packed, .topology

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Return the registered tasks by name; reading it finalises the application."""

    @property
    def amqp(self) -> Any:
        """Return what knows queues: .queues with select, deselect, consume_from, topology."""

    def open_broker(self) -> Broker:
        """Return a connection of our own for claiming; raises BrokerUnavailable."""

    def open_backend(self) -> Backend | None:
        """Return a connection of our own to the result store; None = results are not kept."""

    def is_fused(self) -> bool:
        """Return whether broker and result store are one server, so that `Broker.settle` writes results."""

    def make_runner(self, hostname: str) -> Runner:
        """Return what runs deliveries in the pool's children."""

    def conclude(
        self, delivery: Delivery, why: str, evidence: str, aside: Callable[[Callable[[], object]], None] | None = None
    ) -> Outcome:
        """Return the outcome of a delivery that no user code will report; *why* is a value of `orders.Why`.

        What users want done about it is given to *aside*.
        """

    def fire(self, ready: ReadyChord, aside: Callable[[Callable[[], object]], None] | None = None) -> Outcome:
        """Return what a chord comes to that is complete; *aside* as for `conclude`."""

    def started_record(self, delivery: Delivery, pid: int, hostname: str) -> Record | None:
        """Return the STARTED record of a task that wants one."""

    def import_modules(self) -> None:
        """Import what `imports`, `include` and autodiscovery name, and finalise."""


class Worker:
    """One node: a loop that talks to the broker, and a pool that runs tasks.

    `start` blocks until the worker has stopped; `stop` may be called from any thread and from signal handlers.
    """

    def __init__(
        self,
        app: Application,
        *,
        hostname: str | None = None,
        pool: str | None = None,
        concurrency: int | str | None = None,
        processes: int | None = None,
        queues: str | Iterable[str] | None = None,
        exclude_queues: str | Iterable[str] | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        autoscale: str | tuple[int, int] | None = None,
        prefetch_multiplier: int | None = None,
        task_events: bool | None = None,
        http: str | None = None,
        without_heartbeat: bool = False,
        heartbeat_interval: float | None = None,
        purge: bool = False,
        on_ready: Callable[[Worker], object] | None = None,
        **options: Any,
    ) -> None:
        """Prepare a worker; nothing is connected or forked yet. What is not given comes from the settings.

        Args:
            app: whose tasks it runs.
            hostname: node name, `name@host`.
            pool: a kind of `pools.kinds.POOLS`.
            concurrency: tasks that run at once; None or "auto" = one for each core that this process may use.
            processes: children that share the slots of a `threads` or `asyncio` pool.
            queues: names to consume, alone; a comma-separated text or several.
            exclude_queues: names not to consume.
            time_limit: hard limit, seconds, of tasks that have none.
            soft_time_limit: soft limit, seconds, of tasks that have none.
            max_tasks_per_child: a child is replaced after so many tasks.
            max_memory_per_child: KiB; a child that has grown beyond it is replaced.
            autoscale: most and least slots, "10,3": the pool grows with its load and shrinks after a rest.
            prefetch_multiplier: deliveries held for each slot at the most; None or 0 = as many as run in a moment.
            task_events: tell monitors what becomes of tasks.
            http: serve health and metrics here, ":9100" for example.
            without_heartbeat: do not tell monitors that the worker lives.
            heartbeat_interval: how often it says so, in seconds.
            purge: empty the consumed queues first.
            on_ready: called when the worker consumes.
            options: given on to the signal `celeryd_init`.
        """
        conf = app.conf
        self.app = app
        self.hostname = hostname or default_nodename(None)
        self.on_before_init(**options)
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=conf, options=options)
        app.import_modules()
        app.amqp.queues.select(queues)
        app.amqp.queues.deselect(exclude_queues)
        self.pool_kind = pool or conf.worker_pool
        self.autoscale = bounds(autoscale)
        self.concurrency = (
            max(1, self.autoscale[1])
            if self.autoscale is not None
            else _cores(concurrency if concurrency not in (None, 0) else conf.worker_concurrency)
        )
        self.processes = processes or conf.worker_processes
        self.time_limit = conf.task_time_limit if time_limit is None else time_limit
        self.soft_time_limit = conf.task_soft_time_limit if soft_time_limit is None else soft_time_limit
        self.options = options
        self.exitcode = 0
        self.restarts = False  # HUP: whoever started it is to start it again once it has stopped
        self.purged = 0  # messages dropped by `purge`
        self._purge = purge
        self._on_ready = on_ready
        self._rules = _rules(conf, prefetch_multiplier, self.concurrency)
        self._runner = app.make_runner(self.hostname)
        self.pool: Pool = make_pool(
            self.pool_kind,
            self._runner,
            slots=self.concurrency,
            processes=self.processes,
            max_jobs_per_child=max_tasks_per_child or conf.worker_max_tasks_per_child,
            max_memory_per_child=max_memory_per_child or conf.worker_max_memory_per_child,
            on_init=self._send_worker_init,
            on_fork=self._send_before_fork,
            start_timeout=conf.worker_proc_alive_timeout if conf.value_set_for("worker_proc_alive_timeout") else 60.0,
            title=f"[umbel: {self.hostname}:{{process}}]",
        )
        self.aside = Aside()
        self.ledger = Ledger(app.tasks.__contains__)
        self.teller = Teller(
            app.events.packed,
            app.events.common(self.hostname),
            wants_events=lambda name: getattr(app.tasks.get(name), "send_events", True),
            running=self._running,
            busy=lambda: 0 if self._loop is None else self._loop.state.submitted,
            enabled=bool(conf.worker_send_task_events if task_events is None else task_events),
        )
        self.began = time.monotonic()
        self.desk = Desk(
            self,
            every=None if without_heartbeat else float(heartbeat_interval or _HEARTBEAT),
            answers=bool(conf.worker_enable_remote_control),
        )
        self._http = _http().address_of(http) if http else None
        self._loop: Loop | None = None
        self._asked: list[Stopped] = []  # before there was a loop
        self._stopping: Manner | None = None
        self.blueprint = Blueprint(
            app.steps["worker"], "Worker", on_start=self.on_start, on_close=self.on_close, on_stopped=self.on_stopped
        ).apply(self, **options)
        self.consumer_blueprint = Blueprint(app.steps["consumer"], "Consumer").apply(self, **options)
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=conf)
        self.on_after_init(**options)

    # What a subclass may want to do.

    def on_before_init(self, **options: Any) -> None:
        """Act before anything is prepared."""

    def on_after_init(self, **options: Any) -> None:
        """Act when all is prepared."""

    def on_start(self) -> None:
        """Act before the project's own steps start."""

    def on_consumer_ready(self, consumer: Worker) -> None:
        """Act when it consumes."""

    def on_close(self) -> None:
        """Act before the project's own steps stop."""

    def on_stopped(self) -> None:
        """Act when these have stopped."""

    @property
    def controller(self) -> Worker:
        """Itself: what steps of a consumer know as the worker they belong to."""
        return self

    consumer = controller

    @property
    def queues(self) -> tuple[str, ...]:
        """Return the names of the queues it consumes."""
        return tuple(self.app.amqp.queues.consume_from)

    def start(self) -> int:
        """Run until stopped; return the exit code.

        Raises:
            OperationalError: the broker cannot be reached and `broker_connection_retry_on_startup` is off.
            PoolBroken: no child could be started.
        """
        remap = os.environ.get("REMAP_SIGTERM") == "SIGQUIT"
        with listening(self._on_signal, remap_term=remap, hang_up=_is_a_service()):
            # Children first: they are forked from a process without threads and connections.
            if self.pool_kind == "solo":
                self._send_worker_init()
            self.pool.start()
            try:
                with self._serving():
                    self.blueprint.start(self)
                    self._work()
            finally:
                self.blueprint.stop(self)
                self.pool.stop(0.0)
                signals.worker_shutdown.send(sender=self)
                self.app.loader.on_worker_shutdown()
        return self.exitcode

    def stop(
        self,
        manner: Manner = Manner.WARM,
        *,
        exitcode: int | None = None,
        in_sighandler: bool = False,
    ) -> None:
        """Ask the worker to stop; returns at once. A later, colder wish replaces an earlier one."""
        if exitcode is not None:
            self.exitcode = exitcode
        soft = float(self.app.conf.worker_soft_shutdown_timeout or 0.0)
        if manner is Manner.COLD and soft > 0 and self._stopping is not Manner.SOFT:
            manner = Manner.SOFT
        self._stopping = manner
        fact = Stopped(manner, soft)
        if self._loop is None:
            self._asked.append(fact)
        else:
            self._loop.post(fact)

    def terminate(self, *, in_sighandler: bool = False) -> None:
        """Ask the worker to stop now; what runs is ended and goes back."""
        self.stop(Manner.COLD, in_sighandler=in_sighandler)

    def reload(self, *_: Any, **__: Any) -> None:
        """Have the pool's processes replaced, each when what it runs has ended."""
        self.post(Recycled())

    def stats(self) -> dict[str, Any]:
        """Return what it has done, and what it is made of; as ``inspect stats`` does."""
        return stats(CommandState(self, self.desk))

    def info(self) -> dict[str, Any]:
        """Return what its steps say of themselves."""
        return {**self.blueprint.info(self), **self.consumer_blueprint.info(self)}

    def rusage(self) -> dict[str, Any]:
        """Return what this process has used of the machine."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {name[3:]: getattr(used, name) for name in dir(used) if name.startswith("ru_")}

    @contextmanager
    def _serving(self) -> Iterator[None]:
        """Tell machines how it is, if they may ask."""
        if self._http is None:
            yield
            return
        pages = importlib.import_module("umbel.worker.health").pages(self)
        health = _http().Health(self._http, pages)
        health.start()
        _logger.info("health and metrics: http://%s:%d/metrics", self._http[0] or "localhost", health.port)
        try:
            yield
        finally:
            health.stop()

    # -- for whoever steers it, from other threads

    @property
    def loop(self) -> Loop | None:
        """Its loop, once it is connected."""
        return self._loop

    @property
    def core(self) -> WorkerState:
        """What it knows of its deliveries; only its loop changes that."""
        return self._running_loop.state

    def post(self, fact: Fact) -> None:
        """Let it learn *fact*, soon."""
        self._running_loop.post(fact)

    def ask(self, question: Callable[[], T]) -> T:
        """Return what *question* returns in the loop's own thread, where nothing changes meanwhile."""
        return self._running_loop.ask(question)

    def tell_of_tasks(self, wanted: bool) -> bool:  # noqa: FBT001 - there is nothing else to it
        """Begin or cease to tell monitors of tasks; return whether that is a change."""

        def change() -> bool:
            if self.teller.enabled is wanted:
                return False
            self.teller.enabled = wanted
            return True

        return self.ask(change)

    def _running(self) -> list[tuple[Delivery, float]]:
        """Return what runs now, and since when (monotonic); for the loop's thread."""
        held = self.core.held
        return [(held[tag].delivery, held[tag].since) for tag in self.pool.info()["jobs"] if tag in held]

    def held(self) -> list[Delivery]:
        """Return what it holds; for the loop's thread."""
        return [held.delivery for held in self.core.held.values()]

    @property
    def _running_loop(self) -> Loop:
        if self._loop is None:
            raise RuntimeError(f"the worker {self.hostname} has not been started")
        return self._loop

    def _on_signal(self, manner: Manner, number: signal.Signals) -> None:
        cold = manner is Manner.COLD
        self.restarts = number == signal.SIGHUP
        if number == signal.SIGINT:
            self.exitcode = 1
        signals.worker_shutting_down.send(
            sender=self.hostname, sig=number.name, how="Cold" if cold else "Warm", exitcode=self.exitcode
        )
        hint = " Hitting Ctrl+C again will initiate cold shutdown." if number == signal.SIGINT and not cold else ""
        # Not through logging: a handler may interrupt the very lock that logging holds.
        os.write(2, f"\numbel: {'cold' if cold else 'warm'} shutdown ({self.hostname}).{hint}\n".encode())
        self.stop(manner)
        if self._stopping is Manner.SOFT:
            seconds = float(self.app.conf.worker_soft_shutdown_timeout)
            os.write(2, f"Initiating Soft Shutdown, terminating in {seconds:g} seconds\n".encode())

    # -- the work

    def _work(self) -> None:
        broker, settler = self._connect_patiently()
        connection = Connection(broker=broker, settler=settler, reopen=self._connect, subscribe=self._subscribe)
        state = WorkerState(
            slots=self.pool.slots,
            policy=policies(
                self.app.tasks,
                self.app.conf,
                soft_limit=self.soft_time_limit,
                hard_limit=self.time_limit,
            ),
            rules=msgspec.structs.replace(self._rules, delays=broker.features.delayed),
        )
        self._loop = Loop(connection=connection, pool=self.pool, state=state, tasks=_Tasks(self), owner=self.hostname)
        if self.autoscale is not None:
            self._loop.post(Autoscaled(*self.autoscale))
        for fact in self._asked:
            self._loop.post(fact)
        try:
            if self._purge:
                self.purged = sum(broker.purge(queue) for queue in self.queues)
            self.consumer_blueprint.start(self)
            signals.worker_ready.send(sender=self)
            self.on_consumer_ready(self)
            if self._on_ready is not None:
                self._on_ready(self)
            self.desk.start()
            if isinstance(self.pool, SoloPool):
                try:
                    self.pool.run(self._loop.lead)
                finally:
                    self._loop.close()
            else:
                self._loop.run()
        finally:
            self.consumer_blueprint.stop(self)
            self.desk.stop()
            self.aside.stop(_FAREWELL)
            connection.close()

    # -- the broker

    def _connect(self) -> tuple[Broker, Settler]:
        broker = self.app.open_broker()
        try:
            self._subscribe(broker)
            settler: Settler = Fused(broker) if self.app.is_fused() else Apart(broker, self.app.open_backend())
        except BaseException:
            broker.close()
            raise
        return broker, settler

    def _subscribe(self, broker: Broker) -> None:
        queues = self.app.amqp.queues
        broker.declare(queues.topology.merge(self.app.events.topology))
        broker.consume([queue.name for queue in queues.consume_from.values()])

    def _connect_patiently(self) -> tuple[Broker, Settler]:
        conf = self.app.conf
        retry = conf.broker_connection_retry_on_startup
        if retry is None:
            retry = conf.broker_connection_retry
        limit = conf.broker_connection_max_retries or None
        attempt = 0
        while True:
            try:
                return self._connect()
            except (BrokerUnavailable, BackendError) as exc:
                attempt += 1
                if not retry or (limit is not None and attempt > limit):
                    raise OperationalError(f"the broker cannot be reached: {exc}") from exc
                if self._asked:
                    raise OperationalError(f"stopped before the broker could be reached: {exc}") from exc
                delay = min(2.0 * attempt, 30.0)
                _logger.error("the broker cannot be reached: %s Trying again in %g s (%d).", exc, delay, attempt)
                self._sleep(delay)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    # -- signals

    def _send_worker_init(self) -> None:
        self.app.loader.on_worker_init()
        signals.worker_init.send(sender=self)

    def _send_before_fork(self) -> None:
        signals.worker_before_create_process.send(sender=self)


class _Tasks:
    """What the loop asks about tasks, answered by the application."""

    def __init__(self, worker: Worker) -> None:
        self._app = worker.app
        self._hostname = worker.hostname
        self._aside = worker.aside
        self._ledger = worker.ledger
        self._teller = worker.teller
        self._desk = worker.desk
        self._tells_sent = bool(worker.app.conf.task_send_sent_event)
        self._requests = Requests(worker.app, worker.hostname, worker.aside, worker.held)

    def conclude(self, delivery: Delivery, why: Why, evidence: str) -> Outcome:
        message = delivery.message
        aside: Callable[[Callable[[], object]], None] = self._aside
        match why:
            case Why.INVALID:
                _logger.error("A message in %r (%s) is not run: %s", delivery.queue, message.id, evidence)
                signals.task_rejected.send(sender=self, message=message, exc=InvalidMessage(evidence))
                aside = _drop  # no hook of a task: whoever sent this is not known to have meant it
            case Why.UNKNOWN:
                _logger.error(
                    "Task %s[%s] is not run: %s. Import the module that defines it, or list it in 'include'; "
                    "then: umbel dead retry %s", message.task, message.id, evidence, message.id,
                )  # fmt: skip
                exc = NotRegistered(message.task)
                signals.task_unknown.send(sender=self, message=message, exc=exc, name=message.task, id=message.id)
            case Why.EXPIRED | Why.REVOKED:
                _logger.info("Task %s[%s] is not run: %s", message.task, message.id, evidence)
            case _:
                pass
        return self._app.conclude(delivery, why.value, evidence, aside)

    def fire(self, ready: ReadyChord) -> Settlement:
        outcome = self._app.fire(ready, self._aside)
        return Settlement(
            lease=None,
            fires=ready.group,
            follow_ups=outcome.follow_ups,
            records=outcome.records,
            sizes=outcome.sizes,
            parts=outcome.parts,
        )

    def begun(self, delivery: Delivery, pid: int) -> Record | None:
        if self._requests:
            self._requests.begun(delivery, pid)
        if self._teller.enabled:
            self._teller.begun(delivery)
        return self._app.started_record(delivery, pid, self._hostname)

    def ended(self, endings: Sequence[Ending]) -> None:
        self._ledger.left(endings)
        if self._requests:
            self._requests.ended(endings)
        if self._teller.enabled:
            self._teller.ended(endings)
        if self._tells_sent:
            for ending in endings:
                if ending.outcome.follow_ups:
                    self._teller.sent(self._app.events.sent(ending.outcome.follow_ups))

    def cancelled(self, delivery: Delivery) -> None:
        if self._teller.enabled:
            self._teller.cancelled(delivery)

    def warned(self, delivery: Delivery) -> None:
        self._requests.warned(delivery)

    def dropped(self, count: int, *, crashes: int) -> None:
        self._ledger.lost_leases += count
        self._ledger.crashes += crashes
        self._teller.look_again()

    def news(self) -> Settlement | None:
        return self._teller.news()

    def news_due(self) -> float | None:
        return self._teller.due()

    def received(self, deliveries: tuple[Delivery, ...]) -> tuple[Delivery, ...]:
        self._ledger.arrived(deliveries, wall=time.time())
        if self._teller.enabled:
            self._teller.received(deliveries)
        if _logger.isEnabledFor(logging.INFO):
            for delivery in deliveries:
                message = delivery.message
                _logger.info("Task %s[%s] received", message.shadow or message.task, message.id)
        if signals.task_received.receivers:
            for delivery in deliveries:
                # Without arguments: its body is not read here.
                request = Request.of_delivery(delivery, (), {}, {}, hostname=self._hostname)
                signals.task_received.send(sender=self, request=request)
        if self._requests:
            deliveries = self._requests.arrived(deliveries)
        stamps = self._desk.stamps
        if not stamps:
            return deliveries
        return tuple(
            msgspec.structs.replace(each, revoked=True) if is_stamped(each, stamps) else each for each in deliveries
        )


def _drop(_call: Callable[[], object]) -> None:
    """Take what users want done, and do not do it."""


def _rules(conf: Any, prefetch_multiplier: int | None, concurrency: int) -> Rules:
    """Return the core's rules. Who sets a prefetch multiplier means it: it bounds what is held."""
    default = Rules()
    buffer = conf.worker_buffer
    if buffer is None and conf.worker_disable_prefetch:
        buffer = 0
    multiplier = prefetch_multiplier or (
        conf.worker_prefetch_multiplier if conf.value_set_for("worker_prefetch_multiplier") else None
    )
    if buffer is None and multiplier:
        buffer = max(0, multiplier - 1) * concurrency
    kept = conf.task_dead_letter or {}
    reasons = ("invalid", "unknown-task", "expired", "crashed", "rejected", "failed")
    discard = frozenset(reason for reason in reasons if kept.get(reason, kept.get("*", "keep")) == "discard")
    return Rules(
        crash_limit=conf.task_crash_limit,
        lease=conf.task_lease,
        buffer=default.buffer if buffer is None else buffer,
        eta_limit=conf.worker_eta_task_limit or default.eta_limit,
        ends_lost=bool(conf.worker_cancel_long_running_tasks_on_connection_loss),
        soft_when_idle=bool(conf.worker_enable_soft_shutdown_on_idle),
        discard=discard,
    )


def _http() -> Any:
    return importlib.import_module("umbel.worker.http")  # 10 ms that only who serves health and metrics pays


def _is_a_service() -> bool:
    """Return whether nobody sits before it: then HUP does not mean that a terminal is gone, but restart."""
    out = sys.__stdout__
    return sys.platform != "darwin" and (out is None or not out.isatty())


def bounds(wanted: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the most and the least slots of an autoscaled pool; "max,min", or "max" alone.

    Raises:
        ValueError: it is neither, or no slot is left.
    """
    if not wanted:
        return None
    numbers = [int(number) for number in wanted.split(",")] if isinstance(wanted, str) else [*wanted]
    if not 1 <= len(numbers) <= 2 or min(numbers) < 0 or max(numbers) < 1:
        raise ValueError(f"{wanted!r} are no bounds of a pool")
    return max(numbers), min(numbers) if len(numbers) > 1 else 0


def _cores(wanted: int | str | None) -> int:
    """Return how many tasks run at once; None or "auto" = the cores that this process may use."""
    if wanted is not None and wanted != "auto":
        return max(1, int(wanted))
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
