"""Choose broker and result store by the scheme of a URL."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from umbel._names import close_match, symbol_by_name
from umbel._repr import mask_url
from umbel._time import as_seconds
from umbel.app import redis_settings
from umbel.backends.base import Backend
from umbel.backends.memory import MemoryBackend
from umbel.backends.sqlite import SqliteBackend
from umbel.brokers.base import Broker
from umbel.brokers.memory import MemoryBroker
from umbel.brokers.memory_store import MemoryStores
from umbel.brokers.redis_address import SCHEMES
from umbel.brokers.sqlite import SqliteBroker
from umbel.brokers.sqlite_file import parse
from umbel.exceptions import ImproperlyConfigured
from umbel.wire.codecs import Codecs
from umbel.wire.protocol import MessageReader

__all__ = ["Site", "dialling", "has_columns", "make_replies", "open_backend", "open_broker", "same_server"]


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What opening a broker or a store may need beside its URL."""

    home: Path  # the folder that relative file names are relative to
    memory: MemoryStores  # the memory stores of this app
    options: Mapping[str, Any]  # `broker_transport_options` or `result_backend_transport_options`
    conf: Any = None  # the app's settings; None = the defaults will do
    codecs: Codecs = msgspec.field(default_factory=Codecs)
    timezone: tzinfo = UTC  # of naive times in messages of protocol 1

    broker_url: str = ""  # where results go that travel by rpc
    replies: Any = None  # and where they are read: a `backends.rpc.Replies`

    @property
    def reader(self) -> MessageReader:
        """Return what reads task messages as the settings say."""
        accept = None if self.conf is None else self.conf.accept_content
        known = None if accept is None else self.codecs.content_types(accept)
        return MessageReader(self.codecs, known, timezone=self.timezone)


OpenBroker: TypeAlias = Callable[[str, Site], Broker]
"""Opens a connection to the broker at a URL."""

OpenBackend: TypeAlias = Callable[[str, Site], Backend]
"""Opens a connection to the result store at a URL."""


Opener = TypeVar("Opener", OpenBroker, OpenBackend)


def _load(module: str) -> Any:
    """Return a module of ours that only those pay for who name such a server (2 to 8 ms each)."""
    return importlib.import_module(f"umbel.{module}")


def _memory_broker(url: str, site: Site) -> Broker:
    return MemoryBroker(site.memory.at(url))


def _sqlite_broker(url: str, site: Site) -> Broker:
    return SqliteBroker(parse(url, site.home))


def _sqlite_backend(url: str, site: Site) -> Backend:
    return SqliteBackend(parse(url, site.home))


def _amqp_broker(url: str, site: Site) -> Broker:
    amqp = _load("brokers.amqp")
    options = amqp.AmqpOptions.of(site.options, site.conf.broker_native_delayed_delivery_queue_type)
    broker: Broker = amqp.AmqpBroker(dialling(url, site), site.reader, options=options)
    return broker


def dialling(url: str, site: Site) -> Any:
    """Return how to reach the RabbitMQ at *url* (a `brokers.amqp_address.Dialling`)."""
    conf = site.conf
    return _load("brokers.amqp_address").dialling(
        url,
        options=site.options,
        use_ssl=conf.broker_use_ssl,
        connect_timeout=conf.broker_connection_timeout,
        heartbeat=conf.broker_heartbeat or 0.0,
        login=conf.broker_login_method,
        strategy=conf.broker_failover_strategy,
    )


def make_replies(broker_url: str, site: Site) -> Any:
    """Return what reads this process's reply queues (a `backends.rpc.Replies`).

    Raises:
        ImproperlyConfigured: the broker has no reply queues.
    """
    if _scheme(broker_url) not in _AMQP:
        raise ImproperlyConfigured(
            f"results come back by rpc only over RabbitMQ, and the broker is {mask_url(broker_url)!r}: "
            "name another result_backend"
        )
    expires = as_seconds(site.conf.result_expires) or None
    return _load("backends.rpc").Replies(dialling(broker_url, site), expires=expires)


def _rpc_backend(url: str, site: Site) -> Backend:
    codec = site.codecs.codec(site.conf.result_serializer)
    backend: Backend = _load("backends.rpc").RpcBackend(
        dialling(site.broker_url, site),
        site.replies,
        content=(codec.content_type, codec.content_encoding),
        persistent=bool(site.conf.result_persistent),
    )
    return backend


def _memory_backend(url: str, site: Site) -> Backend:
    return MemoryBackend(site.memory.at(url))


def _database_backend(url: str, site: Site) -> Backend:
    conf = site.conf
    named = url[3:] if url.startswith("db+") else conf.database_url
    if not named:
        raise ImproperlyConfigured(f"result_backend is {url!r}: say in 'database_url' which database that is")
    database = _load("backends.database")
    options = database.DatabaseOptions(
        engine=conf.database_engine_options or {},
        short_lived=conf.database_short_lived_sessions,
        schemas=conf.database_table_schemas or {},
        names=conf.database_table_names or {},
        early=conf.database_create_tables_at_setup,
        on_engine=symbol_by_name(conf.database_engine_callback),
        expires=as_seconds(conf.result_expires) or None,
    )
    backend: Backend = database.DatabaseBackend(named.removeprefix("db+"), options)
    return backend


