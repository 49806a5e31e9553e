"""Every Python block in `docs/` that is marked `runnable` runs, and prints what the block below it says.

A block is marked by the word after its language: ```python runnable. A ```text block right after it
is its expected output. One that is marked `runnable noisy` writes to standard error, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import mpsteal

DOCS = Path(__file__).resolve().parents[2] / "docs"
ALARM_S = 60
"""A deadlock alarm, not a measure of speed."""

BLOCK = re.compile(
    r"^```python runnable(?P<noisy> noisy)?\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    name: str
    code: str
    output: str | None
    is_noisy: bool


def blocks() -> list[Block]:
    found = []
    for path in sorted(DOCS.rglob("*.md")):
        for i, match in enumerate(BLOCK.finditer(path.read_text()), 1):
            name = f"{path.relative_to(DOCS)}-{i}"
            found.append(Block(name, match["code"], match["output"], bool(match["noisy"])))
    return found


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.name)
def test_block_runs(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.code)
    root = str(Path(mpsteal.__file__).resolve().parents[1])
    paths = [root, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert bool(done.stderr) == block.is_noisy, done.stderr
    if block.output is not None:
        assert done.stdout == block.output


def test_the_tutorial_is_all_runnable() -> None:
    text = (DOCS / "tutorial.md").read_text()
    assert text.count("```python\n") == 0
    assert text.count("```python runnable\n") >= 4


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda p: str(p.relative_to(DOCS)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
