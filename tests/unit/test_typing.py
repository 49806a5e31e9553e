"""The public API's types are inferred as `tests/typing` says, by mypy and by pyright where they are installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

COMMANDS = {
    "mypy": ["--strict", "tests/typing"],
    "pyright": ["--pythonpath", sys.executable, "--pythonversion", "3.10", "tests/typing"],
}


@pytest.mark.parametrize("checker", list(COMMANDS))
def test_types_are_inferred(checker: str) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    # From the root of the tree, so that this package is looked at and no installed one.
    command = [sys.executable, "-m", checker, *COMMANDS[checker]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