def _redis_broker(url: str, site: Site) -> Broker:
    address = redis_settings.broker_address(url, site.options, site.conf)
    names = redis_settings.names(site.options, site.conf)
    broker: Broker = _load("brokers.redis").RedisBroker(address, names, codecs=site.codecs, reader=site.reader)
    return broker


def _redis_backend(url: str, site: Site) -> Backend:
    address = redis_settings.results_address(url, site.options, site.conf)
    backend: Backend = _load("backends.redis").RedisBackend(address, redis_settings.names({}, site.conf))
    return backend


_AMQP: Final = ("amqp", "amqps", "pyamqp", "librabbitmq")
_BROKERS: Final[dict[str, OpenBroker]] = {
    **dict.fromkeys(SCHEMES, _redis_broker),
    "memory": _memory_broker,
    "sqlite": _sqlite_broker,
    **dict.fromkeys(_AMQP, _amqp_broker),
}
_BACKENDS: Final[dict[str, OpenBackend]] = {
    "rpc": _rpc_backend,
    **dict.fromkeys(SCHEMES, _redis_backend),
    "memory": _memory_backend,
    "cache+memory": _memory_backend,
    "sqlite": _sqlite_backend,
    "db+": _database_backend,  # and a URL of SQLAlchemy
    "database": _database_backend,
    "db": _database_backend,
}


def open_broker(url: str, site: Site) -> Broker:
    """Return a connection to the broker at *url*.

    Raises:
        ImproperlyConfigured: nothing here knows its scheme.
        MissingExtra: what it needs is not installed.
        OperationalError: it cannot be reached now.
    """
    return _find("broker", url, _BROKERS)(url, site)


def open_backend(url: str, site: Site) -> Backend:
    """Return a connection to the result store at *url*; raises as `open_broker` does.

    What the setting 'override_backends' or an entry point of 'celery.result_backends' names for the scheme, or *url*
    itself names as ``module.Class``, is called with both.
    """
    return (_own_backend(url, site.conf) or _find("result backend", url, _BACKENDS))(url, site)


def _own_backend(url: str, conf: Any) -> OpenBackend | None:
    """Return what opens a store that is not ours; None = it is.

    Raises:
        ImproperlyConfigured: the name leads to nothing that can be called.
    """
    scheme = _scheme(url)
    named = (conf.override_backends or {}).get(scheme) if conf is not None else None
    if named is None and _known(scheme, _BACKENDS) is None:
        points = importlib.import_module("importlib.metadata").entry_points(group="celery.result_backends")
        installed = {point.name: point.value for point in points}
        named = installed.get(scheme) or (url if "://" not in url and "." in url else None)
    if named is None:
        return None
    found: OpenBackend = symbol_by_name(named)
    if not callable(found):
        raise ImproperlyConfigured(f"the result backend {named!r} is {found!r}: name a class, called with url and site")
    return found


def has_columns(backend_url: str | None) -> bool:
    """Return whether results are kept there in columns (`wire.result.Columns`)."""
    return backend_url is not None and _known(_scheme(backend_url), _BACKENDS) is _database_backend


def same_server(broker_url: str, backend_url: str | None, site: Site) -> bool:
    """Return whether results lie beside the messages, so that one write can settle both."""
    if backend_url is None or _scheme(broker_url) != _scheme(backend_url):
        return False
    match _scheme(broker_url):
        case "sqlite":
            return parse(broker_url, site.home).path == parse(backend_url, site.home).path
        case "memory":
            return site.memory.at(broker_url) is site.memory.at(backend_url)
        case scheme if scheme in SCHEMES:
            options = site.conf.result_backend_transport_options or {} if site.conf is not None else {}
            messages = redis_settings.broker_address(broker_url, site.options, site.conf)
            return messages.place == redis_settings.results_address(backend_url, options, site.conf).place
        case _:
            return False


def _find(what: str, url: str, known: Mapping[str, Opener]) -> Opener:
    scheme = _scheme(url)
    if found := _known(scheme, known):
        return found
    meant = close_match(scheme, known)
    hint = f"did you mean {meant!r}? " if meant else ""
    raise ImproperlyConfigured(
        f"no {what} is called {scheme!r} (in the URL {mask_url(url)!r}); {hint}There are: {', '.join(sorted(known))}."
    )


def _known(scheme: str, known: Mapping[str, Opener]) -> Opener | None:
    return known.get(scheme) or known.get(scheme.partition("+")[0] + "+")


def _scheme(url: str) -> str:
    return url.partition("://")[0] if "://" in url else url.partition(":")[0]
