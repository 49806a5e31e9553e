"""Question: what does one submitted task cost, when the task itself does nothing?

100,000 ``apply_async(noop, (i,))`` from one thread, then every result fetched with ``get()`` and checked; in the suite
10,000, fewer or more by what one costs the target. The clock runs from the first submit to the last ``get()``. Peer:
the stock Pool.

Not told: anything about tasks that do work (see `bench.workloads.spin`), about one task alone
(`bench.workloads.latency`), or about large arguments. The result is wall time per task, with the parent and
both agents sharing the cores, so it is not the latency of a task nor the CPU time it costs.
"""

from __future__ import annotations

import time

from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._targets import warm
from bench._tasks import noop


def measure(setup: Setup, full: int = 100_000) -> dict[str, float]:
    n = setup.tasks(full, full // 10)
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        began = time.perf_counter()
        handles = [pool.apply_async(noop, (i,)) for i in range(n)]
        submitted = time.perf_counter()
        results = pool.gather(handles)
        ended = time.perf_counter()
    check(results, list(range(n)), "submit")
    return {
        "us_per_task": (ended - began) / n * 1e6,
        "us_per_submit": (submitted - began) / n * 1e6,
        "tasks": n,
    }


ROWS = (
    Row(
        "submit",
        "apply_async(noop, (i,)) again and again, all results checked",
        measure,
        (
            Figure("us_per_task", "time per task", "us", at_most(1 / 8)),
            Figure("us_per_submit", "of it inside apply_async", "us"),
        ),
    ),
)
