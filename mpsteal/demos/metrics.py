"""Full metrics after a mixed load: skills, priorities, dependencies, deadlines, a time limit, failures, a withdrawal.

    at the starting line (everything queued, nothing moves) --> metrics = states of the tasks
    while it runs                                           --> CPU, memory and utilisation by the sampler
    at the end                                              --> metrics = outcomes of the tasks

The report is the metrics in words; the check compares them with what the tasks themselves say (I6: when the engine is
idle, queue lengths, metrics and tasks agree).
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..errors import DeadlineWarning, DependencyError, TaskTimeoutError
from ..tasks import Task
from . import work
from .live import Screen
from .stage import Options, Stage, open_stage

SKILLS = {
    "agent_1": ["python"],
    "agent_2": ["python", "ml"],
    "agent_3": ["python", "ml", "io"],
    "agent_4": ["*"],
    "agent_5": ["fragile"],
}
PIPELINES = 4
DUE_S = 0.01
"""A deadline that none of these tasks can meet."""

NOT_RUN = ("unfinished", "cancelled", DependencyError.__name__)
"""Outcomes of tasks that no agent has started."""

BUSY_TOLERANCE = 0.01
"""Share by which busy time may be off: an agent tells its own when it next looks for work."""


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        held: metrics at the starting line; `states` the tasks' own then.
        peak: the metrics while it ran in which the agents were busiest.
        final: the metrics when all was over; `outcomes` the tasks' own then, errors by the name of their class.
        ran_on: tasks that ended on each agent: well, with an error of their own, or at their time limit.
        lengths: `queue_length` of each agent then.
        late: tasks whose deadline was missed; `warned` those of which it was told at once.
        sums: results of the pipelines.
    """

    held: dict[str, Any]
    states: Counter[str]
    peak: dict[str, Any]
    final: dict[str, Any]
    outcomes: Counter[str]
    ran_on: Counter[str]
    lengths: dict[str, int]
    late: int
    warned: int
    sums: list[int]


def run(screen: Screen, options: Options) -> Report:
    """Load five agents of different skills with a bit of everything."""
    scale, seconds, sample_s = (12, 0.02, 0.1) if options.quick else (60, 0.1, 0.25)
    with open_stage(screen, options, metrics__sample_s=sample_s) as stage:
        for name, skills in SKILLS.items():
            stage.register(name, skills, held=True)
        stage.line_up()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tasks, ends = _hand_in(stage, scale, seconds)
        withdrawn = stage.scheduler.submit_task(Task("withdrawn", ["python"], dependencies=[ends[0]], fn=work.merge))
        stage.scheduler.cancel(withdrawn)
        every = [*tasks, withdrawn, *stage.holds]
        stage.until(lambda: _is_placed(stage, tasks), "all tasks placed")
        held = stage.steady_metrics()
        states = Counter(task.state for task in every)
        stage.release()
        peak = held

        def look() -> None:
            nonlocal peak
            metrics = stage.scheduler.get_metrics()
            if metrics["utilization"] >= peak["utilization"]:
                peak = metrics

        stage.until_over(tasks, look=look, every_s=0.02)
        stage.until(lambda: _is_sampled(stage), "every agent idle and sampled")
        final = stage.steady_metrics()
        lengths = {name: agent.queue_length for name, agent in stage.scheduler.agents.items()}
    ran_on = Counter(str(task.agent_id) for task in every if _outcome(task) not in NOT_RUN)
    return Report(
        held,
        states,
        peak,
        final,
        Counter(map(_outcome, every)),
        ran_on,
        lengths,
        sum(task.deadline_missed for task in every),
        sum(issubclass(warning.category, DeadlineWarning) for warning in caught),
        [task.result() for task in ends],
    )


def _hand_in(stage: Stage, scale: int, seconds: float) -> tuple[list[Task[Any]], list[Task[Any]]]:
    """Everything but the withdrawal; gives all tasks, and the ends of the pipelines."""
    wanted: list[tuple[str, ...]] = [("python",), ("ml",), ("python", "ml"), ("io",), ()]
    tasks: list[Task[Any]] = [
        Task(f"mixed_{i}", wanted[i % len(wanted)], 1 + i % 3, fn=work.spend, args=(seconds / 4, seconds / 2))
        for i in range(scale)
    ]
    tasks += [Task(f"protected_{i}", ["ml"], 4 + i % 2, fn=work.spend, args=(0.0, seconds)) for i in range(4)]
    tasks += [Task(f"in_time_{i}", deadline=300.0, fn=work.spend, args=(0.0, seconds)) for i in range(2)]
    tasks.append(Task("late", deadline=DUE_S, fn=work.spend, args=(0.0, 2 * DUE_S)))
    tasks.append(Task("hopeless", deadline=DUE_S, cost=2 * DUE_S, fn=work.spend, args=(0.0, 2 * DUE_S)))
    tasks.append(Task("endless", ["fragile"], 5, timeout=0.2, fn=work.spend, args=(0.0, 300.0)))
    wrong = Task("wrong", ["python"], fn=work.fail, args=("meant to fail",))
    child = Task("its child", ["python"], dependencies=[wrong], fn=work.merge)
    tasks += [wrong, child, Task("its grandchild", dependencies=[child])]
    ends = []
    for i in range(PIPELINES):
        head = Task(f"load_{i}", ["io"], fn=work.load, args=(100 + i, seconds))
        middle = [
            Task(f"power_{i}_{exponent}", ["python"], 2, fn=work.power, args=(head, exponent, seconds))
            for exponent in (1, 2, 3)
        ]
        end = Task(f"merge_{i}", ["python"], fn=work.merge, args=middle)
        tasks += [head, *middle, end]
        ends.append(end)
    tasks.append(Task("all merged", dependencies=ends))  # a marker: it has nothing to run
    return stage.scheduler.submit_tasks(tasks), ends


