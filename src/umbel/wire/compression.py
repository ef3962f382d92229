"""Compress and decompress bodies, by alias or MIME name, never into more memory than allowed."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from umbel._names import did_you_mean
from umbel._repr import safe_repr
from umbel.exceptions import DecodeError, ImproperlyConfigured, MissingExtra

__all__ = ["SIZE_LIMIT", "compress", "compression_type", "decompress"]

SIZE_LIMIT: Final = 1 << 29  # bytes; what a body may grow to unless the caller says otherwise


class _Method(msgspec.Struct, frozen=True):
    mime: str
    compress: Callable[[bytes], bytes]
    expand: Callable[[bytes, int], bytes | None]  # (data, limit): None when there is more than limit


def compression_type(name: str) -> str:
    """Return the MIME name that goes into the header `compression` for an alias or MIME *name*.

    Raises:
        ImproperlyConfigured: no such compression.
    """
    return _method(name).mime


def compress(data: bytes, name: str) -> tuple[bytes, str]:
    """Return *data* compressed, and the MIME name for the header `compression`.

    Raises:
        ImproperlyConfigured: no such compression, or what it needs is not installed.
    """
    method = _method(name)
    return method.compress(data), method.mime


def decompress(data: bytes, name: str, *, limit: int = SIZE_LIMIT) -> bytes:
    """Return the plain bytes of *data*, which may be *limit* bytes at most.

    Raises:
        DecodeError: the data is damaged or incomplete, no such compression, or there is more than *limit*.
        MissingExtra: what it needs is not installed.
    """
    method = _METHODS.get(_ALIASES.get(name, name))
    if method is None:
        raise DecodeError(f"unknown compression {safe_repr(name, maxlen=100)}; known are {', '.join(sorted(_METHODS))}")
    try:
        plain = method.expand(data, limit)
    except MissingExtra:
        raise
    except Exception as exc:  # five libraries, each with its own idea of an error
        raise DecodeError(f"cannot decompress {len(data)} bytes of {method.mime}: {exc}") from exc
    if plain is None:
        raise DecodeError(f"{len(data)} bytes of {method.mime} would expand to more than {limit} bytes: refused")
    return plain


def _method(name: str) -> _Method:
    method = _METHODS.get(_ALIASES.get(name, name))
    if method is None:
        known = {*_ALIASES, *_METHODS}
        raise ImproperlyConfigured(
            f"no compression {name!r}{did_you_mean(name, known)} Known are {', '.join(sorted(_ALIASES))}."
        )
    return method


# -- Methods -----------------------------------------------------------------------------------------------------------


def _expand_zlib(data: bytes, limit: int) -> bytes | None:
    # 32 + 15: a zlib stream, which is what peers write under this name, or a real gzip file.
    reader = zlib.decompressobj(47)
    return _checked(reader.decompress(data, limit + 1), limit, complete=reader.eof)


def _expand_bz2(data: bytes, limit: int) -> bytes | None:
    reader = bz2.BZ2Decompressor()
    return _checked(reader.decompress(data, limit + 1), limit, complete=reader.eof)


def _expand_lzma(data: bytes, limit: int) -> bytes | None:
    reader = lzma.LZMADecompressor(memlimit=1 << 28)  # the dictionary of the highest preset takes a quarter of that
    return _checked(reader.decompress(data, limit + 1), limit, complete=reader.eof)


def _compress_brotli(data: bytes) -> bytes:
    packed: bytes = _brotli().compress(data)
    return packed


def _expand_brotli(data: bytes, limit: int) -> bytes | None:
    reader = _brotli().Decompressor()
    plain = bytearray()
    while not reader.is_finished() and len(plain) <= limit:
        piece = reader.process(data, output_buffer_limit=_PIECE)
        if not piece and not data:
            break  # nothing goes in and nothing comes out
        plain += piece
        data = b""
    return _checked(bytes(plain), limit, complete=reader.is_finished())


def _brotli() -> Any:
    try:
        import brotli
    except ImportError:
        raise MissingExtra("the brotli compression", "brotli") from None
    return brotli


def _compress_zstd(data: bytes) -> bytes:
    packed: bytes = _zstd().ZstdCompressor().compress(data)
    return packed


def _expand_zstd(data: bytes, limit: int) -> bytes | None:
    zstd = _zstd()
    size = zstd.frame_content_size(data)
    if size > limit:
        return None
    reader = zstd.ZstdDecompressor()
    if size >= 0:
        whole: bytes = reader.decompress(data)  # into exactly *size* bytes; more is an error
        return whole
    stream = reader.decompressobj()
    plain = bytearray()
    for start in range(0, len(data), _ZSTD_STEP):
        plain += stream.decompress(data[start : start + _ZSTD_STEP])
        if len(plain) > limit:
            return None
    return _checked(bytes(plain), limit, complete=stream.eof)


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("the zstd compression", "zstd") from None
    return zstandard


_PIECE: Final = 1 << 16  # bytes to take out at once
_ZSTD_STEP: Final = 256  # bytes to put in at once: zstd cannot be asked for less output, and expands 33,000 times


def _checked(plain: bytes, limit: int, *, complete: bool) -> bytes | None:
    if len(plain) > limit:
        return None
    if not complete:
        raise ValueError("the end is missing")
    return plain


_METHODS: Final = {
    method.mime: method
    for method in (
        _Method("application/x-gzip", zlib.compress, _expand_zlib),
        _Method("application/x-bz2", bz2.compress, _expand_bz2),
        _Method("application/x-lzma", lzma.compress, _expand_lzma),
        _Method("application/x-brotli", _compress_brotli, _expand_brotli),
        _Method("application/zstd", _compress_zstd, _expand_zstd),
    )
}
_ALIASES: Final = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "brotli": "application/x-brotli",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}
