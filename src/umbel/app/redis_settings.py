"""Read from the settings where a Redis server is and how its keys are named, for messages and for results."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from umbel._names import symbol_by_name
from umbel._repr import mask_url
from umbel.brokers.redis_address import SCHEMES, Address, parse_address
from umbel.brokers.redis_names import Names
from umbel.exceptions import SecurityWarning

__all__ = ["broker_address", "most_results_connections", "most_senders", "names", "results_address"]


def broker_address(url: str, options: Mapping[str, Any], conf: Any) -> Address:
    """Return where messages wait."""
    said = dict(options)
    if conf is not None:
        if conf.broker_use_ssl and "ssl" not in said:
            said["ssl"] = conf.broker_use_ssl
        if conf.broker_connection_timeout and "connect_timeout" not in said:
            said["connect_timeout"] = conf.broker_connection_timeout
    # Celery's brokers take rediss:// without more for encrypted but not verified (TB-026).
    if url.startswith("rediss") and not said.get("ssl") and "ssl_cert_reqs" not in url:
        said["ssl"] = {"ssl_cert_reqs": "none"}
        warnings.warn(
            f"{mask_url(url)!r} is encrypted, but whoever answers is believed: as in Celery, no certificate is asked. "
            "Say ssl_cert_reqs=required (or none, if that is meant) in the URL or in 'broker_use_ssl'.",
            SecurityWarning,
            stacklevel=2,
        )
    return parse_address(url, said)


def results_address(url: str, options: Mapping[str, Any], conf: Any) -> Address:
    """Return where results are kept; what *url* leaves open, the settings ``redis_…`` say."""
    said: dict[str, Any] = {}
    if conf is not None:
        for option in ("socket_connect_timeout", "socket_timeout", "socket_keepalive", "client_name"):
            value = conf.get(f"redis_{option}")
            if value is not None and conf.value_set_for(f"redis_{option}"):
                said[option] = value
        for option, setting in (("username", "redis_username"), ("password", "redis_password"), ("db", "redis_db")):
            if (value := conf.get(setting)) is not None:
                said[option] = value
        provider = conf.get("redis_backend_credential_provider")
        if provider is not None:
            said["credential_provider"] = symbol_by_name(provider)() if isinstance(provider, str) else provider
        if conf.redis_backend_use_ssl:
            said["ssl"] = conf.redis_backend_use_ssl
        if conf.redis_host and url.partition("://")[2].strip("/") == "":
            port = f":{conf.redis_port}" if conf.redis_port else ""
            url = f"{url.partition('://')[0]}://{conf.redis_host}{port}/"
    return parse_address(url, {**said, **options})


def names(options: Mapping[str, Any], conf: Any) -> Names:
    """Return how keys are named by the broker's *options* and those of the result store."""
    return Names.of(options, (conf.result_backend_transport_options or {}) if conf is not None else {})


def most_senders(url: str, conf: Any) -> tuple[int | None, str]:
    """Return how many connections may send at once, and which setting says so."""
    most = (conf.broker_transport_options or {}).get("max_connections")
    limit = conf.broker_pool_limit
    if most and _is_redis(url) and (not limit or int(most) < limit):
        return int(most), "max_connections"
    return limit, "broker_pool_limit"


def most_results_connections(url: str | None, conf: Any) -> int | None:
    """Return how many may use the result store at once; None = any number. Each has a connection to ask and to wait."""
    options = conf.result_backend_transport_options or {}
    most = options.get("max_connections") or conf.redis_max_connections
    return max(1, int(most) // 2) if most and url is not None and _is_redis(url) else None


def _is_redis(url: str) -> bool:
    return url.partition("://")[0] in SCHEMES
