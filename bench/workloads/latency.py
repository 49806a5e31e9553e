"""Question: how long does one task take from submit to result, when nothing else is going on?

3,000 times ``apply_async(noop, (i,)).get()``, one after the other; the median and the 99th
percentile, and the 99.9th, which is the third or fourth worst. Then 400 times with 2 ms of rest
before each, when everybody has gone to sleep. Peer: the stock Pool.

Not told: latency under load. The median of back-to-back rounds is mostly wake-ups by the kernel,
so it says more about the machine than about either pool: compare it within one run only. "Far
better" at the 99th percentile is taken as at most half.
"""

from __future__ import annotations

import time

from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._targets import Session, warm
from bench._tasks import noop


def percentile(sorted_values: list[float], share: float) -> float:
    """The nearest-rank percentile: an observed value, never one between two."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def _rounds(pool: Session, count: int, rest_s: float) -> list[float]:
    """Microseconds of each round trip, sorted."""
    took = []
    results = []
    for i in range(count):
        if rest_s:
            time.sleep(rest_s)
        began = time.perf_counter_ns()
        results.append(pool.get(pool.apply_async(noop, (i,))))
        took.append((time.perf_counter_ns() - began) / 1e3)
    check(results, list(range(count)), "latency")
    return sorted(took)


def measure(setup: Setup) -> dict[str, float]:
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        _rounds(pool, 200, 0.0)
        busy = _rounds(pool, setup.size(3_000, 600), 0.0)
        rested = _rounds(pool, setup.size(400, 100), 0.002)
    return {
        "p50_us": percentile(busy, 0.50),
        "p99_us": percentile(busy, 0.99),
        "p999_us": percentile(busy, 0.999),
        "max_us": busy[-1],
        "rested_p50_us": percentile(rested, 0.50),
        "rested_p99_us": percentile(rested, 0.99),
    }


ROWS = (
    Row(
        "latency",
        "one task, submit to result",
        measure,
        (
            Figure("p50_us", "p50", "us", at_most(1.0)),
            Figure("p99_us", "p99", "us", at_most(0.5)),
            Figure("p999_us", "p99.9", "us"),
            Figure("rested_p50_us", "p50 after 2 ms of rest", "us"),
            Figure("rested_p99_us", "p99 after 2 ms of rest", "us"),
        ),
    ),
)
