"""Keep messages in a SQLite file that many processes share: the queue that needs no server."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Concatenate, Final, Literal, NamedTuple, ParamSpec, TypeVar

import msgspec

from umbel.brokers.base import (
    BrokerFeatures,
    Bury,
    Claim,
    DeadLetter,
    Delivery,
    Done,
    Lease,
    Publication,
    QueueSize,
    Release,
    Settlement,
    Turn,
)
from umbel.brokers.sqlite_file import Database, Location, parse
from umbel.brokers.sqlite_results import Sweeper, ring_results, store_records
from umbel.brokers.sqlite_schema import (
    SPAN,
    TICKS,
    Lane,
    Plan,
    create_queue,
    delete_queue,
    drop,
    lane_of,
    load_plan,
    load_topology,
    store_topology,
)
from umbel.brokers.wakeup import QUEUES, Bell, interest
from umbel.exceptions import EncodeError, OperationalError
from umbel.wire.message import Message, Route
from umbel.wire.record import Record
from umbel.wire.topology import QueueSpec, Topology, match

__all__ = ["Location", "SqliteBroker", "parse"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_BIG: Final = 2048  # bytes: a larger body lies apart, so that claiming does not copy it
_LOOK: Final = 0.05  # seconds between two looks for due and lapsed messages while the queue is full anyway
_PROMOTED: Final = 500  # at most so many of each at a look
_TIDY: Final = 5.0  # seconds between two looks for what nobody uses any more
_GONE: Final = 600.0  # seconds without a sign of life, for a consumer that has no bell to prove it
_FORGET: Final = 600.0  # seconds between two looks for revocations that have expired; those read all old messages
_TIDY_PATIENCE: Final = 0.2  # seconds to wait for other writers for what could as well be done later
_DEAF: Final = 0.1  # seconds between two looks where nobody can wake us

_CARRIED: Final = "token, crashes, evidence, big, message"

# One statement that is its own transaction: takes the next key behind all of its lane, if the plan is the one we know.
# Benchmark "publish 1": 12 µs, where the general way takes 17.
_PUBLISH_ONE: Final = """
    INSERT INTO ready (key, token, crashes, message)
    SELECT max(?1, 1 + ifnull((SELECT key FROM ready WHERE key <= ?2 ORDER BY key DESC LIMIT 1), 0),
                   1 + ifnull((SELECT key FROM claimed WHERE key <= ?2 ORDER BY key DESC LIMIT 1), 0)), 0, 0, ?3
    WHERE (SELECT version FROM plan) = ?4
"""
_NEWEST: Final = """
    SELECT max(ifnull((SELECT key FROM ready WHERE key <= ?1 ORDER BY key DESC LIMIT 1), 0),
               ifnull((SELECT key FROM claimed WHERE key <= ?1 ORDER BY key DESC LIMIT 1), 0))
"""
_INSERT: Final = f"INSERT INTO ready (key, {_CARRIED}) VALUES (?, ?, ?, ?, ?, ?)"
_DELAY: Final = f"INSERT OR IGNORE INTO delayed (queue, due, key, {_CARRIED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_TAKEN: Final = "SELECT EXISTS(SELECT 1 FROM ready WHERE key = ?1) OR EXISTS(SELECT 1 FROM claimed WHERE key = ?1)"
_KEYS: Final = "SELECT key FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
_TAKE: Final = """
    SELECT key, max(token + 1, ?), crashes, token > 0, message, (SELECT body FROM bodies WHERE id = big)
    FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?
"""
_HOLD: Final = f"""
    INSERT INTO claimed (key, queue, until, owner, {_CARRIED})
    SELECT key, ?, ?, ?, max(token + 1, ?), crashes, evidence, big, message
    FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?
