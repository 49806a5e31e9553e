"""Question: how does the policy of `mpsteal.Pool` compare with other ways to share a loop among 10 to 10,000 agents?

The same tasks, the same prices (`bench._des.Costs`), virtual time, every run verified: each task ran once, no agent did
two things at once. 100 tasks per agent, of 100 ms and of 1 ms on average, six loads (`bench._scale.lengths`). Schemes:

    mpsteal         the Pool's policy: ranges dealt in rounds, thieves take half of the longest queue's last range
    mpsteal-map     as `Pool.map` has it without `chunksize`: its parent cuts as it goes, and pays for each task
    scheduler       the scheduler's policy in the engine of `bench._des`: placed one by one, up to three stolen or moved
    fours-sample    not in the package: ranges dealt in fewer pieces, thieves look at eight queues
    random-root     random victims, half of a range, from one agent that has everything (as Cilk runs a loop)
    random-half     the same, but dealt evenly to begin with
    random-one      the same, one task a steal
    static          n/p tasks each
    stock           four equal pieces per agent, from the parent, as `multiprocessing.Pool.map`
    self            one by one from the parent
    guided          1/p of what is left, from the parent
    factoring       batches of p pieces, half of what is left

    over bound      makespan / max(sum of all / agents, longest): no schedule can end sooner
    steals, failed  per agent: steals that took something; rounds (random schemes: victims asked) that found nothing
    messages        hand-offs of work from one process to another, per task: pieces the parent gave, and steals

`mpsteal-map` and `scheduler` pay for what their parent does with each task. All others are policies alone: the tasks
lie in memory that agents can read. So compare the policies with each other, and these two with `mpsteal`, to see what
the parent costs. These two, `random-half`, `random-one`, `self` and all loads but one are left out above 1,000 agents,
where a run can take minutes; name them (`--schemes`, `--loads`) to have them.

Not told: anything that `bench._des` leaves out; what results cost; that to ring an agent takes the ringer a moment.
With few agents one draw decides much, so up to nine seeds are run, and the median and range given.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench import _machine, _report
from bench._des import Costs, S, Simulation, Workload
from bench._model import WrongResult
from bench._scale import LOADS, Books, Counts, bound_ns, lengths
from bench._scale_central import factoring, guided, one_each, run_central, run_static, stock
from bench._scale_steal import Stealing, Way
from bench.simulate import _costs, _table
from mpsteal._policy.rules import build

RESULTS = Path(__file__).parent / "results" / "scale_simulation.json"
SCHEMA = 1
AGENTS = (10, 100, 1_000, 10_000)
MEANS_MS = (100.0, 1.0)
PER_AGENT = 100

Scheme = Callable[["array[int]", int, Costs, int], tuple[float, Counts]]
"""(tasks, agents, costs, seed) -> makespan (ns) and counts. Raises `WrongResult`."""


def _of(books: Books, counts: Counts) -> tuple[float, Counts]:
    return books.makespan_ns, counts


def _central(sizes: Any, tasks: array[int], agents: int, costs: Costs, seed: int) -> tuple[float, Counts]:
    del seed  # nothing is drawn
    return _of(*run_central(tasks, agents, sizes, costs))


def _static(tasks: array[int], agents: int, costs: Costs, seed: int) -> tuple[float, Counts]:
    del seed
    return _of(*run_static(tasks, agents, costs))


def _stealing(way: Way, tasks: array[int], agents: int, costs: Costs, seed: int) -> tuple[float, Counts]:
    return _of(*Stealing(tasks, agents, way, costs, seed).run())


class _CountedSimulation(Simulation):
    """Counts the ranges that the parent gives to agents, whether new, held back or moved."""

    pushes = 0

    def _push(self, agent: int, level: int, lo: int, hi: int, number: int) -> None:
        self.pushes += 1
        super()._push(agent, level, lo, hi, number)


def _scheduler(tasks: array[int], agents: int, costs: Costs, seed: int) -> tuple[float, Counts]:
    """With its stock rules, tasks of one skill and priority 3."""
    del seed
    n = len(tasks)
    load = Workload(
        name="scale",
        capabilities=[frozenset({"python"})] * agents,
        joins=[0] * agents,
        skill_sets=[frozenset({"python"})],
        releases=array("q", bytes(8 * n)),
        durations=tasks,
        priorities=bytearray([3]) * n,
        skills=array("i", bytes(4 * n)),
    )
    simulation = _CountedSimulation(load, build({}), costs)
    outcome = simulation.run()
    counts = Counts(
        messages=simulation.pushes + outcome.steals_successful,
        steals=outcome.steals_successful,
        tasks_stolen=outcome.tasks_stolen,
        failed=outcome.steals_attempted - outcome.steals_successful,
        parent_ns=round(outcome.parent_busy * outcome.makespan_s * S),
    )
    return outcome.makespan_s * S, counts


SCHEMES: dict[str, Scheme] = {
    "mpsteal": partial(_stealing, Way("rounds", "longest")),
    "mpsteal-map": partial(_stealing, Way("map", "longest")),
    "scheduler": _scheduler,
    "fours-sample": partial(_stealing, Way("fours", "sample")),
    "random-root": partial(_stealing, Way("root", "random")),
    "random-half": partial(_stealing, Way("evenly", "random")),
    "random-one": partial(_stealing, Way("evenly", "random", takes_half=False)),
    "static": _static,
    "stock": partial(_central, stock),
    "self": partial(_central, one_each),
    "guided": partial(_central, guided),
    "factoring": partial(_central, factoring),
}
UP_TO_1000 = ("mpsteal-map", "scheduler", "random-half", "random-one", "self")

LOADS_FOR_MANY = ("uniform",)
"""Above 1,000 agents a run with defaults has these loads, and no scheme of `UP_TO_1000`."""


@dataclasses.dataclass
class Record:
    """What a scheme came to with a load, a number of agents and a mean, over all seeds: `over_bound` as median and
    range, all else as mean. Times in seconds of the simulation."""

    scheme: str
    load: str
    agents: int
    mean_ms: float
    tasks: int
    seeds: list[int]
    over_bound: float
    over_bound_range: tuple[float, float]
    makespan_s: float
    bound_s: float
    steals_per_agent: float
    stolen_per_agent: float
    failed_per_agent: float
    messages_per_task: float
    parent_busy: float

    @property
    def key(self) -> tuple[Any, ...]:
        return self.agents, self.mean_ms, self.scheme, self.load


def seeds_for(agents: int) -> int:
    """How many: nine with 10 agents, five with 100, else one, since long runs even out by themselves."""
    return max(1, min(9, 500 // agents))


@lru_cache(maxsize=9)
def _lengths(load: str, agents: int, per_agent: int, mean_ms: float, seed: int) -> array[int]:
    """One scheme after the other gets the same tasks: to make a million takes a second. Nobody changes them."""
    return lengths(load, agents=agents, per_agent=per_agent, mean_ms=mean_ms, seed=seed)


def measure(
    scheme: str, load: str, *, agents: int, mean_ms: float, per_agent: int, seeds: list[int], costs: Costs
) -> Record:
    """Raises `WrongResult` if a run lost a task or ran one twice, or ended before any schedule could."""
    rows: list[list[float]] = []
    for one in seeds:
        tasks = _lengths(load, agents, per_agent, mean_ms, one)
        bound = bound_ns(tasks, agents)
        makespan, counts = SCHEMES[scheme](tasks, agents, costs, one)
        if makespan < bound:
            raise WrongResult(f"{scheme} {load}: ended at {makespan} ns, before {bound} ns")
        per = [counts.steals / agents, counts.tasks_stolen / agents, counts.failed / agents]
        more = [counts.messages / len(tasks), min(1.0, counts.parent_ns / makespan)]
        rows.append([makespan / bound, makespan / S, bound / S, *per, *more])
    over = [row[0] for row in rows]
    means = [fmean(column) for column in zip(*[row[1:] for row in rows], strict=True)]
    return Record(
        scheme, load, agents, mean_ms, agents * per_agent, seeds, median(over), (min(over), max(over)), *means
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, nargs="+", help="default 10 100 1000 10000, with --quick 10 50")
    parser.add_argument("--means", type=float, nargs="+", default=list(MEANS_MS), metavar="MS", help="default 100 1")
    parser.add_argument("--per-agent", type=int, default=PER_AGENT, metavar="N", help="tasks per agent (100)")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), metavar="LOAD", help="only these")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, metavar="SCHEME", help="only these")
    parser.add_argument("--seed", type=int, default=1, help="the first of the seeds (1)")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="so many; default 9 with 10 agents to 1 with 500 and more"
    )
    parser.add_argument("--cost", nargs="+", default=[], metavar="NAME=US", help="prices, see bench._des.Costs")
    parser.add_argument("--quick", action="store_true", help="few agents, one seed, a few seconds")
    parser.add_argument("--json", type=Path, metavar="PATH", help=f"a run with defaults writes {RESULTS.name}")
    parser.add_argument(
        "--measured", action="store_true", help="only the rows skew-* of the pool's table, beside theirs"
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="put these runs in place of the same ones in the file, and keep the others",
    )


def run(args: argparse.Namespace) -> int:
    """Return 0 if every run was verified, else 1; usage errors exit 2."""
    sizes = args.agents or ((10, 50) if args.quick else AGENTS)
    if args.seeds is not None and args.seeds < 1:
        raise SystemExit("--seeds must be above 0")
    if min(sizes) < 1 or min(args.means) <= 0 or args.per_agent < 1:
        raise SystemExit("agents, means and tasks per agent must be above 0")
    costs = _costs(args.cost)
    if args.measured:
        print("\n".join(_table(_beside_measured(costs))))
        return 0
    is_full = not (args.quick or args.agents or args.schemes or args.seeds or args.cost or args.json)
    is_full = is_full and (args.means, args.per_agent, args.loads, args.seed) == ([*MEANS_MS], PER_AGENT, [*LOADS], 1)
    path = args.json or (RESULTS if is_full or args.update else None)
    settings = {"command": "scale", "per_agent": args.per_agent, "seed": args.seed}
    settings["costs_us"] = dataclasses.asdict(costs)
    kept = _stored(path, settings) if args.update else []
    records: list[Record] = []
    wrong = 0
    gc.disable()  # nothing here is cyclic
    for agents in sizes:
        for mean_ms in args.means:
            for load in args.loads:
                began = time.perf_counter()
                if agents > 1_000 and load not in LOADS_FOR_MANY and args.loads == list(LOADS):
                    continue
                for scheme in args.schemes or SCHEMES:
                    if agents > 1_000 and scheme in UP_TO_1000 and not args.schemes:
                        continue
                    size = {"agents": agents, "mean_ms": mean_ms, "per_agent": args.per_agent}
                    count = 1 if args.quick else seeds_for(agents)
                    seeds = [args.seed + k for k in range(args.seeds or count)]
                    try:
                        records.append(measure(scheme, load, **size, seeds=seeds, costs=costs))
                    except WrongResult as error:
                        wrong += 1
                        print(f"  {scheme} {load} {agents}: {error}", file=sys.stderr, flush=True)
                took = time.perf_counter() - began
                print(f"  {agents} agents, {mean_ms:g} ms, {load}: {took:.1f} s", file=sys.stderr, flush=True)
    gc.enable()
    for agents in sizes:
        for mean_ms in args.means:
            print(f"\n{agents:,} agents, {agents * args.per_agent:,} tasks of {mean_ms:g} ms; makespan over bound")
            print("\n".join(_table(_rows([r for r in records if (r.agents, r.mean_ms) == (agents, mean_ms)]))))
    print(f"\n{len(records) + wrong} schemes and loads, {wrong} wrong")
    if path is not None:
        made = {record.key: record for record in [*kept, *records]}
        _report.write(path, _document(list(made.values()), settings, wrong))
        print(f"written: {path}")
    return 1 if wrong else 0


def _beside_measured(costs: Costs) -> Iterator[tuple[str, ...]]:
    """Makespan over bound of two schemes that were also measured: eight agents that sleep (`bench.workloads.skew`)."""
    from bench.workloads import skew  # pools, which nothing else here needs

    measured = {
        figure["row"]: figure
        for figure in json.loads((RESULTS.parent / "pool.json").read_text())["figures"]
        if figure["key"] == "over_slept"
    }
    yield ("row", "", "stock simulated", "stock measured", "mpsteal-map simulated", "mpsteal measured")
    for row, figure in measured.items():
        tasks = array("q", [int(seconds * S) for seconds in skew.lengths(row.removeprefix("skew-"))])
        bound = bound_ns(tasks, skew.SLEEPERS)
        cells = []
        for scheme, pool in (("stock", "stock"), ("mpsteal-map", "mpsteal")):
            makespan, _ = SCHEMES[scheme](tasks, skew.SLEEPERS, costs, 1)
            cells += [f"{makespan / bound:.3f}", f"{figure[pool]['median']:.3f}"]
        yield (row, "", *cells)


def _rows(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    """A line per scheme: over bound by load, then the other figures as means over the loads."""
    loads = list(dict.fromkeys(record.load for record in records))
    yield ("scheme", "", *loads, "steals/agent", "failed/agent", "messages/task", "parent busy")
    for scheme in dict.fromkeys(record.scheme for record in records):
        own = [record for record in records if record.scheme == scheme]
        over = {record.load: f"{record.over_bound:.3f}" for record in own}
        yield (
            scheme,
            "",
            *(over.get(load, "-") for load in loads),
            f"{fmean(r.steals_per_agent for r in own):.2f}",
            f"{fmean(r.failed_per_agent for r in own):.2f}",
            f"{fmean(r.messages_per_task for r in own):.3f}",
            f"{fmean(r.parent_busy for r in own):.0%}",
        )


def _document(records: Sequence[Record], settings: dict[str, Any], wrong: int) -> dict[str, Any]:
    order = {name: k for k, name in enumerate([*SCHEMES, *LOADS])}
    ordered = sorted(records, key=lambda r: (r.agents, -r.mean_ms, order[r.load], order[r.scheme]))
    return {
        "schema": SCHEMA,
        "made": _machine.now(),
        "settings": settings,
        "machine": _machine.describe(),
        "wrong": wrong,
        "runs": [rounded(dataclasses.asdict(record)) for record in ordered],
    }


def rounded(value: Any) -> Any:
    """Floats to seven digits: what is left of them says nothing, and the file stays readable."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


def _stored(path: Path | None, settings: dict[str, Any]) -> list[Record]:
    """The runs of the file, if there is one. Exits when they were made with other settings."""
    assert path is not None
    if not path.exists():
        return []
    data = json.loads(path.read_text())
    if data["schema"] != SCHEMA or data["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings: {data['settings']}")
    return [Record(**entry) for entry in data["runs"]]
