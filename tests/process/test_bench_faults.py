"""`python -m bench faults` finds hangs, leaks and healthy pools, and tells rounds that differ.

A few scenes only, with the stock pool and ours; all of them with all pools take half an hour.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _fault_pools, _fault_scenes, faults

ALARM_S = 30.0
"""Silence that counts as a hang where none may be: a deadlock alarm, not a measure of speed."""


def stage(name: str, pool: str, wait_s: float) -> str:
    (scene,) = _fault_scenes.select([name])
    run = faults.measure_once(scene, pool, 0, wait_s=wait_s, quick=True)
    assert run.error == ""
    return run.verdict


@pytest.mark.parametrize("name", ["sigkill", "bad-result", "killed-asleep", "terminate"])
def test_ours_is_ok(name: str) -> None:
    assert stage(name, "mpsteal", ALARM_S) == "ok"


def test_stock_pool_is_ok_where_it_should_be() -> None:
    assert stage("bad-result", "multiprocessing", ALARM_S) == "ok"


def test_hang_is_found() -> None:
    assert stage("sigkill", "multiprocessing", 1.0) == "hangs"


def test_processes_that_outlive_their_parent_are_counted() -> None:
    assert stage("killed-asleep", "multiprocessing", ALARM_S) == "leaks 2 processes"


def test_every_scene_says_what_counts_as_ok() -> None:
    scenes = _fault_scenes.SCENES
    assert len({scene.name for scene in scenes}) == len({scene.title for scene in scenes}) == len(scenes)
    for scene in scenes:
        assert scene.title
        assert scene.ok.endswith(".")


def test_a_pool_that_is_not_installed_is_told_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_fault_pools, "is_installed", lambda name: name != "pebble")
    assert faults.choose_pools("pebble,mpsteal") == ["mpsteal"]
    said = capsys.readouterr().err
    assert "pebble" in said
    assert "pip install '.[peers]'" in said


def run_of(verdict: str, number: int, error: str = "") -> dict[str, Any]:
    return {"scene": "sigkill", "pool": "p", "round": number, "verdict": verdict, "error": error}


@pytest.mark.parametrize(
    ("runs", "cell", "score"),
    [
        pytest.param([run_of("ok", 0), run_of("ok", 1)], "ok", "1 of 1", id="all ok"),
        pytest.param(
            [run_of("ok", 0), run_of("hangs", 1)], "ok (1 of 2); hangs (1 of 2)", "0 of 1", id="rounds differ"
        ),
        pytest.param([run_of("no such feature", 0)], "no such feature", "0 of 0", id="nothing to judge"),
        pytest.param([run_of("", 0, "no answer")], "error: no answer", "0 of 1", id="an error is not ok"),
        pytest.param([], "-", "0 of 0", id="not run"),
    ],
)
def test_cell_tells_rounds_that_differ(runs: list[dict[str, Any]], cell: str, score: str) -> None:
    assert faults.cell(runs, "sigkill", "p") == cell
    assert faults.score(runs, ["sigkill"], "p") == score


class PoolOnPaper(_fault_pools.Adapter):
    """Every handle is its outcome already: ("value", it), ("error", it) or None for one that never comes."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = iter(answers)

    def submit(self, *_: Any, **__: Any) -> Any:
        return next(self.answers)

    def wait(self, handle: Any, timeout: float) -> bool:
        return handle is not None

    def get(self, handle: Any) -> Any:
        kind, value = handle
        if kind == "error":
            raise value
        return value


SQUARES = [("value", i * i) for i in range(20)]
ERROR = ("error", RuntimeError("worker died"))


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        pytest.param([*SQUARES[:10], ERROR, *SQUARES[10:], *SQUARES], "ok", id="one death"),
        pytest.param([*SQUARES[:10], ("value", 1), *SQUARES[10:], *SQUARES], "wrong: no error", id="no error"),
        pytest.param([*SQUARES[:10], None, *SQUARES[10:], *SQUARES], "hangs", id="no answer"),
        pytest.param([*SQUARES[:8], ERROR, ERROR, ERROR, *SQUARES[10:], *SQUARES], "lost 2", id="innocents lost"),
        pytest.param([*SQUARES[:10], ERROR, ERROR, *SQUARES[11:], *[ERROR] * 40], "breaks", id="no work taken"),
        pytest.param(
            [*SQUARES[:10], ERROR, *SQUARES[10:], ERROR, *SQUARES[1:], *SQUARES], "lost 1", id="one more lost"
        ),
        pytest.param([*SQUARES[:10], ERROR, *SQUARES[10:], *SQUARES[:-1], None], "hangs", id="silence later"),
        pytest.param([*SQUARES[:9], ("value", 0), ERROR, *SQUARES[10:], *SQUARES], "wrong: 1 values", id="mixed up"),
    ],
)
def test_verdict_on_one_bad_task(tmp_path: Path, answers: list[Any], verdict: str) -> None:
    world = _fault_scenes.World(PoolOnPaper(answers), tmp_path, wait_s=ALARM_S, quick=True)
    assert world.one_bad(print) == verdict
