"""The table on standard output and the JSON file, both from the same outcomes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import _machine
from bench._run import Outcome, Run, Spread
from bench._targets import OURS, STOCK

SCHEMA = 1
DISTURBED_CORES = 0.2  # chosen by hand: a tenth of the two cores that are shared
_HEAD = ("row", "figure", "unit", STOCK, OURS, "ratio", "target", "met")


def short(value: float) -> str:
    """Three significant digits, never an exponent for the sizes met here."""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3f}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "failed"
    if len(spread.samples) == 1:
        return short(spread.median)
    return f"{short(spread.median)} ({short(spread.low)}..{short(spread.high)})"


def _ratio(outcome: Outcome) -> str:
    if outcome.ratio is None:
        return "-"
    text = f"{outcome.ratio:.3f}" if outcome.ratio < 1 else f"{outcome.ratio:.2f}"
    if outcome.ratio_range and outcome.ratio_range[0] != outcome.ratio_range[1]:
        low, high = outcome.ratio_range
        text += f" ({short(low)}..{short(high)})"
    return text


def _met(outcome: Outcome, control: bool) -> str:
    if outcome.met is None:
        return ""
    if control:
        return "control"
    return "yes" if outcome.met else "NO"


def table(outcomes: Sequence[Outcome], *, control: bool) -> str:
    """The whole table as aligned text: median, and in brackets the range over the rounds."""
    lines: list[tuple[str, ...]] = [_HEAD]
    previous = ""
    for outcome in outcomes:
        name = outcome.row.name
        lines.append(
            (
                name if name != previous else "",
                outcome.figure.label,
                outcome.figure.unit,
                _spread(outcome.stock),
                _spread(outcome.ours),
                _ratio(outcome),
                str(outcome.figure.goal or ""),
                _met(outcome, control),
            )
        )
        previous = name
    widths = [max(len(line[k]) for line in lines) for k in range(len(_HEAD))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def summary(outcomes: Sequence[Outcome], runs: Sequence[Run], *, control: bool) -> str:
    failed = sum(bool(run.error) for run in runs)
    words = f"{len(runs)} runs, {failed} failed"
    disturbed = sum(run.others_cores > DISTURBED_CORES for run in runs)
    if disturbed:
        words += f", {disturbed} disturbed (others used more than {DISTURBED_CORES} core)"
    if control:
        return f"{words}; control: the stock Pool in both columns, every ratio should be near 1"
    judged = [outcome for outcome in outcomes if outcome.met is not None]
    return f"{words}; targets met: {sum(bool(o.met) for o in judged)} of {len(judged)}"


def document(
    outcomes: Sequence[Outcome],
    runs: Sequence[Run],
    *,
    machine: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Everything measured and everything it depends on, as plain data."""
    pools = {run.pool: {key: run.facts[key] for key in ("pool_class", "pool_version")} for run in runs if run.facts}
    figures = []
    for outcome in outcomes:
        figure = dataclasses.asdict(outcome.figure)
        goal = figure.pop("goal")
        figures.append(
            {"row": outcome.row.name, "title": outcome.row.title}
            | figure
            | {
                "stock": outcome.stock and dataclasses.asdict(outcome.stock),
                "mpsteal": outcome.ours and dataclasses.asdict(outcome.ours),
                "ratio": outcome.ratio,
                "ratio_range": outcome.ratio_range,
                "target": goal,
                "met": None if settings["control"] else outcome.met,
            }
        )
    return {
        "schema": SCHEMA,
        "made": _machine.now(),
        "settings": settings,
        "machine": machine,
        "pools": pools,
        "figures": figures,
        "runs": [dataclasses.asdict(run) for run in runs],
    }


def write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
