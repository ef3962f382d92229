"""Lay out a queue in SQLite: its tables, how keys are made, and which queues and exchanges there are.

A message wears one row, in one of four tables that say where it is: *ready*, *delayed*, *claimed* or *dead*. Claiming
moves the row. The key of a row is its place in the order of claiming: a *lane* (the messages of one queue and one
priority) above the time of publishing, so a claim reads from one end of one B-tree and needs no other index.
"""

# ruff: noqa: S608 - every statement is made of constants of this house; values are bound

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from umbel.exceptions import BrokerFull
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "SPAN",
    "TICKS",
    "VERSION",
    "Lane",
    "Plan",
    "create_queue",
    "delete_queue",
    "drop",
    "lane_of",
    "load_plan",
    "load_topology",
    "store_topology",
]

APPLICATION_ID: Final = 0x756D6265  # "umbe", what `file queue.db` shows
TICKS: Final = 62_500
"""Steps of a key's time in a second: 16 µs, so that 48 bits reach the year 2112."""

SPAN: Final = 1 << 48
"""Keys in a lane."""

_LANES: Final = 1 << 15

# What moves with a message from table to table.
#   token     fence: grows with every claim; 0 = never claimed
#   evidence  JSON list of a line for each crash; NULL = none
#   big       where in `bodies` its body lies; NULL = in the message
#   message   msgpack of Publication. The field order of Message and Route is thereby fixed: only add at the end
_CARRIED: Final = "token INTEGER NOT NULL, crashes INTEGER NOT NULL, evidence BLOB, big INTEGER, message BLOB NOT NULL"

MIGRATIONS: Final = (
    f"""
    -- One row, which changes with the next five tables and when the first id is revoked. It begins anywhere, so that a
    -- file which takes the place of another is never mistaken for that.
    CREATE TABLE plan (version INTEGER NOT NULL);
    INSERT INTO plan VALUES (random() & 0xFFFFFFFFFFFF);
    CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, spec BLOB NOT NULL, used REAL);
    CREATE TABLE lanes (id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, rank INTEGER NOT NULL, UNIQUE (queue, rank));
    CREATE TABLE exchanges (name TEXT PRIMARY KEY, spec BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE bindings (
        id INTEGER PRIMARY KEY, source TEXT NOT NULL, destination TEXT NOT NULL, spec BLOB NOT NULL UNIQUE
    );
    CREATE TABLE paused (queue TEXT PRIMARY KEY) WITHOUT ROWID;

    -- Who reads queues that go with their readers.
    CREATE TABLE consumers (
        queue INTEGER NOT NULL, name TEXT NOT NULL, bell TEXT NOT NULL, seen REAL NOT NULL, PRIMARY KEY (queue, name)
    ) WITHOUT ROWID;

    CREATE TABLE ready (key INTEGER PRIMARY KEY, {_CARRIED});
    CREATE TABLE delayed (
        queue INTEGER NOT NULL, due REAL NOT NULL, key INTEGER NOT NULL, {_CARRIED}, PRIMARY KEY (queue, due, key)
    ) WITHOUT ROWID;
    CREATE TABLE claimed (
        key INTEGER PRIMARY KEY, queue INTEGER NOT NULL, until REAL NOT NULL, owner TEXT NOT NULL, {_CARRIED}
    );
    CREATE INDEX lapses ON claimed (queue, until);
    CREATE TABLE dead (
        tag INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, task TEXT NOT NULL, queue TEXT NOT NULL,
        rank INTEGER NOT NULL, reason TEXT NOT NULL, died_at REAL NOT NULL, {_CARRIED}
    );
    CREATE INDEX dead_ids ON dead (id);
    CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE revoked (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;

    CREATE TABLE results (id TEXT PRIMARY KEY, until REAL, state TEXT NOT NULL, payload BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE groups (id TEXT PRIMARY KEY, until REAL, payload BLOB NOT NULL) WITHOUT ROWID;
    """,
    """
    -- Chords under way. With a body one is ready, and left to somebody until then; without, it is forgotten then.
    CREATE TABLE chords (
        id INTEGER PRIMARY KEY, group_id TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
        counted INTEGER NOT NULL DEFAULT 0, until REAL, body BLOB
    );
    CREATE INDEX ready_chords ON chords (until) WHERE body IS NOT NULL;
    -- Place -1: the id of a task that joins.
    CREATE TABLE chord_parts (
        chord INTEGER NOT NULL, place INTEGER NOT NULL, id TEXT NOT NULL, payload BLOB, PRIMARY KEY (chord, place, id)
    ) WITHOUT ROWID;
    CREATE TRIGGER parts_go AFTER DELETE ON chords BEGIN DELETE FROM chord_parts WHERE chord = old.id; END;
    """,
    """
    -- The ledger: keys that were accepted once, notes, and when the next start of each limited line is free.
    CREATE TABLE accepted (key TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
    CREATE INDEX accepted_until ON accepted (until);
    CREATE TABLE notes (
        book TEXT NOT NULL, name TEXT NOT NULL, text BLOB NOT NULL, PRIMARY KEY (book, name)
    ) WITHOUT ROWID;
    CREATE TABLE lines (name TEXT PRIMARY KEY, start REAL NOT NULL) WITHOUT ROWID;
    """,
)
"""What leads from each version of the file to the next; an empty file has version 0."""

