"""Keep periodic tasks in the broker's ledger: entries made at run time, pauses, and when each ran last.

Two books, named by the app: ``schedule:APP`` has what people decided, and only they write it; ``schedule-runs:APP`` has
what happened. Both hold JSON by the name of the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from umbel._names import did_you_mean
from umbel._repr import mask_url
from umbel.beat.entry import evaluated
from umbel.beat.misfire import check_misfire
from umbel.beat.scheduler import beat_options, cleanup_entry, needs_cleanup
from umbel.brokers.ledger import Ledger, Note, ledger_of
from umbel.exceptions import ImproperlyConfigured
from umbel.schedules import crontab, maybe_schedule, schedule, solar

__all__ = ["Book", "Entry", "Run", "plan_of", "plan_to_json"]


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of an entry's past."""

    last: datetime  # the instant it was sent for last, or when it was first seen
    count: int = 0  # how many times it was sent


class _Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What people decided about an entry: all of it, or (without a task) that one of the settings is paused."""

    task: str | None = None
    schedule: dict[str, Any] | None = None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    misfire: str | None = None
    paused: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A periodic task as people see it."""

    name: str
    task: str
    schedule: Any
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    misfire: str | None = None
    paused: bool = False
    from_settings: bool = False  # it stands in the code; what was added at run time does not
    run: Run | None = None  # None = no beat has seen it yet

    def coming(self, now: datetime, count: int) -> list[datetime]:
        """Return its next *count* instants, if its schedule knows them in advance."""
        following = getattr(self.schedule, "next_after", None)
        if following is None or self.paused:
            return []
        moment = now
        if isinstance(self.schedule, schedule) and self.run is not None:
            every = max(self.schedule.run_every, timedelta(microseconds=1))
            moment = self.run.last + every * max(0, (now - self.run.last) // every)
        found: list[datetime] = []
        while len(found) < count and (moment := following(moment)) is not None:
            found.append(moment)
        return found


class Book:
    """The periodic tasks of one app. Its verbs may be called in any process, while beats run or not."""

    def __init__(self, app: Any, lend: Callable[[], AbstractContextManager[Any]] | None = None) -> None:
        """Reach the ledger over connections that *lend* lends; None = the app's own."""
        self.app = app
        self._lend = lend or app.lend_broker
        scope = app.main or ""
        self._decided: Final = f"schedule:{scope}"
        self._ran: Final = f"schedule-runs:{scope}"

    # -- reading

    def entries(self) -> dict[str, Entry]:
        """Return all entries by name: those of the settings, with what was decided at run time over them."""
        with self._lend() as broker:
            ledger = ledger_of(broker)
            decided = {} if ledger is None else ledger.notes(self._decided)
            ran = {} if ledger is None else ledger.notes(self._ran)
        runs = {name: msgspec.json.decode(text, type=Run) for name, text in ran.items()}
        found = self.from_settings()
        for name, text in decided.items():
            decision = msgspec.json.decode(text, type=_Decision)
            if name in found:
                found[name] = msgspec.structs.replace(found[name], paused=decision.paused)
            elif decision.task is not None:
                fields = msgspec.structs.asdict(decision) | {"schedule": plan_of(decision.schedule or {})}
                found[name] = self._entry(name, fields)
        return {name: msgspec.structs.replace(entry, run=runs.get(name)) for name, entry in found.items()}

    def from_settings(self) -> dict[str, Entry]:
        """Return the entries of the settings alone.

        Raises:
            ImproperlyConfigured: one of them makes no sense.
        """
        return {name: self._entry(name, dict(entry), from_settings=True) for name, entry in self._settings().items()}

    def _entry(self, name: str, fields: dict[str, Any], *, from_settings: bool = False) -> Entry:
        missing = [key for key in ("task", "schedule") if fields.get(key) is None]
        if missing:
            raise ImproperlyConfigured(f"the periodic task {name!r} has no {' and no '.join(missing)}: {fields!r}")
        plan = maybe_schedule(fields["schedule"], fields.get("relative", False), app=self.app)
        if not hasattr(plan, "is_due"):
            raise ImproperlyConfigured(
                f"the periodic task {name!r} has the schedule {plan!r}, which is none: give seconds, a timedelta, "
                f"a crontab (crontab.from_string reads a line) or a solar"
            )
        if fields.get("misfire"):
            check_misfire(fields["misfire"])
        known = {key: value for key, value in fields.items() if key in Entry.__struct_fields__ and value is not None}
        return Entry(**{**known, "name": name, "schedule": plan, "from_settings": from_settings})

    def get(self, name: str) -> Entry:
        """Return the entry called *name*.

        Raises:
            KeyError: there is none.
        """
        entries = self.entries()
        try:
            return entries[name]
        except KeyError:
            raise KeyError(f"no periodic task is called {name!r}{did_you_mean(name, entries)}") from None

    def _settings(self) -> dict[str, Any]:
        entries = dict(self.app.conf.beat_schedule)
        if needs_cleanup(self.app):
            entries.setdefault("celery.backend_cleanup", cleanup_entry(self.app))
        return entries

    # -- deciding

    def add(
        self,
        name: str,
        task: str,
        schedule: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        misfire: str | None = None,
    ) -> None:
        """Have *task* sent on *schedule* from now on, or change the entry that was added under this name.

        *schedule* is a number of seconds, a timedelta, a crontab or a solar; arguments and options must be JSON.

        Raises:
            ImproperlyConfigured: the settings have an entry of this name, the broker keeps no ledger, or
                *misfire* is no policy.
            TypeError: something cannot be stored as JSON.
        """
        if name in self._settings():
            raise ImproperlyConfigured(
                f"the periodic task {name!r} stands in the settings: change it there, or pause it"
            )
        if misfire is not None:
            check_misfire(misfire)
        decision = _Decision(
            task=task,
            schedule=plan_to_json(maybe_schedule(schedule, app=self.app)),
            args=list(args),
            kwargs=dict(kwargs or {}),
            options=dict(options or {}),
            misfire=misfire,
        )
        self._decide(name, decision)
        with self._lend() as broker:
            if name not in self._ledger(broker).notes(self._ran):
                self._ledger(broker).note(self._ran, {name: msgspec.json.encode(Run(last=self.app.now()))})

    def pause(self, name: str) -> None:
        """Send it no more until `resume`; raises KeyError as `get`."""
        self._decide(name, self._decision(self.get(name), paused=True))

    def resume(self, name: str) -> None:
        """Send it again; what it missed while it was paused stays unsent. Raises KeyError as `get`.

        It goes on from now, even if a clock that was wrong has let it run in what is the future by ours.
        """
        entry = self.get(name)
        if not entry.paused:
            return
        run = Run(last=self.app.now(), count=entry.run.count if entry.run else 0)
        with self._lend() as broker:
            self._ledger(broker).note(self._ran, {name: msgspec.json.encode(run)})
        self._decide(name, None if entry.from_settings else self._decision(entry, paused=False))

    def remove(self, name: str) -> None:
        """Forget an entry that was added at run time.

        Raises:
            KeyError: there is none.
            ImproperlyConfigured: it stands in the settings.
        """
        if self.get(name).from_settings:
            raise ImproperlyConfigured(
                f"the periodic task {name!r} stands in the settings: remove it there, or pause it"
            )
        self._decide(name, None)
        with self._lend() as broker:
            self._ledger(broker).note(self._ran, {name: None})

    def run(self, name: str) -> Any:
        """Send it now, besides its schedule, paused or not; return the result. Raises KeyError as `get`."""
        entry = self.get(name)
        args, kwargs = evaluated(entry)
        return self.app.send_task(entry.task, args, kwargs, **beat_options(entry))

    def _decision(self, entry: Entry, *, paused: bool) -> _Decision:
        if entry.from_settings:
            return _Decision(paused=paused)
        return _Decision(
            task=entry.task,
            schedule=plan_to_json(entry.schedule),
            args=list(entry.args),
            kwargs=dict(entry.kwargs),
            options=dict(entry.options),
            misfire=entry.misfire,
            paused=paused,
        )

    def _decide(self, name: str, decision: _Decision | None) -> None:
        text = None if decision is None else msgspec.json.encode(decision)
        with self._lend() as broker:
            self._ledger(broker).note(self._decided, {name: text})

    def _ledger(self, broker: Any) -> Ledger:
        ledger = ledger_of(broker)
        if ledger is None:
            url = mask_url(self.app.broker_url())
            raise ImproperlyConfigured(
                f"the broker {url} keeps no ledger, so periodic tasks cannot be changed at run time: "
                f"write them into the setting 'beat_schedule', or use sqlite:// or redis://."
            )
        return ledger

    # -- what beats write

    def run_note(self, name: str, run: Run) -> Note:
        """Return the note that says when an entry ran last."""
        return Note(self._ran, name, msgspec.json.encode(run))

    def key(self, name: str, what: str) -> str:
        """Return the key under which something of an entry happens once."""
        return f"{self._decided}:{name}:{what}"


def plan_to_json(plan: Any) -> dict[str, Any]:
    """Return *plan* in a form that can be stored; raises TypeError for a class of somebody else."""
    if type(plan) is schedule:
        return {"every": plan.seconds, **({"relative": True} if plan.relative else {})}
    if type(plan) is crontab:
        _, fields, options = plan.__reduce__()
        minute, hour, weekday, day, month = (
            ",".join(map(str, each)) if isinstance(each, list) else str(each).replace(" ", "") for each in fields
        )
        more = {key: str(value) for key, value in options.items()}
        return {"crontab": f"{minute} {hour} {day} {month} {weekday}", **more}
    if type(plan) is solar:
        return {"solar": [plan.event, plan.lat, plan.lon]}
    raise TypeError(f"{plan!r} cannot be stored: give seconds, a timedelta, a crontab or a solar")


def plan_of(stored: Mapping[str, Any]) -> Any:
    """Return the schedule that `plan_to_json` wrote."""
    if "every" in stored:
        return schedule(stored["every"], stored.get("relative", False))
    if "crontab" in stored:
        options = {key: stored[key] for key in ("tz", "dst") if key in stored}
        return crontab.from_string(stored["crontab"], **options)
    return solar(*stored["solar"])


def utc(moment: datetime) -> str:
    """Return *moment* as beats write it into keys: the same for all time zones."""
    return moment.astimezone(UTC).isoformat()
