"""Basic stealing: five agents, and tasks of which the heavy ones all land on the first of them.

    30 tasks, the heavy first --dealt in order--> agent_1: 6 heavy   agent_2 .. agent_5: 6 light each
                                                           '--------------- steal ----'

The strategy is "pull": nothing moves a task but an agent that has run out of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..tasks import Task
from . import work
from .live import Screen
from .stage import Options, open_stage

AGENTS = 5
HEAVY, LIGHT = 6, 24


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        inputs, results: of each task, by its name.
        dealt_to, ran_on: agent by task.
        metrics: when all was over.
    """

    inputs: dict[str, int]
    results: dict[str, int]
    dealt_to: dict[str, str]
    ran_on: dict[str, str]
    metrics: dict[str, Any]

    def moved(self) -> list[str]:
        """Tasks that ran elsewhere than where they were queued."""
        return [name for name, agent in self.ran_on.items() if agent != self.dealt_to[name]]


def run(screen: Screen, options: Options) -> Report:
    """Have five agents count primes."""
    heavy, light = (60_000, 15_000) if options.quick else (350_000, 100_000)
    inputs = {f"primes_{i}": (heavy if i < HEAVY else light) + 10 * i for i in range(HEAVY + LIGHT)}
    with open_stage(screen, options, strategy="pull") as stage:
        for i in range(1, AGENTS + 1):
            stage.register(f"agent_{i}", ["python"], held=True)
        stage.line_up()
        tasks = stage.scheduler.submit_tasks(
            Task(name, ["python"], fn=work.count_primes, args=(below,)) for name, below in inputs.items()
        )
        stage.until(lambda: all(task.assigned_at for task in tasks), "all tasks dealt")
        dealt_to = {task.name: str(task.agent_id) for task in tasks}
        stage.release()
        stage.until_over(tasks)
        metrics = stage.steady_metrics()
    results = {task.name: task.result() for task in tasks}
    return Report(inputs, results, dealt_to, {task.name: str(task.agent_id) for task in tasks}, metrics)


def tell(report: Report) -> list[str]:
    """Who took what from whom."""
    thefts: dict[tuple[str, str], list[str]] = {}
    for name in report.moved():
        thefts.setdefault((report.ran_on[name], report.dealt_to[name]), []).append(name)
    return [
        f"{thief} ran {len(names)} that had been dealt to {victim}: {', '.join(names)}"
        for (thief, victim), names in sorted(thefts.items())
    ]


def check(report: Report) -> list[str]:
    """Right results, each task run once, something stolen, and all counts of it equal."""
    problems = []
    if missing := report.inputs.keys() - report.results.keys():
        problems.append(f"without a result: {', '.join(sorted(missing))}")
    known = _primes_below(max(report.inputs.values()))
    for name, found in report.results.items():
        if found != (right := known[report.inputs[name]]):
            problems.append(f"{name}: {found} primes below {report.inputs[name]}, and there are {right}")
    agents, steals = report.metrics["per_agent"], report.metrics["steals"]
    ran = Counter(report.ran_on.values())
    for name, agent in agents.items():
        if agent["done"] != ran[name] + 1:  # and the one that held it
            problems.append(f"{name} counted {agent['done']} tasks done, and {ran[name]} and 1 that held it ran there")
    took, gave = (sum(agent[key] for agent in agents.values()) for key in ("stolen_by_it", "stolen_from_it"))
    if not took == gave == steals["tasks"]:
        problems.append(f"{took} tasks taken, {gave} given, {steals['tasks']} stolen in all")
    if not 0 < len(report.moved()) <= steals["tasks"]:
        problems.append(f"{len(report.moved())} tasks ran elsewhere than dealt, {steals['tasks']} were stolen")
    return problems


def checked(report: Report) -> str:
    """What `check` did."""
    steals = report.metrics["steals"]
    return (
        f"{len(report.results)} results are right, each task ran once; {len(report.moved())} ran on another agent than "
        f"dealt to, in {steals['successful']} steals"
    )


def _primes_below(limit: int) -> list[int]:
    """How many primes there are below each number up to the limit, by a sieve: another way than the tasks'."""
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    counts = [0]
    for is_prime in sieve:
        counts.append(counts[-1] + is_prime)
    return counts
