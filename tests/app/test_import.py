"""Who only defines tasks pays for little: modules that this needs not are not loaded."""

import subprocess
import sys

import pytest

HEAVY = (
    "asyncio",
    "concurrent.futures",
    "difflib",
    "importlib.metadata",
    "json",
    "logging.config",
    "logging.handlers",
    "multiprocessing",
    "pathlib",
    "pickle",
    "random",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "urllib",
    "zoneinfo",
)
OURS = ("umbel.app.eager", "umbel.app.parts", "umbel.app.perform", "umbel.brokers.sqlite", "umbel.cli", "umbel.worker")


@pytest.mark.process
def test_to_import_umbel_and_to_define_a_task_loads_neither_stores_nor_what_runs_tasks():
    program = (
        "import sys; before = {*sys.modules}\n"
        "from umbel import Umbel\n"
        "app = Umbel('shop')\n"
        "app.task(lambda: None, name='shop.tidy')\n"
        "print(*{*sys.modules} - before)"
    )

    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()

    assert "umbel.app.app" in loaded
    assert not {*HEAVY, *OURS} & {*loaded}
