"""Question: between two stored runs of the suite, what of mpsteal has become slower, and is that more than noise?

    python -m bench compare OLD.json NEW.json [--loss 0.10] [--across] [--all]

For each row and each of mpsteal's doors, the main figure, new over old:

    round 1..n of OLD   log(mpsteal) - the hour ─> mean, variance ─┐
    round 1..n of NEW   log(mpsteal) - the hour ─> mean, variance ─┴─> new / old, interval

- **The hour** of a row and round is by how much the other pools were off from their own mean over both files: the
  median over them, so that one bad run of one of them does not matter. They were measured within minutes, so a machine
  that is slow that day, or hot, is slow in all and falls out. With the stock pool alone this is the ratio to it. Where
  a ratio tells nothing (a growth of memory), or no other pool has values, the value itself is compared, marked `*`.
- **Logarithms**, since noise of a timing multiplies; a mean of logarithms is indifferent to which of two is the
  divisor.
- **Welch's interval** (B. L. Welch, Biometrika 34, 1947): two means whose variances differ, each estimated from its own
  rounds, with the degrees of freedom of Satterthwaite. It is honest with few rounds by being wide: three rounds in each
  leave 2 to 4 degrees. Two rounds are the least; five or more are needed to find a loss of 30 % among many figures.
  Outliers widen it further, so it errs towards silence. Rejected: permuting the rounds, which with three in each has 20
  outcomes and so never a p below 0.05; the bootstrap, whose intervals from five values are too short.
- **Many figures at once** (C. E. Bonferroni): with m figures each interval has the confidence 1 - 0.05 / m, so that
  with 95 % all of them together hold what they should. Holm's steps would find a little more, but have no intervals
  that one can read: here what is marked is what one sees.

*slower* and *faster*: the whole interval lies on one side of 1. **Too slow**: the whole interval lies beyond the loss
that is allowed (10 % unless `--loss` says otherwise). A row where mpsteal gave answers and now gives none *fails now*.
The exit code is 1 if a main figure is too slow or fails now, 0 if not, 2 if the files cannot be compared.

Measured on made-up runs of ten figures (`tests/unit/test_bench_compare.py` makes them, and repeats a part), 1,000 pairs
of 5 rounds with a noise of 6 % in each single run: equal runs were marked in 3.8 %, with outliers in one run of twenty
in 1.6 %, and alarmed in none; runs that lost just the allowed tenth everywhere, with outliers, alarmed in 1 of 300. A
loss of 30 % in one figure was found, in how many of 200 pairs:

    noise of a run   3 rounds   5 rounds   9 rounds   5 rounds with outliers   9 with outliers
    3 %              24 %       96 %       100 %      34 %                     56 %
    6 %              3 %        30 %       80 %       10 %                     36 %

Not told: what differs between the two days other than mpsteal. With another Python the change may be Python's, with
another processor the processor's: what is free of the hour is compared nevertheless and the difference is said, values
themselves only with `--across`. Runs of other sizes or cores, and controls, are never compared.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import _stored, _targets

LEVEL = 0.05
"""How likely one false mark, anywhere, may be."""
ALLOWED_LOSS = 0.10
SIZES = ("tasks", "items")
"""Figures that say how much a row was, where targets get different numbers."""
_SAME_SETTINGS = ("quick", "cores", "share")
_SAME_MACHINE = ("processor", "machine", "cores_usable", "system", "python")


class IncomparableError(Exception):
    """The two runs have nothing to say about each other; the message says why."""


@dataclass(frozen=True)
class Change:
    """What became of one figure.

    Attributes:
        relative: without what the hour did to the other pools; else the value itself.
        ratio, low, high: new / old and its interval; None without enough rounds.
        mark: "too slow", "slower", "faster", "no difference", "fails now", "works now", or why nothing can be said
            ("other sizes", "other machine", "too few rounds", "failed in both").
        is_main: whether it decides, as mpsteal's first figure of a row does.
    """

    row: str
    target: str
    figure: str
    relative: bool
    ratio: float | None
    low: float | None
    high: float | None
    mark: str
    is_main: bool

    @property
    def alarms(self) -> bool:
        return self.is_main and self.mark in ("too slow", "fails now")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD.json", help="a run of the suite, kept with --json")
    parser.add_argument("new", type=Path, metavar="NEW.json", help="a later one, of the same rows")
    parser.add_argument("--loss", type=float, default=ALLOWED_LOSS, help="what may be lost (0.10: a tenth)")
    parser.add_argument("--across", action="store_true", help="compare values themselves between machines, too")
    parser.add_argument("--all", action="store_true", help="show all figures and all targets; they decide nothing")


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.loss < math.inf:
        print("bench compare: --loss is a share, such as 0.10", file=sys.stderr)
        return 2
    try:
        old, new = _stored.read(args.old), _stored.read(args.new)
        changes = compare(old, new, loss=args.loss, across=args.across, everything=args.all)
    except (_stored.UnreadableError, IncomparableError) as error:
        print(f"bench compare: {error}", file=sys.stderr)
        return 2
    for line in differences(old, new):
        print(line)
    print(table(changes, loss=args.loss))
    return 1 if any(change.alarms for change in changes) else 0


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What else than mpsteal may be behind a change."""
    lines = []
    for key in _SAME_MACHINE:
        before, now = old["machine"].get(key), new["machine"].get(key)
        if before != now:
            lines.append(f"{key} differs: {before} before, {now} now; a change may be due to that")
    versions = [{target["name"]: target["version"] for target in data["targets"]} for data in (old, new)]
    for name, now in versions[1].items():
        before = versions[0].get(name, now)
        if before != now:
            lines.append(f"{name}: version {before} before, {now} now")
    return lines


