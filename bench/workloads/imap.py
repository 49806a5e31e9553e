"""Question: what does one item cost when a lazy, ordered iterator is consumed one result at a
time?

``imap(square, range(100_000))`` with the default chunk size (1), each result checked as it arrives; in the suite 10,000
items, fewer or more by what one costs the target, and beside it the same with a chunk size of a person's choice (most
of the gap, on uniform items). Peer: the stock Pool with the same call.

Not told: anything about slow items or a slow consumer (`bench.workloads.stream`).
"""

from __future__ import annotations

import time

from bench._model import AGENTS, Figure, Row, Setup, WrongResult, at_most, check
from bench._targets import IMAP, warm
from bench._tasks import square


def measure(setup: Setup, full: int = 100_000) -> dict[str, float]:
    n = setup.tasks(full, full // 10)
    got = 0
    with setup.open(AGENTS, items=n) as pool:
        warm(pool, AGENTS, lazy=True)
        began = time.perf_counter()
        for value in pool.imap(square, range(n)):
            if value != got * got:
                raise WrongResult(f"imap: {value!r:.60} at place {got}")
            got += 1
        ended = time.perf_counter()
    check(got, n, "imap, number of results")
    return {"us_per_item": (ended - began) / n * 1e6, "items": n}


ROWS = (
    Row(
        "imap",
        "imap(square, range(n)), consumed one by one",
        measure,
        (Figure("us_per_item", "time per item", "us", at_most(1 / 8)),),
        needs=frozenset({IMAP}),
        best_chunk=2_500,
    ),
)
