"""Run the command line in this process, in a folder of the test's own."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from umbel import Umbel, current
from umbel.cli.main import main

HELLO = '''
from umbel import Umbel

app = Umbel("hello")


@app.task
def hello(name):
    """Greet."""
    return f"hello {name}"


@app.task
def fail():
    raise ValueError("on purpose")
'''


class Ran(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder; modules imported from it, and what options export, are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in {"", str(Path.cwd())}])
    for name in [name for name in os.environ if name.startswith("CELERY_")]:
        monkeypatch.delenv(name)
    for name in ("BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "SKIP_CHECKS"):
        monkeypatch.setenv(f"CELERY_{name}", "")
        monkeypatch.delenv(f"CELERY_{name}")
    before = set(sys.modules)
    apps = current._Apps()
    apps.factory = lambda: Umbel("default", set_as_current=False)
    monkeypatch.setattr(current, "_APPS", apps)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def hello(folder) -> Path:
    """A folder with the module ``hello``, which makes an app with two tasks."""
    (folder / "hello.py").write_text(HELLO)
    return folder


@pytest.fixture
def umbel(capsys, folder) -> Callable[..., Ran]:
    """Run ``umbel WORDS...``."""

    def run(*words: str, app: object = None) -> Ran:
        code = main(list(words), app=app)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run
