"""Question: do agents starve while the parent's main thread computes and holds the GIL?

400 tasks of 1 ms of CPU are submitted; then the main thread runs pure Python arithmetic until all
have finished. It learns that from bytes the tasks set in a mapped file: reading them never gives
up the GIL, whereas asking the pool, or any system call, would invite the pool's threads in. Each
task returns when it ended.

    span   = from the first submit to the end of the last task
    ideal  = (CPU seconds of all tasks + CPU seconds the main thread computed in the span) / cores

``cores`` is at most agents + 1, as no more can compute at once, and the ideal is never below tasks
/ agents. What the main thread spends inside ``apply_async`` is no part of the ideal: it counts
against the pool. Peer: the stock Pool, whose feeder thread must win the GIL for every task.

Not told: when results reach the caller (not before the loop ends, here), a main thread inside one
long C call, or one that holds the GIL without pause. The arithmetic gives the GIL up when asked,
every 5 ms, as the interpreter does.
"""

from __future__ import annotations

import mmap
import tempfile
import time
from bisect import bisect_left
from pathlib import Path

from bench._model import AGENTS, Figure, Row, Setup, at_most, check
from bench._targets import warm
from bench._tasks import spin_and_flag

TASK_CPU_NS = 1_000_000
GIVE_UP_S = 60.0


def compute_until_done(flags: mmap.mmap) -> tuple[list[float], list[float]]:
    """Compute until every byte is set; return clock readings and the CPU seconds spent by each."""
    walls, cpus, x = [time.perf_counter()], [0.0], 1
    began_cpu = time.thread_time()
    while flags.find(b"\0", 0) >= 0:
        for _ in range(2_000):
            x = (x * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        walls.append(time.perf_counter())
        cpus.append(time.thread_time() - began_cpu)
        if walls[-1] - walls[0] > GIVE_UP_S:
            raise TimeoutError(f"{flags[:].count(0)} tasks had not run after {GIVE_UP_S:.0f} s")
    return walls, cpus


def measure(setup: Setup) -> dict[str, float]:
    n = setup.size(400, 100)
    with tempfile.TemporaryDirectory() as folder, setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        path = str(Path(folder, "flags"))
        Path(path).write_bytes(bytes(n))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as flags:
            began = time.perf_counter()
            handles = [pool.apply_async(spin_and_flag, (i, TASK_CPU_NS, path)) for i in range(n)]
            submit_s = time.perf_counter() - began
            walls, cpus = compute_until_done(flags)
        results = pool.gather(handles)
    check([i for i, _, _ in results], list(range(n)), "busy-parent")
    ended = max(end for _, end, _ in results)
    span_s = ended - began
    tasks_s = sum(cpu for _, _, cpu in results) / 1e9
    parent_s = cpus[min(bisect_left(walls, ended), len(cpus) - 1)]
    cores = min(setup.cores, AGENTS + 1)
    ideal_s = max((tasks_s + parent_s) / cores, tasks_s / AGENTS)
    return {
        "over_ideal": span_s / ideal_s,
        "span_ms": span_s * 1e3,
        "ideal_ms": ideal_s * 1e3,
        "tasks_cpu_ms": tasks_s * 1e3,
        "parent_cpu_ms": parent_s * 1e3,
        "submit_ms": submit_s * 1e3,
    }


ROWS = (
    Row(
        "busy-parent",
        "main thread computing, 400 tasks of 1 ms queued",
        measure,
        (
            Figure("over_ideal", "all tasks ended / ideal", "x", at_most(1.10, "value")),
            Figure("span_ms", "until all tasks ended", "ms"),
        ),
        not_for=frozenset({"serial"}),
    ),
)
