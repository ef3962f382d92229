"""Sign what is sent and verify what arrives: the serializer "auth" (PRT-110 to PRT-114)."""

from __future__ import annotations

import base64
import binascii
import glob
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from umbel._repr import safe_repr
from umbel.exceptions import DecodeError, ImproperlyConfigured, MissingExtra, SecurityError
from umbel.wire.codecs import Codec, Codecs

__all__ = ["CONTENT_TYPE", "Certificate", "PrivateKey", "certificates_at", "signing_codec"]

CONTENT_TYPE: Final = "application/data"

_BETWEEN: Final = b"\x00\x01"


class Certificate:
    """An X.509 certificate with an RSA key: who it belongs to, and whether they have signed something."""

    def __init__(self, pem: bytes) -> None:
        """Read *pem*.

        Raises:
            SecurityError: it is no certificate, or its key is not RSA.
        """
        crypto = _Cryptography()
        try:
            self._found = crypto.x509.load_pem_x509_certificate(pem)
            key = self._found.public_key()
        except ValueError as exc:
            raise SecurityError(f"no certificate in PEM: {exc}") from exc
        if not isinstance(key, crypto.rsa.RSAPublicKey):
            raise SecurityError(f"the certificate of {self.id!r} has no RSA key; 'auth' signs with RSA only")
        self._key = key
        self._crypto = crypto

    @property
    def id(self) -> str:
        """Name it as peers do: the values of its issuer, and its serial number."""
        issuer = " ".join(str(attribute.value) for attribute in self._found.issuer)
        return f"{issuer} {self._found.serial_number}"

    def is_valid(self, now: datetime) -> bool:
        """Return whether *now* (aware) is in its time."""
        return bool(self._found.not_valid_before_utc <= now <= self._found.not_valid_after_utc)

    def verify(self, data: bytes, signature: bytes, digest: str) -> None:
        """Return if *signature* is that of this certificate's owner over *data*; else raise `SecurityError`."""
        padding, hashed = self._crypto.padding(digest)
        try:
            self._key.verify(signature, data, padding, hashed)
        except self._crypto.InvalidSignature:
            raise SecurityError(f"bad signature: {self.id!r} has not signed this") from None


class PrivateKey:
    """An RSA key that signs."""

    def __init__(self, pem: bytes, password: bytes | None = None) -> None:
        """Read *pem*; raises `SecurityError` where that is impossible."""
        self._crypto = _Cryptography()
        try:
            self._key = self._crypto.serialization.load_pem_private_key(pem, password)
        except (ValueError, TypeError) as exc:  # damaged; a password is missing, or wrong, or for nothing
            raise SecurityError(f"the private key cannot be read: {exc}") from exc
        if not isinstance(self._key, self._crypto.rsa.RSAPrivateKey):
            raise SecurityError("the private key is not RSA; 'auth' signs with RSA only")

    def sign(self, data: bytes, digest: str) -> bytes:
        """Return the signature over *data*."""
        padding, hashed = self._crypto.padding(digest)
        signature: bytes = self._key.sign(data, padding, hashed)
        return signature


def certificates_at(place: str) -> dict[str, Certificate]:
    """Return the certificates in the folder *place*, or in the files that it matches, by their ids.

    Raises:
        SecurityError: one has expired, two have one id, or a file is no certificate.
        ImproperlyConfigured: there is none.
    """
    found: dict[str, Certificate] = {}
    now = datetime.now(UTC)
    paths = Path(place).iterdir() if Path(place).is_dir() else map(Path, glob.glob(place))  # noqa: PTH207 - may be absolute
    for path in sorted(paths):
        if not path.is_file():
            continue
        try:
            certificate = Certificate(path.read_bytes())
        except SecurityError as exc:
            raise SecurityError(f"{path}: {exc}") from exc
        if not certificate.is_valid(now):
            raise SecurityError(f"{path}: the certificate of {certificate.id!r} has expired, or is not valid yet")
        if certificate.id in found:
            raise SecurityError(f"{path}: there are two certificates of {certificate.id!r}")
        found[certificate.id] = certificate
    if not found:
        raise ImproperlyConfigured(f"no certificates in {place!r} ('security_cert_store'), so nobody would be trusted")
    return found


def signing_codec(
    codecs: Codecs,
    *,
    key: PrivateKey,
    certificate: Certificate,
    trusted: Mapping[str, Certificate],
    digest: str = "sha256",
    serializer: str = "json",
    allowed: Iterable[str] = (),
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Codec:
    """Return the codec "auth": what *serializer* makes of a value, signed with *key*.

    It decodes only what an owner of a *trusted* certificate has signed, and only where that was encoded by *serializer*
    or one of the *allowed*. Decoding raises `SecurityError` for what is not trusted, `DecodeError` for what is damaged.
    """
    accepted = codecs.content_types({serializer, *allowed})
    signer = base64.b64encode(certificate.id.encode())

    def encode(value: Any) -> str:
        inner = codecs.encode(value, serializer)
        signature = base64.b64encode(key.sign(inner.body, digest))
        words = (signer, signature, inner.content_type.encode(), inner.content_encoding.encode(), inner.body)
        return base64.b64encode(_BETWEEN.join(words)).decode("ascii")

    def decode(data: bytes) -> Any:
        try:
            words = base64.b64decode(data, validate=True).split(_BETWEEN, 4)
            who, signature, content_type, content_encoding, body = words
            name = base64.b64decode(who, validate=True).decode()
            signed = base64.b64decode(signature, validate=True)
            kind, encoding = content_type.decode("ascii"), content_encoding.decode("ascii")
        except (binascii.Error, ValueError, TypeError) as exc:
            raise DecodeError(f"no signed body: {exc}") from exc
        owner = trusted.get(name)
        if owner is None:
            raise SecurityError(f"signed by {safe_repr(name, maxlen=200)}, of whom there is no trusted certificate")
        if not owner.is_valid(now()):
            raise SecurityError(f"the certificate of {name!r} has expired")
        owner.verify(body, signed, digest)
        return codecs.decode(body, kind, encoding, accept=accepted)

    return Codec("auth", CONTENT_TYPE, "utf-8", encode, decode)


class _Cryptography:
    """The parts of the library that we use."""

    def __init__(self) -> None:
        try:
            from cryptography import x509
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives import hashes, serialization
            from cryptography.hazmat.primitives.asymmetric import padding, rsa
        except ImportError:
            raise MissingExtra("the serializer 'auth'", "auth") from None
        self.x509, self.serialization, self.rsa = x509, serialization, rsa
        self.InvalidSignature = InvalidSignature
        self._hashes, self._padding = hashes, padding

    def padding(self, digest: str) -> tuple[Any, Any]:
        """Return PSS with the longest salt, and the hash called *digest*."""
        kind = getattr(self._hashes, digest.upper().replace("-", "_"), None)
        if kind is None:
            raise ImproperlyConfigured(f"no hash is called {digest!r} ('security_digest'); use 'sha256'")
        hashed = kind()
        return self._padding.PSS(self._padding.MGF1(hashed), self._padding.PSS.MAX_LENGTH), hashed
