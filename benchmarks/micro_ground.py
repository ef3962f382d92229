"""Measure what the ground floor adds to each task: ``python benchmarks/micro_ground.py``."""

from __future__ import annotations

import timeit
import uuid
from collections.abc import Callable

from umbel import current, signals
from umbel._names import uuid as new_id
from umbel._repr import safe_repr
from umbel.app.settings import Settings

ROUNDS, RUNS = 7, 20_000


def best(work: Callable[[], object]) -> float:
    """Return the fewest microseconds that one call of *work* took, over rounds of many."""
    return min(timeit.repeat(work, repeat=ROUNDS, number=RUNS)) / RUNS * 1e6


def main() -> None:
    """Print microseconds per call."""
    conf, request = Settings(), object()
    frozen = conf.frozen()

    def look_up_again() -> object:
        conf.__dict__.pop("task_serializer", None)
        return conf.task_serializer

    cases: dict[str, Callable[[], object]] = {
        "new id": new_id,
        "new id, uuid.uuid4": lambda: str(uuid.uuid4()),
        "repr of (2, 2)": lambda: safe_repr((2, 2)),
        "repr of {}": lambda: safe_repr({}),
        "repr, the careful way": lambda: safe_repr((2, {3})),
        "setting": lambda: conf.task_serializer,
        "setting, looked up anew": look_up_again,
        "setting, frozen": lambda: frozen.task_serializer,
        "signal without receivers": lambda: signals.task_prerun.receivers,
        "enter and leave a task": lambda: current.leave(current.enter(conf, request)),
        "nothing (subtract it)": lambda: None,
    }
    for name, work in cases.items():
        print(f"{name:26} {best(work):6.2f} µs")


if __name__ == "__main__":
    main()
