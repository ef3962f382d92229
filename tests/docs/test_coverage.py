"""The page on Celery's contract claims nothing that no test shows."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

spec = importlib.util.spec_from_file_location("coverage_page", ROOT / "scripts" / "coverage.py")
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)


def test_what_the_page_says_is_held_is_held_by_a_test():
    # A row that a newer test holds may still be open on the page; the other way round it would be a lie.
    said = dict(re.findall(r"^\| ([A-Z]+-\d+) \|.*\| ([a-z]+)[^|]*\|$", coverage.PAGE.read_text(), re.MULTILINE))
    held = coverage.held()

    assert said.keys() == {row.id for row in coverage.rows()}, "run: python scripts/coverage.py"
    assert [row for row, state in said.items() if state == "held" and row not in held] == []


def test_every_row_that_a_test_names_exists():
    known = {row.id for row in coverage.rows()}

    assert {row: files for row, files in coverage.held().items() if row not in known} == {}


def test_no_row_is_held_and_left_at_once():
    held = coverage.held()

    assert [row.id for row in coverage.rows() if row.left and row.id in held] == []