"""  # noqa: S608
_DONE: Final = "DELETE FROM claimed WHERE key = ? AND token = ? RETURNING big"
_END: Final = f"DELETE FROM claimed WHERE key = ? AND token = ? RETURNING queue, {_CARRIED}"
_LAPSED: Final = f"SELECT key, owner, {_CARRIED} FROM claimed WHERE queue = ? AND until <= ? ORDER BY until LIMIT ?"
_DUE: Final = f"SELECT due, key, {_CARRIED} FROM delayed WHERE queue = ? AND due <= ? ORDER BY due, key LIMIT ?"  # noqa: S608
_BURY: Final = f"""
    INSERT INTO dead (id, task, queue, rank, reason, died_at, {_CARRIED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_LETTERS: Final = """
    SELECT tag, dead.id, task, queue, reason, died_at, crashes, evidence, message, body
    FROM dead LEFT JOIN bodies ON bodies.id = big
"""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Publication).decode


class _Parcel(NamedTuple):
    """A publication, encoded before the file is locked."""

    publication: Publication
    message: bytes
    body: bytes | None  # what lies apart
    due: float  # unix seconds; 0.0 = no eta


class _Row(NamedTuple):
    """A message as it was claimed."""

    queue: str
    key: int
    token: int
    crashes: int
    claimed_before: int
    message: bytes
    body: bytes | None


class _HeadOfMessage(msgspec.Struct, array_like=True):
    id: str


class _Head(msgspec.Struct, array_like=True):
    """As much of a publication as tells its task's id."""

    message: _HeadOfMessage


_decode_head: Final = msgspec.msgpack.Decoder(_Head).decode


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
    )

    def __init__(self, location: Location, *, clock: Callable[[], float] = time.time) -> None:
        """Take the time from *clock*, a callable that returns unix seconds. The file is opened when it is needed."""
        self._database = Database(location)
        self._clock = clock
        self._closed = False
        self._pid = os.getpid()
        self._plan: Plan | None = None  # of the last transaction; compared by version in the next
        self._consumed: tuple[str, ...] = ()
        self._wish: _Wish | None = None  # what `_consumed` means by that plan
        self._bell: Bell | None = None  # made when somebody asks for the descriptor; a sender needs none
        self._sweeper = Sweeper()
        self._name = os.urandom(8).hex()  # as a consumer
        self._tidy_at = time.monotonic() + _TIDY
        self._forget_at = time.monotonic() + _FORGET
        self._looked = 0.0
        self._newest = 0  # the time in the key we made last
        self._salt = int.from_bytes(os.urandom(2), "little") << 4
        self._token = 0

    # -- sending

    def publish(self, publications: Sequence[Publication], *, timeout: float = 5.0) -> None:
        self._check_open()
        if not publications:
            return
        now = self._clock()
        parcels = [_pack(each) for each in publications]
        reached = self._publish_one(parcels[0], now, timeout) if len(parcels) == 1 else None
        if reached is None:
            reached = self._write(timeout, self._insert, parcels, now)
        self._wake(reached)
        self._tidy(now)

    def _publish_one(self, parcel: _Parcel, now: float, timeout: float) -> Iterable[str] | None:
        """Store what goes to one known queue now; None = it is not that simple, and nothing was stored."""
        route = parcel.publication.route
        if route.exchange or parcel.body is not None or parcel.due > now or self._plan is None:
            return None
        lane = self._plan.places.get((route.routing_key, parcel.publication.message.priority or 0))
        if lane is None:
            return None
        key = lane.first + self._tick(now)
        parameters = (key, lane.last, parcel.message, self._plan.version)
        return (route.routing_key,) if self._database.run(_PUBLISH_ONE, parameters, patience=timeout).rowcount else None

    def _insert(
        self, connection: sqlite3.Connection, plan: Plan, parcels: Iterable[_Parcel], now: float
    ) -> Iterable[str]:
        """Put *parcels* into the queues they reach; return the names of those."""
        reached: set[str] = set()
        visited: set[int] = set()
        ready = []
        for publication, blob, body, due in parcels:
            route, message = publication.route, publication.message
            names: tuple[str, ...] = (route.routing_key,)
            if route.exchange:
                names = match(load_topology(connection, plan), route.exchange, route.routing_key, message.headers)
            for name in names:
                lane = lane_of(connection, plan, name, message.priority or 0, now)
                big = None if body is None else _store_body(connection, body)
                if due > now:
                    self._delay(connection, lane, due, lane.first + self._tick(now), (0, 0, None, big, blob))
                else:
                    if lane.id not in visited:
                        visited.add(lane.id)
                        self._pass(connection, lane)
                    ready.append((lane.first + self._tick(now), 0, 0, None, big, blob))
            reached.update(names)
        connection.executemany(_INSERT, ready)
        return reached

    def _tick(self, now: float) -> int:
        """Return the time in the key of a new message: now, but behind all that we have made."""
        self._newest = max(int(now * TICKS), self._newest + 1)
        return self._newest

    def _pass(self, connection: sqlite3.Connection, lane: Lane) -> None:
        """Let our next key come behind all of *lane*, should another process's clock have been ahead."""
        (newest,) = connection.execute(_NEWEST, (lane.last,)).fetchone()
        self._newest = max(self._newest, newest - lane.first)

    def _delay(
        self, connection: sqlite3.Connection, lane: Lane, due: float, key: int, carried: tuple[object, ...]
    ) -> None:
        while not connection.execute(_DELAY, (lane.queue, due, key, *carried)).rowcount:
            key += 1  # two processes made one key in the same 16 µs

    # -- receiving

    def consume(self, queues: Sequence[str]) -> None:
        self._check_open()
        names = tuple(dict.fromkeys(queues))
        left = [name for name in self._consumed if name not in names]
        self._consumed, self._wish = names, None
        if self._write(None, self._attend, left) and self._bell is None:
            self._make_bell()  # proves to others that we live, and with us our temporary queues
            self._write(None, self._attend, [])
        if self._bell is not None:
            self._rest(self._clock())

    def _attend(self, connection: sqlite3.Connection, plan: Plan, left: Iterable[str]) -> bool:
        """Be a consumer of our queues and no more of those we *left*; tell whether any of ours is temporary."""
        now = self._clock()
        for name in self._consumed:
            if name not in plan.ids:
                create_queue(connection, plan, QueueSpec(name), now)
        temporary = [number for name in self._consumed if _is_temporary(plan.specs[number := plan.ids[name]])]
        bell = self._bell.name if self._bell is not None and not self._bell.deaf else ""
        connection.executemany(
            "INSERT OR REPLACE INTO consumers (queue, name, bell, seen) VALUES (?, ?, ?, ?)",
            [(number, self._name, bell, now) for number in temporary],
        )
        for number in [plan.ids[name] for name in left if name in plan.ids]:
            if _is_temporary(plan.specs[number]):
                connection.execute("DELETE FROM consumers WHERE queue = ? AND name = ?", (number, self._name))
                connection.execute("UPDATE queues SET used = ? WHERE id = ?", (now, number))
                _leave(connection, plan, number)
        return bool(temporary)

    def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Turn:
        self._check_open()
        now = self._clock()
        if not settlements:
            # Look before locking: an idle worker keeps nobody from writing.
            if claim is None or not self._rest(now, poke=claim.limit <= 0) or claim.limit <= 0:
                self._tidy(now)
                return Turn()
        parcels = [[_pack(each) for each in settlement.follow_ups] for settlement in settlements]
        refused, reached, rows = self._write(None, self._settle, settlements, parcels, claim, now)
        deliveries = self._deliver(rows, now)
        if settlements:
            self._wake(reached, mine=claim is None)
            self._tell([each for each in settlements if each.records], refused)
        if claim is not None and self._bell is not None:
            if len(deliveries) >= claim.limit:
                self._bell.arm(0)  # it is readable from now on, so nobody needs to ring
                self._bell.poke()
            elif settlements:
                self._rest(now)
        self._tidy(now)
        return Turn(refused=tuple(refused), deliveries=deliveries)

    def _settle(
        self,
        connection: sqlite3.Connection,
        plan: Plan,
        settlements: Sequence[Settlement],
        parcels: Sequence[Sequence[_Parcel]],
        claim: Claim | None,
        now: float,
    ) -> tuple[list[Lease], Iterable[str], list[_Row]]:
        refused: list[Lease] = []
        reached: set[str] = set()
        follow_ups: list[_Parcel] = []
        records: list[Record] = []
        execute = connection.execute
        for settlement, packed in zip(settlements, parcels, strict=True):
            lease = settlement.lease
            if lease is None:
                pass
            elif type(settlement.verdict) is Done:
                row = execute(_DONE, (lease.tag, lease.token)).fetchone()
                if row is None:
                    refused.append(lease)
                    continue
                if row[0] is not None:
                    execute("DELETE FROM bodies WHERE id = ?", row)
            else:
                row = execute(_END, (lease.tag, lease.token)).fetchone()
                if row is None:
                    refused.append(lease)
                    continue
                reached.add(self._end(connection, plan, int(lease.tag), row, settlement.verdict, now))
            follow_ups += packed
            records += settlement.records
        if follow_ups:
            reached.update(self._insert(connection, plan, follow_ups, now))
        if records:
            store_records(connection, records, now)
            self._sweeper.count(records)
        return refused, reached, [] if claim is None else self._claim(connection, plan, claim, now)

    def _end(
        self,
        connection: sqlite3.Connection,
        plan: Plan,
        key: int,
        row: tuple[int, int, int, bytes | None, int | None, bytes],
        verdict: Release | Bury | Done,
        now: float,
    ) -> str:
        """Put a message that is in nobody's hand any more where *verdict* says; return the name of its queue."""
        queue, token, crashes, evidence, big, blob = row
        lane = plan.lanes[key // SPAN]
        name = plan.names[queue]
        if isinstance(verdict, Bury):
            message = _open(blob, key, name)[0].message
            evidence = _and(evidence, verdict.evidence)
            carried = (token, crashes, evidence, big, blob)
            connection.execute(_BURY, (message.id, message.task, name, lane.rank, verdict.reason, now, *carried))
        elif isinstance(verdict, Release):
            if verdict.counted:
                crashes, evidence = crashes + 1, _and(evidence, verdict.evidence or "crashed")
            if not verdict.front:
                if plan.has_revoked:  # a revocation is kept while a message older than its end waits; this grows young
                    connection.execute(
                        "UPDATE revoked SET until = max(until, ?) WHERE id = ? AND until >= ?",
                        (now, _open(blob, key, name)[0].message.id, _published(key)),
                    )
                self._pass(connection, lane)
                key = lane.first + self._tick(now)
            carried = (token, crashes, evidence, big, blob)
            if verdict.delay > 0:
                self._delay(connection, lane, now + verdict.delay, key, carried)
            else:
                connection.execute(_INSERT, (key, *carried))
        return name

    # -- claiming

    def _claim(self, connection: sqlite3.Connection, plan: Plan, claim: Claim, now: float) -> list[_Row]:
        wish = self._wished(plan)
        if not wish.queues or claim.limit <= 0:
            return []
        self._token = max(self._token + 1, int(now * 128) << 20 | self._salt)
        has_looked = not 0 <= now - self._looked < _LOOK
        if has_looked:
            self._look(connection, plan, wish, now)
        rows = self._take(connection, wish, claim, claim.limit, now)
        if len(rows) < claim.limit and not has_looked and self._look(connection, plan, wish, now):
            rows += self._take(connection, wish, claim, claim.limit - len(rows), now)
        return rows

    def _look(self, connection: sqlite3.Connection, plan: Plan, wish: _Wish, now: float) -> int:
        """Make ready what is due and what was lost by its holder, drop what nobody wants any more; count the first."""
        self._looked = now
        found = 0
        for queue in wish.queues:
            lapsed = connection.execute(_LAPSED, (queue, now, _PROMOTED)).fetchall()
            for key, owner, token, crashes, evidence, big, blob in lapsed:
                line = f"lost by {owner}: its lease ran out and was not renewed"
                connection.execute("DELETE FROM claimed WHERE key = ?", (key,))
                connection.execute(_INSERT, (key, token, crashes + 1, _and(evidence, line), big, blob))
            due = connection.execute(_DUE, (queue, now, _PROMOTED)).fetchall()
            for at, key, *carried in due:
                connection.execute("DELETE FROM delayed WHERE queue = ? AND due = ? AND key = ?", (queue, at, key))
                while connection.execute(_TAKEN, (key,)).fetchone()[0]:
                    key += 1  # noqa: PLW2901 - as in _delay
                connection.execute(_INSERT, (key, *carried))
            found += len(lapsed) + len(due)
            _drop_stale(connection, plan, queue, now)
        return found

    def _take(self, connection: sqlite3.Connection, wish: _Wish, claim: Claim, limit: int, now: float) -> list[_Row]:
        """Claim what comes first by priority, then by age, over all lanes of *wish*."""
        if len(wish.lanes) == 1:
            return self._take_from(connection, wish, wish.lanes[0], claim, limit, now)
        execute = connection.execute
        ranks: dict[int, list[Lane]] = {}
        for number, rank in execute(wish.filled_sql):  # highest rank first
            ranks.setdefault(rank, []).append(wish.plan.lanes[number])
        rows: list[_Row] = []
        for lanes in ranks.values():
            room = limit - len(rows)
            if len(lanes) == 1:
                rows += self._take_from(connection, wish, lanes[0], claim, room, now)
                continue
            # Of each lane a beginning is taken; count how long these are.
            ages = [
                [(key % SPAN, lane.id) for (key,) in execute(_KEYS, (lane.first, lane.last, room))] for lane in lanes
            ]
            share = Counter(number for _, number in sorted(chain.from_iterable(ages))[:room])
            found = [
                row for lane in lanes for row in self._take_from(connection, wish, lane, claim, share[lane.id], now)
            ]
            rows += sorted(found, key=lambda row: row.key % SPAN)
        return rows

    def _take_from(
        self, connection: sqlite3.Connection, wish: _Wish, lane: Lane, claim: Claim, limit: int, now: float
    ) -> list[_Row]:
        if limit <= 0:
            return []
        queue = wish.plan.names[lane.queue]
        parameters = (self._token, lane.first, lane.last, limit)
        rows = [_Row(queue, *row) for row in connection.execute(_TAKE, parameters)]
        if rows:
            connection.execute(_HOLD, (lane.queue, now + claim.lease, claim.owner, *parameters))
            connection.execute("DELETE FROM ready WHERE key BETWEEN ? AND ?", (lane.first, rows[-1].key))
        return rows

    def _deliver(self, rows: Sequence[_Row], now: float) -> tuple[Delivery, ...]:
        """Decode what was claimed; done after the commit, so that others may write meanwhile."""
        revoked: dict[str, float] = {}
        parts = [_open(row.message, row.key, row.queue) for row in rows]
        if rows and (self._plan is None or self._plan.has_revoked):
            revoked = self._read(_find_revoked, [publication.message.id for publication, _ in parts])
        deliveries = []
        for row, (publication, invalid) in zip(rows, parts, strict=True):
            message = publication.message
            if row.body is not None:
                message = msgspec.structs.replace(message, body=row.body)
            deliveries.append(
                Delivery(
                    message=message,
                    queue=row.queue,
                    route=publication.route,
                    tag=row.key,
                    token=row.token,
                    crashes=row.crashes,
                    redelivered=row.claimed_before == 1,
                    revoked=message.id in revoked
                    and (now < revoked[message.id] or _published(row.key) <= revoked[message.id]),
                    expired=message.expires is not None and message.expires.timestamp() <= now,
                    invalid=invalid,
                )
            )
        return tuple(deliveries)

    def renew(self, leases: Sequence[Lease], lease: float) -> tuple[Lease, ...]:
        self._check_open()
        return self._write(None, self._renew, leases, self._clock() + lease) if leases else ()

    def _renew(
        self, connection: sqlite3.Connection, plan: Plan, leases: Sequence[Lease], until: float
    ) -> tuple[Lease, ...]:
        sql = "UPDATE claimed SET until = ? WHERE key = ? AND token = ?"
        return tuple(each for each in leases if not connection.execute(sql, (until, each.tag, each.token)).rowcount)

    # -- waiting

    def fileno(self) -> int:
        self._check_open()
        return (self._bell or self._make_bell()).fileno()

    def next_due(self) -> float | None:
        self._check_open()
        due = self._ask("due_sql")
        moments = [] if due is None else [max(0.0, due - self._clock())]
        if self._bell is not None and self._bell.deaf:
            moments.append(_DEAF)
        return min(moments, default=None)

    def _make_bell(self) -> Bell:
        self._bell = Bell(self._database.board, QUEUES)
        self._rest(self._clock())
        return self._bell

    def _rest(self, now: float, *, poke: bool = True) -> bool:
        """Let the descriptor be readable only if something can be claimed now; tell whether it can.

        First we are to be woken, then we look: whoever commits after our look finds our name on the board.
        """
        if self._bell is not None:
            self._bell.arm(interest(self._consumed))
            self._bell.drain()
        found = bool(self._ask("filled_now_sql", now))
        if found and poke and self._bell is not None:
            self._bell.poke()
        return found

    def _ask(self, question: Literal["due_sql", "filled_now_sql"], *parameters: float) -> Any:
        """Return the answer to a question about the queues we consume, asked without a transaction of our own."""
        if not self._consumed:
            return None
        while True:
            wish = self._wish or self._read(lambda _, plan: self._wished(plan))
            ((version, answer),) = self._database.rows(getattr(wish, question), parameters)
            if version == wish.plan.version:
                return answer
            self._wish = None

    def _wished(self, plan: Plan) -> _Wish:
        """Return what we consume by that plan."""
        if self._wish is None or self._wish.plan is not plan:
            self._wish = _Wish.of(plan, self._consumed)
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

    def _tell(self, settlements: Sequence[Settlement], refused: Iterable[Lease]) -> None:
        """Wake who waits for results."""
        if settlements and (board := self._database.board) is not None:
            gone = set(refused)
            ids = [record.id for each in settlements if each.lease not in gone for record in each.records]
            ring_results(board, ids)

    # -- exchanges and queues

    def declare(self, topology: Topology) -> None:
        self._check_open()
        now = self._clock()
        self._write(None, lambda connection, plan: store_topology(connection, plan, topology, now))

    def sizes(self, queues: Iterable[str] | None = None) -> dict[str, QueueSize]:
        self._check_open()
        return self._read(_sizes, None if queues is None else list(queues), self._clock())

    def purge(self, queue: str) -> int:
        self._check_open()
        return self._write(None, _purge, queue)

    # -- steering

    def pause(self, queue: str) -> None:
        self._check_open()
        self._write(None, _change, "INSERT OR IGNORE INTO paused (queue) VALUES (?)", (queue,))

    def resume(self, queue: str) -> None:
        self._check_open()
        self._write(None, _change, "DELETE FROM paused WHERE queue = ?", (queue,))
        self._wake((queue,))

    def paused(self) -> frozenset[str]:
        self._check_open()
        return self._read(lambda _, plan: plan.paused)

    def revoke(self, ids: Iterable[str], *, expires: float = 10800.0 * 8) -> None:
        self._check_open()
        until = self._clock() + expires
        rows = [(task_id, until) for task_id in ids]
        if rows:
            self._write(None, _revoke, rows)

    def revoked(self) -> frozenset[str]:
        self._check_open()
        now = self._clock()
        rows = self._database.rows("SELECT id, until FROM revoked")
        waiting = self._waiting({task_id: until for task_id, until in rows if until <= now})
        return frozenset(task_id for task_id, until in rows if until > now or task_id in waiting)

    def _waiting(self, expired: dict[str, float]) -> frozenset[str]:
        """Return those task ids of which a message waits that is older than the moment given with the id."""
        if not expired:
            return frozenset()
        latest = int(max(expired.values()) * TICKS)
        found = set()
        for table in ("ready", "delayed", "claimed"):
            sql = f"SELECT key, message FROM {table} WHERE key % {SPAN} <= ?"  # noqa: S608 - names of ours
            for key, blob in self._database.rows(sql, (latest,)):
                task_id = _id_of(blob)
                if task_id in expired and _published(key) <= expired[task_id]:
                    found.add(task_id)
        return frozenset(found)

    # -- the dead-letter set

    def dead(self, *, limit: int = 100, after: int | str | None = None) -> list[DeadLetter]:
        self._check_open()
        begin = -1 if after is None else int(after)
        return [
            _letter(*row)
            for row in self._database.rows(f"{_LETTERS} WHERE tag > ? ORDER BY tag LIMIT ?", (begin, max(0, limit)))
        ]

    def find_dead(self, task_id: str) -> DeadLetter | None:
        self._check_open()
        rows = self._database.rows(f"{_LETTERS} WHERE dead.id = ? ORDER BY tag DESC LIMIT 1", (task_id,))
        return _letter(*rows[0]) if rows else None

    def revive(self, ids: Iterable[str]) -> int:
        self._check_open()
        revived, queues = self._write(None, self._revive, list(dict.fromkeys(ids)))
        self._wake(queues)
        return revived

    def _revive(self, connection: sqlite3.Connection, plan: Plan, ids: Iterable[str]) -> tuple[int, set[str]]:
        now = self._clock()
        queues = set()
        revived = 0
        for task_id in ids:
            found = connection.execute("DELETE FROM dead WHERE id = ? RETURNING queue, rank, big, message", (task_id,))
            for queue, rank, big, blob in found.fetchall():
                lane = lane_of(connection, plan, queue, rank, now)
                self._pass(connection, lane)
                connection.execute(_INSERT, (lane.first + self._tick(now), 0, 0, None, big, blob))
                queues.add(queue)
                revived += 1
        return revived, queues

    def discard(self, ids: Iterable[str]) -> int:
        self._check_open()
        return self._write(None, _discard, list(dict.fromkeys(ids)))

    # -- ending

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid() and self._bell is not None:
            self._leave_all()
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        self._database.close()

    def _leave_all(self) -> None:
        left, self._consumed = self._consumed, ()
        try:
            self._write(_TIDY_PATIENCE, self._attend, left)
        except OperationalError:
            pass  # whoever tidies up next finds that we are gone

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
        self._salt = int.from_bytes(os.urandom(2), "little") << 4
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._consumed:
            self.consume(self._consumed)

    def _write(
        self,
        patience: float | None,
        work: Callable[Concatenate[sqlite3.Connection, Plan, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Return what *work* returns, done in one write transaction with the plan as it is now."""
        patience = self._database.location.busy_timeout if patience is None else patience
        try:
            return self._database.write_within(patience, self._with_plan, work, *args, **kwargs)
        except BaseException:
            self._plan = None  # it may hold what was undone
            raise

    def _read(
        self, work: Callable[Concatenate[sqlite3.Connection, Plan, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Return what *work* returns, done on one view of the file with the plan as it is there."""
        return self._database.read(self._with_plan, work, *args, **kwargs)

    def _with_plan(
        self,
        connection: sqlite3.Connection,
        work: Callable[Concatenate[sqlite3.Connection, Plan, _P], _T],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        (version,) = connection.execute("SELECT version FROM plan").fetchone()
        plan = self._plan
        if plan is None or plan.version != version:
            plan = self._plan = load_plan(connection, version)
        result = work(connection, plan, *args, **kwargs)
        if plan.changed:
            connection.execute("UPDATE plan SET version = version + 1")
            self._plan = None
        return result

    # -- tidying up

    def _tidy(self, now: float) -> None:
        """Remove from time to time a little of what nobody needs any more."""
        if not self._sweeper.is_urgent and time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + _TIDY
        try:
            if time.monotonic() >= self._forget_at:
                self._forget_at = time.monotonic() + _FORGET
                expired = dict(self._database.rows("SELECT id, until FROM revoked WHERE until <= ?", (now,)))
                gone = expired.keys() - self._waiting(expired)
                self._write(_TIDY_PATIENCE, _forget, sorted(gone))
            self._write(_TIDY_PATIENCE, self._clean, now)
        except OperationalError:
            pass  # the next time is soon enough, and whatever is wrong shows where it matters

    def _clean(self, connection: sqlite3.Connection, plan: Plan, now: float) -> None:
        self._sweeper.sweep(connection, now)
        for number, spec in list(plan.specs.items()):
            _drop_stale(connection, plan, number, now)
            if _is_temporary(spec):
                self._check_used(connection, plan, number, now)

    def _check_used(self, connection: sqlite3.Connection, plan: Plan, number: int, now: float) -> None:
        """Delete a temporary queue whose consumers are gone."""
        execute = connection.execute
        spec = plan.specs[number]
        board = self._database.board
        consumers = execute("SELECT name, bell, seen FROM consumers WHERE queue = ?", (number,)).fetchall()
        for name, bell, seen in consumers:
            if name == self._name or (board.is_alive(bell) if bell and board is not None else now - seen < _GONE):
                if name == self._name:
                    execute("UPDATE consumers SET seen = ? WHERE queue = ? AND name = ?", (now, number, name))
                execute("UPDATE queues SET used = ? WHERE id = ?", (now, number))
                return
        if consumers:
            execute("DELETE FROM consumers WHERE queue = ?", (number,))
            _leave(connection, plan, number)
        (used,) = execute("SELECT ifnull(max(used), 1e99) FROM queues WHERE id = ?", (number,)).fetchone()
        if spec.expires is not None and now - used > spec.expires:
            delete_queue(connection, plan, number)


class _Wish(NamedTuple):
    """What a broker consumes, and the questions about it."""

    plan: Plan
    queues: list[int]  # those that are not paused
    lanes: list[Lane]
    filled_sql: str  # lanes with messages, highest rank first
    filled_now_sql: str  # is anything ready, due or lapsed at the moment given?
    due_sql: str  # when is the earliest delayed message due, or the earliest lease run out?

    @classmethod
    def of(cls, plan: Plan, consumed: Iterable[str]) -> _Wish:
        queues = plan.unpaused(consumed)
        some = ", ".join(map(str, queues))
        filled = f"EXISTS (SELECT 1 FROM ready WHERE key BETWEEN lanes.id * {SPAN} AND lanes.id * {SPAN} + {SPAN - 1})"
        lanes = f"FROM lanes WHERE queue IN ({some}) AND {filled}"
        waits = f"""
            EXISTS (SELECT 1 FROM delayed WHERE queue = queues.id AND due <= ?1)
            OR EXISTS (SELECT 1 FROM claimed WHERE queue = queues.id AND until <= ?1)
        """
        return cls(
            plan=plan,
            queues=queues,
            lanes=[lane for lane in plan.lanes.values() if lane.queue in queues],
            filled_sql=f"SELECT id, rank {lanes} ORDER BY rank DESC",
            filled_now_sql=f"SELECT version, EXISTS (SELECT 1 {lanes})"
            f" OR EXISTS (SELECT 1 FROM queues WHERE id IN ({some}) AND ({waits})) FROM plan",
            due_sql=f"""SELECT version, (SELECT min(moment) FROM (
                SELECT (SELECT min(due) FROM delayed WHERE queue = queues.id) AS moment FROM queues WHERE id IN ({some})
                UNION ALL
                SELECT (SELECT min(until) FROM claimed WHERE queue = queues.id) FROM queues WHERE id IN ({some})
            )) FROM plan""",
        )


def _pack(publication: Publication) -> _Parcel:
    message = publication.message
    body = None
    if len(message.body) > _BIG:
        body = message.body
        publication = Publication(message=msgspec.structs.replace(message, body=b""), route=publication.route)
    try:
        blob = _encode(publication)
    except (TypeError, ValueError, OverflowError) as exc:
        raise EncodeError(
            f"message {message.id} of task {message.task} cannot be stored: {exc}. "
            f"Headers, stamps and properties take numbers, text, bytes, lists and mappings."
        ) from exc
    return _Parcel(publication, blob, body, 0.0 if message.eta is None else message.eta.timestamp())


def _open(blob: bytes, key: int, queue: str) -> tuple[Publication, str | None]:
    """Return what was stored; if it is nonsense, a stand-in and the reason."""
    try:
        return _decode(blob), None
    except (msgspec.MsgspecError, ValueError, OverflowError) as exc:
        message = Message(id=f"invalid-{key}", task="", body=blob)
        return Publication(message=message, route=Route("", queue)), f"no message of umbel: {exc}"


def _id_of(blob: bytes) -> str | None:
    try:
        return _decode_head(blob).message.id
    except (msgspec.MsgspecError, ValueError):
        return None


def _store_body(connection: sqlite3.Connection, body: bytes) -> int | None:
    return connection.execute("INSERT INTO bodies (body) VALUES (?)", (body,)).lastrowid


def _published(key: int) -> float:
    """Return the unix second of publishing that a key tells."""
    return key % SPAN / TICKS


def _and(evidence: bytes | None, line: str) -> bytes | None:
    return msgspec.json.encode([*_lines(evidence), line]) if line else evidence


def _lines(evidence: bytes | None) -> tuple[str, ...]:
    return () if evidence is None else msgspec.json.decode(evidence, type=tuple[str, ...])


def _is_temporary(spec: QueueSpec) -> bool:
    return spec.auto_delete or spec.exclusive or spec.expires is not None


def _leave(connection: sqlite3.Connection, plan: Plan, number: int) -> None:
    """Delete a queue that goes with its last consumer, if that has gone."""
    spec = plan.specs[number]
    if not (spec.auto_delete or spec.exclusive):
        return
    if connection.execute("SELECT 1 FROM consumers WHERE queue = ?", (number,)).fetchone() is None:
        delete_queue(connection, plan, number)


def _drop_stale(connection: sqlite3.Connection, plan: Plan, number: int, now: float) -> None:
    """Drop what has waited longer than its queue allows."""
    limit = plan.specs[number].message_ttl
    if limit is not None:
        for lane in [lane for lane in plan.lanes.values() if lane.queue == number]:
            last = lane.first + max(0, int((now - limit) * TICKS))
            drop(connection, "ready", "key BETWEEN ? AND ?", (lane.first, last))


def _sizes(
    connection: sqlite3.Connection, plan: Plan, queues: Iterable[str] | None, now: float
) -> dict[str, QueueSize]:
    execute = connection.execute
    sizes = {}
    for name in plan.ids if queues is None else [name for name in queues if name in plan.ids]:
        number = plan.ids[name]
        delayed, due, oldest = execute(
            f"SELECT count(*), count(*) FILTER (WHERE due <= ?1), min(key % {SPAN}) FILTER (WHERE due <= ?1)"  # noqa: S608
            f" FROM delayed WHERE queue = ?2",
            (now, number),
        ).fetchone()
        (claimed,) = execute("SELECT count(*) FROM claimed WHERE queue = ?", (number,)).fetchone()
        ready = due
        for lane in [lane for lane in plan.lanes.values() if lane.queue == number]:
            count, first = execute(
                f"SELECT count(*), min(key) % {SPAN} FROM ready WHERE key BETWEEN ? AND ?",  # noqa: S608
                (lane.first, lane.last),
            ).fetchone()
            ready += count
            oldest = min((each for each in (oldest, first) if each is not None), default=None)
        sizes[name] = QueueSize(
            ready=ready,
            delayed=delayed - due,
            claimed=claimed,
            oldest=None if oldest is None else max(0.0, now - oldest / TICKS),
        )
    return sizes


def _purge(connection: sqlite3.Connection, plan: Plan, queue: str) -> int:
    number = plan.ids.get(queue)
    if number is None:
        return 0
    lanes = [lane for lane in plan.lanes.values() if lane.queue == number]
    ready = sum(drop(connection, "ready", "key BETWEEN ? AND ?", (lane.first, lane.last)) for lane in lanes)
    return ready + drop(connection, "delayed", "queue = ?", (number,))


def _change(connection: sqlite3.Connection, plan: Plan, sql: str, parameters: Sequence[str]) -> None:
    """Execute a statement on a table that belongs to the plan."""
    plan.changed = connection.execute(sql, parameters).rowcount > 0


def _revoke(connection: sqlite3.Connection, plan: Plan, rows: Iterable[tuple[str, float]]) -> None:
    connection.executemany(
        "INSERT INTO revoked (id, until) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)",
        rows,
    )
    plan.changed = not plan.has_revoked


def _forget(connection: sqlite3.Connection, plan: Plan, ids: Sequence[str]) -> None:
    connection.executemany("DELETE FROM revoked WHERE id = ?", [(task_id,) for task_id in ids])


def _find_revoked(connection: sqlite3.Connection, plan: Plan, ids: Sequence[str]) -> dict[str, float]:
    sql = "SELECT until FROM revoked WHERE id = ?"
    found = ((task_id, connection.execute(sql, (task_id,)).fetchone()) for task_id in ids)
    return {task_id: row[0] for task_id, row in found if row is not None}


def _discard(connection: sqlite3.Connection, plan: Plan, ids: Iterable[str]) -> int:
    return sum(drop(connection, "dead", "id = ?", (task_id,)) for task_id in ids)


def _letter(
    tag: int,
    task_id: str,
    task: str,
    queue: str,
    reason: str,
    died_at: float,
    crashes: int,
    evidence: bytes | None,
    blob: bytes,
    body: bytes | None,
) -> DeadLetter:
    message = _open(blob, 0, queue)[0].message
    if message.id != task_id or body is not None:
        message = msgspec.structs.replace(message, id=task_id, body=message.body if body is None else body)
    return DeadLetter(
        tag=tag,
        id=task_id,
        task=task,
        queue=queue,
        reason=reason,
        evidence=_lines(evidence),
        crashes=crashes,
        died_at=died_at,
        message=message,
    )
