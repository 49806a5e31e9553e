"""`docs/explanation/faults.md` shows what the stored run holds, and the tests that it names are there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from generators import load_generator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _fault_pools, _fault_scenes, faults

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/explanation/faults.md").read_text()


def test_page_is_what_the_generator_makes_of_the_stored_run() -> None:
    assert load_generator("faults_table").fill(TEXT) == TEXT, "run: python docs/faults_table.py --write"


def test_stored_run_is_a_full_one_of_the_scenes_there_are() -> None:
    data = json.loads(faults.RESULTS.read_text())
    assert [(one["name"], one["title"], one["ok"]) for one in data["scenes"]] == [
        (scene.name, scene.title, scene.ok) for scene in _fault_scenes.SCENES
    ]
    assert not data["settings"]["quick"]
    assert set(data["pools"]) == set(_fault_pools.ADAPTERS)
    assert {(run["scene"], run["pool"]) for run in data["runs"]} == {
        (scene.name, pool) for scene in _fault_scenes.SCENES for pool in _fault_pools.ADAPTERS
    }


def test_tests_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", TEXT)
    assert named
    for path, test in named:
        assert re.search(rf"^ *def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{test}"
    for path in re.findall(r"`(tests/[^`:]+\.py)`", TEXT):
        assert (ROOT / path).is_file(), path


def test_readme_counts_the_scenes() -> None:
    assert f"[{len(_fault_scenes.SCENES)} faults in six pools" in (ROOT / "README.md").read_text()