def _is_placed(stage: Stage, tasks: list[Task[Any]]) -> bool:
    """Whether everything that waits for no other task is queued or held."""
    counts = stage.scheduler.get_metrics()["tasks"]
    free = sum(not task.dependencies and not any(isinstance(arg, Task) for arg in task.args) for task in tasks)
    return bool(counts["queued"] + counts["held"] == free)


def _is_sampled(stage: Stage) -> bool:
    """Whether every agent is there, the one that was replaced too, and the sampler has seen it."""
    agents = stage.scheduler.get_metrics()["per_agent"].values()
    return all(agent["state"] == "idle" and agent["rss_bytes"] for agent in agents)


def _outcome(task: Task[Any]) -> str:
    if not task.done():
        return "unfinished"
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return "succeeded" if error is None else type(error).__name__


def tell(report: Report) -> list[str]:
    """The metrics in words."""
    m, peak = report.final, report.peak
    tasks, steals, moves = m["tasks"], m["steals"], m["migrations"]
    lines = [
        f"tasks        {tasks['submitted']} submitted: {tasks['succeeded']} succeeded, {tasks['failed']} failed, "
        f"{tasks['cancelled']} cancelled, {tasks['unfinished']} unfinished",
        f"failures     {m['timeouts']} over the time limit, {m['agent_deaths']} with the agent, {m['retried']} retried",
        f"deadlines    {m['deadlines']['missed']} missed, {m['deadlines']['at_risk']} told at submit",
        f"steals       {steals['attempted']} attempted, {steals['successful']} successful ({steals['tasks']} tasks), "
        f"{steals['failed']} failed",
        f"rebalancing  {m['rebalance_cycles']} cycles, {moves['succeeded']} tasks moved, {moves['failed']} not, "
        f"{moves['redistributed']} redistributed",
        f"throughput   {m['throughput_per_s']['mean']:.1f} tasks/s over {m['uptime_s']:.1f} s",
    ]
    for key in ("wait", "run"):
        times = "  ".join(f"{q} {m[key][f'{q}_s'] * 1e3:.1f} ms" for q in ("mean", "p50", "p95", "p99", "max"))
        lines.append(f"{key:<12} {times}  ({m[key]['count']} tasks)")
    lines += [
        "",
        f"{'agent':<8} {'skills':<22} {'done':>4} {'failed':>6} {'rate':>5} {'mean ms':>8} {'busy s':>7} {'took':>4} "
        f"{'gave':>4} {'used':>5} {'CPU':>5} {'MiB':>4}",
    ]
    for name, agent in m["per_agent"].items():
        then = peak["per_agent"].get(name, agent)
        skills = ",".join(skill for skill in agent["capabilities"] if skill != name)
        lines.append(
            f"{name:<8} {skills:<22} {agent['done']:>4} {agent['failed']:>6} {agent['success_rate']:>5.0%} "
            f"{agent['mean_run_s'] * 1e3:>8.1f} {agent['busy_s']:>7.2f} {agent['stolen_by_it']:>4} "
            f"{agent['stolen_from_it']:>4} {then['utilization']:>5.0%} {then['cpu_percent']:>4.0f}% "
            f"{agent['rss_bytes'] / 2**20:>4.0f}"
        )
    return [*lines, "(used and CPU: when the agents were busiest)", ""]


def check(report: Report) -> list[str]:
    """The metrics agree with the tasks, and with each other."""
    return [text for holds, text in [*_at_the_line(report), *_at_the_end(report), *_within(report)] if not holds]


