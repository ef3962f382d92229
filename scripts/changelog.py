#!/usr/bin/env python3
"""Gather the fragments of changes/ into CHANGELOG.md: without a version show what it would say, with one write it."""

import re
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("security", "removed", "deprecated", "changed", "added", "fixed")  # what must be acted on comes first
NAME = re.compile(rf"[a-z0-9][a-z0-9-]*\.(?P<kind>{'|'.join(KINDS)})\.md")
MARK = "<!-- releases -->\n"


def fragments(folder: Path) -> list[Path]:
    """Return the fragments in *folder* by name.

    Raises:
        ValueError: a file is no fragment; the message says which and why.
    """
    found = sorted(path for path in folder.iterdir() if path.name != "README.md")
    for path in found:
        if not NAME.fullmatch(path.name):
            raise ValueError(f"{path.name!r} is not named WORDS.KIND.md with one of the kinds {', '.join(KINDS)}")
        if not path.read_text().strip():
            raise ValueError(f"{path.name!r} is empty: say what changed, for whom, what to do")
    return found


def section(heading: str, paths: list[Path]) -> str:
    """Return the Markdown section *heading* made of the fragments *paths*."""
    lines = [f"## {heading}"]
    for kind in KINDS:
        texts = [path.read_text().strip() for path in paths if path.name.endswith(f".{kind}.md")]
        if texts:
            lines += ["", f"### {kind.capitalize()}", "", *("- " + text.replace("\n", "\n  ") for text in texts)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Show the next section, or write it for the version that *arguments* name."""
    paths = fragments(ROOT / "changes")
    if not arguments:
        print(section("Next", paths), end="")
        return 0
    changelog = ROOT / "CHANGELOG.md"
    before, mark, after = changelog.read_text().partition(MARK)
    heading = f"{arguments[0]} ({date.today().isoformat()})"  # noqa: DTZ011 - the day where the release is made
    changelog.write_text(f"{before}{mark}\n{section(heading, paths)}{after}")
    for path in paths:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
