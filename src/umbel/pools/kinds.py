"""Make a pool by the name of its kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

from umbel.exceptions import ImproperlyConfigured
from umbel.pools.base import Runner
from umbel.pools.child import Desk, Serve, serve_one
from umbel.pools.children import ChildrenPool
from umbel.pools.runners_greenlets import GREEN, GreenRunner, load, serve_greenlets
from umbel.pools.runners_threads import serve_threads
from umbel.pools.solo import SoloPool

__all__ = ["POOLS", "make_pool"]


def _serve_asyncio(desk: Desk) -> None:
    # 18 ms and 3 MB that only this kind pays.
    importlib.import_module("umbel.pools.runners_asyncio").serve_asyncio(desk)


_SERVE: Final[dict[str, Serve]] = {
    "prefork": serve_one,
    "threads": serve_threads,
    "asyncio": _serve_asyncio,
    **dict.fromkeys(GREEN, serve_greenlets),
}
_ALIASES: Final = {"processes": "prefork"}

POOLS: Final = (*_SERVE, "solo")


def make_pool(
    kind: str,
    runner: Runner,
    *,
    slots: int = 1,
    processes: int | None = None,
    max_jobs_per_child: int | None = None,
    max_memory_per_child: int | None = None,
    on_init: Callable[[], None] | None = None,
    on_fork: Callable[[], None] | None = None,
    grace: float = 0.5,
    start_timeout: float = 60.0,
    title: str | None = None,
) -> ChildrenPool | SoloPool:
    """Return a pool that is not started yet.

    Args:
        kind: one of `POOLS`.
        runner: what runs the jobs.
        slots: jobs that run at once; `solo` has one whatever this says.
        processes: children that share the slots; None = 1. `prefork` has one per slot whatever this says.
        max_jobs_per_child: a child is replaced when it has been given so many; None or 0 = never.
        max_memory_per_child: KiB resident, looked at after each job; beyond it a child is replaced. None = never.
        on_init: runs once where the children are forked from, before the first (again if that process is lost).
        on_fork: runs there before each fork.
        grace: seconds that a job of a shared child gets to end, when it is to be killed, before its child is.
        start_timeout: seconds that `Runner.enter` may take.
        title: process title with ``{process}`` in it, shown where setproctitle is installed.

    Raises:
        ImproperlyConfigured: there is no such kind.
        MissingExtra: its library is not installed.
    """
    kind = _ALIASES.get(kind, kind)
    if kind == "solo":
        return SoloPool(runner)
    if kind not in _SERVE:
        raise ImproperlyConfigured(f"no pool is called {kind!r}; choose one of {', '.join(POOLS)}")

    def init() -> None:
        if kind in GREEN:
            load(kind)
        if on_init is not None:
            on_init()

    return ChildrenPool(
        kind,
        _SERVE[kind],
        GreenRunner(runner, kind) if kind in GREEN else runner,
        slots=slots,
        processes=None if kind == "prefork" else processes or 1,
        max_jobs_per_child=max_jobs_per_child,
        max_memory_per_child=max_memory_per_child or None,
        on_init=init,
        on_fork=on_fork,
        grace=grace,
        start_timeout=start_timeout,
        title=title,
    )
