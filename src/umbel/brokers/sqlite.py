"""Keep messages in a SQLite file that many processes share: the queue that needs no server."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from umbel.brokers.base import (
    BrokerFeatures,
    Claim,
    DeadLetter,
    Delivery,
    Lease,
    Publication,
    QueueSize,
    Settlement,
    Turn,
)
from umbel.brokers.ledger import Note
from umbel.brokers.sqlite_chords import HAS_READY, count_parts, open_chords, take_ready
from umbel.brokers.sqlite_consumers import attend, check
from umbel.brokers.sqlite_file import Database, Location, parse
from umbel.brokers.sqlite_ledger import accept, forget, read_notes, reserve, write_notes
from umbel.brokers.sqlite_moves import PUBLISH_ONE, Mover, View, Wish, drop_stale, purge, sizes
from umbel.brokers.sqlite_results import Sweeper, ring_results, store_records
from umbel.brokers.sqlite_rows import LETTERS, Parcel, Row, deliver, id_of, letter, pack, published, unpack
from umbel.brokers.sqlite_schema import SPAN, TICKS, Plan, drop, load_plan, store_topology
from umbel.brokers.wakeup import QUEUES, Bell, interest
from umbel.exceptions import OperationalError
from umbel.wire.chord import ReadyChord
from umbel.wire.topology import Topology

__all__ = ["Location", "SqliteBroker", "parse"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_TIDY: Final = 5.0  # seconds between two looks for what nobody uses any more
_FORGET: Final = 600.0  # seconds between two looks for revocations that have expired; those read all old messages
_TIDY_PATIENCE: Final = 0.05  # seconds to wait for other writers for what could as well be done later
_DEAF: Final = 0.1  # seconds between two looks where nobody can wake us


class SqliteBroker:
    """A connection to a queue in a SQLite file: the port `Broker`, and the store of results in one."""

    features = BrokerFeatures(
        atomic=True,
        delayed=True,
        priorities=True,
        fanout=True,
        higher_priority_first=True,
        stores_results=True,
        durable_revokes=True,
        counts_crashes=True,
        ledger=True,
    )

    def __init__(self, location: Location, *, clock: Callable[[], float] = time.time) -> None:
        """Take the time from *clock*, a callable that returns unix seconds. The file is opened when it is needed."""
        self._database = Database(location)
        self._clock = clock
        self._closed = False
        self._pid = os.getpid()
        self._name = os.urandom(8).hex()  # as a consumer
        self._plan: Plan | None = None  # of the last transaction; compared by version in the next
        self._consumed: tuple[str, ...] = ()
        self._wish: Wish | None = None  # what that means by some plan
        self._bell: Bell | None = None  # made when somebody asks for the descriptor; a sender needs none
        self._lucky = False  # the last claim found something
        self._mover = Mover()
        self._sweeper = Sweeper()
        self._tidied = self._forgot = clock()

    # -- sending

    def publish(self, publications: Sequence[Publication], *, timeout: float = 5.0) -> None:
        self._check_open()
        if not publications:
            return
        parcels = [pack(each) for each in publications]
        reached = self._publish_one(parcels[0], timeout) if len(parcels) == 1 else None
        if reached is None:
            reached = self._write_within(timeout, self._mover.insert, parcels)
        self._wake(reached)
        self._tidy()

    def _publish_one(self, parcel: Parcel, timeout: float) -> Iterable[str] | None:
        """Store what goes to one known queue now; None = it is not that simple, and nothing was stored."""
        message, route = parcel.publication.message, parcel.publication.route
        if route.exchange or parcel.body is not None or message.eta is not None or self._plan is None:
            return None
        lane = self._plan.places.get((route.routing_key, message.priority or 0))
        if lane is None:
            return None
        key = lane.first + self._mover.tick(self._clock())
        parameters = (key, lane.last, lane.last, parcel.message, self._plan.version)
        return (route.routing_key,) if self._database.run(PUBLISH_ONE, parameters, patience=timeout).rowcount else None

    # -- receiving

    def consume(self, queues: Sequence[str]) -> None:
        self._check_open()
        names = tuple(dict.fromkeys(queues))
        left = [name for name in self._consumed if name not in names]
        self._consumed, self._wish = names, None
        if self._attend(left) and self._bell is None:
            self._make_bell()  # proves to others that we live, and with us our temporary queues
            self._attend([])
        if self._bell is not None:
            self._rest()

    def _attend(self, left: Iterable[str]) -> bool:
        bell = self._bell.name if self._bell is not None and not self._bell.deaf else ""
        return self._write(attend, self._name, bell, queues=self._consumed, left=left)

    def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Turn:
        self._check_open()
        if not settlements:
            # Look before locking: an idle worker keeps nobody from writing. Where it has always found something of
            # late, it is likely to be alone, and the look would be one more step (benchmark round trip: 0.05 ms).
            if claim is not None and claim.limit > 0 and self._lucky and self._bell is not None:
                self._attend_bell()
                finds = True
            else:
                finds = claim is not None and self._rest(poke=claim.limit <= 0)
            if claim is None or not ((finds and claim.limit > 0) or (claim.chords > 0 and self._has_ready())):
                self._tidy()
                return Turn()
        parcels = {id(each): [pack(one) for one in each.follow_ups] for each in settlements if each.follow_ups}
        try:
            held, refused, reached, ready, rows = self._write(self._settle, settlements, parcels, claim)
        except BaseException:
            if claim is not None and self._bell is not None:
                self._bell.poke()  # who tries again should not wait for the next message
            raise
        deliveries = self._deliver(rows)
        self._lucky = bool(deliveries) if claim is not None and claim.limit > 0 else self._lucky
        if settlements:
            self._wake(reached, mine=claim is None)
            self._tell(held)
        if claim is not None and self._bell is not None:
            if len(deliveries) >= claim.limit:
                self._bell.arm(0)  # it is readable from now on, so nobody needs to ring
                self._bell.poke()
            elif settlements:
                self._rest()
        self._tidy()
        return Turn(refused=tuple(refused), deliveries=deliveries, ready=tuple(ready))

    def _settle(
        self,
        view: View,
        settlements: Sequence[Settlement],
        parcels: dict[int, list[Parcel]],
        claim: Claim | None,
    ) -> tuple[list[Settlement], list[Lease], set[str], list[ReadyChord], list[Row]]:
        held, refused, reached = self._mover.settle(view, settlements)
        follow_ups = [parcel for each in held if each.follow_ups for parcel in parcels[id(each)]]
        if follow_ups:
            reached |= self._mover.insert(view, follow_ups)
        records = [record for each in held for record in each.records]
        if records:
            store_records(view.connection, records, view.now)
            self._sweeper.count(len(records))
        open_chords(view.connection, [size for each in held for size in each.sizes], view.now)
        ready = count_parts(view.connection, [part for each in held for part in each.parts], view.now)
        if claim is None:
            return held, refused, reached, ready, []
        ready += take_ready(view.connection, claim.chords, view.now)
        return held, refused, reached, ready, self._mover.claim(view, self._wished(view), claim)

    def _has_ready(self) -> bool:
        return bool(self._database.rows(HAS_READY, (self._clock(),))[0][0])

    def _deliver(self, rows: Sequence[Row]) -> tuple[Delivery, ...]:
        """Decode what was claimed; done after the commit, so that others may write meanwhile."""
        if not rows:
            return ()
        now = self._clock()
        parts = [unpack(row.message, row.key, row.queue) for row in rows]
        revoked: dict[str, float] = {}
        if self._plan is None or self._plan.has_revoked:
            revoked = self._read(_find_revoked, [publication.message.id for publication, _ in parts])
        return tuple(
            deliver(row, publication, invalid, revoked.get(publication.message.id), now)
            for row, (publication, invalid) in zip(rows, parts, strict=True)
        )

    def renew(self, leases: Sequence[Lease], lease: float) -> tuple[Lease, ...]:
        self._check_open()
        return self._write(_renew, leases, lease) if leases else ()

    # -- waiting

    def fileno(self) -> int:
        self._check_open()
        return (self._bell or self._make_bell()).fileno()

    def next_due(self) -> float | None:
        self._check_open()
        due = self._ask("due_sql")
        seconds = None if due is None else max(0.0, due - self._clock())
        if self._bell is not None and self._bell.deaf:
            return _DEAF if seconds is None else min(seconds, _DEAF)
        return seconds

    def _make_bell(self) -> Bell:
        self._bell = Bell(self._database.board, QUEUES)
        self._rest()
        return self._bell

    def _rest(self, *, poke: bool = True) -> bool:
        """Let the descriptor be readable only if something can be claimed now; tell whether it can.

        First we are to be woken, then we look: whoever commits after our look finds our name on the board.
        """
        if self._bell is not None:
            self._attend_bell()
        now = self._clock()
        found = bool(self._ask("due_now_sql", now, now))
        if found and poke and self._bell is not None:
            self._bell.poke()
        return found

    def _attend_bell(self) -> None:
        assert self._bell is not None
        self._bell.arm(interest(self._consumed))
        self._bell.drain()

    def _ask(self, question: Literal["due_sql", "due_now_sql"], *parameters: float) -> Any:
        """Return the answer to a question about the queues we consume, asked by a single statement."""
        if not self._consumed:
            return None
        while True:
            wish = self._wish or self._read(self._wished)
            ((version, answer),) = self._database.rows(getattr(wish, question), parameters)
            if version == wish.plan.version:
                return answer
            self._wish = None

    def _wished(self, view: View) -> Wish:
        """Return what we consume by the plan of that view."""
        if self._wish is None or self._wish.plan is not view.plan:
            self._wish = Wish.of(view.plan, self._consumed)
        return self._wish

    def _wake(self, queues: Iterable[str], *, mine: bool = True) -> None:
        """Wake who waits for one of *queues*: others, and ourselves unless we look anyway."""
        if not queues:
            return
        bell = self._bell
        if mine and bell is not None and not set(queues).isdisjoint(self._consumed):
            bell.poke()
        board = self._database.board
        if board is not None:
            board.ring(QUEUES, queues, but=-1 if bell is None else bell.slot)

    def _tell(self, settlements: Iterable[Settlement]) -> None:
        """Wake who waits for the results of these."""
        board = self._database.board
        if board is not None:
            ring_results(board, [record for each in settlements for record in each.records])

    # -- exchanges and queues

    def declare(self, topology: Topology) -> None:
        self._check_open()
        self._write(_declare, topology)

    def sizes(self, queues: Iterable[str] | None = None) -> dict[str, QueueSize]:
        self._check_open()
        return self._read(sizes, None if queues is None else list(queues))

    def purge(self, queue: str) -> int:
        self._check_open()
        return self._write(purge, queue)

    # -- steering

    def pause(self, queue: str) -> None:
        self._check_open()
        self._write(_change_pause, "INSERT OR IGNORE INTO paused (queue) VALUES (?)", queue)

    def resume(self, queue: str) -> None:
        self._check_open()
        self._write(_change_pause, "DELETE FROM paused WHERE queue = ?", queue)
        self._wake((queue,))

    def paused(self) -> frozenset[str]:
        self._check_open()
        return frozenset(name for (name,) in self._database.rows("SELECT queue FROM paused"))

    def revoke(self, ids: Iterable[str], *, expires: float = 10800.0 * 8) -> None:
        self._check_open()
        self._write(_revoke, list(ids), expires)

    def revoked(self) -> frozenset[str]:
        self._check_open()
        now = self._clock()
        rows = self._database.rows("SELECT id, until FROM revoked")
        waiting = self._waiting({task_id: until for task_id, until in rows if until <= now})
        return frozenset(task_id for task_id, until in rows if until > now or task_id in waiting)

    def _waiting(self, expired: dict[str, float]) -> set[str]:
        """Return those task ids of which a message waits that is older than the moment given with the id."""
        waiting: set[str] = set()
        if not expired:
            return waiting
        latest = int(max(expired.values()) * TICKS)
        for table in ("ready", "delayed", "claimed"):
            sql = f"SELECT key, message FROM {table} WHERE key % {SPAN} <= ?"  # noqa: S608 - names of ours
            for key, blob in self._database.rows(sql, (latest,)):
                task_id = id_of(blob)
                if task_id in expired and published(key) <= expired[task_id]:
                    waiting.add(task_id)
        return waiting

    # -- the dead-letter set

    def dead(self, *, limit: int = 100, after: int | str | None = None) -> list[DeadLetter]:
        self._check_open()
        begin = -1 if after is None else int(after)
        sql = f"{LETTERS} WHERE tag > ? ORDER BY tag LIMIT ?"
        return [letter(row) for row in self._database.rows(sql, (begin, max(0, limit)))]

    def find_dead(self, task_id: str) -> DeadLetter | None:
        self._check_open()
        rows = self._database.rows(f"{LETTERS} WHERE dead.id = ? ORDER BY tag DESC LIMIT 1", (task_id,))
        return letter(rows[0]) if rows else None

    def revive(self, ids: Iterable[str]) -> int:
        self._check_open()
        revived, queues = self._write(self._mover.revive, list(dict.fromkeys(ids)))
        self._wake(queues)
        return revived

    def discard(self, ids: Iterable[str]) -> int:
        self._check_open()
        return self._write(_discard, list(dict.fromkeys(ids)))

    # -- the ledger

    def publish_once(
        self,
        key: str,
        publications: Sequence[Publication],
        *,
        expires: float,
        note: Note | None = None,
        timeout: float = 5.0,
    ) -> bool:
        self._check_open()
        # Look before locking: of all who come with a key, most come late.
        if self._database.rows("SELECT 1 FROM accepted WHERE key = ? AND until > ?", (key, self._clock())):
            return False
        parcels = [pack(each) for each in publications]
        reached = self._write_within(timeout, self._accept, key, parcels, expires, note)
        self._wake(reached or ())
        self._tidy()
        return reached is not None

    def _accept(
        self, view: View, key: str, parcels: list[Parcel], expires: float, note: Note | None
    ) -> set[str] | None:
        if not accept(view.connection, key, view.now + expires, note, view.now):
            return None
        return self._mover.insert(view, parcels)

    def note(self, book: str, entries: Mapping[str, bytes | None]) -> None:
        self._check_open()
        self._database.write(write_notes, book, entries)

    def notes(self, book: str) -> dict[str, bytes]:
        self._check_open()
        return self._database.read(read_notes, book)

    def reserve(self, name: str, interval: float, count: int = 1) -> float:
        self._check_open()
        return self._database.write(reserve, name, interval, count, self._clock())

    # -- ending

    def close(self) -> None:
        if self._closed:
            return
        if self._bell is not None and self._pid == os.getpid():
            left, self._consumed = self._consumed, ()
            try:
                self._write_within(_TIDY_PATIENCE, attend, self._name, "", queues=(), left=left)
            except OperationalError:
                pass  # whoever tidies up next finds that we are gone
        self._closed = True
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        self._database.close()

    # -- transactions

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this SQLite broker is closed: open another one")
        if self._pid != os.getpid():
            self._start_anew()

    def _start_anew(self) -> None:
        """Be another connection: we are in a forked child, and what we had is our parent's."""
        self._pid = os.getpid()
        self._name = os.urandom(8).hex()
        self._mover = Mover()
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._consumed:
            self.consume(self._consumed)

    def _write(self, work: Callable[Concatenate[View, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what *work* returns, done in one write transaction with the plan as it is now."""
        return self._write_within(self._database.location.busy_timeout, work, *args, **kwargs)

    def _write_within(
        self, patience: float, work: Callable[Concatenate[View, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        try:
            return self._database.write_within(patience, self._with_plan, work, *args, **kwargs)
        except BaseException:
            self._plan = None  # it may hold what was undone
            raise

    def _read(self, work: Callable[Concatenate[View, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what *work* returns, done on one view of the file with the plan as it is there."""
        return self._database.read(self._with_plan, work, *args, **kwargs)

    def _with_plan(
        self,
        connection: sqlite3.Connection,
        work: Callable[Concatenate[View, _P], _T],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        (version,) = connection.execute("SELECT version FROM plan").fetchone()
        plan = self._plan
        if plan is None or plan.version != version:
            plan = self._plan = load_plan(connection, version)
        result = work(View(connection, plan, self._clock()), *args, **kwargs)
        if plan.changed:
            connection.execute("UPDATE plan SET version = version + 1")
            self._plan = None
        return result

    # -- tidying up

    def _tidy(self) -> None:
        """Remove from time to time a little of what nobody needs any more."""
        now = self._clock()
        if not self._sweeper.is_urgent and 0 <= now - self._tidied < _TIDY:
            return
        self._tidied = now
        try:
            if not 0 <= now - self._forgot < _FORGET:
                self._forgot = now
                expired = dict(self._database.rows("SELECT id, until FROM revoked WHERE until <= ?", (now,)))
                self._write_within(_TIDY_PATIENCE, _forget, expired.keys() - self._waiting(expired))
            self._write_within(_TIDY_PATIENCE, self._clean)
        except OperationalError:
            pass  # the next time is soon enough, and whatever is wrong shows where it matters

    def _clean(self, view: View) -> None:
        self._sweeper.sweep(view.connection, view.now)
        forget(view.connection, view.now)
        for queue in list(view.plan.specs):
            drop_stale(view, queue)
            check(view, queue, self._name, self._database.board)


def _renew(view: View, leases: Iterable[Lease], lease: float) -> tuple[Lease, ...]:
    execute = view.connection.execute
    sql = "UPDATE claimed SET until = ? WHERE key = ? AND token = ?"
    return tuple(each for each in leases if not execute(sql, (view.now + lease, each.tag, each.token)).rowcount)


def _declare(view: View, topology: Topology) -> None:
    store_topology(view.connection, view.plan, topology, view.now)


def _change_pause(view: View, sql: str, queue: str) -> None:
    if view.connection.execute(sql, (queue,)).rowcount:
        view.plan.changed = True


def _revoke(view: View, ids: Sequence[str], expires: float) -> None:
    view.connection.executemany(
        "INSERT INTO revoked (id, until) VALUES (?, ?)"
        " ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)",
        [(task_id, view.now + expires) for task_id in ids],
    )
    if ids and not view.plan.has_revoked:
        view.plan.changed = True


def _find_revoked(view: View, ids: Iterable[str]) -> dict[str, float]:
    sql = "SELECT until FROM revoked WHERE id = ?"
    found = ((task_id, view.connection.execute(sql, (task_id,)).fetchone()) for task_id in ids)
    return {task_id: row[0] for task_id, row in found if row is not None}


def _forget(view: View, ids: Iterable[str]) -> None:
    view.connection.executemany("DELETE FROM revoked WHERE id = ?", [(task_id,) for task_id in ids])


def _discard(view: View, ids: Iterable[str]) -> int:
    return sum(drop(view.connection, "dead", "id = ?", (task_id,)) for task_id in ids)
