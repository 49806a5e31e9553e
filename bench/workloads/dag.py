"""Question: what does a task cost that has to wait for others, in a graph of 10,000?

Each task makes a number of its own and of those that it needs, and all are compared with a plain loop over the same
graph. Where a pool knows dependencies (mpsteal's scheduler, ray, dask), the whole graph is handed over; elsewhere the
parent submits what has become free whenever it hears of a result, which is what users of those pools write. The graphs,
always the same ones:

    chain     each needs the one before: nothing to do at the same time, so it is the way there and back that counts
    forkjoin  100 times: one, then 99 that need it, then the next one needs all 99
    random    each needs up to three of the 100 before it (seed 7)
    stencil   100 rows of 100: each needs its neighbour to the left, to the right and the one between, of the row before

The figure is the time from the start of the hand-over to the last value, over the number of tasks. `forkjoin` is run
again with tasks that spin for 100 us, at most 10,000 of them: the share of the cores that they get. The serial target
is the loop that submits what has become free, with calls in the place of a pool: what the bookkeeping alone costs.

Not told: values of any size (an integer travels to each task that needs it), and graphs that grow while they run.
In the suite, targets that are slow for each task get fewer of them, down to 500: the first part of the same graph.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench._model import AGENTS, Figure, Row, Setup, check
from bench._targets import warm
from bench._tasks import fold, fold_after_100us

TASKS = 10_000
WIDTH = 100
"""Tasks of a round of fork-join, of a row of the stencil, and how far back the random graph reaches."""
SPIN_US = 100

Graph = list[list[int]]
"""For each task those that it needs; all of them have smaller numbers, so no graph has a cycle."""


def chain(count: int) -> Graph:
    return [[i - 1] if i else [] for i in range(count)]


def forkjoin(count: int) -> Graph:
    needs: Graph = []
    for i in range(count):
        first = i - i % WIDTH  # of this round
        if i == first:
            needs.append(list(range(i - WIDTH + 1, i)) if i else [])
        else:
            needs.append([first])
    return needs


def random_graph(count: int) -> Graph:
    draw = random.Random(7)
    needs: Graph = []
    for i in range(count):
        before = range(max(0, i - WIDTH), i)
        needs.append(draw.sample(before, min(len(before), draw.randint(0, 3))))
    return needs


def stencil(count: int) -> Graph:
    needs: Graph = []
    for i in range(count):
        column, above = i % WIDTH, i - WIDTH
        near = range(max(0, column - 1), min(WIDTH, column + 2))
        needs.append([above - column + j for j in near] if above >= 0 else [])
    return needs


def evaluate(fn: Callable[[int, list[Any]], Any], needs: Graph) -> list[Any]:
    """The sequential twin."""
    values: list[Any] = []
    for i, before in enumerate(needs):
        values.append(fn(i, [values[j] for j in before]))
    return values


def tasks(setup: Setup) -> int:
    """All of them for whoever is as fast as the stock pool, of which the suite takes a tenth as everywhere; else
    fewer."""
    return min(TASKS, setup.tasks(10 * TASKS, 1_000))


def measure(setup: Setup, graph: Callable[[int], Graph], spins: bool) -> dict[str, float]:
    count = tasks(setup)
    needs = graph(count)
    expected = evaluate(fold, needs)
    figures = {}
    with setup.open(AGENTS) as pool:
        warm(pool, AGENTS)
        began = time.perf_counter()
        values = pool.run_graph(fold, count, needs)
        figures["us_per_task"] = (time.perf_counter() - began) / count * 1e6
        check(values, expected, "graph")
        if spins:
            began = time.perf_counter()
            values = pool.run_graph(fold_after_100us, count, needs)
            wall_s = time.perf_counter() - began
            check(values, expected, "graph of tasks that spin")
            figures["busy_percent"] = 100 * count * SPIN_US * 1e-6 / (wall_s * AGENTS)
    return figures | {"tasks": count}


def _row(graph: Callable[[int], Graph], name: str, words: str, *, spins: bool = False) -> Row:
    figures = [Figure("us_per_task", "time per task", "us")]
    if spins:
        figures.append(Figure("busy_percent", f"cores busy, tasks of {SPIN_US} us", "%", better="higher"))
    return Row(
        f"dag-{name}",
        f"a graph of {TASKS:,} tasks: {words}",
        partial(measure, graph=graph, spins=spins),
        tuple(figures),
    )


ROWS = (
    _row(chain, "chain", "each needs the one before"),
    _row(forkjoin, "forkjoin", "one, 99 that need it, one that needs them", spins=True),
    _row(random_graph, "random", "each needs up to three of the 100 before"),
    _row(stencil, "stencil", "each needs three of the row before"),
)
