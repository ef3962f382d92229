"""Open a Python shell with the app and its tasks at hand."""

from __future__ import annotations

import code
import importlib
from typing import Any

import click

import umbel
from umbel.cli.base import Command
from umbel.cli.session import Session

__all__ = ["command"]

_NAMES = ("Task", "chain", "chord", "chunks", "group", "signature", "subtask", "xmap", "xstarmap")


@click.command("shell", cls=Command)
@click.option("-I", "--ipython", "kind", flag_value="ipython", help="With IPython.")
@click.option("-B", "--bpython", "kind", flag_value="bpython", help="With bpython.")
@click.option("--python", "kind", flag_value="python", help="With Python's own. Default: the best that is installed.")
@click.option("-T", "--without-tasks", is_flag=True, help="Without a name for each task.")
@click.option("--eventlet", is_flag=True, help="Patched by eventlet.")
@click.option("--gevent", is_flag=True, help="Patched by gevent.")
@click.pass_obj
def command(session: Session, /, *, kind: str | None, without_tasks: bool, eventlet: bool, gevent: bool) -> None:
    """Open a Python shell with the app (app, celery), its tasks, and what composes them."""
    if eventlet:
        importlib.import_module("eventlet").monkey_patch()
    if gevent:
        importlib.import_module("gevent.monkey").patch_all()
    app = session.app
    app.import_modules()
    names = {"app": app, "celery": app, **{name: getattr(umbel, name) for name in _NAMES}}
    if not without_tasks:
        tasks = {name.rpartition(".")[2]: task for name, task in app.tasks.items() if not name.startswith("celery.")}
        names = {**tasks, **names}
    kinds = [kind] if kind else ["ipython", "bpython", "python"]
    for each in kinds:
        try:
            return _open(each, names)
        except ModuleNotFoundError:
            if kind:
                raise click.UsageError(f"{kind} is not installed: pip install {kind}") from None
    return None


def _open(kind: str, names: dict[str, Any]) -> None:
    banner = f"umbel {umbel.__version__}, app {names['app'].main}: {', '.join(sorted(names))}"
    match kind:
        case "ipython":
            importlib.import_module("IPython").embed(user_ns=names, banner1=banner, colors="neutral")
        case "bpython":
            importlib.import_module("bpython").embed(names, banner=banner)
        case _:
            code.interact(banner, local=names, exitmsg="")
