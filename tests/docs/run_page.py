"""Run the blocks of one Markdown page in the current folder, as docs/index.md promises its readers."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# A fence may be indented within a list; its info string is the language and then words.
BLOCK = re.compile(r"^(?P<indent> *)```(?P<info>\w[^`\n]*)\n(?P<code>.*?)^(?P=indent)``` *$", re.DOTALL | re.MULTILINE)
PATIENCE = 30  # seconds for one command


class Block(NamedTuple):
    """One fenced block."""

    line: int  # of its first line of code, from 1
    language: str
    words: list[str]
    code: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of *page* that are to be run."""
    for found in BLOCK.finditer(page):
        language, *words = found["info"].split()
        if language in {"python", "console"} and "no-run" not in words:
            code = re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE)
            yield Block(page.count("\n", 0, found.start("code")) + 1, language, words, code)


def run(path: Path) -> None:
    """Run every block of the page at *path*; the first failure ends it."""
    names: dict[str, Any] = {"__name__": path.stem}
    background: list[subprocess.Popen[bytes]] = []
    sys.path.insert(0, "")
    try:
        for block in blocks(path.read_text()):
            files = [word.removeprefix("file=") for word in block.words if word.startswith("file=")]
            if files:
                Path(files[0]).parent.mkdir(parents=True, exist_ok=True)
                Path(files[0]).write_text(block.code)
            elif block.language == "python":
                # Blank lines before it make a traceback point at the page.
                exec(compile("\n" * (block.line - 1) + block.code, str(path), "exec"), names)
            else:
                for command in commands(block.code):
                    if "background" in block.words:
                        background.append(subprocess.Popen(command))
                    elif (code := subprocess.run(command, check=False, timeout=PATIENCE).returncode) != 0:
                        sys.exit(f"{path}:{block.line}: {shlex.join(command)} ended with {code}")
        for process in background:
            if (code := process.poll()) is not None:
                sys.exit(f"{path}: {shlex.join(process.args)} ended by itself with {code}")
    finally:
        for process in background:
            process.terminate()
        for process in background:
            process.wait(PATIENCE)


def commands(code: str) -> Iterator[list[str]]:
    """Yield the umbel commands of a console block, as installed beside this Python."""
    for line in code.splitlines():
        if line.startswith("$ umbel"):
            umbel, *words = shlex.split(line[2:], comments=True)
            yield [str(Path(sys.executable).with_name(umbel)), *words]


if __name__ == "__main__":
    run(Path(sys.argv[1]))
