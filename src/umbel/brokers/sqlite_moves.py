"""Move messages from table to table of the SQLite file: publish, claim, settle, each inside one transaction."""

# ruff: noqa: S608 - every statement is made of constants of this house; values are bound

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Final, NamedTuple

from umbel.brokers.base import Bury, Claim, Done, Lease, QueueSize, Release, Settlement
from umbel.brokers.sqlite_chords import close_chord
from umbel.brokers.sqlite_rows import Parcel, Row, add_evidence, published, unexpiring, unpack
from umbel.brokers.sqlite_schema import SPAN, TICKS, Lane, Plan, drop, lane_of, load_topology
from umbel.wire.topology import match

__all__ = ["PUBLISH_ONE", "Mover", "View", "Wish", "drop_stale", "purge", "sizes"]

_LOOK: Final = 0.05  # seconds between two looks for due and lapsed messages while others are there anyway
_PROMOTED: Final = 500  # at most so many of each at a look

_CARRIED: Final = "token, crashes, evidence, big, message"

# Takes the next key behind all of its lane, if the plan is the one we know; is its own transaction.
# Benchmark "publish, one at a time": 12 µs, where the general way takes 17.
PUBLISH_ONE: Final = """
    INSERT INTO ready (key, token, crashes, message)
    SELECT max(?, 1 + ifnull((SELECT key FROM ready WHERE key <= ? ORDER BY key DESC LIMIT 1), 0),
                   1 + ifnull((SELECT key FROM claimed WHERE key <= ? ORDER BY key DESC LIMIT 1), 0)), 0, 0, ?
    WHERE (SELECT version FROM plan) = ?
"""
"""Parameters: the key wished for, the last of its lane twice, the message, the version of the plan."""

