"""Question: how long does the parent take to spread a hot spot?

Five agents, each held inside a task, so that none can steal; 20 tasks on one of them, because it alone has their skill
by name and the others take them as a fallback. Then `scheduler.rebalance()` until it moves nothing more. With the stock
rules a cycle moves three tasks at most, and the fifth finds the longest queue, 8, below three times the shortest, 3.

    took   the sum of what the reports say: the engine's thread, inside the cycles
    wall   what the caller waits for, the hand-over to that thread and back included, five times

Repeated on one scheduler, ten times to warm up and then counted; the median is shown. Where the tasks are after each
repetition, and that all gave their result in the end, is checked.

Not told: how long agents take to notice (they are held), or the cost among many agents (`python -m bench simulate`
has the number of cycles, and `assign` what one decision costs). Peer: none here; the re-created system allowed 1 s.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from bench._model import Figure, Row, Setup, WrongResult, at_most
from bench._tasks import noop
from bench.scheduler_setup import held, running

if TYPE_CHECKING:
    from mpsteal._engine.balance import Rebalancing

AGENTS = {"hot": ("hot",)} | {f"other_{k}": ("*",) for k in range(4)}
TASKS, SPREAD, WARM = 20, [3, 3, 3, 3, 8], 10


def measure(setup: Setup) -> dict[str, float]:
    from mpsteal import Task

    took, wall, cycles = [], [], 0
    with running(AGENTS, strategy="pull") as scheduler:  # pull: no cycles but those that are asked for
        for repetition in range(WARM + setup.size(100, 10)):
            with held(scheduler) as let_go:
                tasks = scheduler.submit_tasks(Task("hot", ["hot"], fn=noop, args=(i,)) for i in range(TASKS))
                hot = scheduler.agents["hot"]
                while hot.queue_length < TASKS:
                    time.sleep(0.0005)
                reports: list[Rebalancing] = []
                began = time.perf_counter()
                while not reports or reports[-1].moved:
                    reports.append(scheduler.rebalance())
                ended = time.perf_counter()
                lengths = sorted(reports[-1].after.values())
                if lengths != SPREAD or any(report.failed for report in reports):
                    raise WrongResult(f"rebalance: {lengths} are queued in place of {SPREAD}")
                let_go()
                if [task.result() for task in tasks] != list(range(TASKS)):
                    raise WrongResult("rebalance: a task gave something else than its number")
            if repetition >= WARM:
                took.append(sum(report.took_s for report in reports))
                wall.append(ended - began)
                cycles = len(reports)
    return {
        "took_ms": statistics.median(took) * 1e3,
        "wall_ms": statistics.median(wall) * 1e3,
        "cycles": cycles,
        "per_cycle_us": statistics.median(took) / cycles * 1e6,
    }


ROWS = (
    Row(
        "rebalance",
        "20 tasks on one of 5 agents are spread",
        measure,
        (
            Figure("took_ms", "all cycles, engine's thread", "ms", at_most(2, "value")),
            Figure("wall_ms", "all cycles, as the caller sees it", "ms", at_most(2, "value")),
            Figure("per_cycle_us", "one cycle", "us"),
            Figure("cycles", "cycles", ""),
        ),
    ),
)
