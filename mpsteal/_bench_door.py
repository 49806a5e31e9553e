"""The way from `mpsteal bench` to the benchmark suite, which is a program beside the package and no part of it.

    checkout    bench/                   beside mpsteal/
    wheel       mpsteal/_suite/bench/    a copy of it (pyproject.toml puts it there), stored results as well

It is a top-level package of its own, so that a pool that is measured beside ours does not import mpsteal in each of its
workers: with spawn that would be counted as its start. Each measurement is a process that runs in the folder that holds
`bench`, and finds it there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def find_suite() -> Path | None:
    """The folder that holds `bench`; None where there is none (a zip file, or a package cut down by hand)."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_suite", package.parent):
        if (folder / "bench" / "suite.py").is_file():
            return folder
    return None


def main(argv: Sequence[str]) -> int:
    """Run `mpsteal bench`; its exit status.

    Args:
        argv: the arguments behind `bench`.

    Raises:
        SystemExit: from argparse.
    """
    folder = find_suite()
    if folder is None:
        sys.stderr.write("mpsteal bench: the suite is not here; it comes with the wheel and with a checkout\n")
        return 1
    sys.path.insert(0, os.fspath(folder))
    from importlib import import_module

    return int(import_module("bench.__main__").main(list(argv), prog="mpsteal bench"))
