"""The repository as a newcomer meets it."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import umbel

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (".ci", "benchmarks", "changes", "docs", "examples", "scripts", "src", "tests")
WRITTEN = {"", ".cfg", ".css", ".html", ".ini", ".js", ".json", ".lua", ".md", ".py", ".sh", ".sql", ".toml", ".txt"}


def test_the_readme_names_the_two_commands_that_do_everything():
    readme = (ROOT / "README.md").read_text()

    assert "make demo" in readme
    assert "make test" in readme


def test_the_version_is_the_same_wherever_it_is_written():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert umbel.__version__ == project["version"]


def test_all_means_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    named = {name for line in extras["all"] for name in re.findall(r"[a-z0-9]+", line.removeprefix("umbel"))}

    assert named == set(extras) - {"all", "bench", "dev"}


def test_no_file_knows_the_machine_it_was_written_on():
    machine = re.compile(rb"(?<![\w.])/(work|opt|root)/\w")

    found = [str(path.relative_to(ROOT)) for path in _files() if machine.search(path.read_bytes())]

    assert found == []


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "docs/index.md", "src/umbel/py.typed"])
def test_what_a_package_owes_its_users_is_there(name):
    assert (ROOT / name).is_file()


def _files() -> Iterator[Path]:
    """Yield every text file that people wrote."""
    inside = (path for room in ROOMS for path in (ROOT / room).rglob("*"))
    for path in [*ROOT.iterdir(), *inside]:
        if path.is_file() and path.suffix in WRITTEN and "__pycache__" not in path.parts:
            yield path
