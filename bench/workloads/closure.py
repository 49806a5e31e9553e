"""Question: what does a closure cost that carries data?

``map`` of a function made inside another, over 8,000 integers; it closes over 64 KiB of bytes. Who cannot pickle
functions by value fails here, and the row says so: that is what a user of it meets. mpire takes closures while its
workers have not started yet, and hands them down by fork; here they run already.

Not told: larger payloads (`bench.workloads.large` has partials with 4 MiB), or closures over open files and the like.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bench._model import AGENTS, Figure, Row, Setup, check
from bench._targets import MAP, warm

PAYLOAD = bytes(range(256)) * 256


def make(payload: bytes) -> Callable[[int], int]:
    return lambda i: payload[i % len(payload)] + i


def measure(setup: Setup) -> dict[str, float]:
    n = setup.size(8_000, 2_000)
    function = make(PAYLOAD)
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        began = time.perf_counter()
        results = pool.map(function, range(n))
        wall_s = time.perf_counter() - began
    check(results, [function(i) for i in range(n)], "closure")
    return {"us_per_item": wall_s / n * 1e6}


ROWS = (
    Row(
        "closure",
        "map of a closure over 64 KiB",
        measure,
        (Figure("us_per_item", "time per item", "us"),),
        needs=frozenset({MAP}),
        best_chunk=250,
    ),
)
