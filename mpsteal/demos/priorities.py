"""Priorities: protected tasks (priority 4 and 5) are handed in last, start first, and are not stolen.

While all agents are held, 15 lower tasks are queued at them, then 8 protected ones are handed in: those stay with the
scheduler, which gives them to whoever is free first. One of the lower tasks is long, so that the others steal what is
queued behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..tasks import Task
from . import work
from .live import Screen
from .stage import Options, open_stage

AGENTS = 3
LOWER, PROTECTED = (3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1), (4, 4, 4, 4, 5, 5, 5, 5)
PROTECTED_FROM = 4


class Ran(NamedTuple):
    """One task, with its timestamps.

    Attributes:
        queued_on: agent at which it was queued, or that it was seen to be given to; None: it was not seen.
        ran_on: agent that ran it.
    """

    name: str
    priority: int
    created_at: float
    assigned_at: float
    started_at: float
    queued_on: str | None
    ran_on: str


@dataclass(frozen=True)
class Report:
    """What came of it: every task in the order of their starts, and the metrics when all was over."""

    tasks: list[Ran]
    metrics: dict[str, Any]

    def protected(self) -> list[Ran]:
        """Tasks of priority 4 and 5."""
        return [task for task in self.tasks if task.priority >= PROTECTED_FROM]

    def lower(self) -> list[Ran]:
        """All others."""
        return [task for task in self.tasks if task.priority < PROTECTED_FROM]


def run(screen: Screen, options: Options) -> Report:
    """Queue lower tasks, hand in protected ones behind them, then let the agents go."""
    short, long = (0.03, 0.5) if options.quick else (0.15, 2.5)
    # How long an agent that is about to start a lower task waits for a protected one: by default no longer than 50 ms,
    # lest a busy scheduler hold it up. Here the order is what is shown, also on a machine that is slow for a moment.
    with open_stage(screen, options, order__ask_s=10.0) as stage:
        for i in range(1, AGENTS + 1):
            stage.register(f"agent_{i}", ["python"], held=True)
        stage.line_up()
        lower = stage.scheduler.submit_tasks(
            Task(f"low_{i}", ["python"], priority=priority, fn=work.spend, args=(0.0, short if i else long))
            for i, priority in enumerate(LOWER)
        )
        stage.until(lambda: all(task.assigned_at for task in lower), "lower tasks queued")
        queued_on = {task.name: task.agent_id for task in lower}
        protected = stage.scheduler.submit_tasks(
            Task(f"protected_{i}", ["python"], priority=priority, fn=work.spend, args=(0.0, short))
            for i, priority in enumerate(PROTECTED)
        )
        stage.until(lambda: stage.scheduler.get_metrics()["tasks"]["held"] == len(protected), "protected tasks held")
        stage.table.tick(now=True)

        def look() -> None:
            for task in protected:
                if task.name not in queued_on and task.assigned_at and not task.done() and (agent := task.agent_id):
                    queued_on[task.name] = agent

        stage.release()
        stage.until_over([*lower, *protected], look=look, every_s=0.005)
        metrics = stage.steady_metrics()
    ran = [
        Ran(
            task.name,
            task.priority,
            task.created_at or 0.0,
            task.assigned_at or 0.0,
            task.started_at or 0.0,
            queued_on.get(task.name),
            str(task.agent_id),
        )
        for task in (*lower, *protected)
    ]
    return Report(sorted(ran, key=lambda task: task.started_at), metrics)


def tell(report: Report) -> list[str]:
    """The order of the starts."""
    lines = ["priorities in the order in which tasks started:"]
    for agent in sorted({task.ran_on for task in report.tasks}):
        mine = [task for task in report.tasks if task.ran_on == agent]
        moved = [task.name for task in mine if task.queued_on not in (None, agent)]
        order = " ".join(str(task.priority) for task in mine)
        lines.append(f"  {agent}: {order}" + (f"   (from others: {', '.join(moved)})" if moved else ""))
    return lines


def check(report: Report) -> list[str]:
    """By their timestamps protected tasks came last and went first, and none ran elsewhere than it was given to."""
    problems = []
    protected, lower = report.protected(), report.lower()
    if len(protected) != len(PROTECTED) or len(lower) != len(LOWER):
        problems.append(f"{len(protected)} protected and {len(lower)} lower tasks ran")
        return problems
    if min(task.created_at for task in protected) < max(task.created_at for task in lower):
        problems.append("a protected task was there before a lower one")
    # A task given to a free agent starts at once, but two processes may reach the start in either order: so it is
    # compared when protected tasks were given out, and the starts within each agent.
    last_given = max(protected, key=lambda task: task.assigned_at)
    first_lower = min(lower, key=lambda task: task.started_at)
    if last_given.assigned_at > first_lower.started_at:
        problems.append(f"{first_lower.name} started before {last_given.name} was given to an agent")
    given = [task.priority for task in sorted(protected, key=lambda task: task.assigned_at)]
    if given != sorted(given, reverse=True):
        problems.append(f"protected tasks were given out in the order {given}")
    for agent in {task.ran_on for task in report.tasks}:
        is_protected = [task.priority >= PROTECTED_FROM for task in report.tasks if task.ran_on == agent]
        if is_protected != sorted(is_protected, reverse=True):
            problems.append(f"{agent} started a lower task before a protected one")
    stolen = [task for task in protected if task.queued_on not in (None, task.ran_on)]
    problems += [f"{task.name} was given to {task.queued_on} and ran on {task.ran_on}" for task in stolen]
    if all(task.queued_on is None for task in protected):
        problems.append("no protected task was seen on its way")
    if all(task.queued_on == task.ran_on for task in lower) or not report.metrics["steals"]["tasks"]:
        problems.append("no lower task was stolen either, so that nothing was shown")
    return problems


def checked(report: Report) -> str:
    """What `check` did."""
    moved = sum(task.queued_on != task.ran_on for task in report.lower())
    return (
        f"{len(report.protected())} protected tasks, handed in after {len(report.lower())} lower ones, started before "
        f"them, 5 before 4; none was stolen, while {moved} lower tasks changed agents"
    )
