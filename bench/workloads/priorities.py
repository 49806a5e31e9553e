"""Question: how long does an urgent task wait behind a long queue?

4,000 tasks that spin for 1 ms by the wall clock are submitted one by one, in the suite 1,000, the same for all targets.
While they are worked off, a task that does nothing comes every 5 ms, with priority 5 where the pool knows priorities
(mpsteal's executor and scheduler, dask). Its wait is the time from the start of its submission until it has run, on the
clock that all processes of a machine share: median and p99. The best that is possible is what is left of the tasks that
run, at most 1 ms. `total_s` is the time until everything is done: what the preference costs the others.

The other pools run the urgent tasks as they come, behind all that was submitted before: their figure is about the
length of the queue, and it grows with it. That is no fault of theirs, but what it costs to have no priorities. dask
knows them, but its scheduler reads submissions in their order, and one by one they take it longer than the tasks
themselves: the urgent ones wait to be read before their priority can count.

Not told: how long the result of an urgent task takes to come back (`latency.py` has whole round trips), what happens
behind tasks that are long (no pool here stops one that runs), and the priorities in between.
Urgent tasks that came when the queue had run empty already are left out; a pool that takes long to submit is left with
a shorter queue, and is flattered by that.
"""

from __future__ import annotations

import time

from bench._model import AGENTS, Figure, Row, Setup, check
from bench._targets import warm
from bench._tasks import spin_then_tell
from bench.workloads.latency import percentile

TASK_NS = 1_000_000
PAUSE_S = 0.005
URGENT = 5  # the highest priority
SHARE = 0.8
"""Of the time that the queue takes at best, urgent tasks come in this part: after it, it may be empty already."""


def measure(setup: Setup) -> dict[str, float]:
    n = setup.size(4_000, 400, suite=1_000)
    count = int(n * TASK_NS * 1e-9 / AGENTS * SHARE / PAUSE_S)
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        pool.apply(spin_then_tell, (0, 0))
        began = time.perf_counter()
        handles = [pool.apply_async(spin_then_tell, (i, TASK_NS)) for i in range(n)]
        urgent, sent = [], []
        start = time.perf_counter()
        for k in range(count):
            time.sleep(max(0.0, start + k * PAUSE_S - time.perf_counter()))
            sent.append(time.perf_counter())
            urgent.append(pool.prefer(spin_then_tell, (n + k, 0), URGENT))
        results, preferred = pool.gather(handles), pool.gather(urgent)
        total_s = time.perf_counter() - began
    check([i for i, _, _ in results + preferred], list(range(n + count)), "priorities")
    last_start = max(start for _, start, _ in results)
    waits = sorted((ended - at) * 1e3 for at, (_, _, ended) in zip(sent, preferred, strict=True) if at < last_start)
    if not waits:
        raise AssertionError("the queue was empty before the first urgent task came")
    return {
        "p50_ms": percentile(waits, 0.5),
        "p99_ms": percentile(waits, 0.99),
        "total_s": total_s,
        "counted": len(waits),
    }


ROWS = (
    Row(
        "priorities",
        "urgent tasks behind a queue of 1 ms tasks, until they have run",
        measure,
        (
            Figure("p50_ms", "wait of an urgent task, median", "ms"),
            Figure("p99_ms", "p99", "ms"),
            Figure("total_s", "until all is done", "s"),
        ),
        not_for=frozenset({"serial"}),
    ),
)
