"""Stand in for an object that is looked up each time it is used.

Needed for names that Celery's users import once and use everywhere (``current_app``, ``current_task``, tasks made by
``@shared_task``); our own code passes the object itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Proxy", "maybe_evaluate"]


class Proxy:
    """Act as whatever *find* returns now; attributes, calls, comparison and ``isinstance`` go to that object."""

    __slots__ = ("__weakref__", "_find")

    _find: Callable[[], Any]

    def __init__(self, find: Callable[[], Any]) -> None:
        object.__setattr__(self, "_find", find)

    def _get_current_object(self) -> Any:
        """Return the object itself, for those who need to keep or compare it."""
        return self._find()

    @property  # type: ignore[misc]  # isinstance(proxy, Task) asks this
    def __class__(self) -> Any:
        return type(self._find())

    @property
    def __wrapped__(self) -> Any:  # inspect.signature and doctest look behind it
        return self._find()

    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # vars(proxy) shows the object's
        return self._find().__dict__

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]  # help(proxy) shows the object's
        return self._find().__doc__  # type: ignore[no-any-return]  # untyped by nature

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._find(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._find(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._find()(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self._find())

    def __eq__(self, other: object) -> bool:
        return bool(self._find() == maybe_evaluate(other))

    def __hash__(self) -> int:
        return hash(self._find())

    def __repr__(self) -> str:
        return repr(self._find())

    def __str__(self) -> str:
        return str(self._find())

    def __dir__(self) -> list[str]:
        return dir(self._find())

    def __len__(self) -> int:
        return len(self._find())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._find())

    def __contains__(self, item: object) -> bool:
        return item in self._find()

    def __getitem__(self, key: Any) -> Any:
        return self._find()[key]

    def __or__(self, other: Any) -> Any:
        return self._find() | other

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._find().__reduce_ex__(protocol)


def maybe_evaluate(value: Any) -> Any:
    """Return the object behind *value* when it is a proxy, else *value* itself."""
    return value._get_current_object() if issubclass(type(value), Proxy) else value
