"""The interpreter's own sources: uneven input that every machine has."""

from __future__ import annotations

import os
import random
import sysconfig


def draw(budget_bytes: int, seed: int) -> list[str]:
    """Files of the standard library (tests included, installed packages not), drawn until together they hold the
    budget, or all there are."""
    root = sysconfig.get_path("stdlib")
    files: list[str] = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in ("site-packages", "dist-packages")]
        files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    files.sort()
    if not files:
        raise SystemExit(f"no Python sources below {root}")
    random.Random(seed).shuffle(files)
    drawn = []
    for path in files:
        if budget_bytes <= 0:
            break
        drawn.append(path)
        budget_bytes -= os.path.getsize(path)
    return drawn
