"""Keep the containers that programs import from ``celery.utils.collections``."""

from __future__ import annotations

import time
from collections import ChainMap, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from queue import Empty
from typing import Any

__all__ = ["AttributeDict", "BufferMap", "ConfigurationView", "DictAttribute", "LimitedSet"]


class AttributeDict(dict[str, Any]):
    """A dict whose keys are attributes as well."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class DictAttribute(MutableMapping[str, Any]):
    """The attributes of an object as a mapping."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __delitem__(self, key: str) -> None:
        delattr(self.obj, key)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.obj))

    def __len__(self) -> int:
        return len(dir(self.obj))


class ConfigurationView(ChainMap[str, Any]):
    """Mappings one behind the other, whose keys are attributes as well; what is set goes into the first."""

    def __init__(self, changes: Mapping[str, Any], defaults: Iterable[Mapping[str, Any]] | None = None) -> None:
        maps: list[Any] = [changes, *(defaults or ())]
        super().__init__(*maps)

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"there is no setting {key!r}") from None

    def add_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Put *defaults* in front of the other defaults."""
        given: Any = defaults
        self.maps.insert(1, given)


class LimitedSet:
    """The newest *maxlen* items added, but none older than *expires* seconds; 0 = no such limit."""

    def __init__(self, maxlen: int = 0, expires: float = 0, data: Any = None, minlen: int = 0) -> None:
        self.maxlen, self.expires, self.minlen = maxlen, expires, minlen
        self._added: OrderedDict[Any, float] = OrderedDict()  # item -> monotonic seconds, oldest first
        if data:
            self.update(data)

    def add(self, item: Any, now: float | None = None) -> None:
        """Add *item*, as of *now* (monotonic seconds); one that is there becomes the newest."""
        self._added.pop(item, None)
        self._added[item] = time.monotonic() if now is None else now
        if self.maxlen and len(self._added) > self.maxlen:
            self.purge()

    def update(self, other: Any) -> None:
        """Add all of *other*: a set of this kind, items with their times, or items."""
        pairs = other.as_dict() if isinstance(other, LimitedSet) else other
        for item in pairs:
            self.add(item, pairs[item] if isinstance(pairs, Mapping) else None)

    def discard(self, item: Any) -> None:
        """Remove *item* if it is there."""
        self._added.pop(item, None)

    pop_value = discard

    def pop(self, default: Any = None) -> Any:
        """Remove and return the oldest item, or *default*."""
        return self._added.popitem(last=False)[0] if self._added else default

    def purge(self, now: float | None = None) -> None:
        """Remove what is too old or too much."""
        now = time.monotonic() if now is None else now
        while self.maxlen and len(self._added) > self.maxlen:
            self.pop()
        while self.expires and len(self._added) > self.minlen and next(iter(self._added.values())) + self.expires < now:
            self.pop()

    def clear(self) -> None:
        """Remove all."""
        self._added.clear()

    def as_dict(self) -> dict[Any, float]:
        """Return the items with the times at which they were added."""
        return dict(self._added)

    def __contains__(self, item: object) -> bool:
        return item in self._added

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self._added))

    def __len__(self) -> int:
        return len(self._added)

    def __repr__(self) -> str:
        return f"<LimitedSet({len(self)}): maxlen={self.maxlen}, expires={self.expires}, minlen={self.minlen}>"


class BufferMap(OrderedDict[Any, "deque[Any]"]):
    """Values in line under keys, at most *maxsize* of them; those under the key used longest ago go first."""

    Empty = Empty

    def __init__(self, maxsize: int, iterable: Any = None, bufmaxsize: int = 1000) -> None:
        super().__init__()
        self.maxsize, self.bufmaxsize = maxsize, bufmaxsize
        for key, value in iterable or ():
            self.put(key, value)

    @property
    def total(self) -> int:
        """How many values there are."""
        return sum(map(len, self.values()))

    def put(self, key: Any, item: Any) -> None:
        """Put *item* in line under *key*."""
        self.setdefault(key, deque(maxlen=self.bufmaxsize)).append(item)
        self.move_to_end(key)
        while self.total > self.maxsize:
            self.take(next(iter(self)))

    def extend(self, key: Any, it: Iterable[Any]) -> None:
        """Put all of *it* in line under *key*."""
        for item in it:
            self.put(key, item)

    def take(self, key: Any, *default: Any) -> Any:
        """Return the first in line under *key*, which leaves; *default* if there is none.

        Raises:
            Empty: there is none, and no *default*.
        """
        line = self.get(key)
        if not line:
            if default:
                return default[0]
            raise self.Empty
        item = line.popleft()
        if not line:
            del self[key]
        return item
