"""Imports run one way (the house in DESIGN): front doors, engine, agents, then queue and policy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpsteal

ROOT = Path(mpsteal.__file__).parent

MAY_IMPORT: dict[str, set[str]] = {
    "front door": {"front door", "_engine", "_agent", "_queue", "_policy"},
    "_engine": {"_engine", "_agent", "_queue", "_policy"},
    "_agent": {"_agent", "_queue", "_policy"},
    "_queue": {"_queue"},
    "_policy": {"_policy"},
    "errors": set(),
}
"""What the modules of a layer may import; `errors` is a leaf that anybody may import."""


def layer(module: str) -> str:
    """The layer of a dotted name inside the package, which is left off: `_queue.deque`, `pool`, ``."""
    first = module.split(".")[0]
    return first if first in MAY_IMPORT else "front door"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name, without `mpsteal.`, of everything of the package that a file imports anywhere."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "mpsteal":
                    yield node.lineno, name.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                start = ".".join((*base, *(node.module or "").split("."))).strip(".")
            elif (node.module or "").split(".")[0] == "mpsteal":
                start = (node.module or "").partition(".")[2]
            else:
                continue
            if start:
                yield node.lineno, start
            else:
                yield from ((node.lineno, name.name) for name in node.names)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    here = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    allowed = MAY_IMPORT[here] | {"errors"}
    wrong = [f"line {line}: {name}" for line, name in imports(path) if layer(name) not in allowed]
    assert not wrong, f"{here} may import {sorted(allowed)}, and yet imports {wrong}"


def test_relative_and_absolute_imports_are_both_seen(tmp_path: Path) -> None:
    names = {name for _, name in imports(ROOT / "_agent" / "loop.py")}
    assert {"_queue.deque", "_policy.stealing"} <= set(names)
