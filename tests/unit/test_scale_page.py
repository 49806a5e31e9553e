"""`docs/explanation/scale.md` shows what the stored run holds, and the stored run is what the code gives."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from generators import load_generator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import scale
from bench._des import Costs
from bench._scale import LOADS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/explanation/scale.md").read_text()
STORED = json.loads(scale.RESULTS.read_text())


def test_page_is_what_the_generator_makes_of_the_stored_run() -> None:
    assert load_generator("scale_table").fill(TEXT) == TEXT, "run: python docs/scale_table.py --write"


def test_stored_run_is_a_full_one() -> None:
    assert STORED["wrong"] == 0
    assert STORED["settings"]["costs_us"] == asdict(Costs())
    assert {(run["agents"], run["mean_ms"], run["scheme"], run["load"]) for run in STORED["runs"]} >= {
        (agents, mean_ms, scheme, load)
        for agents in scale.AGENTS
        for mean_ms in scale.MEANS_MS
        for scheme in scale.SCHEMES
        for load in LOADS
        if agents <= 1_000 or (scheme not in scale.UP_TO_1000 and load in scale.LOADS_FOR_MANY)
    }


@pytest.mark.parametrize("scheme", scale.SCHEMES)
def test_stored_run_is_what_the_code_gives(scheme: str) -> None:
    """Of 10 agents: what holds there on every machine, as nothing in it is measured."""
    stored = next(
        run
        for run in STORED["runs"]
        if (run["scheme"], run["load"], run["agents"], run["mean_ms"]) == (scheme, "bimodal", 10, 1.0)
    )
    settings = STORED["settings"]
    record = scale.measure(
        scheme,
        "bimodal",
        agents=10,
        mean_ms=1.0,
        per_agent=settings["per_agent"],
        seeds=stored["seeds"],
        costs=Costs(**settings["costs_us"]),
    )
    assert json.loads(json.dumps(scale.rounded(asdict(record)))) == stored
