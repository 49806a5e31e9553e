"""Question: what does a call cost in `mpsteal.Executor`, and what in `concurrent.futures.ProcessPoolExecutor`?

``python -m bench executor``: rows of no-ops, two agents on two cores, both executors in turns, each measurement in a
process of its own. `executor-submit` is 20,000 ``submit(noop, i)`` from one thread, then every ``result()``, checked;
`executor-map` the same by ``map``, one item a chunk, as is the default of both; `executor-latency` one call at a time;
`executor-life` from the constructor over 32 results to the end of ``shutdown``.

Not told: anything about calls that do work (`bench.spin` and `bench.skew` tell it of the Pool, which has the same
engine), or about large arguments. The column named multiprocessing is the stock executor here.
"""

from __future__ import annotations

import statistics
import time

from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._tasks import noop


def _warm(executor: object) -> None:
    for _ in range(3):
        list(executor.map(noop, range(AGENTS * 32)))  # type: ignore[attr-defined]


def submit(setup: Setup) -> dict[str, float]:
    n = setup.size(20_000, 2_000)
    with setup.target.pool_class(AGENTS) as executor:
        _warm(executor)
        began = time.perf_counter()
        futures = [executor.submit(noop, i) for i in range(n)]
        submitted = time.perf_counter()
        results = [future.result() for future in futures]
        ended = time.perf_counter()
    check(results, list(range(n)), "executor-submit")
    return {"us_per_call": (ended - began) / n * 1e6, "us_per_submit": (submitted - began) / n * 1e6}


def map_(setup: Setup) -> dict[str, float]:
    n = setup.size(20_000, 2_000)
    with setup.target.pool_class(AGENTS) as executor:
        _warm(executor)
        began = time.perf_counter()
        results = list(executor.map(noop, range(n)))
        ended = time.perf_counter()
    check(results, list(range(n)), "executor-map")
    return {"us_per_item": (ended - began) / n * 1e6}


def latency(setup: Setup) -> dict[str, float]:
    n = setup.size(2_000, 200)
    times = []
    with setup.target.pool_class(AGENTS) as executor:
        _warm(executor)
        for i in range(n):
            began = time.perf_counter()
            result = executor.submit(noop, i).result()
            times.append(time.perf_counter() - began)
            check(result, i, "executor-latency")
    quantiles = statistics.quantiles(times, n=100)
    return {"p50_us": quantiles[49] * 1e6, "p99_us": quantiles[98] * 1e6}


def life(setup: Setup) -> dict[str, float]:
    began = time.perf_counter()
    with setup.target.pool_class(AGENTS) as executor:
        results = list(executor.map(noop, range(32)))
    ended = time.perf_counter()
    check(results, list(range(32)), "executor-life")
    return {"ms": (ended - began) * 1e3}


ROWS = (
    Row(
        "executor-submit",
        "20,000 submit(noop, i), all results checked",
        submit,
        (
            Figure("us_per_call", "time per call", "us", at_most(1 / 15)),
            Figure("us_per_submit", "of it inside submit", "us"),
        ),
        of="executor",
    ),
    Row(
        "executor-map",
        "map(noop, range(20_000)), one item a chunk",
        map_,
        (Figure("us_per_item", "time per item", "us", at_most(1 / 15)),),
        of="executor",
    ),
    Row(
        "executor-latency",
        "submit(noop, i).result(), one at a time",
        latency,
        (Figure("p50_us", "p50", "us", at_most(1)), Figure("p99_us", "p99", "us")),
        of="executor",
    ),
    Row(
        "executor-life",
        "start, 32 calls, shutdown",
        life,
        (Figure("ms", "wall time", "ms"),),
        of="executor",
    ),
)