VERSION: Final = len(MIGRATIONS)

_json: Final = msgspec.json.Encoder(order="deterministic")


class Lane(msgspec.Struct, frozen=True):
    """The messages of one queue and one priority."""

    id: int
    queue: int
    rank: int

    @property
    def first(self) -> int:
        """Return the lowest key it may hold."""
        return self.id * SPAN

    @property
    def last(self) -> int:
        """Return the highest key it may hold."""
        return self.id * SPAN + SPAN - 1


@dataclass(slots=True)
class Plan:
    """What is known of queues, lanes, pauses and exchanges, as of one version of it."""

    version: int = 0
    ids: dict[str, int] = field(default_factory=dict)  # of queues, by name
    names: dict[int, str] = field(default_factory=dict)
    specs: dict[int, QueueSpec] = field(default_factory=dict)
    lanes: dict[int, Lane] = field(default_factory=dict)  # by id
    places: dict[tuple[str, int], Lane] = field(default_factory=dict)  # by queue and priority wished for
    paused: frozenset[str] = frozenset()
    has_revoked: bool = False  # False = surely nothing is revoked
    topology: Topology | None = None  # None = not needed yet
    changed: bool = False  # we have changed it in this transaction: every other copy must be read again

    def lanes_of(self, queue: int) -> list[Lane]:
        """Return the lanes of one queue."""
        return [lane for lane in self.lanes.values() if lane.queue == queue]


def load_plan(connection: sqlite3.Connection, version: int) -> Plan:
    """Read the plan, which has *version* now."""
    execute = connection.execute
    plan = Plan(version=version)
    for number, name, spec in execute("SELECT id, name, spec FROM queues"):
        plan.ids[name] = number
        plan.names[number] = name
        plan.specs[number] = msgspec.json.decode(spec, type=QueueSpec)
    for row in execute("SELECT id, queue, rank FROM lanes"):
        plan.lanes[row[0]] = Lane(*row)
    plan.paused = frozenset(name for (name,) in execute("SELECT queue FROM paused"))
    plan.has_revoked = execute("SELECT 1 FROM revoked LIMIT 1").fetchone() is not None
    return plan


def load_topology(connection: sqlite3.Connection, plan: Plan) -> Topology:
    """Return all exchanges and bindings, read when they are needed first."""
    if plan.topology is None:
        exchanges = [
            msgspec.json.decode(spec, type=Exchange) for (spec,) in connection.execute("SELECT spec FROM exchanges")
        ]
        bindings = [
            msgspec.json.decode(spec, type=Binding)
            for (spec,) in connection.execute("SELECT spec FROM bindings ORDER BY id")
        ]
        plan.topology = Topology.of(*exchanges, *bindings)
    return plan.topology


