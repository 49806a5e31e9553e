"""The command: ``python -m bench`` in a checkout, ``mpsteal bench`` where it is installed.

[suite] [options]               all workloads with all targets; what is meant when no command is named
compare OLD.json NEW.json       two stored runs of the suite: what has become slower?
report RUN.json --html PATH     the report of a stored run
pool, executor, large           tables of goals, mpsteal beside its stock twin
scheduler, simulate, faults     commands of their own, in the files of those names
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench import _machine, _report, _rows, _run, _targets, faults, profile, scheduler, simulate, suite

RESULTS = Path(__file__).parent / "results"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure mpsteal.")
    commands = parser.add_subparsers(dest="command", required=True)
    suite.add_arguments(commands.add_parser("suite", help="all workloads with all targets (the default)"))
    for name, words in (
        ("pool", "mpsteal.Pool beside multiprocessing.Pool"),
        ("large", "the same with large arrays"),
        ("executor", "mpsteal.Executor beside ProcessPoolExecutor"),
    ):
        pool = commands.add_parser(name, help=words)
        pool.add_argument("--rounds", type=int, help="rounds per row (default 5, with --quick 1)")
        pool.add_argument("--quick", action="store_true", help="small sizes, to try the harness")
        pool.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows or families")
        pool.add_argument("--list", action="store_true", help="name the rows and their targets")
        pool.add_argument("--cores", type=int, default=2, help="confine each run to so many (2)")
        pool.add_argument(
            "--json",
            type=Path,
            metavar="PATH",
            help=f"where to write; by default a full run writes bench/results/{name}.json, others nothing",
        )
    scheduler.add_arguments(commands.add_parser("scheduler", help="the scheduler's figures, against their targets"))
    simulate.add_arguments(commands.add_parser("simulate", help="its rules among 1,000 agents, over virtual time"))
    profile.add_arguments(commands.add_parser("profile", help="where the time of a task goes, beside the floor"))
    faults.add_arguments(commands.add_parser("faults", help="what faults cost in six pools"))
    words = sys.argv[1:] if arguments is None else arguments
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["suite", *words]
    args = parser.parse_args(words)
    args.words = words
    if args.command in ("simulate", "faults", "profile"):
        return args
    if args.rounds is None:
        args.rounds = 1 if args.quick else 5
    if args.rounds < 1 or args.cores < 1:
        parser.error("--rounds and --cores must be at least 1")
    return args


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


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if every run gave an answer, whatever the figures, else 1; usage errors exit 2."""
    args = parse(arguments)
    if args.command not in ("pool", "large", "executor"):
        commands = {"suite": suite, "scheduler": scheduler, "simulate": simulate, "faults": faults}
        commands["profile"] = profile
        return commands[args.command].run(args)
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


if __name__ == "__main__":
    raise SystemExit(main())
