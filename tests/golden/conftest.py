"""Bytes recorded from a real Celery by record.py, and a real Celery when one is installed."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel.wire.codecs import Codecs
from umbel.wire.envelope import Envelopes

HERE = Path(__file__).parent
PEERS = (os.environ.get("UMBEL_TEST_PEER_PYTHON", ""), str(HERE.parent.parent / ".venv-peer" / "bin" / "python"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked `golden("messages", …)` once for each recorded case of these subjects."""
    mark = metafunc.definition.get_closest_marker("golden")
    if mark is None:
        return
    cases = [case for subject in mark.args for case in load(subject)]
    metafunc.parametrize("case", cases, ids=[f"{i}-{case['name']}" for i, case in enumerate(cases)])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(*subjects): runs once for each recorded case of these subjects")


def load(subject: str) -> list[dict[str, Any]]:
    return json.loads((HERE / "data" / f"{subject}.json").read_text())["cases"]


@pytest.fixture
def recorded() -> Callable[[str], dict[str, Any]]:
    """The cases of a subject by name."""
    return lambda subject: {case["name"]: case for case in load(subject)}


@pytest.fixture(scope="session")
def codecs() -> Codecs:
    return Codecs()


@pytest.fixture(scope="session")
def envelopes(codecs: Codecs) -> Envelopes:
    return Envelopes(codecs.json)


@pytest.fixture(scope="session")
def ask_peer() -> Callable[[str, list[Any]], list[Any]]:
    """Let a real Celery read what umbel wrote: `ask_peer("envelopes", […])`."""
    python = next((path for path in PEERS if path and Path(path).exists()), None)
    if python is None:
        pytest.skip("no real Celery: name its Python in UMBEL_TEST_PEER_PYTHON, or create .venv-peer")

    def ask(what: str, items: list[Any]) -> list[Any]:
        done = subprocess.run(
            [python, str(HERE / "peer.py"), what], input=json.dumps(items), capture_output=True, text=True, timeout=50,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask
