"""The database store keeps the port's promises, on every server it knows."""

import functools

import msgspec
import pytest
from sqlalchemy import event

from umbel.backends.database import DatabaseBackend, DatabaseOptions
from umbel.backends.database_tables import Database
from umbel.contrib.testing.clock import VirtualClock
from umbel.contrib.testing.contracts.backend import BackendContract
from umbel.contrib.testing.contracts.chords import ChordCounterContract
from umbel.contrib.testing.contracts.site import Site
from umbel.wire.record import Record
from umbel.wire.result import Columns


class InColumns(DatabaseBackend):
    """Takes the suite's payloads, which are any bytes, as results in columns."""

    def store(self, records):
        super().store(
            [
                Record(
                    id=each.id,
                    state=each.state,
                    payload=msgspec.msgpack.encode(Columns(status=each.state, result=each.payload)),
                    expires=each.expires,
                )
                for each in records
            ]
        )

    def fetch(self, ids):
        found = super().fetch(ids)
        return {name: msgspec.msgpack.decode(payload, type=Columns).result for name, payload in found.items()}


class DatabaseContract(BackendContract, ChordCounterContract):
    server = ""  # its name in scripts/services.py; "" = a file
    _url = ""

    @pytest.fixture(autouse=True)
    def _found(self, service_url, request):
        self._fresh = "fresh" in request.node.name  # tables are only made anew where that is the question: it is slow
        if self.server:
            self._url = service_url(self.server)

    def new_site(self, folder):
        url = self._url.replace("postgresql:", "postgresql+psycopg:") or f"sqlite:///{folder / 'results.db'}"
        options, clock = DatabaseOptions(on_engine=_hurry), VirtualClock()
        _empty(url, drop=self._fresh)
        opened = functools.partial(InColumns, url, options)
        return Site(clock=clock, make_backend=lambda: opened(clock=clock), open_results_elsewhere=opened)


@pytest.mark.row("TB-147", "PRT-064")
class TestSqlite(DatabaseContract):
    pass


@pytest.mark.service("postgresql", "A")
@pytest.mark.row("TB-129", "PRT-175")
class TestPostgresql(DatabaseContract):
    server = "postgresql"


@pytest.mark.service("mariadb", "A")
class TestMariadb(DatabaseContract):
    server = "mariadb"


def _hurry(engine):
    """Let SQLite trust the system's memory: no test pulls a plug."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))


def _empty(url, *, drop):
    """Leave nothing of the test before: servers outlive it."""
    database = Database(url, DatabaseOptions(early=not drop))
    if drop:
        database.metadata.drop_all(database._engine)
    else:
        database.run(
            lambda connection: [connection.execute(table.delete()) for table in database.metadata.sorted_tables]
        )
    database.close()