_NEWEST: Final = """
    SELECT max(ifnull((SELECT key FROM ready WHERE key <= ? ORDER BY key DESC LIMIT 1), 0),
               ifnull((SELECT key FROM claimed WHERE key <= ? ORDER BY key DESC LIMIT 1), 0))
"""
_INSERT: Final = f"INSERT INTO ready (key, {_CARRIED}) VALUES (?, ?, ?, ?, ?, ?)"
_DELAY: Final = f"INSERT OR IGNORE INTO delayed (queue, due, key, {_CARRIED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_TAKEN: Final = "SELECT EXISTS(SELECT 1 FROM ready WHERE key = ?) OR EXISTS(SELECT 1 FROM claimed WHERE key = ?)"
_KEYS: Final = "SELECT key FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
_TAKE: Final = """
    SELECT key, max(token + 1, ?), crashes, token > 0, message, (SELECT body FROM bodies WHERE id = big)
    FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?
"""
_HOLD: Final = f"""
    INSERT INTO claimed (key, queue, until, owner, {_CARRIED})
    SELECT key, ?, ?, ?, max(token + 1, ?), crashes, evidence, big, message
    FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?
"""
_DONE: Final = "DELETE FROM claimed WHERE key = ? AND token = ? RETURNING big"
_END: Final = f"DELETE FROM claimed WHERE key = ? AND token = ? RETURNING {_CARRIED}"
_LAPSED: Final = f"SELECT key, owner, {_CARRIED} FROM claimed WHERE queue = ? AND until <= ? ORDER BY until LIMIT ?"
_DUE: Final = f"SELECT due, key, {_CARRIED} FROM delayed WHERE queue = ? AND due <= ? ORDER BY due, key LIMIT ?"
_BURY: Final = f"""
    INSERT INTO dead (id, task, queue, rank, reason, died_at, {_CARRIED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class View(NamedTuple):
    """The file as a transaction sees it."""

    connection: sqlite3.Connection
    plan: Plan
    now: float  # unix seconds; read inside the transaction, so that keys follow the order of commits


class Wish(NamedTuple):
    """What a broker consumes, and the questions about it."""

    plan: Plan
    queues: list[int]  # those that are not paused
    lanes: list[Lane]
    filled_sql: str  # lanes with messages, highest rank first
    due_now_sql: str  # is anything ready, due or lapsed at the moment given?
    due_sql: str  # when is the earliest delayed message due, or the earliest lease run out?

    @classmethod
    def of(cls, plan: Plan, consumed: Iterable[str]) -> Wish:
        """Return what it means to consume these queues by that plan."""
        queues = [plan.ids[name] for name in consumed if name in plan.ids and name not in plan.paused]
        some = ", ".join(map(str, queues))
        filled = f"EXISTS (SELECT 1 FROM ready WHERE key BETWEEN lanes.id * {SPAN} AND lanes.id * {SPAN} + {SPAN - 1})"
        lanes = f"FROM lanes WHERE queue IN ({some}) AND {filled}"
        return cls(
            plan=plan,
            queues=queues,
            lanes=[lane for lane in plan.lanes.values() if lane.queue in queues],
            filled_sql=f"SELECT id, rank {lanes} ORDER BY rank DESC",
            due_now_sql=f"""
                SELECT version, EXISTS (SELECT 1 {lanes}) OR EXISTS (
                    SELECT 1 FROM queues WHERE id IN ({some}) AND (
                        EXISTS (SELECT 1 FROM delayed WHERE queue = queues.id AND due <= ?)
                        OR EXISTS (SELECT 1 FROM claimed WHERE queue = queues.id AND until <= ?)
                    )
                ) FROM plan
            """,
            due_sql=f"""
                SELECT version, (SELECT min(moment) FROM (
                    SELECT (SELECT min(due) FROM delayed WHERE queue = queues.id) AS moment
                    FROM queues WHERE id IN ({some})
                    UNION ALL
                    SELECT (SELECT min(until) FROM claimed WHERE queue = queues.id) FROM queues WHERE id IN ({some})
                )) FROM plan
            """,
        )


class Mover:
    """What one connection does to messages. Its state only makes new keys and tokens."""

    def __init__(self) -> None:
        self._newest = 0  # the time in the key we made last
        # In the low bits of our tokens: two connections never make the same one, also if the clock stands still.
        self._salt = int.from_bytes(os.urandom(2), "little") << 4
        self._token = 0
        self._looked = 0.0

    # -- in

    def tick(self, now: float) -> int:
        """Return the time in the key of a new message: now, but behind all that we have made."""
        self._newest = max(int(now * TICKS), self._newest + 1)
        return self._newest

    def insert(self, view: View, parcels: Iterable[Parcel]) -> set[str]:
        """Put *parcels* into the queues they reach; return the names of those."""
        connection, plan, now = view
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
                big = None
                if body is not None:
                    big = connection.execute("INSERT INTO bodies (body) VALUES (?)", (body,)).lastrowid
                if due > now:
                    self._delay(view, lane, lane.first + self.tick(now), due, (0, 0, None, big, blob))
                else:
                    if lane.id not in visited:
                        visited.add(lane.id)
                        self._pass(view, lane)
                    ready.append((lane.first + self.tick(now), 0, 0, None, big, blob))
            reached.update(names)
        connection.executemany(_INSERT, ready)
        return reached

    def revive(self, view: View, ids: Iterable[str]) -> tuple[int, set[str]]:
        """Send dead letters of these tasks to their queues; return how many, and the queues."""
        revived = 0
        reached: set[str] = set()
        for task_id in ids:
            sql = "DELETE FROM dead WHERE id = ? RETURNING queue, rank, big, message, reason"
            for queue, rank, big, blob, reason in view.connection.execute(sql, (task_id,)).fetchall():
                lane = lane_of(view.connection, view.plan, queue, rank, view.now)
                self._pass(view, lane)
                stored = unexpiring(blob) if reason == "expired" else blob
                view.connection.execute(_INSERT, (lane.first + self.tick(view.now), 0, 0, None, big, stored))
                reached.add(queue)
                revived += 1
        return revived, reached

    def _pass(self, view: View, lane: Lane) -> None:
        """Let our next key come behind all of *lane*, should another process's clock have been ahead."""
        (newest,) = view.connection.execute(_NEWEST, (lane.last, lane.last)).fetchone()
        self._newest = max(self._newest, newest - lane.first)

    def _delay(self, view: View, lane: Lane, key: int, due: float, carried: tuple[object, ...]) -> None:
        while not view.connection.execute(_DELAY, (lane.queue, due, key, *carried)).rowcount:
            key += 1  # two processes made one key in the same 16 µs

    # -- out

    def settle(self, view: View, settlements: Iterable[Settlement]) -> tuple[list[Settlement], list[Lease], set[str]]:
        """Carry out the verdicts; return the settlements that hold, the leases of the others, the queues reached."""
        execute = view.connection.execute
        held: list[Settlement] = []
        refused: list[Lease] = []
        reached: set[str] = set()
        for settlement in settlements:
            lease = settlement.lease
            if lease is None:
                if settlement.fires is not None and not close_chord(view.connection, settlement.fires):
                    continue
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
                reached.add(self._end(view, lease, row, settlement.verdict))
            held.append(settlement)
        return held, refused, reached

    def _end(
        self,
        view: View,
        lease: Lease,
        row: tuple[int, int, bytes | None, int | None, bytes],
        verdict: Release | Bury | Done,
    ) -> str:
        """Put a message that is in nobody's hand any more where *verdict* says; return the name of its queue."""
        token, crashes, evidence, big, blob = row
        key = int(lease.tag)
        lane = view.plan.lanes[key // SPAN]
        queue = view.plan.names[lane.queue]
        execute = view.connection.execute
        if isinstance(verdict, Bury):
            message = unpack(blob, key, queue)[0].message
            if verdict.evidence:
                evidence = add_evidence(evidence, verdict.evidence)
            letter = (message.id, message.task, queue, lane.rank, verdict.reason, view.now)
            execute(_BURY, (*letter, token, crashes, evidence, big, blob))
        elif isinstance(verdict, Release):
            if verdict.counted:
                crashes, evidence = crashes + 1, add_evidence(evidence, verdict.evidence)
            if not verdict.front:
                if view.plan.has_revoked:  # what was revoked while it was older stays so
                    execute(
                        "UPDATE revoked SET until = max(until, ?) WHERE id = ? AND until >= ?",
                        (view.now, unpack(blob, key, queue)[0].message.id, published(key)),
                    )
                self._pass(view, lane)
                key = lane.first + self.tick(view.now)
            carried = (token, crashes, evidence, big, blob)
            if verdict.delay > 0:
                self._delay(view, lane, key, view.now + verdict.delay, carried)
            else:
                execute(_INSERT, (key, *carried))
        return queue

    # -- claiming

    def claim(self, view: View, wish: Wish, claim: Claim) -> list[Row]:
        """Take what *wish* says, at most as much as *claim* does."""
        if not wish.queues or claim.limit <= 0:
            return []
        self._token = max(self._token + 1, int(view.now * 128) << 20 | self._salt)
        has_looked = not 0 <= view.now - self._looked < _LOOK
        if has_looked:
            self._look(view, wish)
        rows = self._take(view, wish, claim, claim.limit)
        if not rows and not has_looked and self._look(view, wish):
            rows = self._take(view, wish, claim, claim.limit)
        return rows

    def _look(self, view: View, wish: Wish) -> int:
        """Make ready what is due and what its holder has lost; return how many."""
        self._looked = view.now
        execute = view.connection.execute
        found = 0
        for queue in wish.queues:
            lapsed = execute(_LAPSED, (queue, view.now, _PROMOTED)).fetchall()
            for key, owner, token, crashes, evidence, big, blob in lapsed:
                execute("DELETE FROM claimed WHERE key = ?", (key,))
                line = f"lost by {owner}: its lease ran out and was not renewed"
                execute(_INSERT, (key, token, crashes + 1, add_evidence(evidence, line), big, blob))
            due = execute(_DUE, (queue, view.now, _PROMOTED)).fetchall()
            for moment, key, *carried in due:
                execute("DELETE FROM delayed WHERE queue = ? AND due = ? AND key = ?", (queue, moment, key))
                free = key
                while execute(_TAKEN, (free, free)).fetchone()[0]:
                    free += 1  # as in _delay
                execute(_INSERT, (free, *carried))
            found += len(lapsed) + len(due)
            drop_stale(view, queue)
        return found

    def _take(self, view: View, wish: Wish, claim: Claim, limit: int) -> list[Row]:
        """Claim what comes first by priority, then by age, over all lanes of *wish*."""
        if len(wish.lanes) == 1:
            return self._take_from(view, wish.lanes[0], claim, limit)
        execute = view.connection.execute
        ranks: dict[int, list[Lane]] = {}
        for number, rank in execute(wish.filled_sql):  # highest first
            ranks.setdefault(rank, []).append(wish.plan.lanes[number])
        rows: list[Row] = []
        for lanes in ranks.values():
            room = limit - len(rows)
            if room <= 0:
                break
            if len(lanes) == 1:
                rows += self._take_from(view, lanes[0], claim, room)
                continue
            # Of each lane a beginning is taken: count how long these are.
            ages = [
                [(key % SPAN, lane.id) for (key,) in execute(_KEYS, (lane.first, lane.last, room))] for lane in lanes
            ]
            share = Counter(number for _, number in sorted(chain.from_iterable(ages))[:room])
            found = [row for lane in lanes for row in self._take_from(view, lane, claim, share[lane.id])]
            rows += sorted(found, key=_age)
        return rows

    def _take_from(self, view: View, lane: Lane, claim: Claim, limit: int) -> list[Row]:
        if limit <= 0:
            return []
        queue = view.plan.names[lane.queue]
        parameters = (self._token, lane.first, lane.last, limit)
        rows = [Row(queue, *row) for row in view.connection.execute(_TAKE, parameters)]
        if rows:
            view.connection.execute(_HOLD, (lane.queue, view.now + claim.lease, claim.owner, *parameters))
            view.connection.execute("DELETE FROM ready WHERE key BETWEEN ? AND ?", (lane.first, rows[-1].key))
        return rows


def drop_stale(view: View, queue: int) -> None:
    """Drop what has waited longer than its queue allows."""
    limit = view.plan.specs[queue].message_ttl
    if limit is not None:
        for lane in view.plan.lanes_of(queue):
            last = lane.first + max(0, int((view.now - limit) * TICKS))
            drop(view.connection, "ready", "key BETWEEN ? AND ?", (lane.first, last))


def purge(view: View, name: str) -> int:
    """Drop what is in nobody's hand; return how much."""
    queue = view.plan.ids.get(name)
    if queue is None:
        return 0
    lanes = view.plan.lanes_of(queue)
    ready = sum(drop(view.connection, "ready", "key BETWEEN ? AND ?", (lane.first, lane.last)) for lane in lanes)
    return ready + drop(view.connection, "delayed", "queue = ?", (queue,))


def sizes(view: View, queues: Iterable[str] | None) -> dict[str, QueueSize]:
    """Count the messages of those *queues* that exist; None = all."""
    ids = view.plan.ids
    return {name: _size(view, ids[name]) for name in (ids if queues is None else queues) if name in ids}


def _size(view: View, queue: int) -> QueueSize:
    execute = view.connection.execute
    delayed, due, oldest = execute(
        f"SELECT count(*), count(*) FILTER (WHERE due <= ?), min(key % {SPAN}) FILTER (WHERE due <= ?)"
        " FROM delayed WHERE queue = ?",
        (view.now, view.now, queue),
    ).fetchone()
    (claimed,) = execute("SELECT count(*) FROM claimed WHERE queue = ?", (queue,)).fetchone()
    ready, oldest_ready = execute(
        f"SELECT count(*), min(ready.key % {SPAN}) FROM lanes JOIN ready"
        f" ON ready.key BETWEEN lanes.id * {SPAN} AND lanes.id * {SPAN} + {SPAN - 1} WHERE lanes.queue = ?",
        (queue,),
    ).fetchone()
    ages = [each for each in (oldest, oldest_ready) if each is not None]
    return QueueSize(
        ready=ready + due,
        delayed=delayed - due,
        claimed=claimed,
        oldest=max(0.0, view.now - min(ages) / TICKS) if ages else None,
    )


def _age(row: Row) -> int:
    return row.key % SPAN
