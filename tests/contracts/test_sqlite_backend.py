"""The SQLite store keeps the port's promises."""

import functools

from umbel.backends.sqlite import SqliteBackend
from umbel.brokers.sqlite import Location, SqliteBroker
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.backend import BackendContract
from umbel.contrib.testing.contracts.site import Site


class TestSqliteBackend(BackendContract):
    def new_site(self, folder):
        clock = VirtualClock()
        location = Location(folder / "queue.db")
        return Site(
            clock=clock,
            make_broker=lambda: SqliteBroker(location, clock=clock),
            make_backend=lambda: SqliteBackend(location, clock=clock),
            open_results_elsewhere=functools.partial(SqliteBackend, location),
        )
