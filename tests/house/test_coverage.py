"""The page on Celery's contract says what tests show, and why the rest is left."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

spec = importlib.util.spec_from_file_location("coverage_page", ROOT / "scripts" / "coverage.py")
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)


@pytest.fixture(scope="module")
def held():
    return coverage.held()


def test_the_page_is_up_to_date():
    assert coverage.PAGE.read_text() == coverage.page(), "run: python scripts/coverage.py"


def test_every_row_that_is_named_exists(held):
    known = {row.id for row in coverage.rows()}

    assert {row: files for row, files in held.items() if row not in known} == {}
    assert coverage.left().keys() - known == set()


def test_no_row_is_held_and_left_at_once(held):
    assert sorted(coverage.left().keys() & held.keys()) == [], "strike them from scripts/coverage_left.txt"


def test_nothing_is_left_without_a_reason():
    assert [row for row, why in coverage.left().items() if len(why.split()) < 3] == []
