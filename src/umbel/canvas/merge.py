"""Say which arguments and options a call has when it is sent with more than its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["merged"]


def merged(
    signature: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Return the arguments, named arguments and options of *signature* with these (API-218, API-219).

    *args* come before its own; *kwargs* and *options* win over its own, except that a group id and stamps stay as
    they are. An immutable one ignores *args* and *kwargs* unless *force*.
    """
    own = signature["options"]
    if options:
        kept = {"group_id", *(own.get("stamped_headers") or ())}
        options = {**own, **{key: value for key, value in options.items() if key not in kept or key not in own}}
    else:
        options = dict(own)
    if signature["immutable"] and not force:
        return tuple(signature["args"]), dict(signature["kwargs"]), options
    return (*args, *signature["args"]), {**signature["kwargs"], **kwargs}, options