def compare(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    loss: float = ALLOWED_LOSS,
    across: bool = False,
    everything: bool = False,
) -> list[Change]:
    """Raises `IncomparableError` if the runs differ in size, are controls, or share no figure of mpsteal."""
    for key in _SAME_SETTINGS:
        if old["settings"].get(key) != new["settings"].get(key):
            before, now = old["settings"].get(key), new["settings"].get(key)
            raise IncomparableError(f"made with other settings: {key} {before!r} before, {now!r} now")
    if old["settings"].get("control") or new["settings"].get("control"):
        raise IncomparableError("a control has the stock pool in the place of mpsteal")
    one_kind = all(
        old["machine"].get(key) == new["machine"].get(key) for key in ("processor", "machine", "cores_usable")
    )
    before, now = _stored.cells(old), _stored.cells(new)
    known = {row["name"] for row in old["rows"]}
    wanted: list[tuple[Mapping[str, Any], str, Mapping[str, Any], bool]] = []
    for row in new["rows"]:
        targets = [pool for name, pool in _stored.pairs(new) if name == row["name"]]
        for target in targets:
            if row["name"] not in known or (row["name"], target) not in before:
                continue
            for number, figure in enumerate(row["figures"]):
                is_main = number == 0 and _targets.is_ours(target)
                if is_main or everything:
                    wanted.append((row, target, figure, is_main))
    family = sum(is_main for *_, is_main in wanted)
    if not family:
        raise IncomparableError("the two runs share no row that mpsteal was measured in")
    return [
        _change(row["name"], target, figure, is_main, before, now, loss, LEVEL / family, one_kind or across)
        for row, target, figure, is_main in wanted
    ]


_Cells = Mapping[tuple[str, str], _stored.Cell]


def _change(
    row: str,
    target: str,
    figure: Mapping[str, Any],
    is_main: bool,
    before: _Cells,
    now: _Cells,
    loss: float,
    level: float,
    values_too: bool,
) -> Change:
    key = figure["key"]

    def told(mark: str, relative: bool = False, ratio: tuple[float, float, float] | None = None) -> Change:
        centre, low, high = ratio or (None, None, None)
        return Change(row, target, figure["label"], relative, centre, low, high, mark, is_main)

    worked, works = (bool(cells[row, target].rounds.get(key)) for cells in (before, now))
    if not (worked and works):
        return told({(True, False): "fails now", (False, True): "works now"}.get((worked, works), "failed in both"))
    if not _same_size(before[row, target], now[row, target]):
        return told("other sizes")
    hours = _hours(row, target, key, before, now) if figure["has_ratio"] else None
    relative = hours is not None
    sides = [
        [math.log(value) - (hours[which, number] if hours else 0.0) for number, value in mine.items()
         if value > 0 and (hours is None or (which, number) in hours)]
        for which, mine in enumerate((before[row, target].rounds[key], now[row, target].rounds[key]))
    ]  # fmt: skip
    if not relative and not values_too:
        return told("other machine")
    if any(len(side) < 2 for side in sides):
        return told("too few rounds", relative)
    difference, half = welch(sides[0], sides[1], level)
    sign = 1 if figure["better"] == "lower" else -1
    low, high = sorted((sign * (difference - half), sign * (difference + half)))
    if low > math.log1p(loss):
        mark = "too slow"
    else:
        mark = "slower" if low > 0 else "faster" if high < 0 else "no difference"
    return told(mark, relative, (math.exp(difference), math.exp(difference - half), math.exp(difference + half)))


