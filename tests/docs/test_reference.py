"""The reference says what the source says."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.mark.parametrize("page", reference.pages())
def test_a_page_that_is_made_from_the_source_is_up_to_date(page):
    path = ROOT / "docs" / "reference" / page

    assert path.read_text() == reference.pages()[page], "run: python scripts/reference.py"


def test_the_index_links_every_page():
    index = (ROOT / "docs" / "reference" / "index.md").read_text()

    assert all(f"]({page})" in index for page in reference.pages())
