"""The SQLite broker keeps the port's promises."""

import functools

from umbel.backends.sqlite import SqliteBackend
from umbel.brokers.sqlite import Location, SqliteBroker
from umbel.brokers.sqlite_file import Database
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.broker import BrokerContract
from umbel.contrib.testing.contracts.site import Site


class TestSqliteBroker(BrokerContract):
    def new_site(self, folder):
        clock = VirtualClock()
        location = Location(folder / "queue.db")
        return Site(
            clock=clock,
            make_broker=lambda: SqliteBroker(location, clock=clock),
            make_backend=lambda: SqliteBackend(location, clock=clock),
            open_elsewhere=functools.partial(SqliteBroker, location),
            open_results_elsewhere=functools.partial(SqliteBackend, location),
            poison=functools.partial(_poison, location),
        )


def _poison(location, queue, data):
    """Write bytes that no umbel would write."""
    database = Database(location)
    database.run(
        "INSERT INTO ready (key, token, crashes, message) SELECT max(key) + 1, 0, 0, ? FROM ready JOIN lanes"
        " ON key / (1 << 48) = lanes.id JOIN queues ON queues.id = lanes.queue WHERE name = ?",
        (data, queue),
    )
    database.close()
