"""Cascading failure: three of five agents are killed one after the other while tasks flow.

    kill -9 --> its queue goes to those that are left
          '--> the task that it ran: runs again (if it may), else its handle reports AgentDiedError

Nobody takes the place of the dead (`agents.replace_dead: false`), so each death leaves more for fewer. The tasks append
to a file as they start and end: their own account, to be compared with the scheduler's.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ..agents import Agent
from ..errors import AgentDiedError
from ..tasks import Task
from . import work
from .live import Screen
from .stage import Options, Stage, open_stage

AGENTS = 5
WAVE = 20
"""Tasks handed in before each kill, and at the end."""

WAVE_LEFT = 15
"""Unfinished tasks at which the next agent is killed: some have run, and queues are not empty."""

VICTIM_S = 1.0
"""Longest search for an agent that runs a task of the kind to be shown."""


class Kill(NamedTuple):
    """One agent that was killed, and what it had queued a moment before."""

    agent: str
    pid: int
    queued: int


class Outcome(NamedTuple):
    """How one task ended: the process that its result names, or the error."""

    may_retry: bool
    pid: int | None
    error: BaseException | None
    answers: int
    """How often its callback was called."""


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        planned: how many agents were to be killed.
        outcomes: by task.
        starts, ends: processes that started and ended each task, from the file that the tasks append to.
        metrics: when all was over.
    """

    planned: int
    kills: list[Kill]
    outcomes: dict[int, Outcome]
    starts: dict[int, list[int]]
    ends: dict[int, list[int]]
    metrics: dict[str, Any]


def run(screen: Screen, options: Options) -> Report:
    """Kill agents of this demo, and of no one else, by their pid."""
    planned, seconds = (2, 0.04) if options.quick else (3, 0.12)
    kills: list[Kill] = []
    tasks: list[Task[Any]] = []
    answers: Counter[int] = Counter()
    with open_stage(screen, options, agents__replace_dead=False) as stage:
        journal = stage.directory / "journal"

        def hand_in() -> None:
            numbers = range(len(tasks), len(tasks) + WAVE)
            wave = [
                Task(f"task_{i}", ["python"], fn=work.note, args=(str(journal), i, seconds), retries=AGENTS * (i % 2))
                for i in numbers
            ]
            for i, task in zip(numbers, wave, strict=True):
                task.add_done_callback(partial(_count, answers, i))
            tasks.extend(stage.scheduler.submit_tasks(wave))

        def is_flowing() -> bool:
            return sum(not task.done() for task in tasks) <= WAVE_LEFT

        alive = [stage.register(f"agent_{i}", ["python"]) for i in range(1, AGENTS + 1)]
        for n in range(planned):
            victim = None
            while victim is None:
                hand_in()
                stage.until(is_flowing, "tasks flowing")
                victim = _find_victim(stage, alive, may_retry=n % 2 == 0)
            alive.remove(victim)
            kills.append(_kill(stage, victim))
        hand_in()
        stage.until_over(tasks)
        stage.until(lambda: sum(answers.values()) >= len(tasks), "all callbacks called")
        metrics = stage.steady_metrics()
        starts, ends = work.read_journal(journal)
    outcomes = {}
    for i, task in enumerate(tasks):
        error = task.exception()
        outcomes[i] = Outcome(task.retries > 0, None if error else task.result(), error, answers[i])
    return Report(planned, kills, outcomes, starts, ends, metrics)


def _count(answers: Counter[int], i: int, _: Any) -> None:
    answers[i] += 1


def _find_victim(stage: Stage, alive: list[Agent], *, may_retry: bool) -> Agent | None:
    """The agent with the longest queue that runs a task of the wanted kind; after a while one that runs any. None: all
    are idle."""
    limit = time.monotonic() + VICTIM_S
    while True:
        running = [(agent, task) for agent in alive if (task := agent.current_task) is not None]
        wanted = [agent for agent, task in running if (task.retries > 0) == may_retry and agent.queue_length]
        if wanted or not running or time.monotonic() > limit:
            found = wanted or [agent for agent, _ in running]
            return max(found, key=lambda agent: agent.queue_length, default=None)
        stage.table.tick()
        time.sleep(0.002)


