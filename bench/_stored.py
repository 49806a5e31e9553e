"""A stored run of the suite: what the JSON holds, and how it is read again.

    {"schema": 2, "kind": "suite", "made": UTC, "settings": {...}, "machine": {...},
     "targets": [{"name", "label", "version", "class"}],       those that were measured, in order
     "skipped": [{"target", "why"}],                           those that are not there
     "rows": [{"name", "title", "family", "question", "not_told", "best_chunk",
               "figures": [{"key", "label", "unit", "better", "has_ratio"}]}],      the first figure stands for the row
     "runs": [{"row", "pool", "round", "figures", "facts", "others_cores", "seconds", "error"}]}

`pool` is the name of a target, with `+best` where its best documented setting was used. One run per (row, target,
round); it has figures, or an error. The file is written anew after each run and is complete at any time, so that
a run that was stopped can go on (`--resume`).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench._run import Spread

SCHEMA = 2
_PARTS = {"settings": dict, "machine": dict, "targets": list, "skipped": list, "rows": list, "runs": list}
BEST = "+best"


class UnreadableError(Exception):
    """The file is not a stored run of the suite; the message says what is wrong."""


class UnwritableError(Exception):
    """No run can be kept there; the message says why."""


@dataclass
class Cell:
    """What one target came to in one row.

    Attributes:
        rounds: by figure and round.
        errors: of the runs that failed, in order.
    """

    rounds: dict[str, dict[int, float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def spread(self, key: str) -> Spread | None:
        return Spread.of(self.rounds.get(key, {}).values())


def cells(data: Mapping[str, Any]) -> dict[tuple[str, str], Cell]:
    """By row and target (with its `+best`)."""
    found: dict[tuple[str, str], Cell] = {}
    for run in data["runs"]:
        cell = found.setdefault((run["row"], run["pool"]), Cell())
        if run["error"]:
            cell.errors.append(run["error"])
            continue
        for key, value in run["figures"].items():
            cell.rounds.setdefault(key, {})[run["round"]] = value
    return found


def labels(data: Mapping[str, Any]) -> dict[str, str]:
    """By target, those with `+best` as well: what tables call it."""
    names = {target["name"]: target["label"] for target in data["targets"]}
    return names | {name + BEST: f"{label}, {target_word(data, name)}" for name, label in names.items()}


def target_word(data: Mapping[str, Any], name: str) -> str:
    """What a target calls the number of items that are sent together."""
    words = {target["name"]: target.get("chunk_word", "") for target in data["targets"]}
    return f"best {words.get(name) or 'setting'}"


def pairs(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The (row, target) pairs that were measured, in the order of the run."""
    yield from dict.fromkeys((run["row"], run["pool"]) for run in data["runs"])


def read(path: Path) -> dict[str, Any]:
    """Raises `UnreadableError` if there is no such file, or it is something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path}: {error}") from None
    if not isinstance(data, dict) or data.get("kind") != "suite" or data.get("schema") != SCHEMA:
        raise UnreadableError(f"{path}: not a run of the suite (`mpsteal bench --json {path.name}` writes one)")
    broken = [name for name, kind in _PARTS.items() if not isinstance(data.get(name), kind)]
    if broken:
        raise UnreadableError(f"{path}: a run of the suite without its {', '.join(broken)}")
    return data


def check_place(path: Path) -> None:
    """Raises `UnwritableError` if no file can be written there, or what is there is no file: told before the run, and
    not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # `write` would put a file in the place of /dev/null
            raise UnwritableError(f"{path}: not a file")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UnwritableError(f"{path}: cannot be written ({error.strerror})") from None


def write(path: Path, data: Mapping[str, Any]) -> None:
    """All or nothing: whoever stops the program here finds the file as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
