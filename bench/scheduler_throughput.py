"""Question: how many tasks a second pass through the scheduler, when the tasks do nothing?

100,000 no-ops, each with one of three sets of skills, on two agents, one of which lacks a skill; every result fetched
and checked. The clock runs from the first `Task(...)` to the last `result()`, on agents that are warm.

    throughput        `submit_task` one by one, priorities 1 to 5 in turn: two in five are protected, and held back
    throughput-bulk   the same tasks in one `submit_tasks`
    throughput-flat   one by one, priority 3 only
    throughput-pool   the peer: `mpsteal.Pool.apply_async`, as in `bench.workloads.submit`

Each in a process of its own, in turns, round by round; `x Pool` divides two runs of one round.

Not told: anything about tasks that do work, where all of this is hidden behind them, about deadlines and dependencies,
or about large arguments. It is wall time, with the parent and both agents sharing the cores.
"""

from __future__ import annotations

import time
from functools import partial

from bench._model import AGENTS, Figure, Goal, Row, Setup, at_most, check
from bench.scheduler_setup import TWO_AGENTS, running, task_maker
from bench.workloads import submit

PEER = "throughput-pool"
TIMES_POOL = Figure("times_pool", "x Pool.apply_async", "x", at_most(3, "value"))
"""Computed by `bench.scheduler` from two processes' figures."""


def measure(setup: Setup, *, bulk: bool, mixed: bool) -> dict[str, float]:
    n = setup.size(100_000, 10_000)
    assert len(TWO_AGENTS) == AGENTS
    make_task = task_maker(mixed)
    with running(TWO_AGENTS) as scheduler:
        for _ in range(3):
            for task in scheduler.submit_tasks([make_task(i) for i in range(32 * AGENTS)]):
                task.result()
        submit_task = scheduler.submit_task
        began = time.perf_counter()
        if bulk:
            tasks = scheduler.submit_tasks([make_task(i) for i in range(n)])
        else:
            tasks = [submit_task(make_task(i)) for i in range(n)]
        submitted = time.perf_counter()
        results = [task.result() for task in tasks]
        ended = time.perf_counter()
    check(results, list(range(n)), "throughput")
    return {
        "per_second": n / (ended - began),
        "us_per_task": (ended - began) / n * 1e6,
        "us_per_submit": (submitted - began) / n * 1e6,
    }


def _row(name: str, title: str, *, bulk: bool = False, mixed: bool = True, goal: Goal | None = None) -> Row:
    return Row(
        name,
        title,
        partial(measure, bulk=bulk, mixed=mixed),
        (
            Figure("per_second", "tasks a second", "/s", goal),
            Figure("us_per_task", "time per task", "us"),
            Figure("us_per_submit", "of it before all were submitted", "us"),
        ),
    )


ROWS = (
    Row(
        PEER,
        "100,000 Pool.apply_async(noop, (i,)), for comparison",
        submit.measure,
        (Figure("us_per_task", "time per task", "us"), Figure("us_per_submit", "of it inside apply_async", "us")),
    ),
    _row("throughput", "100,000 submit_task(noop), skills, priorities 1 to 5", goal=Goal("value", ">=", 50_000)),
    _row("throughput-bulk", "the same in one submit_tasks", bulk=True),
    _row("throughput-flat", "submit_task, skills, priority 3 only", mixed=False),
)
