"""Say what a worker is made of, before it starts."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any, Final

import click

import umbel
from umbel._repr import mask_url
from umbel.worker.worker import Worker

__all__ = ["banner"]

_FLOWER: Final = (" o . o . o ", r"  \ \|/ /  ", r"   \_|_/   ", "     |     ")


def banner(worker: Worker, loglevel: str, *, color: bool) -> str:
    """Return who the worker is, where its messages and results lie, what it consumes, and at INFO its tasks."""
    lines = [""]
    who = (
        f"umbel {umbel.VERSION_BANNER}",
        worker.hostname,
        f"{platform.platform()}, Python {platform.python_version()}",
        "",
    )
    for flower, text in zip(_FLOWER, who, strict=True):
        lines.append(f"{click.style(flower, fg='green')}  {text}".rstrip())
    lines += [_title("config"), *_config(worker), "", _title("queues"), *_queues(worker)]
    if loglevel.upper() in {"DEBUG", "INFO"}:
        lines += ["", _title("tasks"), *_tasks(worker, all_of_them=loglevel.upper() == "DEBUG")]
    text = "\n".join([*lines, ""])
    return text if color else click.unstyle(text)


def _config(worker: Worker) -> Iterator[str]:
    app: Any = worker.app
    broker, results = app.shown_url(app.broker_url()), app.backend_url()
    facts = {
        "app": f"{app.main or '__main__'}:{id(app):#x}",
        "transport": mask_url(broker),
        "results": mask_url(app.shown_url(results)) if results else "disabled",
        "concurrency": f"{_slots(worker)} ({_pool(worker)})",
        "task events": "ON" if worker.teller.enabled else "OFF (-E turns them on)",
    }
    for name, value in facts.items():
        yield f" .> {name + ':':<13}{click.style(value, bold=name == 'transport')}"


def _slots(worker: Worker) -> int:
    return 1 if worker.pool_kind == "solo" else worker.concurrency


def _pool(worker: Worker) -> str:
    shared = worker.processes and worker.pool_kind in {"threads", "asyncio"}
    return f"{worker.pool_kind} in {worker.processes} processes" if shared else worker.pool_kind


def _queues(worker: Worker) -> Iterator[str]:
    yield from worker.app.amqp.queues.format(indent=1).splitlines() or [" (none)"]


def _tasks(worker: Worker, *, all_of_them: bool) -> Iterator[str]:
    found = sorted(name for name in worker.app.tasks if all_of_them or not name.startswith("celery."))
    return iter([f"  . {name}" for name in found] or ["  (none)"])


def _title(text: str) -> str:
    return click.style(f"[{text}]", fg="cyan")
