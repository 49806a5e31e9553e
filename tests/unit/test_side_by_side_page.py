"""`docs/explanation/side-by-side.md` shows what the stored reference run holds."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from generators import load_generator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _rows, _stored, _targets

ROOT = Path(__file__).resolve().parents[2]


GENERATOR = load_generator("suite_table")


@pytest.mark.parametrize("name", GENERATOR.PLACES)
def test_page_is_what_the_generator_makes_of_the_stored_run(name: str) -> None:
    text = GENERATOR.PLACES[name].read_text()
    assert GENERATOR.fill(text, name) == text, "run: python docs/suite_table.py --write"


@pytest.mark.parametrize("path", [GENERATOR.SUITE, GENERATOR.GROWTH], ids=lambda path: path.stem)
def test_reference_run_is_no_control_and_ours_never_failed(path: Path) -> None:
    data = _stored.read(path)
    assert not data["settings"]["control"]
    assert not data["settings"]["quick"]
    for run in data["runs"]:
        if _targets.is_ours(run["pool"]) and run["error"]:
            # The largest sizes of `growth` may take longer than its limit: the page says so.
            assert path == GENERATOR.GROWTH
            assert run["row"].endswith("-1e7")
            late = re.fullmatch(r"no answer within (\d+) s", run["error"])
            assert late, run["error"]
            assert int(late[1]) <= data["settings"]["limit_s"]


def test_reference_run_of_the_suite_has_all_targets() -> None:
    data = _stored.read(GENERATOR.SUITE)
    assert {target["name"] for target in data["targets"]} == set(_targets.TARGETS)
    assert {row["name"] for row in data["rows"]} <= {row.name for row in _rows.SUITE}
