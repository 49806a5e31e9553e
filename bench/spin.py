"""Question: of the time the cores could have computed, how much did small tasks get?

Tasks that burn 20 us, 100 us or 1 ms of CPU, submitted one by one from the parent while the agents
run, all results fetched and checked. busy = tasks * nominal CPU time / (wall time * agents), wall
time from the first submit to the last ``get()``. The parent's own work has to come out of the same
cores, so 100 % is out of reach by construction. Peer: the stock Pool.

Chosen: a task spins on its own thread's CPU clock (``time.thread_time_ns``), not on the wall
clock. On a wall clock a preempted task would end on time having computed less, and the busier the
cores the more it would be flattered. What a task burns beyond its nominal time (one reading of the
clock, about 0.3 us) counts as lost, for every pool alike. ``serial_us`` is what one such task
costs in a plain loop in the parent.

Not told: whether real work slows down when caches are shared (the loop touches no memory), and
what happens when the parent computes as well (`bench.busy_parent`). With more cores than agents
the parent no longer competes and the share is flattered; the harness confines each run to two
cores where the system allows it.
"""

from __future__ import annotations

import time
from functools import partial

from bench._model import AGENTS, Figure, Goal, Row, Setup, check
from bench._pools import warm
from bench._tasks import spin


def measure(setup: Setup, cpu_us: int, full: int) -> dict[str, float]:
    n = setup.size(full, full // 10)
    cpu_ns = cpu_us * 1000
    began = time.perf_counter()
    for i in range(200):
        spin(i, cpu_ns)
    serial_us = (time.perf_counter() - began) / 200 * 1e6
    with setup.target.open(AGENTS) as pool:
        warm(pool, AGENTS)
        pool.apply(spin, (0, 0))
        began = time.perf_counter()
        handles = [pool.apply_async(spin, (i, cpu_ns)) for i in range(n)]
        results = [handle.get() for handle in handles]
        wall_s = time.perf_counter() - began
    check(results, list(range(n)), "spin")
    return {
        "busy_percent": 100 * n * cpu_us * 1e-6 / (wall_s * AGENTS),
        "wall_s": wall_s,
        "serial_us": serial_us,
    }


def _row(name: str, words: str, cpu_us: int, full: int, percent: float) -> Row:
    return Row(
        f"spin-{name}",
        f"tasks of {words} of spinning, submitted one by one",
        partial(measure, cpu_us=cpu_us, full=full),
        (Figure("busy_percent", "cores busy", "%", Goal("value", ">=", percent)),),
    )


ROWS = (
    _row("20us", "20 us", 20, 50_000, 80),
    _row("100us", "100 us", 100, 20_000, 93),
    _row("1ms", "1 ms", 1000, 2_000, 98),
)
