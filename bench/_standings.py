"""Where mpsteal stands in each row of a stored run: beside whom, how many times better or worse, in every round or not.

A *gain* is how many times better mpsteal is, above 1 where it wins, whichever way the figure points. Gains are taken
within a round, where both were measured within minutes. The verdict is *better* or *worse* only if every round says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench._run import Spread
from bench._stored import BEST, Cell, cells
from bench._targets import OURS, STOCK, is_ours

SERIAL = "serial"


@dataclass(frozen=True)
class Versus:
    """mpsteal beside one other target.

    Attributes:
        gain, gains: times better: the median, and each round's; None and empty where a ratio tells nothing.
        verdict: "better", "worse" or "even".
    """

    other: str
    gain: float | None
    gains: tuple[float, ...]
    verdict: str


@dataclass(frozen=True)
class Standing:
    """One row.

    Attributes:
        figure: the one that stands for the row.
        cells, spreads: by target; those without an answer have no spread.
        order: targets with an answer, best first.
        failed: those without.
        ours: the door of mpsteal that stands for it, `mpsteal.Pool` where it was measured.
        our_errors: of all its doors.
        versus_stock, versus_serial: None where those were not measured.
        versus_peer: the best of all other pools but the stock one, with their defaults.
        versus_best: the best of all other pools with their best setting, the stock one among them.
    """

    row: Mapping[str, Any]
    figure: Mapping[str, Any]
    cells: Mapping[str, Cell]
    spreads: Mapping[str, Spread]
    order: tuple[str, ...]
    failed: tuple[str, ...]
    ours: str | None
    our_errors: tuple[str, ...]
    versus_stock: Versus | None
    versus_peer: Versus | None
    versus_best: Versus | None
    versus_serial: Versus | None


def standings(data: Mapping[str, Any]) -> list[Standing]:
    """Of the rows that were measured, in their order."""
    found = cells(data)
    result = []
    for row in data["rows"]:
        mine = {pool: cell for (name, pool), cell in found.items() if name == row["name"]}
        if mine:
            result.append(_standing(row, mine))
    return result


def _standing(row: Mapping[str, Any], mine: Mapping[str, Cell]) -> Standing:
    figure = row["figures"][0]
    key, sign = figure["key"], 1 if figure["better"] == "lower" else -1
    spreads = {pool: spread for pool, cell in mine.items() if (spread := cell.spread(key)) is not None}
    order = tuple(sorted(spreads, key=lambda pool: sign * spreads[pool].median))
    doors = [pool for pool in order if is_ours(pool)]
    ours = OURS if OURS in doors else doors[0] if doors else None

    def versus(fits: Callable[[str], bool]) -> Versus | None:
        other = next((pool for pool in order if fits(pool)), None)
        return None if other is None or ours is None else _versus(figure, mine[ours], mine[other], other)

    def is_peer(pool: str) -> bool:
        return pool != SERIAL and not is_ours(pool)

    return Standing(
        row=row,
        figure=figure,
        cells=mine,
        spreads=spreads,
        order=order,
        failed=tuple(pool for pool in mine if pool not in spreads),
        ours=ours,
        our_errors=tuple(error for pool, cell in mine.items() if is_ours(pool) for error in cell.errors),
        versus_stock=versus(lambda pool: pool == STOCK),
        versus_peer=versus(lambda pool: is_peer(pool) and pool != STOCK and not pool.endswith(BEST)),
        versus_best=versus(lambda pool: is_peer(pool) and pool.endswith(BEST)),
        versus_serial=versus(lambda pool: pool == SERIAL),
    )


def _versus(figure: Mapping[str, Any], ours: Cell, theirs: Cell, other: str) -> Versus:
    key, is_lower = figure["key"], figure["better"] == "lower"
    mine, others = ours.rounds[key], theirs.rounds[key]
    both: Sequence[tuple[float, float]] = [(mine[number], others[number]) for number in mine if number in others]
    if not both:  # no round with both: medians, and no verdict but a draw can rest on them
        both = [(statistics.median(mine.values()), statistics.median(others.values()))]
        verdict = "even"
    else:
        wins = [(a < b) if is_lower else (a > b) for a, b in both]
        losses = [(a > b) if is_lower else (a < b) for a, b in both]
        verdict = "better" if all(wins) else "worse" if all(losses) else "even"
    gains: tuple[float, ...] = ()
    if figure["has_ratio"] and all(a > 0 and b > 0 for a, b in both):
        gains = tuple(b / a if is_lower else a / b for a, b in both)
    return Versus(other, statistics.median(gains) if gains else None, gains, verdict)
