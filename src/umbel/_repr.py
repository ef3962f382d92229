"""Show any value as short text that is safe to log: bounded, never raising, without passwords.

``safe_repr(args)`` is on the road of every task (``argsrepr``), so that plain small values take a short cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["MASK", "is_secret_name", "mask_secrets", "mask_url", "safe_repr"]

MASK: Final = "********"

_ATOMS: Final = frozenset({int, float, bool, type(None)})
_TEXTS: Final = frozenset({str, bytes})
_DEEPEST: Final = 100  # levels shown when they are not limited; well below Python's recursion limit
_BRACKETS: Final[tuple[tuple[type, str, str], ...]] = (
    (tuple, "(", ")"),
    (list, "[", "]"),
    (dict, "{", "}"),
    (set, "{", "}"),
    (frozenset, "frozenset({", "})"),
)


def safe_repr(value: object, *, maxlen: int = 1024, maxlevels: int = 3) -> str:
    """Return the repr of *value* in at most *maxlen* characters, with ``...`` where something was left out.

    Containers nested deeper than *maxlevels* (0 = no limit) are shown as ``[...]``. A repr that raises is replaced by
    the class and the error. Cost is bounded by *maxlen*, not by the size of the containers.
    """
    levels = maxlevels or _DEEPEST
    if _room_after(value, levels, maxlen) >= 0:
        # benchmarks/micro_ground.py: 1.0 µs for (2, 2), where the careful way takes 3.5.
        try:
            text = repr(value)
        except ValueError:  # an int of thousands of digits
            text = _careful(value, levels, maxlen)
    else:
        text = _careful(value, levels, maxlen)
    return text if len(text) <= maxlen else text[: max(maxlen - 3, 0)] + "..."


def _room_after(value: Any, levels: int, room: int) -> int:
    """Return what is left of *room* (characters) behind *value*, roughly; negative: too long, too deep or not plain."""
    kind = type(value)
    if kind in _ATOMS:
        return room - 1
    if kind in _TEXTS:
        return room - len(value)
    if kind is tuple or kind is list:
        if not value:
            return room - 2
        if levels <= 0:
            return -1
        for item in value:
            room = _room_after(item, levels - 1, room)
            if room < 0:
                return room
        return room - 2
    if kind is dict:
        if not value:
            return room - 2
        if levels <= 0:
            return -1
        for key, item in value.items():
            room = _room_after(item, levels - 1, _room_after(key, levels - 1, room))
            if room < 0:
                return room
        return room - 2
    return -1


def _careful(value: object, levels: int, maxlen: int) -> str:
    pieces: list[str] = []
    _write(value, levels, maxlen, pieces)
    return "".join(pieces)


def _write(value: Any, levels: int, room: int, pieces: list[str]) -> int:
    """Append the text of *value* to *pieces*, stopping soon after *room* characters; return the room left."""
    if isinstance(value, (str, bytes)) and len(value) > room:
        value = value[: max(room, 0) + 1]  # the repr of megabytes is not made only to be cut
    for kind, opening, closing in _BRACKETS:
        if isinstance(value, kind):
            return _write_container(value, (opening, closing), levels, room, pieces)
    return _put(_guarded(value), room, pieces)


def _write_container(value: Any, brackets: tuple[str, str], levels: int, room: int, pieces: list[str]) -> int:
    opening, closing = brackets
    if not value and not isinstance(value, dict):
        return _put({"{": "set()", "frozenset({": "frozenset()"}.get(opening, opening + closing), room, pieces)
    room = _put(opening, room, pieces)
    if value and levels <= 0:
        return _put("..." + closing, room, pieces)
    try:
        for index, item in enumerate(value):
            if index:
                room = _put(", ", room, pieces)
            if room < 0:
                return room
            room = _write(item, levels - 1, room, pieces)
            if isinstance(value, dict):
                room = _write(value[item], levels - 1, _put(": ", room, pieces), pieces)
    except Exception as exc:  # noqa: BLE001 - a user's container; what is known of it is shown
        return _put(f"<{type(value).__name__}: {type(exc).__name__} while reading it>", room, pieces)
    if opening == "(" and len(value) == 1:
        closing = ",)"
    return _put(closing, room, pieces)


def _put(text: str, room: int, pieces: list[str]) -> int:
    pieces.append(text)
    return room - len(text)


def _guarded(value: object) -> str:
    try:
        return repr(value)
    except Exception as exc:  # noqa: BLE001 - a user's repr
        return f"<{type(value).__name__}: {type(exc).__name__} in its repr>"


# -- Secrets -----------------------------------------------------------------------------------------------------------

_SECRET_NAME: Final = re.compile(
    r"API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI", re.IGNORECASE
)
_AUTHORITY: Final = re.compile(r"([a-z][\w+.-]*://[^\s:/?#@;,]*):([^\s/?#;]*)@", re.IGNORECASE)
# A password with an unescaped / or ? in it: no port stands behind the colon, and an @ follows somewhere.
_BROKEN_AUTHORITY: Final = re.compile(
    r"([a-z][\w+.-]*://[^\s:/?#@;,]*):(?!\d*(?:[/?#;,\s]|$))([^\s;]*)@", re.IGNORECASE
)
_QUERY: Final = re.compile(r"([?&][\w.-]*(?:passw|secret|token|api_?key|access_?key)[\w.-]*=)[^&\s;]+", re.IGNORECASE)


def mask_url(text: str, mask: str = "**") -> str:
    """Return *text* with the passwords of all URLs in it replaced by *mask*; other text stays as it is."""
    if "://" not in text:
        return text
    replacement = rf"\1:{mask}@"
    masked = _AUTHORITY.sub(replacement, text)
    if masked == text:
        masked = _BROKEN_AUTHORITY.sub(replacement, text)
    return _QUERY.sub(rf"\1{mask}", masked)


def is_secret_name(name: object) -> bool:
    """Return whether the value of a setting or option called *name* should not be shown."""
    return isinstance(name, str) and _SECRET_NAME.search(name) is not None


def mask_secrets(value: Any, name: object = None) -> Any:
    """Return *value* (called *name*) as it may be shown: secret names and passwords in URLs masked, at any depth."""
    if is_secret_name(name):
        return MASK
    if isinstance(value, str):
        return mask_url(value, MASK)
    if isinstance(value, dict):
        return {key: mask_secrets(item, key) for key, item in value.items()}
    if type(value) in {list, tuple, set, frozenset}:
        items: Iterable[Any] = value
        return type(value)(mask_secrets(item) for item in items)
    return value
