"""`bench/smoke.py`: when it alarms, and the figure of it that no clock is in. No time is judged."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import _smoke_child, _targets, smoke

GOOD = {key: bound / 2 for key, bound in smoke.BOUNDS.items()}
BAD = {key: bound * 2 for key, bound in smoke.BOUNDS.items()}


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Iterator[dict[str, float]]]:
    """Have the smoke measure these pairs; what is left of them comes back."""

    def give(*found: dict[str, float]) -> Iterator[dict[str, float]]:
        left = iter(found)
        monkeypatch.setattr(smoke, "pair", lambda _loss: next(left))
        monkeypatch.setattr(smoke, "REST_S", 0.0)
        return left

    return give


def test_first_pair_within_all_bounds_is_enough(pairs) -> None:
    left = pairs(GOOD, BAD)
    assert smoke.watch() == 0
    assert list(left) == [BAD]


def test_each_figure_needs_one_good_pair_only(pairs) -> None:
    left = pairs(BAD, BAD | {"submit": 0.1}, GOOD | {"submit": 9.0})
    assert smoke.watch() == 0
    assert list(left) == []


@pytest.mark.parametrize("key", smoke.BOUNDS)
def test_figure_that_is_over_in_all_pairs_is_lost(key: str, pairs, capsys: pytest.CaptureFixture[str]) -> None:
    pairs(*[GOOD | {key: BAD[key]}] * smoke.PAIRS)
    assert smoke.watch() == 1
    assert f"{key} is lost" in capsys.readouterr().err


def test_last_pair_still_acquits(pairs) -> None:
    pairs(*[BAD] * (smoke.PAIRS - 1), GOOD)
    assert smoke.watch() == 0


def test_pair_without_an_answer_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_loss: str) -> dict[str, float]:
        raise subprocess.SubprocessError("mpsteal: it broke")

    monkeypatch.setattr(smoke, "pair", broken)
    assert smoke.watch() == 1
    assert "it broke" in capsys.readouterr().err


def test_child_that_fails_is_told_with_its_last_line() -> None:
    with pytest.raises(subprocess.SubprocessError, match="nobody: no target called 'nobody'"):
        smoke.side("nobody")


def test_samples_are_counted_as_the_smokes_that_they_would_have_been() -> None:
    alarm = [BAD] * smoke.PAIRS
    assert smoke.smokes_of([GOOD, GOOD, BAD, GOOD]) == (3, 0)
    assert smoke.smokes_of([*alarm, GOOD, *alarm, BAD]) == (3, 2)  # the last was cut short
    assert smoke.alarms([2.0] * 7 + [0.5], 1.0) == "4 of 5"


@pytest.mark.parametrize(
    ("hits", "trials", "share"),
    [(0, 300, 1 - 0.05 ** (1 / 300)), (1, 10, 0.3942), (3, 3, 1.0)],
    ids=["rule of three", "one of ten", "all"],
)
def test_upper_bound_is_the_one_of_the_tables(hits: int, trials: int, share: float) -> None:
    assert smoke.upper_share(hits, trials) == pytest.approx(share, abs=1e-4)


def test_stored_samples_are_those_of_these_figures_and_hold_no_alarm() -> None:
    data = json.loads((Path(smoke.__file__).parent / "results" / "smoke_false_alarms.json").read_text())
    honest = [entry for entry in data["samples"] if not entry["loss"]]
    assert {entry["condition"] for entry in honest} >= {"quiet", "2 burners", "one core"}
    for entry in honest:
        assert all(found.keys() == smoke.BOUNDS.keys() for found in entry["pairs"])
        assert smoke.smokes_of(entry["pairs"])[1] == 0


def test_calls_per_task_are_within_their_bound_and_one_more_lock_is_not() -> None:
    """What the caller's thread enters is the same on every machine, and at any hour."""
    target = _targets.load(_targets.OURS)
    with target.open(2, _smoke_child.METHOD) as pool:
        assert _smoke_child.calls_per_task(pool) <= smoke.BOUNDS["calls"]
        pool.apply_async = _smoke_child.locked(pool.apply_async)
        assert _smoke_child.calls_per_task(pool) > smoke.BOUNDS["calls"]
