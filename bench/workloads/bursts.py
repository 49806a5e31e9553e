"""Question: what does a burst of small tasks cost a pool that has just been idle, again and again?

40 bursts of 100 no-ops by ``apply_async``, each burst gathered and checked, 5 ms of rest between two of them, so that
everybody has gone to sleep when the next one comes. The figure is the median time of a burst, from its first submit to
its last result; p90 is that of the 36th of 40.

Not told: bursts of tasks that do work, or bursts that overlap.
"""

from __future__ import annotations

import time

from bench._model import AGENTS, Figure, Row, Setup, check
from bench._targets import warm
from bench._tasks import noop
from bench.workloads.latency import percentile

BURST = 100
REST_S = 0.005


def measure(setup: Setup) -> dict[str, float]:
    took = []
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        for _ in range(setup.size(40, 10)):
            time.sleep(REST_S)
            began = time.perf_counter()
            results = pool.gather([pool.apply_async(noop, (i,)) for i in range(BURST)])
            took.append((time.perf_counter() - began) * 1e6)
            check(results, list(range(BURST)), "bursts")
    took.sort()
    return {"p50_us": percentile(took, 0.5), "p90_us": percentile(took, 0.9)}


ROWS = (
    Row(
        "bursts",
        f"bursts of {BURST} no-ops to a pool that sleeps",
        measure,
        (Figure("p50_us", "a burst, median", "us"), Figure("p90_us", "p90", "us")),
    ),
)