def _kill(stage: Stage, victim: Agent) -> Kill:
    kill = Kill(victim.agent_id, victim.pid or 0, victim.queue_length)
    task = victim.current_task
    if kill.pid:
        os.kill(kill.pid, signal.SIGKILL)
    running = "nothing" if task is None else f"{task.name} ({'may run again' if task.retries else 'may not'})"
    stage.table.event(f"  killed {kill.agent} (pid {kill.pid}): ran {running}, {kill.queued} queued")
    stage.until(lambda: victim.state == "gone", f"the death of {kill.agent} noticed")
    return kill


def tell(report: Report) -> list[str]:
    """What the deaths cost."""
    metrics = report.metrics
    lines = [
        f"{len(report.kills)} agents killed, {metrics['migrations']['redistributed']} queued tasks given to others, "
        f"{metrics['retried']} run again"
    ]
    lines += [f"task_{i} reports: {it.error}" for i, it in report.outcomes.items() if it.error is not None]
    return lines


def check(report: Report) -> list[str]:
    """Every task has one outcome, and the tasks' own account agrees with it."""
    problems = []
    killed = {kill.pid for kill in report.kills}
    metrics, tasks = report.metrics, report.metrics["tasks"]
    if len(report.kills) != report.planned:
        problems.append(f"{len(report.kills)} agents were killed, not {report.planned}")
    for i, outcome in report.outcomes.items():
        problems += [f"task {i}: {text}" for text in _check_task(outcome, report, i, killed)]
    reported = sum(it.error is not None for it in report.outcomes.values())
    succeeded = len(report.outcomes) - reported
    if (tasks["succeeded"], tasks["failed"], tasks["unfinished"]) != (succeeded, reported, 0):
        problems.append(f"{succeeded} tasks succeeded and {reported} reported a death, and the metrics say {tasks}")
    if metrics["retried"] + reported != metrics["agent_deaths"]:
        problems.append(f"{metrics['agent_deaths']} tasks died: {metrics['retried']} ran again, {reported} reported it")
    starts = sum(map(len, report.starts.values()))
    if starts > len(report.outcomes) + metrics["retried"]:
        problems.append(f"{starts} starts of {len(report.outcomes)} tasks of which {metrics['retried']} ran again")
    if not metrics["migrations"]["redistributed"]:
        problems.append("no queued task was given to another agent")
    if metrics["agents"]["registered"] != AGENTS - len(report.kills):
        problems.append(f"{metrics['agents']['registered']} agents are left of {AGENTS} less {len(report.kills)}")
    return problems


def _check_task(outcome: Outcome, report: Report, i: int, killed: set[int]) -> list[str]:
    starts, ends = report.starts.get(i, []), report.ends.get(i, [])
    problems = []
    if outcome.answers != 1:
        problems.append(f"answered {outcome.answers} times")
    if outcome.error is None:
        # Once for good; before that, only where a kill came in between.
        if starts.count(outcome.pid or 0) != 1 or ends.count(outcome.pid or 0) != 1:
            problems.append(f"its result is from process {outcome.pid}, and it started in {starts}, ended in {ends}")
        if others := {*starts, *ends} - killed - {outcome.pid}:
            problems.append(f"it also ran in {sorted(others)}, which nobody killed")
    elif not isinstance(outcome.error, AgentDiedError) or outcome.may_retry:
        problems.append(f"it failed: {outcome.error!r}")
    elif outcome.error.pid not in killed or len(starts) > 1 or not killed.issuperset(starts):
        problems.append(f"it reports the death of {outcome.error.pid}, and it started in {starts}")
    return problems


def checked(report: Report) -> str:
    """What `check` did."""
    reported = sum(it.error is not None for it in report.outcomes.values())
    succeeded = len(report.outcomes) - reported
    return (
        f"{len(report.outcomes)} tasks, {len(report.kills)} of {AGENTS} agents killed: {succeeded} tasks ended well "
        f"once each ({report.metrics['retried']} on another try), {reported} reported that its agent died, none lost"
    )
