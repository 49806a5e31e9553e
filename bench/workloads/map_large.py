"""Question: is the case that the stock Pool does best, one big uniform ``map``, at least no worse?

``map(square, range(1_000_000))``, the result list compared with the serial one; in the suite 100,000 items, fewer for
targets that pay for each one. Peer: the stock Pool, which cuts this into 4 chunks per agent and so pays for pickling
and little else.

Not told: what a shorter map costs, where what is paid once is most of it (`python -m bench growth` does); anything
about uneven items (`bench.workloads.skew`), where those few chunks are what makes the stock Pool slow.
"""

from __future__ import annotations

import time

from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._targets import MAP, warm
from bench._tasks import square


def measure(setup: Setup) -> dict[str, float]:
    n = setup.tasks(1_000_000, 100_000, never_more=True)
    with setup.open(AGENTS, items=n) as pool:
        warm(pool, AGENTS)
        began = time.perf_counter()
        results = pool.map(square, range(n))
        wall_s = time.perf_counter() - began
    check(results, [i * i for i in range(n)], "map")
    return {"wall_ms": wall_s * 1e3, "us_per_item": wall_s / n * 1e6, "items": n}


ROWS = (
    Row(
        "map",
        "one map(square, range(n))",
        measure,
        (Figure("wall_ms", "wall time", "ms", at_most(1.0)), Figure("us_per_item", "time per item", "us")),
        needs=frozenset({MAP}),
        main="us_per_item",
        best_chunk=12_500,
    ),
)
