"""Hot spot: 20 tasks wait at the only agent there is; four more register, and the queue spreads out over five.

All five are held at the starting line until the last is there, so that none is ahead because its process started
sooner. What moves before they are let go, the rebalancer pushes; what moves after, the agents mostly pull.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..tasks import Task
from . import work
from .live import Screen
from .stage import Options, open_stage

AGENTS, TASKS = 5, 20
FEWEST, MOST = 1, 10
"""Tasks of one agent when they are spread out; even would be 4."""


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        queued_before: tasks at the first agent before the others came.
        ran_on: agent by task.
        starts, ends: processes that started and ended each task, from a file that the tasks append to.
        names: agent by process.
        metrics: when all was over.
    """

    queued_before: int
    ran_on: dict[int, str]
    starts: dict[int, list[int]]
    ends: dict[int, list[int]]
    names: dict[int, str]
    metrics: dict[str, Any]

    def spread(self) -> dict[str, int]:
        """Tasks by agent."""
        ran = Counter(self.ran_on.values())
        return {name: ran[name] for name in self.names.values()}


def run(screen: Screen, options: Options) -> Report:
    """Heap 20 tasks on one agent, then give it company."""
    seconds = 0.05 if options.quick else 0.4
    with open_stage(screen, options) as stage:
        journal = stage.directory / "journal"
        agents = [stage.register("agent_1", ["python"], held=True)]
        stage.line_up()
        tasks = stage.scheduler.submit_tasks(
            Task(f"task_{i}", ["python"], fn=work.note, args=(str(journal), i, seconds)) for i in range(TASKS)
        )
        stage.until(lambda: all(task.assigned_at for task in tasks), "all tasks queued")
        queued_before = agents[0].queue_length
        stage.table.event(f"  {queued_before} tasks wait at agent_1; four more agents register")
        stage.table.tick(now=True)
        agents += [stage.register(f"agent_{i}", ["python"], held=True) for i in range(2, AGENTS + 1)]
        stage.line_up()
        stage.table.event("  all five are let go")
        stage.release()
        stage.until_over(tasks)
        metrics = stage.steady_metrics()
        names = {agent.pid or 0: agent.agent_id for agent in agents}
        starts, ends = work.read_journal(journal)
    return Report(queued_before, {i: str(tasks[i].agent_id) for i in range(TASKS)}, starts, ends, names, metrics)


def tell(report: Report) -> list[str]:
    """Who ran how many."""
    moved = report.metrics["migrations"]["succeeded"]
    lines = [f"{name} ran {count:>2} {'#' * count}" for name, count in report.spread().items()]
    return [*lines, f"the rebalancer moved {moved}, agents stole {report.metrics['steals']['tasks']}"]


def check(report: Report) -> list[str]:
    """All waited at one agent, each ran once, and every agent had its share."""
    problems = []
    if report.queued_before != TASKS:
        problems.append(f"{report.queued_before} tasks waited at the first agent, not {TASKS}")
    for i in range(TASKS):
        starts, ends = report.starts.get(i, []), report.ends.get(i, [])
        if not len(starts) == len(ends) == 1:
            problems.append(f"task {i} started {len(starts)} times and ended {len(ends)} times")
        elif report.names.get(ends[0]) != report.ran_on.get(i):
            problems.append(f"task {i} ran on {report.names.get(ends[0])}, and it says {report.ran_on.get(i)}")
    for name, count in report.spread().items():
        if not FEWEST <= count <= MOST:
            problems.append(f"{name} ran {count} tasks, not {FEWEST} to {MOST}: they were not spread out")
        if (done := report.metrics["per_agent"][name]["done"]) != count + 1:
            problems.append(f"{name} counted {done} tasks done, and {count} and the one that held it ran there")
    return problems


def checked(report: Report) -> str:
    """What `check` did."""
    counts = list(report.spread().values())
    return (
        f"{TASKS} tasks that waited at one agent ran once each, spread over {len(counts)}: "
        f"{min(counts)} to {max(counts)} on each"
    )
