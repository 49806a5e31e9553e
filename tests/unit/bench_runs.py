"""Made-up runs of the suite, with known ratios and noise, in the form of `bench._stored`."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _stored


def made_up(
    rows: int = 3,
    rounds: int = 5,
    *,
    seed: int = 0,
    noise: float = 0.0,
    outliers: float = 0.0,
    hour: float = 1.0,
    change: Mapping[str, float] | None = None,
    better: str = "lower",
    has_ratio: bool = True,
) -> dict[str, Any]:
    """Rows r0, r1, ... in which mpsteal comes to 10 times `change`, and stock to 100, both times what the hour does.

    Noise is that of each single run: normal in the logarithm; and that share of runs are outliers, 20 to 50 % slower.
    """
    draw = random.Random(seed)

    def disturbed() -> float:
        outlier = draw.uniform(1.2, 1.5) if draw.random() < outliers else 1.0
        return outlier * draw.lognormvariate(0, noise)

    runs = []
    for number in range(rounds):
        for k in range(rows):
            row = f"r{k}"
            weather = hour * draw.lognormvariate(0, 2 * noise)  # of this round: in all that is measured in it
            for pool, value in (("stock", 100.0), ("mpsteal", 10.0 * (change or {}).get(row, 1.0))):
                figures = {"first": value * weather * disturbed(), "second": 1.0}
                runs.append(
                    {"row": row, "pool": pool, "round": number, "figures": figures, "facts": {}, "error": ""}
                    | {"others_cores": 0.0, "seconds": 0.1}
                )
    figure = {"key": "first", "label": "time", "unit": "us", "better": better, "has_ratio": has_ratio}
    return {
        "schema": _stored.SCHEMA,
        "kind": "suite",
        "made": "2026-01-01T00:00:00Z",
        "command": "mpsteal bench",
        "settings": {"rounds": rounds, "quick": False, "cores": 2, "share": 0.25, "control": False, "took_s": 1.0},
        "machine": {
            "python": "3.11.7",
            "processor": "one kind",
            "machine": "x86_64",
            "cores_usable": 2,
            "system": "Linux 6",
        },
        "targets": [
            {"name": "stock", "label": "multiprocessing.Pool", "version": "3.11.7", "chunk_word": "chunksize"},
            {"name": "mpsteal", "label": "mpsteal.Pool", "version": "1.0", "chunk_word": ""},
        ],
        "skipped": [],
        "rows": [
            {
                "name": f"r{k}",
                "title": f"row {k}",
                "family": "made",
                "question": f"What of `row` {k}?",
                "not_told": "what it is for",
                "best_chunk": None,
                "figures": [
                    figure,
                    {"key": "second", "label": "other", "unit": "", "better": "lower", "has_ratio": True},
                ],
            }
            for k in range(rows)
        ],
        "runs": runs,
    }


def fail(data: dict[str, Any], row: str, pool: str, error: str = "it broke") -> dict[str, Any]:
    """All runs of the pair without figures."""
    for run in data["runs"]:
        if (run["row"], run["pool"]) == (row, pool):
            run.update(figures={}, error=error)
    return data
