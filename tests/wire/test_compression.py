import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.exceptions import DecodeError, ImproperlyConfigured, InvalidMessage, MissingExtra
from umbel.wire.compression import compress, compression_type, decompress

MIMES = {
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
every_method = pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma", "brotli", "zstd"])


@pytest.mark.row("PRT-104", "PRT-105", "PRT-106", "PRT-107", "PRT-108")
@pytest.mark.parametrize(("name", "mime"), MIMES.items())
def test_aliases_and_mime_names_name_one_method(name, mime):
    data, header = compress(b"umbel" * 100, name)

    assert header == mime == compression_type(name) == compression_type(mime)
    assert decompress(data, mime) == decompress(data, name) == b"umbel" * 100


@every_method
@given(plain=st.binary(max_size=200))
def test_bytes_come_back(name, plain):
    assert decompress(*compress(plain, name)) == plain


@every_method
@given(data=st.binary(max_size=60))
def test_damaged_bytes_are_an_invalid_message(name, data):
    try:
        decompress(data, name)
    except InvalidMessage:
        pass


@every_method
def test_incomplete_bytes_are_refused(name):
    data, _ = compress(bytes(range(256)) * 20, name)

    for end in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(DecodeError):
            decompress(data[:end], name)


@every_method
def test_a_bomb_does_not_go_off(name):
    data, _ = compress(b"\0" * 30_000_000, name)

    tracemalloc.start()
    with pytest.raises(DecodeError, match="more than 1000 bytes: refused"):
        decompress(data, name, limit=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 12_000_000
    assert len(decompress(data, name, limit=30_000_000)) == 30_000_000


def test_a_bomb_of_zstd_that_hides_its_size_does_not_go_off():
    zstandard = pytest.importorskip("zstandard")
    data = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 30_000_000)

    with pytest.raises(DecodeError, match="refused"):
        decompress(data, "zstd", limit=1000)
    assert len(decompress(data, "zstd")) == 30_000_000


def test_gzip_takes_a_real_gzip_file_as_well():
    writer = zlib.compressobj(wbits=31)
    data = writer.compress(b"umbel") + writer.flush()

    assert decompress(data, "application/x-gzip") == b"umbel"


def test_an_unknown_method_is_a_mistake_when_sending_and_an_invalid_message_when_receiving():
    with pytest.raises(ImproperlyConfigured, match="did you mean 'zstd'"):
        compress(b"", "zst")
    with pytest.raises(DecodeError, match="unknown compression 'zst'"):
        decompress(b"", "zst")


@pytest.mark.parametrize(("name", "module"), [("brotli", "brotli"), ("zstd", "zstandard")])
def test_a_missing_dependency_is_named_with_its_remedy(monkeypatch, name, module):
    data, _ = compress(b"x", name)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingExtra, match=rf"umbel\[{name}\]"):
        compress(b"x", name)
    with pytest.raises(MissingExtra):
        decompress(data, name)
