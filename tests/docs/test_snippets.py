"""What the documentation shows works."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("run_page.py")

spec = importlib.util.spec_from_file_location("run_page", RUNNER)
run_page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_page)

WRITTEN = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [str(path.relative_to(ROOT)) for path in WRITTEN if any(run_page.blocks(path.read_text()))]


@pytest.mark.process
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_page_runs(page, tmp_path):
    done = _run(ROOT / page, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
def test_a_page_fails_at_the_line_that_is_wrong(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python file=shop.py\nprice = 3\n```\n\n* item\n\n"
        "  ```python\n  from shop import price\n  total = 2 * price\n  ```\n\n"
        "```python no-run\nraise SystemExit\n```\n\n```python\nassert total == 7, total\n```\n"
    )

    done = _run(page, tmp_path)

    assert done.returncode == 1
    assert f'"{page}", line 19' in done.stderr
    assert "AssertionError: 6" in done.stderr


def _run(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), str(page)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
