import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CHECKED = HERE / "tasks.py"

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(180)]


def wrong_lines():
    return {number for number, line in enumerate(CHECKED.read_text().splitlines(), 1) if line.endswith("# wrong")}


def lines_with_errors(command):
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.findall(rf"{CHECKED.name}:(\d+)(?::\d+)?(?: -|:) error", answer.stdout)
    assert found, f"{command[2]} said nothing of {CHECKED.name}:\n{answer.stdout}\n{answer.stderr}"
    return {int(number) for number in found}, answer.stdout


@pytest.mark.parametrize(
    "checker",
    [
        pytest.param(["mypy", "--strict", "--no-error-summary"], id="mypy"),
        pytest.param(["pyright"], id="pyright"),
    ],
)
def test_a_checker_refuses_what_is_wrong_and_nothing_else(checker):
    found, said = lines_with_errors([sys.executable, "-m", *checker, str(CHECKED)])

    assert found == wrong_lines(), said