def _at_the_line(report: Report) -> list[tuple[bool, str]]:
    tasks, states, agents = report.held["tasks"], report.states, report.held["per_agent"].values()
    unfinished = states["queued"] + states["running"] + states["waiting"]
    queued = sum(agent["queue_length"] for agent in agents)
    return [
        (
            tasks["queued"] == queued == states["queued"],
            f"held: {tasks['queued']} queued, {queued} at agents, {states}",
        ),
        (tasks["running"] == states["running"] == len(SKILLS), f"held: {tasks['running']} running, and {states}"),
        (tasks["unfinished"] == unfinished, f"held: {tasks['unfinished']} unfinished, and {states}"),
        (0 < tasks["held"] <= states["waiting"], f"held: {tasks['held']} kept back, and {states}"),
    ]


def _at_the_end(report: Report) -> list[tuple[bool, str]]:
    m, outcomes = report.final, report.outcomes
    tasks, agents = m["tasks"], m["per_agent"]
    failed = outcomes.total() - outcomes["succeeded"] - outcomes["cancelled"] - outcomes["unfinished"]
    failed_on_agents = outcomes[ValueError.__name__] + outcomes[TaskTimeoutError.__name__]
    own = {name: agent["done"] + agent["failed"] for name, agent in agents.items()}
    rests = [tasks[key] for key in ("unfinished", "queued", "running", "held")] + list(report.lengths.values())
    sums = [sum(n + n**2 + n**3 for n in range(100 + i)) for i in range(PIPELINES)]
    return [
        (tasks["submitted"] == outcomes.total(), f"{tasks['submitted']} submitted, {outcomes.total()} handed in"),
        (tasks["succeeded"] == outcomes["succeeded"], f"{tasks['succeeded']} succeeded, and {outcomes}"),
        (tasks["cancelled"] == outcomes["cancelled"] == 1, f"{tasks['cancelled']} cancelled, and {outcomes}"),
        (tasks["failed"] == failed, f"{tasks['failed']} failed, and {outcomes}"),
        (not any(rests), f"something is left at the end: {tasks}, {report.lengths}"),
        (own == {name: report.ran_on[name] for name in agents}, f"agents ran {own}, the tasks say {report.ran_on}"),
        (
            sum(agent["failed"] for agent in agents.values()) == failed_on_agents == 2,
            f"failed on agents: {[agent['failed'] for agent in agents.values()]}, and {outcomes}",
        ),
        (m["timeouts"] == outcomes["TaskTimeoutError"] == 1, f"{m['timeouts']} over their limit, and {outcomes}"),
        (outcomes["DependencyError"] == 2, f"a failed task has two dependents, and {outcomes}"),
        (m["deadlines"]["missed"] == report.late == 2, f"{m['deadlines']} and {report.late} tasks that were late"),
        (m["deadlines"]["at_risk"] == report.warned == 1, f"{m['deadlines']} and {report.warned} warnings"),
        (report.sums == sums, f"the pipelines gave {report.sums}, right is {sums}"),
    ]


def _within(report: Report) -> list[tuple[bool, str]]:
    m = report.final
    steals, agents = m["steals"], list(m["per_agent"].values())

    def total(key: str) -> Any:
        return sum(agent[key] for agent in agents)

    measured = sum(report.ran_on.values()) - m["timeouts"]  # what was ended has no run time
    busy_s, run_s = total("busy_s"), m["run"]["mean_s"] * m["run"]["count"]
    times = [[m[key][f"{q}_s"] for q in ("p50", "p95", "p99", "max")] for key in ("wait", "run")]
    shares = [agent["utilization"] for agent in (*agents, *report.peak["per_agent"].values())]
    return [
        (steals["attempted"] == steals["successful"] + steals["failed"], f"steals do not add up: {steals}"),
        (
            steals["tasks"] == total("stolen_by_it") == total("stolen_from_it"),
            f"{steals['tasks']} stolen, {total('stolen_by_it')} taken, {total('stolen_from_it')} given",
        ),
        (steals["successful"] == total("steals"), f"{steals} and {total('steals')} by agents"),
        (
            m["wait"]["count"] == m["run"]["count"] == measured,
            f"{m['wait']['count']} waits and {m['run']['count']} runs of {measured} tasks that ran to their end",
        ),
        (all(row == sorted(row) for row in times), f"percentiles out of order: {times}"),
        (abs(busy_s - run_s) <= BUSY_TOLERANCE * run_s, f"agents were busy for {busy_s} s, tasks ran for {run_s} s"),
        (all(0 <= share <= 1 for share in shares), f"utilisation out of range: {shares}"),
        (all(agent["rss_bytes"] > 0 for agent in agents), "an agent without memory"),
        (json.loads(json.dumps(m)) == m, "the metrics do not survive JSON"),
    ]


def checked(report: Report) -> str:
    """What `check` did."""
    outcomes = report.outcomes
    return (
        f"metrics, agents and {outcomes.total()} tasks agree at the starting line and at the end: "
        f"{outcomes['succeeded']} succeeded, {report.final['tasks']['failed']} failed as meant, "
        f"{outcomes['cancelled']} cancelled; steals, times and shares add up"
    )
