"""Count the words of the interpreter's own sources.

As uneven as `stdlib`, with far less work for each byte, and a result that is not small: each task returns a table of
all the words of its file, and when they have all come the parent adds the tables up, which takes a third of the time
of the tasks themselves: no pool can reach an efficiency of 100 %.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from bench.workloads._jobs import sources

WORD = re.compile(rb"[A-Za-z_][A-Za-z_0-9]*")


def items(scale: float) -> list[str]:
    return sources.draw(int(24_000_000 * scale), seed=13)


def task(path: str) -> Counter[bytes]:
    return Counter(WORD.findall(Path(path).read_bytes()))


def merge(results: list[Counter[bytes]]) -> Counter[bytes]:
    total: Counter[bytes] = Counter()
    for counted in results:
        total.update(counted)
    return total


def twin(paths: list[str]) -> Counter[bytes]:
    total: Counter[bytes] = Counter()
    for path in paths:
        total.update(WORD.findall(Path(path).read_bytes()))
    return total
