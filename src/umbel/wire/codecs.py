"""Turn values into bytes and back, by the name or the content type of a serializer."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator
from io import BytesIO
from typing import Any, Final

import msgspec

from umbel._names import did_you_mean
from umbel._repr import safe_repr
from umbel.exceptions import (
    CeleryError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    MissingExtra,
    SoftTimeLimitExceeded,
    wire_class,
)
from umbel.wire.extended_json import ExtendedJson

__all__ = ["JSON_ONLY", "Codec", "Codecs", "Encoded"]

JSON_ONLY: Final = frozenset({"application/json"})
"""The accept list of someone who accepts nothing but JSON."""

_ALWAYS_ACCEPTED: Final = frozenset({"application/data", "application/text"})  # bytes and text: nothing is executed


class Codec(msgspec.Struct, frozen=True):
    """One serializer: what it is called, what it writes into a message's properties, what it does."""

    name: str
    content_type: str
    content_encoding: str  # "utf-8" for text, "binary"
    encode: Callable[[Any], bytes | str]
    decode: Callable[[Any], Any]  # of bytes


class Encoded(msgspec.Struct, frozen=True):
    """An encoded value, with what a reader must know to decode it."""

    body: bytes
    content_type: str
    content_encoding: str
    compression: str | None = None  # MIME name


class Codecs:
    """The serializers of one application. Register at start-up; afterwards any number of threads may use it.

    Further ones are found in the entry point group `kombu.serializers` when a name is asked for that is not known.
    """

    def __init__(self, codecs: Iterable[Codec] = ()) -> None:
        self.json = ExtendedJson()  # `json.register` is Celery's `register_type`
        self._by_name: dict[str, Codec] = {}
        self._by_type: dict[str, Codec] = {}
        self._looked_for_more = False
        self._own_json = Codec("json", "application/json", "utf-8", self.json.encode, self.json.decode)
        for codec in (self._own_json, *_BUILT_IN, *codecs):
            self.register(codec)

    def register(self, codec: Codec) -> None:
        """Add *codec*; one of the same name or content type is replaced."""
        self._by_name[codec.name] = codec
        self._by_type[codec.content_type] = codec

    def unregister(self, name: str) -> None:
        """Forget the codec *name*."""
        codec = self.codec(name)
        self._by_name = {key: value for key, value in self._by_name.items() if value is not codec}
        self._by_type = {key: value for key, value in self._by_type.items() if value is not codec}

    @property
    def has_own_json(self) -> bool:
        """Whether nobody has replaced the serializer of JSON."""
        return self._by_type["application/json"] is self._by_name["json"] is self._own_json

    @property
    def names(self) -> list[str]:
        """Return the names of those that are registered."""
        return sorted(self._by_name)

    def codec(self, name: str) -> Codec:
        """Return the codec of that name or content type.

        Raises:
            ImproperlyConfigured: there is none.
        """
        found = self._find(name)
        if found is None:
            known = ", ".join(sorted(self._by_name))
            raise ImproperlyConfigured(f"no serializer {name!r}{did_you_mean(name, self._by_name)} Known are {known}.")
        return found

    def content_types(self, names: Iterable[str]) -> frozenset[str]:
        """Return the accept list for a setting such as `accept_content`, in which both kinds of names stand."""
        return frozenset(name if "/" in name else self.codec(name).content_type for name in names)

    def encode(self, value: Any, serializer: str = "json") -> Encoded:
        """Encode *value*. The serializers "raw" and "plain" take bytes and text as they are.

        Raises:
            EncodeError: the serializer cannot hold this value.
            ImproperlyConfigured: no such serializer, or what it needs is not installed.
        """
        if serializer in _AS_IT_IS:
            return _as_it_is(value, serializer)
        codec = self._by_name.get(serializer) or self.codec(serializer)
        try:
            body = codec.encode(value)
        except (CeleryError, SoftTimeLimitExceeded):
            raise
        except Exception as exc:  # codecs, and `__json__` of the user's values, are foreign code
            raise EncodeError(f"{str(exc) or type(exc).__name__} (serializer {codec.name!r})") from exc
        return Encoded(
            body.encode("utf-8") if isinstance(body, str) else body, codec.content_type, codec.content_encoding
        )

    def decode(
        self, data: bytes, content_type: str, content_encoding: str = "utf-8", *, accept: Collection[str] | None
    ) -> Any:
        """Decode *data*, if its type is in *accept* (content types; None = trust the sender with everything).

        Raises:
            ContentDisallowed: the type is not accepted.
            DecodeError: no codec, or its data is damaged.
            MissingExtra: what the codec needs is not installed.
        """
        self.check(content_type, accept)
        codec = self._by_type.get(content_type) or self._find(content_type)
        try:
            if codec is not None:
                return codec.decode(data)
            if content_type not in _ALWAYS_ACCEPTED and content_type != "text/plain":
                raise DecodeError(f"no serializer for the content type {safe_repr(content_type, maxlen=100)}")
            return data if content_encoding in {"binary", "ascii-8bit"} else data.decode(content_encoding)
        except (CeleryError, SoftTimeLimitExceeded):
            raise
        except Exception as exc:  # codecs are foreign code, and pickle runs the sender's
            raise DecodeError(f"cannot decode a body of {content_type}: {str(exc) or type(exc).__name__}") from exc

    def check(self, content_type: str, accept: Collection[str] | None) -> None:
        """Refuse a *content_type* that is not in *accept* (PRT-091).

        Raises:
            ContentDisallowed: it is not.
        """
        if accept is None or content_type in accept or content_type in _ALWAYS_ACCEPTED:
            return
        codec = self._find(content_type)
        name = codec.name if codec else content_type
        raise ContentDisallowed(
            f"Refusing to deserialize untrusted content of type {name} ({content_type}); "
            f"add {name!r} to 'accept_content' if you trust everyone who may send here"
        )

    def _find(self, name: str) -> Codec | None:
        found = self._by_name.get(name) or self._by_type.get(name)
        if found is None and not self._looked_for_more:
            self._looked_for_more = True
            for codec in _entry_points():
                if codec.name not in self._by_name:
                    self.register(codec)
            found = self._by_name.get(name) or self._by_type.get(name)
        return found


