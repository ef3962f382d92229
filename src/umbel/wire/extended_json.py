"""JSON with the types that Celery adds to it: times, decimals, UUIDs, bytes, and a user's own.

What JSON lacks travels as an object of exactly two keys, `{"__type__": "decimal", "__value__": "1.50"}`. The text is
the one `json.dumps` writes (ASCII, a space behind each separator), so that it equals a Celery peer's byte for byte.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import Any, Final
from uuid import UUID

import msgspec

from umbel._repr import safe_repr

__all__ = ["ExtendedJson"]


class ExtendedJson:
    """Encode and decode JSON with more types; one object is one set of types.

    `register` is for start-up; afterwards any number of threads may encode and decode.
    """

    def __init__(self) -> None:
        self._encoders: dict[type, Callable[[Any], Any]] = dict(_ENCODERS)
        self._decoders: dict[str, Callable[[Any], Any]] = dict(_DECODERS)
        self._encode = _encoder(self._replace)

    def register(
        self, cls: type, marker: str | None, encoder: Callable[[Any], Any], decoder: Callable[[Any], Any]
    ) -> None:
        """Let instances of *cls* travel (PRT-103).

        *encoder* returns something that JSON can hold, which comes back through *decoder*. With the *marker* None what
        *encoder* returns travels bare and stays as it is. A class registered again is replaced.
        """
        if marker is None:
            self._encoders[cls] = encoder
            return
        self._encoders[cls] = lambda value: _tagged(marker, encoder(value))
        self._decoders[marker] = decoder

    def encode(self, value: Any) -> bytes:
        """Return *value* as JSON text in ASCII.

        Raises:
            TypeError: something inside is of no known type, or a key is no text or number.
            ValueError: an integer has more digits than Python converts.
            RecursionError: it contains itself, or is nested too deeply.
        """
        return self._encode(value).encode("ascii")

    def decode(self, data: bytes | str) -> Any:
        """Return the value of a JSON text in UTF-8.

        Raises:
            ValueError: no JSON, or an object carries the mark of a type nobody registered.
            Exception: whatever a decoder raises for a value it cannot read.
        """
        if _MARK in data if isinstance(data, bytes) else _MARK.decode() in data:
            return json.loads(data, object_hook=self._restore)
        try:
            return msgspec.json.decode(data)  # five times as fast as json.loads
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return json.loads(data)  # NaN, halves of surrogate pairs: Celery's peers may write them

    def _replace(self, value: Any) -> Any:
        as_json = getattr(value, "__json__", None)
        if as_json is not None:
            return as_json()
        for cls in type(value).__mro__:
            encoder = self._encoders.get(cls)
            if encoder is not None:
                return encoder(value)
        for cls, encoder in self._encoders.items():  # abstract classes are in no __mro__
            if isinstance(value, cls):
                return encoder(value)
        django = sys.modules.get("django.utils.functional")
        if django is not None and isinstance(value, django.Promise):
            return str(value)  # a lazy translation
        raise TypeError(f"a {type(value).__name__} cannot travel as JSON: {safe_repr(value, maxlen=100)}")

    def _restore(self, found: dict[str, Any]) -> Any:
        if len(found) != 2 or "__type__" not in found or "__value__" not in found:
            return found
        marker = found["__type__"]
        decoder = self._decoders.get(marker) if isinstance(marker, str) else None
        if decoder is None:
            raise ValueError(
                f"JSON of the unknown type {safe_repr(marker, maxlen=100)}; register_type() makes it known"
            )
        return decoder(found["__value__"])


_MARK: Final = b'"__type__"'


def _encoder(default: Callable[[Any], Any]) -> Callable[[Any], str]:
    """Return `json.dumps` with *default*, less what it does anew in each call.

    It asks the C encoder directly where Python has it (benchmarks/micro_wire.py: 1.3 µs against 2.5 for a body).
    A circle is found by the recursion limit.
    """
    plain = json.JSONEncoder(default=default, check_circular=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    try:
        write = make(None, default, encode_basestring_ascii, None, ": ", ", ", False, False, True)  # type: ignore[misc]  # None is answered below
        write([None], 0)
    except TypeError:  # another Python has none, or makes it in another way
        return plain.encode
    return lambda value: "".join(write(value, 0))


def _tagged(marker: str, value: Any) -> dict[str, Any]:
    return {"__type__": marker, "__value__": value}


def _encode_bytes(value: bytes) -> dict[str, Any]:
    try:
        return _tagged("bytes", value.decode("utf-8"))
    except UnicodeDecodeError:
        return _tagged("base64", base64.b64encode(value).decode("ascii"))


_ENCODERS: Final[dict[type, Callable[[Any], Any]]] = {
    datetime: lambda value: _tagged("datetime", value.isoformat()),
    date: lambda value: _tagged("date", value.isoformat()),
    time: lambda value: _tagged("time", value.isoformat()),
    Decimal: lambda value: _tagged("decimal", str(value)),
    UUID: lambda value: _tagged("uuid", {"hex": value.hex}),
    bytes: _encode_bytes,
}
_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda value: datetime.fromisoformat(value).date(),  # peers may write a whole moment
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda value: UUID(hex=value["hex"]) if "hex" in value else UUID(**value),
    "bytes": lambda value: value.encode("utf-8"),
    "base64": base64.b64decode,
}
