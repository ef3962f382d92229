"""Read from a URL and options where a Redis server is, and how to speak to it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from umbel._repr import mask_url, safe_repr
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    import ssl

__all__ = ["SCHEMES", "Address", "Tls", "parse_address"]

SCHEMES: Final = ("redis", "rediss", "redis+socket", "unix", "socket", "sentinel", "redis+cluster", "rediss+cluster")
"""The schemes that lead to a Redis server."""

_TAG: Final = re.compile(r"\{[^{}]+\}")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_TIMEOUT: Final = 10.0  # seconds a server may take to answer; it is one that answers in milliseconds


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """How to speak TLS."""

    verify: bool = True  # the server must show a certificate that we trust
    check_hostname: bool = True  # and that is its own
    ca_certs: str | None = None  # file of authorities; None = those of this machine
    ca_path: str | None = None
    certificate: str | None = None  # our own, and its key
    key: str | None = None
    password: str | None = None  # of the key

    def context(self) -> ssl.SSLContext:
        """Return what wraps a socket."""
        tls = importlib.import_module("ssl")  # 5 ms that only TLS pays
        context: ssl.SSLContext = tls.create_default_context(cafile=self.ca_certs, capath=self.ca_path)
        context.check_hostname = self.verify and self.check_hostname
        context.verify_mode = tls.CERT_REQUIRED if self.verify else tls.CERT_NONE
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key, self.password)
        return context


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is, who we are there, and which of its databases is meant."""

    hosts: tuple[tuple[str, int], ...] = (("127.0.0.1", _PORT),)  # the server; sentinels, or nodes of a cluster
    path: str | None = None  # of a unix socket, instead
    database: int = 0
    username: str | None = None
    password: str | None = None
    tls: Tls | None = None
    master: str | None = None  # the name under which the sentinels know the server
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    quorum: int = 0  # a sentinel must know so many others to be believed
    cluster: bool = False
    tag: str = ""  # of all our keys in a cluster: they lie on one node
    timeout: float = _TIMEOUT  # seconds for an answer
    connect_timeout: float = _TIMEOUT
    keepalive: bool = True
    client_name: str | None = None
    shown: str = "redis://127.0.0.1:6379/0"  # for people, without the password

    @property
    def place(self) -> tuple[object, ...]:
        """Return what two addresses of one database have in common."""
        return (self.hosts, self.path, self.database, self.master, self.cluster, self.tag)


def parse_address(url: str, options: Mapping[str, Any]) -> Address:
    """Return the address that *url* and transport *options* say; ``a;b`` is a list of sentinels or of cluster nodes.

    Raises:
        ImproperlyConfigured: the URL or an option makes no sense.
        ValueError: the database is no number (TB-024).
    """
    first, *others = [part.strip() for part in url.split(";") if part.strip()]
    parts = urlsplit(first)
    scheme = parts.scheme
    query: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    for other in others:
        query |= parse_qsl(urlsplit(other if "://" in other else f"{scheme}://{other}").query)
    said = {**query, **options}
    path = None
    if scheme in {"redis+socket", "unix", "socket"}:
        path = unquote(parts.netloc.rpartition("@")[2] + parts.path)
        database = said.get("virtual_host") or said.get("db") or 0
    else:
        database = unquote(parts.path).strip("/") or said.get("virtual_host") or said.get("db") or 0
    port = _SENTINEL_PORT if scheme == "sentinel" else _PORT
    hosts = [_host(parts, port, first)] if path is None else []
    hosts += [_host(urlsplit(other if "://" in other else f"{scheme}://{other}"), port, other) for other in others]
    sentinel = said.get("sentinel_kwargs") or {}
    master = said.get("master_name") or said.get("service_name")
    if scheme == "sentinel" and not master:
        raise ImproperlyConfigured(
            f"{mask_url(url)!r} names sentinels, but not which of their servers is meant: "
            "set the transport option 'master_name'."
        )
    cluster = scheme.endswith("+cluster")
    prefix = str(said.get("global_keyprefix") or "")
    if cluster and not (tag := _TAG.search(prefix)):
        raise ImproperlyConfigured(
            f"global_keyprefix is {prefix!r}: in a cluster it must have a word in braces, such as '{{shop}}.', so that "
            "all keys lie on one node; set it in broker_transport_options and in result_backend_transport_options."
        )
    secure = said.get("ssl")
    if scheme.startswith("rediss") or secure or said.get("scheme") == "rediss":
        tls = _tls({**query, **(secure if isinstance(secure, Mapping) else {})}, url)
    else:
        tls = None
    username, password = _credentials(parts, said)
    timeout = _seconds(said.get("socket_timeout"), _TIMEOUT)
    return Address(
        hosts=tuple(hosts),
        path=path,
        database=_database(database, url),
        username=username,
        password=password,
        tls=tls,
        master=str(master) if scheme == "sentinel" else None,
        sentinel_username=sentinel.get("username"),
        sentinel_password=sentinel.get("password"),
        quorum=int(said.get("min_other_sentinels") or 0),
        cluster=cluster,
        tag=tag[0] if cluster and tag else "",
        timeout=timeout,
        connect_timeout=_seconds(said.get("socket_connect_timeout") or said.get("connect_timeout"), min(timeout, 5.0)),
        keepalive=said.get("socket_keepalive") not in (False, "False", "false", "0"),
        client_name=said.get("client_name"),
        shown=mask_url(url).partition("?")[0],
    )


