"""Read where RabbitMQ is, and as whom to speak to it, off URLs and settings."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from umbel._repr import mask_url
from umbel.exceptions import ImproperlyConfigured

__all__ = ["Address", "Dialling", "Login", "dialling", "tls_context"]

Login = Literal["PLAIN", "AMQPLAIN", "EXTERNAL"]
_LOGINS: Final = ("PLAIN", "AMQPLAIN", "EXTERNAL")
_TLS_SCHEMES: Final = ("amqps", "pyamqps")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One server of a failover list."""

    host: str = "localhost"
    port: int = 5672
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    tls: Mapping[str, Any] | None = None  # options, see `tls_context`; None = no TLS

    def __str__(self) -> str:
        vhost = "" if self.vhost == "/" else f", vhost {self.vhost!r}"
        return f"RabbitMQ at {self.host}:{self.port} (user {self.user!r}{vhost})"


class Dialling(msgspec.Struct, frozen=True, kw_only=True):
    """How to get a connection."""

    addresses: tuple[Address, ...]  # tried in turn
    shuffle: bool = False  # begin with any of them
    connect_timeout: float = 4.0  # seconds for each
    heartbeat: float = 60.0  # seconds asked for by who consumes; the server's wish, if shorter, wins; 0 = none
    login: Login = "PLAIN"
    answer_timeout: float = 10.0  # seconds the server may take for anything
    client_properties: Mapping[str, Any] = {}


def dialling(
    urls: str,
    *,
    options: Mapping[str, Any] = {},
    use_ssl: bool | Mapping[str, Any] | None = None,
    connect_timeout: float | None = None,
    heartbeat: float | None = None,
    login: str | None = None,
    strategy: object = None,
) -> Dialling:
    """Return how to reach the first that answers of the *urls*, which semicolons part.

    *options* are ``broker_transport_options``, the others the settings ``broker_use_ssl``,
    ``broker_connection_timeout``, ``broker_heartbeat``, ``broker_login_method`` and ``broker_failover_strategy``.

    Raises:
        ImproperlyConfigured: a URL or an option makes no sense.
    """
    scheme = urls.partition("://")[0]
    parts = [part if "://" in part else f"{scheme}://{part}" for part in urls.split(";") if part]
    read = [_address(part, use_ssl) for part in parts]
    query = read[0][1]
    method = str(options.get("login_method") or query.get("login_method") or login or "PLAIN").upper()
    if method not in _LOGINS:
        raise ImproperlyConfigured(f"'broker_login_method' is {method!r}; RabbitMQ knows {', '.join(_LOGINS)}")
    wait = options.get("connect_timeout", query.get("connect_timeout", connect_timeout))
    beat = options.get("heartbeat", query.get("heartbeat", heartbeat))
    return Dialling(
        addresses=tuple(address for address, _ in read),
        shuffle=strategy == "shuffle",
        connect_timeout=_seconds("connect_timeout", wait, 4.0) or 4.0,
        heartbeat=_seconds("heartbeat", beat, 60.0),
        login=method,  # type: ignore[arg-type]  # it is among _LOGINS
        answer_timeout=_seconds("read_timeout", options.get("read_timeout", query.get("read_timeout")), 10.0) or 10.0,
        client_properties=dict(options.get("client_properties") or {}),
    )


def _address(url: str, use_ssl: object) -> tuple[Address, dict[str, str]]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ImproperlyConfigured(f"the broker URL {mask_url(url)!r} cannot be read: {exc}") from exc
    query = dict(parse_qsl(parts.query))
    tls: dict[str, Any] | None = None
    if use_ssl or parts.scheme.lower() in _TLS_SCHEMES or query.get("ssl", "").lower() in {"true", "1"}:
        tls = dict(use_ssl) if isinstance(use_ssl, Mapping) else {}
        tls |= {key.removeprefix("ssl_"): value for key, value in query.items() if key.startswith("ssl_")}
    address = Address(
        host=unquote(parts.hostname or "localhost"),
        port=port or (5671 if tls is not None else 5672),
        user=unquote(parts.username or "guest"),
        password=unquote("guest" if parts.password is None else parts.password),
        vhost=unquote(parts.path[1:]) or "/",
        tls=tls,
    )
    return address, query


def _seconds(name: str, value: object, default: float) -> float:
    if value is None:
        return default
    try:
        return max(0.0, float(str(value)))
    except ValueError:
        raise ImproperlyConfigured(f"the broker's {name} is {value!r}; it must be a number of seconds") from None


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return the context that ``broker_use_ssl`` describes in Celery's words.

    ``ca_certs``, ``certfile``, ``keyfile``, ``password``, ``ciphers``, ``cert_reqs`` and ``check_hostname``; or a
    ready ``context``. Certificates are verified unless ``cert_reqs`` is `ssl.CERT_NONE`.

    Raises:
        ImproperlyConfigured: a file cannot be read.
    """
    given = options.get("context")
    if isinstance(given, ssl.SSLContext):
        return given
    wanted = options.get("cert_reqs", ssl.CERT_REQUIRED)
    verify = str(getattr(wanted, "name", wanted)).upper().removeprefix("CERT_") not in {"NONE", "0"}
    try:
        context = ssl.create_default_context(cafile=options.get("ca_certs"))
        if options.get("certfile"):
            context.load_cert_chain(options["certfile"], options.get("keyfile"), options.get("password"))
    except OSError as exc:
        raise ImproperlyConfigured(f"'broker_use_ssl' names a file that cannot be used: {exc}") from exc
    if options.get("ciphers"):
        context.set_ciphers(options["ciphers"])
    context.check_hostname = verify and bool(options.get("check_hostname", True))
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    return context