_AS_IT_IS: Final = frozenset({"raw", "plain"})


def _as_it_is(value: Any, serializer: str) -> Encoded:
    match value:
        case bytes():
            return Encoded(value, "application/data", "binary")
        case str() if serializer == "plain":
            return Encoded(value.encode("utf-8"), "text/plain", "utf-8")
        case str():
            return Encoded(value.encode("utf-8"), "application/data", "utf-8")
    raise EncodeError(f"the serializer {serializer!r} takes bytes or text, not {type(value).__name__}")


def _entry_points() -> Iterator[Codec]:
    # Reading the metadata of all installed packages takes longer than importing umbel, so only who needs it pays.
    metadata = importlib.import_module("importlib.metadata")
    for entry in metadata.entry_points(group="kombu.serializers"):
        encode, decode, content_type, content_encoding = entry.load()
        yield Codec(entry.name, content_type, content_encoding, encode, decode)


# -- Built in ----------------------------------------------------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    """Read Celery's own exception classes as ours, since Celery is not installed here."""

    def find_class(self, module: str, name: str) -> Any:
        return wire_class(module, name) or super().find_class(module, name)


def _decode_pickle(data: bytes) -> Any:
    return _Unpickler(BytesIO(data)).load()


def _encode_yaml(value: Any) -> str:
    text: str = _yaml().safe_dump(value)
    return text


def _decode_yaml(data: bytes) -> Any:
    return _yaml().safe_load(data)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingExtra("the yaml serializer", "yaml") from None
    return yaml


def _encode_msgpack(value: Any) -> bytes:
    packed: bytes = _msgpack().packb(value, use_bin_type=True)
    return packed


def _decode_msgpack(data: bytes) -> Any:
    return _msgpack().unpackb(data, raw=False, strict_map_key=False)


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError:
        raise MissingExtra("the msgpack serializer", "msgpack") from None
    return msgpack


_BUILT_IN: Final = (
    Codec(
        "pickle",
        "application/x-python-serialize",
        "binary",
        lambda value: pickle.dumps(value, protocol=4),
        _decode_pickle,
    ),
    Codec("yaml", "application/x-yaml", "utf-8", _encode_yaml, _decode_yaml),
    Codec("msgpack", "application/x-msgpack", "binary", _encode_msgpack, _decode_msgpack),
)
