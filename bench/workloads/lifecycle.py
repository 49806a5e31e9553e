"""Question: what does a pool cost that is opened for one result and closed again?

``Pool(2)``, ``apply(noop, (1,))``, ``close()``, ``join()``, under each start method, and as each pool starts by itself
(``own``). The first such pool of the process is kept apart: it pays for whatever is loaded or started once (spawn's
resource tracker, say). The target is held against the median of those after it; the first is shown
without one, as it gives a single sample per round, and under fork two processes running the same
code were seen to differ by half. Peer: the stock Pool.

Not told: the parent's ``import``, which is done before the clock starts for both; what a program's
own main module adds under spawn (here it imports next to nothing); and what becomes of a pool that
is terminated rather than closed.
"""

from __future__ import annotations

import gc
import statistics
import time
from functools import partial

from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._targets import METHOD, SUBMIT
from bench._tasks import noop


def measure(setup: Setup, method: str | None, more: int) -> dict[str, float]:
    took = []
    for _ in range(1 + setup.size(more, 3, min(more, 20))):
        gc.collect()
        began = time.perf_counter()
        pool = setup.open(AGENTS, method)
        result = pool.apply(noop, (1,))
        answered = time.perf_counter()
        pool.close()
        ended = time.perf_counter()
        check(result, 1, "lifecycle")
        took.append((ended - began, answered - began))
        del pool
    later = took[1:]
    return {
        "ms": statistics.median(total for total, _ in later) * 1e3,
        "first_ms": took[0][0] * 1e3,
        "to_result_ms": statistics.median(part for _, part in later) * 1e3,
    }


def _row(method: str | None, more: int, bound: float | None) -> Row:
    figures = (
        Figure("ms", "open, one result, close", "ms", None if bound is None else at_most(bound)),
        Figure("first_ms", "the first of a process", "ms"),
        Figure("to_result_ms", "of it up to the result", "ms"),
    )
    title = f"start, first result, close: {method or 'each its own way'}"
    return Row(
        f"start-{method or 'own'}",
        title,
        partial(measure, method=method, more=more),
        figures,
        needs=frozenset({SUBMIT, METHOD} if method else {SUBMIT}),
        not_for=frozenset({"serial", "loky"} if method == "fork" else {"serial"}),  # loky refuses fork, for safety
    )


ROWS = (_row("fork", 60, 1.3), _row("spawn", 8, 1.6), _row("forkserver", 8, None), _row(None, 8, None))
