"""`config/pool.yaml` has every tunable of the code, with the value that the code has."""

from __future__ import annotations

import ast
import importlib
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import mpsteal
from mpsteal._queue.layout import Geometry

FILE = Path(__file__).resolve().parents[2] / "config" / "pool.yaml"
PACKAGE = Path(mpsteal.__file__).parent
CONFIG: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())

NOT_TUNABLE = {
    ("_agent/loop", "EXIT_BROKEN"),  # an exit code
    ("_agent/main", "PR_SET_PDEATHSIG"),  # a number of the kernel's
    ("_queue/arena", "MFD_NOEXEC_SEAL"),  # another
    ("_queue/leases", "MADV_POPULATE_WRITE"),  # one more
    ("_engine/urgent", "GROUP_SHIFT"),  # how two numbers share a word
    ("_policy/matching", "AGENT_BITS"),
    ("_policy/matching", "QUEUE_BITS"),
    ("_policy/matching", "UNIT"),
    ("_policy/matching", "QUEUE_WEIGHT"),  # in config/load-balancing-config.yaml
    ("_policy/matching", "SUCCESS_WEIGHT"),
    ("_policy/order", "FOREVER"),  # stands for no end
    ("_policy/histogram", "EXACT_BELOW"),  # follows from the number of buckets
    ("_engine/validate", "SETTLE_S"),  # an alarm of a check that only tests run
}


@cache
def defaults() -> dict[tuple[str, str], Any]:
    """Every tunable in the code: a public numeric constant with an explanation right below it."""
    found: dict[tuple[str, str], Any] = {}
    for path in sorted(PACKAGE.glob("_*/*.py")):
        body = ast.parse(path.read_text()).body
        section = f"{path.parent.name}/{path.stem}"
        for node, below in itertools.pairwise(body):
            if not isinstance(node, ast.Assign) or not _is_text(below):
                continue
            module = importlib.import_module("mpsteal." + section.replace("/", "."))
            for name in _names(node):
                value = getattr(module, name)
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if name.isupper() and not name.startswith("_") and is_number:
                    found[section, name] = value
    # What the doctor and the adviser measure with belongs to no pool.
    others = ("_doctor/", "_advise/")
    found = {key: value for key, value in found.items() if key not in NOT_TUNABLE and not key[0].startswith(others)}
    for name, default in Geometry._field_defaults.items():
        found["_queue/layout", name.upper()] = default
    # Kinds of result records are numbered in one go, with a text below: names, not sizes.
    return {key: value for key, value in found.items() if key[0] != "_queue/results"}


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def _names(node: ast.Assign) -> list[str]:
    target = node.targets[0]
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def test_no_key_is_missing_and_none_is_left_over() -> None:
    in_file = {(section, key.upper()) for section, keys in CONFIG.items() for key in keys}
    assert in_file == set(defaults())


@pytest.mark.parametrize(("section", "name"), sorted(defaults()))
def test_value_is_the_codes_default(section: str, name: str) -> None:
    value = CONFIG[section][name.lower()]
    default = defaults()[section, name]
    assert value == default
    assert type(value) is type(default)


def test_every_key_tells_its_two_costs() -> None:
    comment = ""
    for line in FILE.read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment += " " + text.lstrip("# ")
        elif text.endswith(":"):
            comment = ""
        elif text:
            assert "too small" in comment.lower(), text
            assert "too big" in comment.lower(), text
            comment = ""
