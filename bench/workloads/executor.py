"""Question: what does a call cost in `mpsteal.Executor`, and what in `concurrent.futures.ProcessPoolExecutor`?

``python -m bench executor``: rows of no-ops, two agents on two cores, both executors in turns, each measurement in a
process of its own. `executor-submit` is 20,000 ``submit(noop, i)`` from one thread, then every ``result()``, checked;
`executor-map` the same by ``map``, one item a chunk, as is the default of both; `executor-latency` one call at a time;
`executor-life` from the constructor over 32 results to the end of ``shutdown``.

Not told: anything about calls that do work (`spin.py` and `skew.py` tell it of the Pool, which has the same
engine), or about large arguments. The column named stock is the stock executor here.
"""

from __future__ import annotations

import time
from functools import partial

from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._tasks import noop
from bench.workloads import imap, latency, submit


def life(setup: Setup) -> dict[str, float]:
    began = time.perf_counter()
    with setup.open(AGENTS) as executor:
        results = list(executor.imap(noop, range(32)))
    ended = time.perf_counter()
    check(results, list(range(32)), "executor-life")
    return {"ms": (ended - began) * 1e3}


ROWS = (
    Row(
        "executor-submit",
        "20,000 submit(noop, i), all results checked",
        partial(submit.measure, full=20_000),
        (
            Figure("us_per_task", "time per call", "us", at_most(1 / 15)),
            Figure("us_per_submit", "of it inside submit", "us"),
        ),
        of="executor",
    ),
    Row(
        "executor-map",
        "map(square, range(20_000)), one item a chunk",
        partial(imap.measure, full=20_000),
        (Figure("us_per_item", "time per item", "us", at_most(1 / 15)),),
        of="executor",
    ),
    Row(
        "executor-latency",
        "submit(noop, i).result(), one at a time",
        latency.measure,
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
