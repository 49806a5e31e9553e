"""`bench/compare.py`: what it calls slower, how often it is wrong, what it will not compare. All on made-up runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_runs import fail, made_up

from bench import __main__ as bench
from bench import compare

TRIALS = 150
NOISE = 0.06
"""Of a single run, so 8.5 % of a ratio: about what the noisier rows show on two shared cores."""


@pytest.mark.parametrize(
    ("tail", "freedom", "quantile"),
    [(0.025, 1, 12.7062), (0.025, 4, 2.7764), (0.0005, 8, 5.0413), (0.025, 200, 1.9719)],
    ids=["one degree", "four", "far out", "nearly normal"],
)
def test_quantiles_are_those_of_the_tables(tail: float, freedom: float, quantile: float) -> None:
    assert compare.t_quantile(tail, freedom) == pytest.approx(quantile, abs=1e-4)


def test_interval_is_the_one_worked_by_hand() -> None:
    """Variances 1 and 4 with three each: s.e. sqrt(5/3), 25/17 * 2 = 2.94 degrees, taken as 2.9."""
    difference, half = compare.welch([0.0, 1.0, 2.0], [3.0, 5.0, 7.0], 0.05)
    assert difference == pytest.approx(4.0)
    assert half == pytest.approx(compare.t_quantile(0.025, 2.9) * (5 / 3) ** 0.5)


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize(
    ("factor", "of_a_cost", "of_a_gain"),
    [
        (1.30, "too slow", "faster"),
        (1.05, "slower", "faster"),
        (1.0, "no difference", "no difference"),
        (0.80, "faster", "too slow"),
    ],
)
def test_mark_follows_the_direction_of_the_figure(better: str, factor: float, of_a_cost: str, of_a_gain: str) -> None:
    old = made_up(better=better, noise=0.001, seed=1)
    new = made_up(better=better, noise=0.001, seed=2, change={"r1": factor})
    marks = {change.row: change.mark for change in compare.compare(old, new)}
    assert marks == {
        "r0": "no difference",
        "r1": of_a_cost if better == "lower" else of_a_gain,
        "r2": "no difference",
    }


def test_an_hour_in_which_all_is_slow_is_no_loss() -> None:
    old, new = made_up(noise=0.01, seed=1), made_up(noise=0.01, seed=2, hour=3.0)
    changes = compare.compare(old, new)
    assert [change.mark for change in changes] == ["no difference"] * 3
    assert all(change.relative for change in changes)


@pytest.mark.parametrize("others", [2, 4])
def test_the_hour_is_the_median_of_the_others(others: int) -> None:
    """Beside the stock pool, two or four more: one bad run of one of them hardly matters, one of all of them does."""
    old, new = made_up(1, noise=0.01, seed=1), made_up(1, noise=0.01, seed=2)
    for data in (old, new):
        stock = [run for run in data["runs"] if run["pool"] == "stock"]
        data["runs"] += [{**run, "pool": f"peer{k}"} for run in stock for k in range(others)]

    def ratio_with_bad(prefix: str) -> float:
        worse = [
            {**run, "figures": {"first": run["figures"]["first"] * 10}}
            if run["round"] == 2 and run["pool"].startswith(prefix)
            else run
            for run in new["runs"]
        ]
        changes = compare.compare(old, new | {"runs": worse})
        (ratio,) = [change.ratio for change in changes if change.target == "mpsteal"]
        assert ratio is not None
        return ratio

    plain = ratio_with_bad("nobody")
    assert ratio_with_bad("stock") == pytest.approx(plain)
    assert ratio_with_bad("peer") < 0.9 * plain


@pytest.mark.parametrize("outliers", [0.0, 0.05])
def test_equal_runs_raise_no_alarm_more_often_than_stated(outliers: float) -> None:
    """Pairs of equal runs with ten figures: marks in at most 5 %, alarms in none."""
    marked = alarmed = 0
    for trial in range(TRIALS):
        old = made_up(10, seed=2 * trial, noise=NOISE, outliers=outliers)
        new = made_up(10, seed=2 * trial + 1, noise=NOISE, outliers=outliers, hour=1.2)
        changes = compare.compare(old, new)
        marked += any(change.mark != "no difference" for change in changes)
        alarmed += any(change.alarms for change in changes)
    assert marked <= compare.LEVEL * TRIALS
    assert alarmed == 0


def test_runs_that_lost_just_what_is_allowed_raise_few_alarms() -> None:
    """The worst case of the level: every figure stands exactly at the bound."""
    alarmed = 0
    lost = {f"r{k}": 1 + compare.ALLOWED_LOSS for k in range(10)}
    for trial in range(TRIALS):
        old = made_up(10, seed=2 * trial, noise=NOISE)
        new = made_up(10, seed=2 * trial + 1, noise=NOISE, change=lost)
        alarmed += any(change.alarms for change in compare.compare(old, new))
    assert alarmed <= compare.LEVEL * TRIALS


def found_share(rounds: int, noise: float, outliers: float = 0.0) -> float:
    """How often a loss of 30 % in one figure of ten is called too slow."""
    found = 0
    for trial in range(100):
        old = made_up(10, rounds, seed=2 * trial, noise=noise, outliers=outliers)
        new = made_up(10, rounds, seed=2 * trial + 1, noise=noise, outliers=outliers, change={"r3": 1.3})
        found += any(change.alarms for change in compare.compare(old, new) if change.row == "r3")
    return found / 100


@pytest.mark.parametrize(
    ("rounds", "noise", "least"), [(5, 0.03, 0.9), (9, 0.06, 0.75)], ids=["five quiet rounds", "nine noisy ones"]
)
def test_a_loss_of_30_percent_is_found(rounds: int, noise: float, least: float) -> None:
    assert found_share(rounds, noise) >= least


def test_more_rounds_find_more_in_spite_of_outliers() -> None:
    assert found_share(3, 0.03, 0.05) < found_share(5, 0.03, 0.05) < found_share(9, 0.03, 0.05)


def test_what_gives_no_answer_any_more_is_an_alarm() -> None:
    changes = compare.compare(made_up(), fail(made_up(), "r1", "mpsteal"))
    assert [(change.row, change.mark, change.alarms) for change in changes] == [
        ("r0", "no difference", False),
        ("r1", "fails now", True),
        ("r2", "no difference", False),
    ]


def test_without_the_stock_pool_the_value_itself_is_compared_on_one_kind_of_machine_only() -> None:
    old, new = made_up(noise=0.01, seed=1), fail(made_up(noise=0.01, seed=2, hour=2.0), "r1", "stock")
    changed = {change.row: change for change in compare.compare(old, new)}
    assert (changed["r1"].relative, changed["r1"].mark) == (False, "too slow")
    new["machine"]["processor"] = "another kind"
    marks = {change.row: change.mark for change in compare.compare(old, new)}
    assert marks == {"r0": "no difference", "r1": "other machine", "r2": "no difference"}
    assert {change.row: change.mark for change in compare.compare(old, new, across=True)}["r1"] == "too slow"


def test_one_round_says_nothing() -> None:
    changes = compare.compare(made_up(rounds=1), made_up(rounds=1, change={"r0": 5.0}))
    assert {change.mark for change in changes} == {"too few rounds"}


def test_others_are_shown_and_decide_nothing() -> None:
    changes = compare.compare(made_up(), made_up(change={"r0": 2.0}), everything=True)
    assert {(change.target, change.figure) for change in changes} == {
        ("stock", "time"),
        ("stock", "other"),
        ("mpsteal", "time"),
        ("mpsteal", "other"),
    }
    assert {(c.target, c.figure) for c in changes if c.is_main} == {("mpsteal", "time")}


def write(path: Path, data: object) -> str:
    path.write_text(json.dumps(data))
    return str(path)


def test_command_ends_with_one_after_a_loss_and_tells_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = made_up(noise=0.002, seed=2, change={"r2": 2.0})
    new["machine"]["python"] = "3.12.1"
    before, now = write(tmp_path / "old.json", made_up(noise=0.002)), write(tmp_path / "new.json", new)
    assert bench.main(["compare", before, now]) == 1
    said = capsys.readouterr().out
    assert "python differs: 3.11.7 before, 3.12.1 now" in said
    assert [line.split()[0] for line in said.splitlines() if line.endswith(" too slow")] == ["r2"]
    assert bench.main(["compare", before, now, "--loss", "1.5"]) == 0
    assert bench.main(["compare", now, before]) == 0


def test_what_cannot_be_compared_ends_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.json", made_up())
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    quick, control, other_rows = made_up(), made_up(), made_up()
    quick["settings"]["quick"] = True
    control["settings"]["control"] = True
    for row in other_rows["rows"]:
        row["name"] += "x"
    for run in other_rows["runs"]:
        run["row"] += "x"
    cases = {
        str(tmp_path / "missing.json"): "missing.json",
        str(broken): "broken.json",
        write(tmp_path / "pool.json", {"schema": 1, "figures": []}): "not a run of the suite",
        write(tmp_path / "schema.json", made_up() | {"schema": 99}): "not a run of the suite",
        write(tmp_path / "quick.json", quick): "other settings",
        write(tmp_path / "control.json", control): "control",
        write(tmp_path / "rows.json", other_rows): "share no row",
    }
    for path, words in cases.items():
        assert bench.main(["compare", good, path]) == 2, path
        assert words in capsys.readouterr().err
    assert bench.main(["compare", good, good, "--loss", "-1"]) == 2


@pytest.mark.parametrize("key", ["tasks", "items"])
def test_other_sizes_are_not_compared(key: str) -> None:
    """Neither of mpsteal itself, nor of who tells the hour: without the stock pool the value itself is left."""
    old, new = made_up(noise=0.001, seed=1), made_up(noise=0.001, seed=2, change={"r0": 2.0})
    for data in (old, new):
        for run in data["runs"]:
            run["figures"][key] = 1_000.0
    assert [change.mark for change in compare.compare(old, new)] == ["too slow", "no difference", "no difference"]
    for run in new["runs"]:
        if (run["row"], run["pool"]) in {("r0", "mpsteal"), ("r1", "stock")}:
            run["figures"][key] = 4_000.0
    first, second, third = compare.compare(old, new)
    assert (first.mark, first.ratio, first.alarms) == ("other sizes", None, False)
    assert (second.relative, third.relative) == (False, True)
    assert "1 other sizes" in compare.table([first, second, third], loss=0.1)


def test_a_size_that_one_file_does_not_know_is_another_size() -> None:
    old, new = made_up(1), made_up(1)
    for run in new["runs"]:
        run["figures"]["tasks"] = 1_000.0
    assert [change.mark for change in compare.compare(old, new)] == ["other sizes"]