def _host(parts: SplitResult, port: int, text: str) -> tuple[str, int]:
    try:
        return parts.hostname or "127.0.0.1", parts.port or port
    except ValueError as exc:
        raise ImproperlyConfigured(f"{mask_url(text)!r} has a port that is no number below 65536") from exc


def _credentials(parts: SplitResult, said: Mapping[str, Any]) -> tuple[str | None, str | None]:
    provider = said.get("credential_provider")
    if provider is not None and hasattr(provider, "get_credentials"):
        found: Sequence[str] = provider.get_credentials()
        return (found[0] or None, found[1]) if len(found) > 1 else (None, found[0])
    username = unquote(parts.username) if parts.username else said.get("username")
    password = unquote(parts.password) if parts.password else said.get("password")
    if username and not password:
        username, password = None, username  # redis://secret@host is common, and there is no user without a password
    return username or None, password or None


def _database(text: object, url: str) -> int:
    try:
        return int(str(text))
    except ValueError:
        raise ValueError(
            f"the database in {mask_url(url)!r} is {text!r}, but those of Redis are numbers: redis://host:6379/0"
        ) from None


def _seconds(value: Any, default: float) -> float:
    return default if value in (None, "", "None") else float(value)


_REQUIREMENTS: Final = {
    "CERT_REQUIRED": True, "required": True, "True": True, "CERT_OPTIONAL": True, "optional": True,
    "CERT_NONE": False, "none": False, "None": False, "False": False,
}  # fmt: skip


def _tls(said: Mapping[str, Any], url: str) -> Tls:
    options = {key.removeprefix("ssl_"): value for key, value in said.items() if value is not None}
    wish = options.get("cert_reqs", "required")
    named = str(getattr(wish, "name", wish))  # a text, or one of ssl.VerifyMode
    if named in _REQUIREMENTS:
        verify = _REQUIREMENTS[named]
    else:
        raise ValueError(
            f"ssl_cert_reqs={safe_repr(wish, maxlen=50)} of {mask_url(url)!r} is none of "
            "CERT_REQUIRED, CERT_OPTIONAL, CERT_NONE, required, optional, none"
        )
    return Tls(
        verify=verify,
        check_hostname=options.get("check_hostname") not in (False, "False", "false", "0"),
        ca_certs=options.get("ca_certs"),
        ca_path=options.get("ca_path"),
        certificate=options.get("certfile"),
        key=options.get("keyfile"),
        password=options.get("password"),
    )
