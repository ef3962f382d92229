"""Keep the rest of a long chain as the text it came in, so that each link need not read and write all that follow it.

A message carries every link behind it (PRT-033), and a link hands all but one on. Reading and writing those cost each
link of a chain of 200 a third of a millisecond; copying their text costs a tenth of that (benchmark chain of 200).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, overload

import msgspec

__all__ = ["Links", "read_with_links"]

_LONG: Final = 2048  # bytes: a shorter body is read at once
_MARK: Final = b'"__type__"'  # of values that JSON lacks: such a body is read at once as well


class Links(Sequence[Any]):
    """The links of a chain, the next one last, each read when it is asked for."""

    __slots__ = ("texts",)

    def __init__(self, texts: Sequence[msgspec.Raw]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> Links: ...
    def __getitem__(self, place: int | slice) -> Any:
        return Links(self.texts[place]) if isinstance(place, slice) else msgspec.json.decode(self.texts[place])


class _Embed(msgspec.Struct, forbid_unknown_fields=True):
    callbacks: Any = None
    errbacks: Any = None
    chain: list[msgspec.Raw] | None = None
    chord: Any = None


_decode: Final = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], _Embed]).decode


def read_with_links(data: bytes) -> tuple[list[Any], dict[str, Any], dict[str, Any]] | None:
    """Return what a JSON body of protocol 2 holds, its chain as `Links`; None = it is to be read as any other."""
    if len(data) < _LONG or _MARK in data:
        return None
    try:
        args, kwargs, embed = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not embed.chain:
        return None
    return args, kwargs, {**msgspec.structs.asdict(embed), "chain": Links(embed.chain)}
