"""The tables of goals: mpsteal beside its stock twin, measured in one run, each figure held against a target.

``python -m bench pool``: `mpsteal.Pool` beside `multiprocessing.Pool`; ``executor``: `mpsteal.Executor` beside
`ProcessPoolExecutor`; ``large``: the pools again, with large arrays. The rows are those of the suite, at full size.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench import _machine, _report, _rows, _run, _targets

RESULTS = Path(__file__).parent / "results"
TABLES = {
    "pool": "mpsteal.Pool beside multiprocessing.Pool, against its goals",
    "large": "the same with large arrays",
    "executor": "mpsteal.Executor beside ProcessPoolExecutor, against its goals",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help="rounds per row (default 5, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the harness")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows or families")
    parser.add_argument("--list", action="store_true", help="name the rows and their targets")
    parser.add_argument("--cores", type=int, default=2, help="confine each run to so many (2)")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="where to write; by default a full run writes bench/results/, in the name of the table, others nothing",
    )


def list_rows(table: str) -> None:
    for row in _rows.select([], table=table):
        print(f"{row.name:16} {row.title}")
        for figure in row.figures:
            if figure.goal:
                print(f"{'':16}   {figure.label} {figure.goal} {figure.unit}".rstrip())


def tell(run: _run.Run) -> None:
    first = next(iter(run.figures.items()), ("", 0.0))
    words = run.error or f"{first[0]} {_report.short(first[1])}"
    print(f"  {run.row} round {run.round + 1} {run.pool}: {words}", file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    """Return 0 if every run gave an answer, whatever the figures, else 1; usage errors exit 2."""
    if args.list:
        list_rows(args.command)
        return 0
    control = _targets.is_control()
    rows = _rows.select(args.only, table=args.command)
    machine = _machine.describe()
    if machine["cores_usable"] < args.cores:
        print(f"only {machine['cores_usable']} core(s) here: figures will differ", file=sys.stderr)
    began = time.monotonic()
    runs = _run.measure_rows(rows, rounds=args.rounds, quick=args.quick, cores=args.cores, tell=tell)
    settings = {
        "command": args.command,
        "rounds": args.rounds,
        "quick": args.quick,
        "control": control,
        "cores": args.cores,
        "rows": [row.name for row in rows],
        "took_s": round(time.monotonic() - began, 1),
    }
    found = list(_run.outcomes(rows, runs))
    print(_report.table(found, control=control))
    print(_report.summary(found, runs, control=control))
    path = args.json
    if path is None and not (args.only or args.quick or control):
        path = RESULTS / f"{args.command}.json"
    if path is not None:
        _report.write(path, _report.document(found, runs, machine=machine, settings=settings))
        print(f"written: {path}")
    return 1 if any(run.error for run in runs) else 0
