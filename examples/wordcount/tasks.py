"""Count the words of files: one task for each file, and one that merges what they found."""

import os
import re
from collections import Counter
from pathlib import Path

from umbel import Umbel

# WORDCOUNT_QUEUE lets the demo leave nothing behind; without it the queue lies beside this file.
app = Umbel("wordcount", broker=os.environ.get("WORDCOUNT_QUEUE"), backend=os.environ.get("WORDCOUNT_QUEUE"))

_WORD = re.compile(r"[a-z]{2,}")


@app.task
def count_words(path: str) -> dict[str, int]:
    """Return how often each word stands in the text file at *path*."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return Counter(_WORD.findall(text.lower()))


@app.task
def merge(counts: list[dict[str, int]], top: int) -> list[tuple[str, int]]:
    """Return the *top* words of all *counts* together, the most frequent first."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total.most_common(top)
