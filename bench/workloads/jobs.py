"""Question: what do real batch jobs gain, with input as uneven as it comes?

Five jobs, each in a module of `bench.workloads._jobs`, which says what is uneven in it:

    stdlib      functions and branches of modules of the standard library, file by file
    mandelbrot  the Mandelbrot set, row by row
    words       the words of the interpreter's own sources, counted file by file, the tables added up
    primes      primes up to 50 million, sieved block by block
    queens      the ways to place queens, by subtree

Each is first done by its sequential twin, a plain program for one core, in the parent; then by a plain ``map`` without
``chunksize`` over two agents that are up already, merged in the parent. Both answers must be the same. speed-up = the
twin's time / the pool's, with the merge; efficiency = speed-up / agents. What tasks cost more than the twin does is
held against the pool, and the serial target, which does the tasks in a loop, shows how much that is.

Not told: what starting the pool costs, which a job this short would notice (`lifecycle.py`), whether more than two
agents would still gain, and anything about reading from a disk: the twin has read all files before, so they are in the
memory of the system.
Two runs use different moments of a machine, and one of them uses both cores: where a single core is allowed to run
faster than two together, that lessens the speed-up for every pool alike.
"""

from __future__ import annotations

import time
from functools import partial
from types import ModuleType

from bench._model import AGENTS, Figure, Row, Setup, check
from bench._targets import MAP, warm
from bench.workloads._jobs import mandelbrot, primes, queens, stdlib, words

QUICK = 0.2  # of the full size


def measure(setup: Setup, job: ModuleType) -> dict[str, float]:
    items = job.items(QUICK if setup.quick else 1.0)
    began = time.perf_counter()
    expected = job.twin(items)
    twin_s = time.perf_counter() - began
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        began = time.perf_counter()
        answer = job.merge(pool.map(job.task, items))
        wall_s = time.perf_counter() - began
    check(answer, expected, job.__name__)
    return {
        "speedup": twin_s / wall_s,
        "efficiency_percent": 100 * twin_s / (wall_s * AGENTS),
        "wall_s": wall_s,
        "twin_s": twin_s,
        "items": len(items),
    }


def _row(name: str, words_: str, job: ModuleType) -> Row:
    return Row(
        f"job-{name}",
        f"batch job: {words_}",
        partial(measure, job=job),
        (
            Figure("speedup", "speed-up over the sequential twin", "x", better="higher"),
            Figure("efficiency_percent", "efficiency", "%", better="higher"),
            Figure("wall_s", "time", "s"),
        ),
        needs=frozenset({MAP}),
        best_chunk=1,
    )


ROWS = (
    _row("stdlib", "analysis of the standard library", stdlib),
    _row("mandelbrot", "Mandelbrot set, row by row", mandelbrot),
    _row("words", "word count over the interpreter's sources", words),
    _row("primes", "prime sieve, block by block", primes),
    _row("queens", "N queens, by subtree", queens),
)
