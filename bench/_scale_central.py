"""Schemes in which a parent holds all tasks and gives pieces of them away, front first.

    agent: free -> asks, and waits        parent: one question after the other, `give_us` each
           runs the piece, `start_us` and its tasks   <-   the next piece, as long as there is one

What an agent sleeps while it waits and how long it takes to wake up are not charged, nor what the parent does for
results: both favour these schemes. `static` alone needs no questions: the parent pushes p pieces, `assign_us` each, and
each agent wakes `wake_us` after its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from heapq import heapify, heapreplace

from bench._des import Costs
from bench._scale import Books, Counts
from mpsteal._policy.placement import split_evenly

Sizes = Callable[[int, int], Iterator[int]]
"""(tasks, agents) -> the sizes of the pieces, in the order in which they are given away; they sum to the tasks."""


def one_each(tasks: int, agents: int) -> Iterator[int]:
    """Self-scheduling (Tang and Yew, "Processor self-scheduling for multiple-nested parallel loops", 1986)."""
    del agents
    yield from (1 for _ in range(tasks))


def stock(tasks: int, agents: int) -> Iterator[int]:
    """As `multiprocessing.Pool.map` cuts without `chunksize`: four equal pieces per agent, rounded up."""
    return _equal(tasks, -(-tasks // (4 * agents)))


def _equal(tasks: int, size: int) -> Iterator[int]:
    for at in range(0, tasks, max(1, size)):
        yield min(size, tasks - at)


def guided(tasks: int, agents: int) -> Iterator[int]:
    """1/p of what is left, rounded up (Polychronopoulos and Kuck, "Guided self-scheduling", 1987)."""
    while tasks:
        size = -(-tasks // agents)
        yield size
        tasks -= size


def factoring(tasks: int, agents: int) -> Iterator[int]:
    """Batches of p equal pieces, which together are half of what is left (Hummel, Schonberg and Flynn, "Factoring: a
    method for scheduling parallel loops", 1992; their rule for when nothing is known of the lengths)."""
    while tasks:
        size = -(-tasks // (2 * agents))
        for _ in range(agents):
            given = min(size, tasks)
            if given:
                yield given
            tasks -= given


def run_central(tasks: array[int], agents: int, sizes: Sizes, costs: Costs) -> tuple[Books, Counts]:
    """All agents ask at time 0; whoever asked first is served first, among equals the lowest number."""
    books, counts = Books(tasks, agents), Counts()
    give, start = costs.ns("give_us"), costs.ns("start_us")
    asks = [(0, agent) for agent in range(agents)]
    heapify(asks)
    lo = free_at = 0
    for size in sizes(len(tasks), agents):
        asked, agent = asks[0]
        free_at = max(free_at, asked) + give
        hi = lo + size
        ended = free_at + start + books.sums[hi] - books.sums[lo]
        books.enter(agent, lo, hi, free_at, ended)
        heapreplace(asks, (ended, agent))
        counts.messages += 1
        counts.parent_ns += give
        lo = hi
    books.close()
    return books, counts


def run_static(tasks: array[int], agents: int, costs: Costs) -> tuple[Books, Counts]:
    """n/p tasks each, in one piece, and nothing afterwards."""
    books, counts = Books(tasks, agents), Counts()
    for agent, lo, hi in split_evenly(0, len(tasks), agents):
        counts.messages += 1
        counts.parent_ns += costs.ns("assign_us")
        begun = counts.parent_ns + costs.ns("wake_us")
        books.enter(agent, lo, hi, begun, begun + costs.ns("start_us") + books.sums[hi] - books.sums[lo])
    books.close()
    return books, counts
