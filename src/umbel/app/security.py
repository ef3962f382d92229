"""Let an app sign all it sends and run only what is signed, as its settings say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from umbel import current
from umbel.exceptions import ImproperlyConfigured
from umbel.wire.codecs import Codecs
from umbel.wire.signing import Certificate, PrivateKey, certificates_at, signing_codec

__all__ = ["disable_untrusted_serializers", "secure", "setup_security"]

_KEPT = frozenset({"json", "auth"})  # JSON executes nothing, and a settled accept list keeps it out where it must be


def secure(
    conf: Any,
    codecs: Codecs,
    *,
    allowed_serializers: Iterable[str] | None = None,
    key: str | None = None,
    key_password: bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
) -> None:
    """Register the serializer "auth" in *codecs*, and forget those that are not allowed; see `App.setup_security`."""
    if conf.task_serializer != "auth" or list(conf.accept_content or ()) != ["auth"]:
        raise ImproperlyConfigured(
            "setup_security makes sense only where everything is signed and nothing else is run: set "
            f"task_serializer = 'auth' (it is {conf.task_serializer!r}) and accept_content = ['auth'] "
            f"(it is {conf.accept_content!r})"
        )
    key, cert, store = key or conf.security_key, cert or conf.security_certificate, store or conf.security_cert_store
    if not (key and cert and store):
        missing = [
            name
            for name, value in (("security_key", key), ("security_certificate", cert), ("security_cert_store", store))
            if not value
        ]
        raise ImproperlyConfigured(f"signing needs a private key, its certificate and trusted ones: set {missing}")
    password = key_password or conf.security_key_password
    if isinstance(password, str):
        password = password.encode()
    allowed = set(allowed_serializers or ())
    codecs.register(
        signing_codec(
            codecs,
            key=PrivateKey(_read(key), password),
            certificate=Certificate(_read(cert)),
            trusted=certificates_at(store),
            digest=digest or conf.security_digest,
            serializer=serializer,
            allowed=allowed,
        )
    )
    _keep_only(codecs, {serializer, *allowed})


def setup_security(*args: Any, app: Any = None, **kwargs: Any) -> None:
    """Do `App.setup_security` of *app*, or of the current one."""
    current.app_or_default(app).setup_security(*args, **kwargs)


def disable_untrusted_serializers(whitelist: Iterable[str] | None = None) -> None:
    """Let the current app know no serializers but JSON and those in *whitelist*."""
    _keep_only(current.get_current_app().codecs, set(whitelist or ()))


def _keep_only(codecs: Codecs, names: set[str]) -> None:
    for name in [each for each in codecs.names if each not in names | _KEPT]:
        codecs.unregister(name)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise ImproperlyConfigured(f"cannot read {path}: {exc.strerror}") from exc
