import tomllib
from pathlib import Path

import pytest

import umbel

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.row("API-003")
def test_the_version_is_that_of_the_package():
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert umbel.__version__ == packaged
    assert ".".join(map(str, umbel.VERSION[:3])) == packaged
    assert umbel.version_info == umbel.VERSION
    assert f"{packaged} ({umbel.SERIES})" == umbel.VERSION_BANNER


@pytest.mark.row("API-001", "API-002")
def test_every_name_of_the_package_is_there():
    assert {name for name in umbel.__all__ if not hasattr(umbel, name)} == set()
    assert set(umbel.__all__) <= set(dir(umbel))
    assert umbel.subtask is umbel.signature
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        umbel.nonsense  # noqa: B018 - looking is the use


@pytest.mark.process
@pytest.mark.row("API-001")
def test_importing_the_package_loads_no_part_of_it():
    import subprocess
    import sys

    code = "import sys, umbel; print(sorted(name for name in sys.modules if name.startswith('umbel.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "['umbel.app', 'umbel.app.version']"


@pytest.mark.row("API-004")
def test_new_ids_are_uuids():
    import uuid

    assert uuid.UUID(umbel.uuid()).version == 4
