"""Question: does `mpsteal.WorkStealingScheduler` reach its figures (issue 3)?

``python -m bench scheduler``: the rows of `scheduler_*.py`, each measurement in a process of its own, family by family
and round by round, as `python -m bench pool` does it; here there is one column, and targets are absolute, but for the
throughput, which is also held against `Pool.apply_async` of the same round. This file is the command, table and JSON.

Not told: see each file; and absolute times are those of one machine while nothing else ran on it. The last line counts
the runs during which other programs used more than 0.2 core.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import _machine, _report, _rows, _run, goals, scheduler_throughput
from bench._model import Figure, Row
from bench._run import Run, Spread
from bench._targets import OURS

BASELINE = Path(__file__).parent / "results" / "scheduler.json"
SCHEMA = 1
add_arguments = goals.add_arguments
"""The same as for the tables of goals."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One figure over all rounds; `met` is None where there is no target."""

    row: Row
    figure: Figure
    spread: Spread | None
    met: bool | None


def run(args: argparse.Namespace) -> int:
    """Return 0 if every run gave an answer, whatever the figures, else 1; usage errors exit 2."""
    rows = _rows.select(args.only, table="scheduler")
    if args.list:
        for row in rows:
            print(f"{row.name:16} {row.title}")
            for figure in figures_of(row):
                if figure.goal:
                    print(f"{'':16}   {figure.label} {figure.goal} {figure.unit}".rstrip())
        return 0
    machine = _machine.describe()
    if machine["cores_usable"] < args.cores:
        print(f"only {machine['cores_usable']} core(s) here: figures will differ", file=sys.stderr)
    began = time.monotonic()
    runs = measure(rows, rounds=args.rounds, quick=args.quick, cores=args.cores)
    settings = {
        "command": "scheduler",
        "rounds": args.rounds,
        "quick": args.quick,
        "cores": args.cores,
        "rows": [row.name for row in rows],
        "took_s": round(time.monotonic() - began, 1),
    }
    found = [outcome(row, figure, runs) for row in rows for figure in figures_of(row)]
    print("\n".join(table(found)))
    failed = sum(bool(run.error) for run in runs)
    disturbed = sum(run.others_cores > _report.DISTURBED_CORES for run in runs)
    judged = [o for o in found if o.met is not None]
    words = f"{len(runs)} runs, {failed} failed, {disturbed} disturbed (others used more than "
    words += f"{_report.DISTURBED_CORES} core)"
    print(f"{words}; targets met: {sum(bool(o.met) for o in judged)} of {len(judged)}")
    path = args.json
    if path is None and not (args.only or args.quick):
        path = BASELINE
    if path is not None:
        _report.write(path, document(found, runs, machine=machine, settings=settings))
        print(f"written: {path}")
    return 1 if failed else 0


def measure(rows: Sequence[Row], *, rounds: int, quick: bool, cores: int) -> list[Run]:
    """All runs; the rows of one file in turns, so that a drift of the machine falls on all of them."""
    runs = []
    for family in _rows.SCHEDULER_FAMILIES:
        for number in range(rounds):
            for row in (row for row in family.ROWS if row in rows):
                run = _run.measure_once(row, OURS, number, quick=quick, cores=cores)
                run.facts.pop("pool_class", None)  # whose rows these are not
                first = next(iter(run.figures.items()), ("", 0.0))
                words = run.error or f"{first[0]} {_report.short(first[1])}"
                print(f"  {row.name} round {number + 1}: {words}", file=sys.stderr, flush=True)
                runs.append(run)
    for run in runs:
        _compare(run, runs)
    return runs


def _compare(run: Run, runs: Sequence[Run]) -> None:
    """Hold a run of the throughput against the peer's of the same round, if both gave an answer."""
    key = scheduler_throughput.TIMES_POOL.key
    (row,) = _rows.select([run.row], exact=True)
    if run.error or all(figure.key != key for figure in figures_of(row)):
        return
    for peer in runs:
        if (peer.row, peer.round, peer.error) == (scheduler_throughput.PEER, run.round, ""):
            run.figures[key] = run.figures["us_per_task"] / peer.figures["us_per_task"]


def figures_of(row: Row) -> tuple[Figure, ...]:
    """The row's own, and what is computed from it and its peer."""
    if row not in scheduler_throughput.ROWS or row.name == scheduler_throughput.PEER:
        return row.figures
    times_pool = scheduler_throughput.TIMES_POOL
    if row.figures[0].goal is None:  # beside the row that has the targets
        times_pool = dataclasses.replace(times_pool, goal=None)
    return (*row.figures, times_pool)


def outcome(row: Row, figure: Figure, runs: Sequence[Run]) -> Outcome:
    mine = [run for run in runs if run.row == row.name]
    spread = Spread.of(run.figures[figure.key] for run in mine if not run.error and figure.key in run.figures)
    needs = (row.name, scheduler_throughput.PEER) if figure.key == scheduler_throughput.TIMES_POOL.key else (row.name,)
    met = None
    if figure.goal is not None and any(run.error and run.row in needs for run in runs):
        met = False
    elif figure.goal is not None and spread is not None:
        met = figure.goal.met(spread.median)
    return Outcome(row, figure, spread, met)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Aligned text: median, and in brackets the range over the rounds."""
    lines = [("row", "figure", "unit", "measured", "target", "met")]
    previous = ""
    for found in outcomes:
        spread, name = found.spread, found.row.name
        words = "none" if spread is None else _report.short(spread.median)
        if spread is not None and len(spread.samples) > 1:
            words += f" ({_report.short(spread.low)}..{_report.short(spread.high)})"
        met = "" if found.met is None else "yes" if found.met else "NO"
        goal = "" if found.figure.goal is None else f"{found.figure.goal.op} {found.figure.goal.bound:,.6g}"
        lines.append((name if name != previous else "", found.figure.label, found.figure.unit, words, goal, met))
        previous = name
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def document(
    outcomes: Sequence[Outcome], runs: Sequence[Run], *, machine: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything measured and everything it depends on, as plain data."""
    figures = []
    for found in outcomes:
        figure = dataclasses.asdict(found.figure)
        goal = figure.pop("goal")
        del figure["has_ratio"]
        spread = found.spread and dataclasses.asdict(found.spread)
        about = {"row": found.row.name, "title": found.row.title}
        figures.append(about | figure | {"measured": spread, "target": goal, "met": found.met})
    return {
        "schema": SCHEMA,
        "made": _machine.now(),
        "settings": settings,
        "machine": machine,
        "figures": figures,
        "runs": [dataclasses.asdict(run) for run in runs],
    }
