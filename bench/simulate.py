"""Question: how near the best possible schedule do the scheduler's rules come with 1,000 agents and 1,000,000 tasks?

`bench._des` runs the package's policy code over virtual time, load by load, and verifies each run: every task ran once,
on an agent that can run it, and no protected task was stolen. This file is its command, table and JSON.

    over bound     makespan / the time below which no schedule can end, however clever
    Jain           fairness of the agents' busy times: (sum x)^2 / (n * sum x^2), 1: all equal, 1/n: one did everything
    tries, steals  rounds of stealing, those that found something; stolen: tasks; moved: tasks, by the parent

Not told: anything about this machine, which only decides how long the simulation takes (`wall`); see `bench._des` for
what is left out. The prices of actions are parameters (`--cost steal_us=80`), and no better than they are. Where some
agents lack skills, even the best schedule is not fair.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import _des, _machine, _report
from bench._des import Costs, Outcome
from bench._model import WrongResult
from mpsteal._policy.rules import build

RESULTS = Path(__file__).parent / "results" / "simulation.json"
SCHEMA = 1
FULL = {"agents": 1_000, "tasks": 1_000_000}
QUICK = {"agents": 100, "tasks": 20_000}
STRATEGIES = ("hybrid", "pull", "push")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, help="default 1,000, with --quick 100")
    parser.add_argument("--tasks", type=int, help="default 1,000,000, with --quick 20,000")
    parser.add_argument("--mean-ms", type=float, default=100.0, metavar="MS", help="mean time of a task (100)")
    parser.add_argument("--loads", nargs="+", default=[], metavar="LOAD", help="only these; default all")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=["hybrid"], help="default hybrid")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--cost", nargs="+", default=[], metavar="NAME=US", help="prices, see bench._des.Costs")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it")
    parser.add_argument("--json", type=Path, metavar="PATH", help=f"a run with defaults writes {RESULTS.name}")


def run(args: argparse.Namespace) -> int:
    """Return 0 if every load was verified, else 1; usage errors exit 2."""
    sizes = QUICK if args.quick else FULL
    agents = sizes["agents"] if args.agents is None else args.agents
    tasks = sizes["tasks"] if args.tasks is None else args.tasks
    costs = _costs(args.cost)
    unknown = [name for name in args.loads if name not in _des.LOADS]
    if unknown or agents < 1 or tasks < 1 or args.mean_ms <= 0:
        raise SystemExit(f"sizes must be above 0, and loads be of: {' '.join(_des.LOADS)}")
    loads = args.loads or _des.LOADS
    is_full = not (args.quick or args.agents or args.tasks or args.cost or args.loads or args.json)
    is_full = is_full and (args.mean_ms, args.seed, args.strategies) == (100.0, 1, ["hybrid"])
    machine, wrong = _machine.describe(), 0
    outcomes: list[tuple[str, Outcome]] = []
    began = time.monotonic()
    gc.disable()  # nothing here is cyclic, and a million ranges are looked through again and again
    for name in loads:
        for strategy in args.strategies:
            load = _des.make_load(name, agents=agents, tasks=tasks, mean_ms=args.mean_ms, seed=args.seed)
            try:
                outcome = _des.Simulation(load, build({"strategy": strategy}), costs).run()
            except WrongResult as error:
                wrong += 1
                print(f"  {name} {strategy}: {error}", file=sys.stderr, flush=True)
                continue
            outcomes.append((strategy, outcome))
            words = f"{outcome.over_bound:.4f} of the bound, {outcome.wall_s:.1f} s"
            print(f"  {name} {strategy}: {words}", file=sys.stderr, flush=True)
    gc.enable()
    settings = {
        "command": "simulate",
        "agents": agents,
        "tasks": tasks,
        "mean_ms": args.mean_ms,
        "seed": args.seed,
        "strategies": args.strategies,
        "loads": list(loads),
        "costs_us": dataclasses.asdict(costs),
        "took_s": round(time.monotonic() - began, 1),
    }
    print("\n".join([*_table(_figures(outcomes)), "", *_table(_waits(outcomes))]))
    print(f"{len(outcomes) + wrong} runs of {agents:,} agents and {tasks:,} tasks, {wrong} wrong")
    path = RESULTS if is_full else args.json
    if path is not None:
        runs = [{"strategy": strategy} | outcome.as_data() for strategy, outcome in outcomes]
        made = _machine.now()
        data = {"schema": SCHEMA, "made": made, "settings": settings, "machine": machine, "wrong": wrong, "runs": runs}
        _report.write(path, data)
        print(f"written: {path}")
    return 1 if wrong else 0


def _costs(words: Sequence[str]) -> Costs:
    names = [field.name for field in dataclasses.fields(Costs)]
    values = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            values[name] = float(value)
            if name not in names or not 0 <= values[name] < math.inf:
                raise ValueError
        except ValueError:
            raise SystemExit(f"--cost {word!r}: name=us, where name is one of: {' '.join(names)}") from None
    return Costs(**values)


def _figures(outcomes: Sequence[tuple[str, Outcome]]) -> Iterator[tuple[str, ...]]:
    yield ("load", "strategy", "makespan s", "over bound", "Jain", "busiest", "idlest", "tries", "steals", "stolen",
           "moved", "cycles", "parent busy", "wall s", "events/s")  # fmt: skip
    for strategy, o in outcomes:
        yield (
            o.load,
            strategy,
            f"{o.makespan_s:.2f}",
            f"{o.over_bound:.4f}",
            f"{o.jain:.4f}",
            f"{o.busiest_over_mean:.3f}",
            f"{o.idlest_over_mean:.3f}",
            f"{o.steals_attempted:,}",
            f"{o.steals_successful:,}",
            f"{o.tasks_stolen:,}",
            f"{o.migrations:,}",
            f"{o.cycles:,}",
            f"{o.parent_busy:.0%}",
            f"{o.wall_s:.1f}",
            f"{o.events_per_s:,.0f}",
        )


def _waits(outcomes: Sequence[tuple[str, Outcome]]) -> Iterator[tuple[str, ...]]:
    yield ("load", "strategy", "wait by priority, s:", *(f"{p}: p50 / p99" for p in (5, 4, 3, 2, 1)))
    for strategy, o in outcomes:
        waits = (o.waits[priority] for priority in (5, 4, 3, 2, 1))
        yield (o.load, strategy, "", *(f"{_report.short(w['p50_s'])} / {_report.short(w['p99_s'])}" for w in waits))


def _table(lines: Iterator[tuple[str, ...]]) -> list[str]:
    """Aligned text: names to the left, numbers to the right."""
    rows = list(lines)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    return [
        "  ".join(c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
