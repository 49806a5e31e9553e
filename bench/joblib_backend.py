"""Question: is joblib's `Parallel` faster over mpsteal than over loky, where calls are many and small?

``python -m bench.joblib_backend``: five rounds in this process, both backends in turns with two agents each, all warm;
microseconds per call, the median. Run it several times. `sqrt` does nothing worth mentioning, so it tells what joblib
itself costs; the others spin for as long as their name says.

Not told: how long agents take to start (both keep them), large arrays (loky maps files, we move blocks of shared
memory), or numbers below 10 ms for a whole `Parallel`, which looks every 10 ms whether it is done.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence

import joblib

import mpsteal

AGENTS, ROUNDS = 2, 5
BACKENDS = ("mpsteal", "loky")


def spin(ns: int) -> int:
    """Compute for so long."""
    until = time.perf_counter_ns() + ns
    while time.perf_counter_ns() < until:
        pass
    return ns


ROWS: dict[str, tuple[Callable[[int], float], Sequence[int]]] = {
    "sqrt": (math.sqrt, range(50_000)),
    "20us": (spin, [20_000] * 10_000),
    "100us": (spin, [100_000] * 3_000),
    "1ms": (spin, [1_000_000] * 400),
    "10us, then 5ms": (spin, [10_000] * 3_000 + [5_000_000] * 60),
}


def measure(backend: str, function: Callable[[int], float], items: Sequence[int]) -> float:
    """Microseconds per call of one `Parallel`, whose results are checked."""
    call = joblib.delayed(function)
    with joblib.parallel_config(backend=backend, n_jobs=AGENTS):
        began = time.perf_counter()
        results = joblib.Parallel()(call(item) for item in items)
        elapsed = time.perf_counter() - began
    assert results == [function(item) if function is math.sqrt else item for item in items]
    return elapsed / len(items) * 1e6


def main() -> None:
    """Measure all rows."""
    mpsteal.register_joblib()
    for backend in BACKENDS:
        measure(backend, math.sqrt, range(50))
    for name, (function, items) in ROWS.items():
        times: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
        for round_ in range(ROUNDS):
            for backend in BACKENDS if round_ % 2 else reversed(BACKENDS):
                times[backend].append(measure(backend, function, items))
        print(json.dumps({"row": name, **{b: round(statistics.median(t), 1) for b, t in times.items()}}), flush=True)


if __name__ == "__main__":
    main()
