"""What a run of `growth` came to: for each kind a line per target, how much it rises, and the words for that.

    rows "submit-1e2", "submit-1e3", ...  ─> Kind "submit": Curve of each target ─> rise: largest size over 10^4
    rows "agents-1", "agents-2", ...      ─> Kind "agents": Curve of each target ─> worst: makespan over bound

A rise is taken within a round, as all ratios are, and its median and range over the rounds are told. 10^4 is where it
starts from because the smaller sizes hold what a call costs by itself, which more items share.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench import _stored
from bench._report import short
from bench._run import Spread

BASE = 10_000
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_NAME = re.compile(r"(agents)-(\d+)|(submit|stream|map)-1e(\d+)")
_QUESTIONS = {
    "agents": "What do agents cost by being many?",
    "submit": "Does a submitted task cost more, the more there are?",
    "stream": "Does an item of `imap_unordered` cost more, the more there are?",
    "map": "Does an item of `map` cost more, the more there are?",
}
_LIMITS = {
    "agents": "Tasks sleep: agents that compute also compete for cores, caches and memory",
    "submit": "All handles are kept, so memory grows with the tasks in any pool. Tasks do nothing",
    "stream": "Results are consumed at once and are numbers. Tasks do nothing",
    "map": "All results are kept, so memory grows with the items in any pool. Tasks do nothing",
}


@dataclass(frozen=True)
class Curve:
    """One target: its figure by size, and there by round."""

    target: str
    rounds: Mapping[int, Mapping[int, float]]

    def spreads(self) -> list[tuple[int, Spread]]:
        """By size, the smallest first."""
        found = [(size, Spread.of(self.rounds[size].values())) for size in sorted(self.rounds)]
        return [(size, spread) for size, spread in found if spread is not None]

    def rise(self) -> tuple[int, Spread] | None:
        """The largest size, and the cost there over that at `BASE`; None if one of them was not measured."""
        largest = max(self.rounds)
        base, last = self.rounds.get(BASE), self.rounds[largest]
        if base is None or largest == BASE:
            return None
        ratios = Spread.of(last[number] / base[number] for number in last if base.get(number, 0) > 0)
        if ratios is None:  # no round with both
            ratios = Spread.of([statistics.median(last.values()) / statistics.median(base.values())])
        assert ratios is not None
        return largest, ratios

    def worst(self) -> tuple[int, Spread]:
        """Where the figure is highest, by its median."""
        return max(self.spreads(), key=lambda point: point[1].median)


@dataclass(frozen=True)
class Kind:
    """One of the ways to grow.

    Attributes:
        figure: of its rows, as stored.
        curves: by target, in the order of the run; those without any answer have none.
    """

    name: str
    figure: Mapping[str, Any]
    curves: tuple[Curve, ...]

    @property
    def is_agents(self) -> bool:
        return self.name == "agents"

    @property
    def question(self) -> str:
        return _QUESTIONS[self.name]

    @property
    def limits(self) -> str:
        return _LIMITS[self.name]

    @property
    def over(self) -> str:
        """What the sizes count."""
        return {"agents": "agents", "submit": "tasks"}.get(self.name, "items")

    @property
    def caption(self) -> str:
        unit = f", {self.figure['unit']}" if self.figure["unit"] != "x" else ""
        return f"{self.figure['label']}{unit}"


def is_growth(data: Mapping[str, Any]) -> bool:
    return bool(data["settings"].get("table") == "growth")


def kinds(data: Mapping[str, Any]) -> list[Kind]:
    """Of what was measured, in the order of the rows."""
    found, pools = _stored.cells(data), list(dict.fromkeys(pool for _, pool in _stored.pairs(data)))
    figures: dict[str, Mapping[str, Any]] = {}
    lines: dict[str, dict[str, dict[int, Mapping[int, float]]]] = {}
    for row in data["rows"]:
        match = _NAME.fullmatch(row["name"])
        if match is None:
            continue
        name, size = (match[1], int(match[2])) if match[1] else (match[3], 10 ** int(match[4]))
        figure = figures.setdefault(name, row["figures"][0])
        for pool in pools:
            cell = found.get((row["name"], pool))
            if cell is not None and cell.rounds.get(figure["key"]):
                lines.setdefault(name, {}).setdefault(pool, {})[size] = cell.rounds[figure["key"]]
    return [
        Kind(name, figures[name], tuple(Curve(pool, mine[pool]) for pool in pools if pool in mine))
        for name, mine in lines.items()
    ]


def count(size: int) -> str:
    """A size as it is said: 10⁴ for a power of ten from a thousand on, else the number."""
    power = len(str(size)) - 1
    return f"10{str(power).translate(_SUPERSCRIPTS)}" if size == 10**power and power > 2 else str(size)


def sentence(kind: Kind, names: Mapping[str, str]) -> str:
    """What a kind came to, target by target, the flattest first."""
    told: list[tuple[float, str]] = []
    untold = []
    for curve in kind.curves:
        label = names.get(curve.target, curve.target)
        point = curve.worst() if kind.is_agents else curve.rise()
        if point is None:
            untold.append(label)
            continue
        size, spread = point
        span = f", {short(spread.low)} to {short(spread.high)}" if len(spread.samples) > 1 else ""
        at = f"{count(size)} agent{'s' if size > 1 else ''}" if kind.is_agents else f"at {count(size)}"
        told.append((spread.median, f"{label} {short(spread.median)} ({at}{span})"))
    words = "; ".join(text for _, text in sorted(told, key=lambda pair: pair[0]))
    if kind.is_agents:
        return f"The makespan over its bound is at worst: {words}."
    start = count(BASE)
    parts = []
    if told:
        parts.append(f"At the most {kind.over} measured, one costs this many times what it costs at {start}: {words}.")
    if untold:
        parts.append(f"Not measured both at {start} and above: {', '.join(untold)}.")
    return " ".join(parts)
