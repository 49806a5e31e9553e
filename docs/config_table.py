"""Prints the table of `docs/reference/scheduler-config.md` from the keys in `mpsteal/_policy/rules.py`.

python docs/config_table.py           print it
python docs/config_table.py --write   put it in the page, between its markers

A test checks that the page holds exactly what this file makes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from _markers import fill_between

from mpsteal._policy.rules import KEYS

PAGE = Path(__file__).resolve().parent / "reference" / "scheduler-config.md"

BEGIN, END = "<!-- table: keys -->", "<!-- end: keys -->"


def in_yaml(value: Any) -> str:
    """A value as one would write it in the file."""
    plain = list(value) if isinstance(value, tuple) else value
    return str(yaml.safe_dump(plain, default_flow_style=True)).splitlines()[0]


def make_table() -> str:
    """A Markdown table of all keys, in the order of the code."""
    lines = ["| key | default | unit | range | meaning |", "| --- | --- | --- | --- | --- |"]
    for name, key in KEYS.items():
        lines.append(f"| `{name}` | `{in_yaml(key.default)}` | {key.unit} | {key.range} | {key.meaning} |")
    return "\n".join(lines)


def fill(text: str) -> str:
    """The page's text with the table made anew."""
    return fill_between(text, BEGIN, END, make_table())


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(fill(PAGE.read_text()))
    else:
        sys.stdout.write(make_table() + "\n")