def store_topology(connection: sqlite3.Connection, plan: Plan, topology: Topology, now: float) -> None:
    """Add what is new of *topology*."""
    changes = connection.total_changes
    for queue in topology.queues.values():
        if queue.name not in plan.ids:
            create_queue(connection, plan, queue, now)
    connection.executemany(
        "INSERT OR IGNORE INTO exchanges (name, spec) VALUES (?, ?)",
        [(each.name, _json.encode(each)) for each in topology.exchanges.values()],
    )
    connection.executemany(
        "INSERT OR IGNORE INTO bindings (source, destination, spec) VALUES (?, ?, ?)",
        [(each.source, each.destination, _json.encode(each)) for each in topology.bindings],
    )
    if connection.total_changes != changes:
        plan.changed = True
        plan.topology = None


def create_queue(connection: sqlite3.Connection, plan: Plan, spec: QueueSpec, now: float) -> int:
    """Add a queue that is not there; return its id."""
    number = connection.execute(
        "INSERT INTO queues (name, spec, used) VALUES (?, ?, ?)", (spec.name, _json.encode(spec), now)
    ).lastrowid
    assert number is not None
    plan.ids[spec.name] = number
    plan.names[number] = spec.name
    plan.specs[number] = spec
    plan.changed = True
    return number


def lane_of(connection: sqlite3.Connection, plan: Plan, queue: str, priority: int, now: float) -> Lane:
    """Return where messages of that *priority* wait in *queue*; both are made if need be."""
    place = plan.places.get((queue, priority))
    if place is not None:
        return place
    number = plan.ids.get(queue)
    if number is None:
        number = create_queue(connection, plan, QueueSpec(queue), now)
    highest = plan.specs[number].max_priority
    rank = max(0, min(priority, 255 if highest is None else highest))
    place = next((lane for lane in plan.lanes_of(number) if lane.rank == rank), None)
    if place is None:
        used = plan.lanes.keys()
        free = next((each for each in range(1, _LANES) if each not in used), None)
        if free is None:
            raise BrokerFull(f"no room for queue {queue!r}: a SQLite file holds {_LANES - 1} queues and priorities.")
        place = plan.lanes[free] = Lane(free, number, rank)
        connection.execute("INSERT INTO lanes VALUES (?, ?, ?)", (place.id, place.queue, place.rank))
        plan.changed = True
    plan.places[queue, priority] = place
    return place


def delete_queue(connection: sqlite3.Connection, plan: Plan, number: int) -> None:
    """Remove a queue with its messages and bindings, and the exchanges that go with their last binding."""
    execute = connection.execute
    for lane in plan.lanes_of(number):
        drop(connection, "ready", "key BETWEEN ? AND ?", (lane.first, lane.last))
    drop(connection, "delayed", "queue = ?", (number,))
    drop(connection, "claimed", "queue = ?", (number,))
    found = execute("SELECT id, source, spec FROM bindings WHERE destination = ?", (plan.names[number],)).fetchall()
    ours = [(each, source) for each, source, spec in found if not msgspec.json.decode(spec, type=Binding).to_exchange]
    connection.executemany("DELETE FROM bindings WHERE id = ?", [(each,) for each, _ in ours])
    for source in {source for _, source in ours}:
        row = execute("SELECT spec FROM exchanges WHERE name = ?", (source,)).fetchone()
        if row is None or not msgspec.json.decode(row[0], type=Exchange).auto_delete:
            continue
        if execute("SELECT 1 FROM bindings WHERE source = ?", (source,)).fetchone() is None:
            execute("DELETE FROM exchanges WHERE name = ?", (source,))
    execute("DELETE FROM lanes WHERE queue = ?", (number,))
    execute("DELETE FROM consumers WHERE queue = ?", (number,))
    execute("DELETE FROM queues WHERE id = ?", (number,))
    plan.changed = True


def drop(connection: sqlite3.Connection, table: str, where: str, parameters: Sequence[float | str]) -> int:
    """Delete messages of *table* with their bodies; return how many."""
    connection.execute(
        f"DELETE FROM bodies WHERE id IN (SELECT big FROM {table} WHERE {where} AND big IS NOT NULL)",
        parameters,
    )
    return connection.execute(f"DELETE FROM {table} WHERE {where}", parameters).rowcount
