"""What type checkers make of a scheduler; see `pools.py`."""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

import mpsteal
from mpsteal import Agent, Rebalancing, Task, WorkStealingMetrics, WorkStealingScheduler


def analyse(path: str) -> list[float]:
    return [float(len(path))]


def count(values: list[float]) -> int:
    return len(values)


def making() -> None:
    WorkStealingScheduler("file.yaml", balancing__interval_s=5)
    WorkStealingScheduler(Path("file.yaml"), initializer=count, initargs=([1.0],), context="spawn")
    WorkStealingScheduler({"strategy": "pull"})
    WorkStealingScheduler(3)  # type: ignore[arg-type]
    with WorkStealingScheduler() as scheduler:
        assert_type(scheduler, WorkStealingScheduler)
        assert_type(scheduler.metrics, WorkStealingMetrics)


def tasks(scheduler: WorkStealingScheduler) -> None:
    task = Task("analysis", ["python"], 4, fn=analyse, args=("a",), deadline=3.0, timeout=1.0, retries=2, cost=0.5)
    assert_type(task, Task[list[float]])
    submitted = scheduler.submit_task(task)
    assert_type(submitted, Task[list[float]])
    assert_type(submitted.result(timeout=1.0), list[float])
    assert_type(task.exception(), BaseException | None)
    assert_type(task.state, str)
    assert_type(task.agent_id, str | None)
    assert_type(scheduler.cancel(task.id), bool)
    assert_type(Task("count", fn=count, args=(task,), dependencies=[task]).id, int)
    future: Future[list[float]] = task
    wait([future])
    Task("analysis", priority="high", fn=analyse)  # type: ignore[call-overload]
    Task("analysis", fn=3)  # type: ignore[call-overload]
    wrong: Task[str] = scheduler.submit_task(task)  # type: ignore[arg-type]
    wrong.result()


def markers(scheduler: WorkStealingScheduler) -> None:
    marker = Task("all done", dependencies=[1, 2])
    assert_type(marker, Task[None])
    assert_type(scheduler.submit_task(marker), Task[None])


def many_tasks(scheduler: WorkStealingScheduler) -> None:
    alike = scheduler.submit_tasks(Task("analysis", fn=analyse, args=(path,)) for path in ("a", "b"))
    assert_type(alike, list[Task[list[float]]])
    unlike = scheduler.submit_tasks([*alike, Task("count", fn=count, args=([],)), Task("all done")])
    assert_type(unlike, list[Task[Any]])
    scheduler.submit_tasks(["analysis"])  # type: ignore[arg-type]


def agents(scheduler: WorkStealingScheduler) -> None:
    agent = scheduler.register_agent(Agent("worker", ["python"]))
    assert_type(agent, Agent)
    assert_type(agent.current_task, Task[Any] | None)
    assert_type(agent.pid, int | None)
    assert_type(scheduler.agents, Mapping[str, Agent])
    assert_type(scheduler.request_work("worker"), Rebalancing)
    assert_type(scheduler.tasks, Mapping[int, Task[Any]])
    scheduler.remove_agent(agent, drain=False)
    scheduler.register_agent("worker")  # type: ignore[arg-type]


def errors(task: Task[int]) -> None:
    try:
        task.result()
    except mpsteal.DependencyError as error:
        assert_type(error.root_id, int)
    except mpsteal.UnmatchedTaskError as error:
        assert_type(error.missing, frozenset[str])