def _hours(row: str, target: str, key: str, before: _Cells, now: _Cells) -> dict[tuple[int, int], float] | None:
    """By file (0 or 1) and round: the logarithm of how slow that hour was. None if there is nobody to tell: no other
    pool, with its defaults, that has two rounds in each file, all of one size. mpsteal's doors do not count: they may
    have lost the same."""
    off: dict[tuple[int, int], list[float]] = {}
    for (name, other), cell in before.items():
        if (
            name != row
            or other == target
            or _targets.is_ours(other)
            or other.endswith(_stored.BEST)
            or (row, other) not in now
            or not _same_size(cell, now[row, other])
        ):
            continue
        sides = [
            {number: math.log(value) for number, value in side.rounds.get(key, {}).items() if value > 0}
            for side in (cell, now[row, other])
        ]
        if min(map(len, sides)) < 2:
            continue
        usual = statistics.fmean(value for side in sides for value in side.values())
        for which, side in enumerate(sides):
            for number, value in side.items():
                off.setdefault((which, number), []).append(value - usual)
    return {place: statistics.median(values) for place, values in off.items()} or None


def _same_size(before: _stored.Cell, now: _stored.Cell) -> bool:
    """Whether all rounds of both, as far as they came to an answer, were of the same tasks or items."""
    for key in SIZES:
        sides = [set(cell.rounds.get(key, {}).values()) for cell in (before, now)]
        if sides[0] != sides[1] or len(sides[0]) > 1:
            return False
    return True


def welch(old: Sequence[float], new: Sequence[float], level: float) -> tuple[float, float]:
    """The difference of two means and the half width of its two-sided interval with the confidence 1 - `level`."""
    shares = [statistics.variance(side) / len(side) for side in (old, new)]
    difference = statistics.fmean(new) - statistics.fmean(old)
    total = sum(shares)
    if total == 0:
        return difference, 0.0
    freedom = total**2 / sum(share**2 / (len(side) - 1) for share, side in zip(shares, (old, new), strict=True))
    # Down to a tenth: a little wider than need be, and the quantiles can be kept.
    return difference, t_quantile(level / 2, math.floor(freedom * 10 + 1e-9) / 10) * math.sqrt(total)


@functools.lru_cache(maxsize=4096)
def t_quantile(tail: float, freedom: float) -> float:
    """What Student's t with `freedom` degrees exceeds with the chance `tail`, which is below a half."""
    high = 1.0
    while t_tail(high, freedom) > tail:
        high *= 2
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > tail else (low, middle)
    return high


def t_tail(t: float, freedom: float) -> float:
    """The chance that Student's t exceeds `t` >= 0: half the incomplete beta function (DLMF 8.17)."""
    return 0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised I_x(a, b), by the continued fraction DLMF 8.17.22, evaluated from its front (Lentz's way)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror is fast
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * value


def table(changes: Sequence[Change], *, loss: float) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    family = sum(change.is_main for change in changes)
    lines = [f"{'row':22} {'target':22} {'figure':24} {'new/old':>8}  {'interval':18} verdict"]
    for change in changes:
        span = "" if change.low is None else f"{number(change.low)}..{number(change.high)}"
        ratio = number(change.ratio) + ("" if change.relative or change.ratio is None else "*")
        words = change.mark if change.is_main else f"({change.mark})"
        lines.append(f"{change.row:22} {change.target:22} {change.figure:24} {ratio:>8}  {span:18} {words}")
    marks = [change.mark for change in changes if change.is_main]
    counts = ", ".join(f"{marks.count(mark)} {mark}" for mark in dict.fromkeys(marks))
    lines += [
        "",
        f"{family} figures: {counts}. Intervals: all {family} hold together with {1 - LEVEL:.0%}.",
        f"too slow: the whole interval is worse than a loss of {loss:.0%}. * has the hour in it.",
    ]
    return "\n".join(lines)
