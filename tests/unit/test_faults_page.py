"""`docs/explanation/faults.md` shows what the stored run holds, and the tests that it names are there."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _fault_pools, _fault_scenes, faults

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/explanation/faults.md").read_text()


def load_generator() -> Any:
    spec = importlib.util.spec_from_file_location("faults_table", ROOT / "docs/faults_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_what_the_generator_makes_of_the_stored_run() -> None:
    assert load_generator().fill(TEXT) == TEXT, "run: python docs/faults_table.py --write"


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
