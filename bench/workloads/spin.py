"""Question: of the time the cores could have computed, how much did small tasks get?

Tasks that spin for 20 us, 100 us, 1 ms or 10 ms, submitted one by one from the parent while the agents
run, all results fetched and checked. busy = tasks * nominal time / (wall time * agents), wall time
from the first submit to the last ``get()``. The parent's own work has to come out of the same
cores, so 100 % is out of reach by construction. Peer: the stock Pool.

Two ways to spin. ``spin-*`` looks at the wall clock, as most people write it. A task that loses
its core for a moment then ends on time having computed less, so full cores are flattered, for
every pool alike. ``spin-cpu-*`` looks at the CPU clock of its own thread: stricter, and the
clock itself costs more (some 0.3 us a reading). No target; it is there to tell how much of the
first figure is flattery. ``serial_us`` is what one task costs in a plain loop in the parent.

Not told: whether real work slows down when caches are shared (the loop touches no memory), and
what happens when the parent computes as well (`bench.workloads.busy_parent`). With more cores than agents
the parent no longer competes and the share is flattered; the harness confines each run to two
cores where the system allows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from bench._model import AGENTS, Figure, Goal, Row, Setup, check
from bench._targets import warm
from bench._tasks import spin, spin_wall


def measure(setup: Setup, task: Callable[[int, int], int], task_us: int, full: int) -> dict[str, float]:
    n = (setup.tasks if task_us < 1000 else setup.size)(full, full // 10)  # from 1 ms on it takes all about as long
    task_ns = task_us * 1000
    began = time.perf_counter()
    for i in range(200):
        task(i, task_ns)
    serial_us = (time.perf_counter() - began) / 200 * 1e6
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        pool.apply(task, (0, 0))
        began = time.perf_counter()
        handles = [pool.apply_async(task, (i, task_ns)) for i in range(n)]
        results = pool.gather(handles)
        wall_s = time.perf_counter() - began
    check(results, list(range(n)), "spin")
    return {
        "busy_percent": 100 * n * task_us * 1e-6 / (wall_s * AGENTS),
        "wall_s": wall_s,
        "tasks": n,
        "serial_us": serial_us,
    }


def _row(name: str, words: str, task_us: int, full: int, percent: float | None = None) -> Row:
    task, clock = (spin, " (CPU clock)") if percent is None else (spin_wall, "")
    return Row(
        f"spin-{name}",
        f"tasks of {words} of spinning{clock}, submitted one by one",
        partial(measure, task=task, task_us=task_us, full=full),
        (
            Figure(
                "busy_percent", "cores busy", "%", Goal("value", ">=", percent) if percent else None, better="higher"
            ),
        ),
    )


ROWS = (
    _row("20us", "20 us", 20, 50_000, 80),
    _row("100us", "100 us", 100, 20_000, 93),
    _row("1ms", "1 ms", 1000, 2_000, 98),
    _row("10ms", "10 ms", 10_000, 200, 98),
    _row("cpu-20us", "20 us", 20, 50_000),
    _row("cpu-100us", "100 us", 100, 20_000),
    _row("cpu-1ms", "1 ms", 1000, 2_000),
)
