"""Name the keys and channels on a Redis server: kombu's as kombu does, and our own beside them."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from umbel._repr import safe_repr
from umbel.exceptions import ImproperlyConfigured

__all__ = ["Names"]

_STEPS: Final = (0, 3, 6, 9)
_STRATEGIES: Final = ("round_robin", "sorted", "priority")
_MOST_STEPS: Final = 36  # a delayed message bears its step as one digit to that base


class Names(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What the transport options say about names and times (TB-032 to TB-044)."""

    prefix: str = ""  # `global_keyprefix`
    sep: str = "\x06\x16"
    steps: tuple[int, ...] = _STEPS  # a priority counts as the highest of these that is not above it
    unacked: str = "unacked"
    unacked_index: str = "unacked_index"
    fanout_prefix: str = "/{db}."
    fanout_patterns: bool = True  # the routing key is part of the channel's name
    visibility_timeout: float = 3600.0  # seconds after which what a foreign worker holds is taken for lost
    restore_interval: float = 10.0  # seconds between two looks for such
    restore_limit: int = 100  # of which so many are put back at each
    strategy: str = "round_robin"  # `queue_order_strategy`: which queue is the first of those of one step
    legacy_fanout: bool = False  # `sentinel_fanout_compat`: also on the channels of kombu's older Sentinel transport
    results_prefix: str = ""  # in front of the keys of results

    @classmethod
    def of(cls, options: Mapping[str, Any], results: Mapping[str, Any] | None = None) -> Names:
        """Return what `broker_transport_options` and `result_backend_transport_options` say.

        Raises:
            ImproperlyConfigured: the priority steps are no sorted list of numbers, or there is no such strategy.
        """
        steps = options.get("priority_steps", _STEPS)
        if not isinstance(steps, list | tuple) or not steps or list(steps) != sorted(set(steps)):
            raise ImproperlyConfigured(
                f"priority_steps is {safe_repr(steps, maxlen=100)}: it must be a sorted list of numbers such as "
                "[0, 3, 6, 9]"
            )
        if len(steps) > _MOST_STEPS:
            raise ImproperlyConfigured(f"priority_steps has {len(steps)} steps; {_MOST_STEPS} are possible")
        strategy = options.get("queue_order_strategy") or "round_robin"
        if strategy not in _STRATEGIES:
            raise ImproperlyConfigured(
                f"queue_order_strategy is {safe_repr(strategy, maxlen=100)}: it must be one of {', '.join(_STRATEGIES)}"
            )
        if not options.get("ack_emulation", True):
            warnings.warn(
                "the transport option ack_emulation=False is left out: umbel keeps a task on the server until it is "
                "acknowledged, which costs it no round trip. If tasks shall rather be lost than run twice, say "
                "task_acks_late=False.",
                stacklevel=2,
            )
        fanout = options.get("fanout_prefix", True)
        return cls(
            prefix=str(options.get("global_keyprefix") or ""),
            sep=str(options.get("sep", "\x06\x16")),
            steps=tuple(int(step) for step in steps),
            unacked=str(options.get("unacked_key", "unacked")),
            unacked_index=str(options.get("unacked_index_key", "unacked_index")),
            fanout_prefix=fanout if isinstance(fanout, str) else "/{db}." if fanout else "",
            fanout_patterns=bool(options.get("fanout_patterns", True)),
            visibility_timeout=float(options.get("visibility_timeout", 3600.0)),
            restore_interval=float(options.get("unacked_restore_interval", 10.0)),
            restore_limit=int(options.get("unacked_restore_limit") or 100),
            strategy=strategy,
            legacy_fanout=bool(options.get("sentinel_fanout_compat")),
            results_prefix=_with_separator(str((results or {}).get("global_keyprefix") or "")),
        )

    # -- kombu's

    def step(self, priority: int | None) -> int:
        """Return the place of the step that *priority* belongs to."""
        return max(0, bisect_right(self.steps, priority or 0) - 1)

    def lists(self, queue: str) -> tuple[str, ...]:
        """Return the keys of a queue, one for each step, the most urgent first."""
        known = self._lists.get(queue)
        if known is None:
            name = self.prefix + queue
            known = tuple(f"{name}{self.sep}{step}" if step else name for step in self.steps)
            if len(self._lists) > 10_000:  # reply queues have as many names as there are clients
                self._lists.clear()
            self._lists[queue] = known
        return known

    @property
    def _lists(self) -> dict[str, tuple[str, ...]]:
        return self.__dict__.setdefault("known_lists", {})  # type: ignore[no-any-return]

    def bindings(self, exchange: str) -> str:
        """Return the key of an exchange's bindings (PRT-120)."""
        return f"{self.prefix}_kombu.binding.{exchange}"

    def permanent(self, exchange: str) -> str:
        """Return the key of those of its bindings that do not expire (PRT-121)."""
        return f"{self.prefix}_kombu.binding_permanent.{exchange}"

    @property
    def deadlines(self) -> str:
        """Return the key that tells when the other bindings expire (PRT-122)."""
        return f"{self.prefix}_kombu.binding_deadlines"

    def binding(self, routing_key: str, pattern: str, queue: str) -> str:
        """Return a binding as it is stored."""
        return self.sep.join((routing_key, pattern, queue))

    def read_binding(self, stored: bytes) -> tuple[str, str, str] | None:
        """Return routing key, pattern and queue of a stored binding; None if it is none."""
        parts = stored.decode("utf-8", "replace").split(self.sep)
        return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None

    def channels(self, database: int, exchange: str, routing_key: str) -> tuple[str, ...]:
        """Return the channel of a fanout exchange (PRT-130), and where that is wanted the older one (PRT-132)."""
        filled = self.fanout_prefix.replace("{db}", str(database))
        beginnings = dict.fromkeys((filled, self.fanout_prefix) if self.legacy_fanout else (filled,))
        end = f"{exchange}/{routing_key}" if routing_key and self.fanout_patterns else exchange
        return tuple(f"{self.prefix}{beginning}{end}" for beginning in beginnings)

    # -- ours

    def own(self, name: str) -> str:
        """Return a key that no other program uses."""
        return f"{self.prefix}umbel.{name}"

    def delayed(self, queue: str) -> str:
        """Return the key of what waits for its time before it goes into *queue*: a set sorted by unix seconds."""
        return f"{self.prefix}umbel.delayed.{queue}"

    def consumers(self, queue: str) -> str:
        """Return the key of those of us who consume from *queue*: a set sorted by the time they said so."""
        return f"{self.prefix}umbel.consumers.{queue}"

    def turn(self) -> tuple[str, ...]:
        """Return the keys that every turn needs, in the order in which the script knows them."""
        own = ("leases", "token", "paused", "revoked.version", "dead", "dead.letters", "dead.ids")
        chords = f"{self.results_prefix or self.prefix}umbel.chords"  # beside what they are made of
        return (self.prefix + self.unacked, self.prefix + self.unacked_index, *map(self.own, own), chords)

    # -- results

    def result(self, task_id: str) -> str:
        """Return the key, and the channel, of a task's result (PRT-171)."""
        return f"{self.results_prefix}celery-task-meta-{task_id}"

    def group(self, group_id: str) -> str:
        """Return the key of a saved group; those of a chord begin with it (PRT-195)."""
        return f"{self.results_prefix}celery-taskset-meta-{group_id}"

    def claim_of(self, queues: Sequence[str]) -> tuple[str, ...]:
        """Return the keys that a claim from *queues* needs."""
        keys: list[str] = []
        for queue in queues:
            keys += self.lists(queue)
            keys.append(self.delayed(queue))
        return tuple(keys)


def _with_separator(prefix: str) -> str:
    return prefix if not prefix or prefix[-1] in ":_-." else prefix + "_"
