"""The changelog and the fragments it grows from."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def changelog() -> ModuleType:
    spec = importlib.util.spec_from_file_location("changelog", ROOT / "scripts" / "changelog.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_fragment_of_this_repository_can_be_released(changelog):
    changelog.fragments(ROOT / "changes")

    assert changelog.MARK in (ROOT / "CHANGELOG.md").read_text()


def test_a_section_puts_what_must_be_acted_on_first(changelog, tmp_path):
    (tmp_path / "a-queue.fixed.md").write_text("Nothing is lost\nany more.\n")
    (tmp_path / "old-name.removed.md").write_text("`old` is gone; use `new`.\n")

    text = changelog.section("1.0.0", changelog.fragments(tmp_path))

    assert text == (
        "## 1.0.0\n\n### Removed\n\n- `old` is gone; use `new`.\n\n### Fixed\n\n- Nothing is lost\n  any more.\n"
    )


def test_a_misnamed_fragment_is_named(changelog, tmp_path):
    (tmp_path / "oops.md").write_text("text")

    with pytest.raises(ValueError, match=r"oops\.md"):
        changelog.fragments(tmp_path)
