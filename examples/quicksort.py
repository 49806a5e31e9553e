"""Parallel quicksort: tasks that submit tasks to their own pool, and wait for them.

    python examples/quicksort.py [--count N] [--processes N] [--start-method METHOD]

Each task splits its numbers at a pivot, and submits the two parts, until they are small. A task that waits blocks no
agent, so this ends on one agent as well. The sequential twin is the same function without the pool; both results are
compared with each other and with `sorted`, and the times are printed.
"""

from __future__ import annotations

import argparse
import random
import time

import mpsteal

SMALL = 20_000
"""Numbers that are sorted where they are: sending them to another process would cost more."""


def split(values: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Those below a pivot, those equal to it, those above it."""
    pivot = sorted(values[:: max(1, len(values) // 9)])[4] if len(values) > 9 else values[0]
    low = [value for value in values if value < pivot]
    high = [value for value in values if value > pivot]
    return low, [pivot] * (len(values) - len(low) - len(high)), high


def sequential(values: list[int]) -> list[int]:
    """Quicksort in this process."""
    if len(values) < 2:
        return values
    low, equal, high = split(values)
    return sequential(low) + equal + sequential(high)


def parallel(values: list[int]) -> list[int]:
    """Quicksort over the agents of the pool that runs this."""
    if len(values) <= SMALL:
        return sequential(values)
    low, equal, high = split(values)
    pool = mpsteal.current_pool()
    parts = [pool.apply_async(parallel, (part,)) for part in (low, high)]
    below, above = (part.get() for part in parts)
    return below + equal + above


def main() -> int:
    """Sort both ways; 0 if all agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500_000, help="how many numbers")
    parser.add_argument("--processes", type=int, default=None, help="agents; default: one per CPU")
    parser.add_argument("--start-method", default=None)
    options = parser.parse_args()
    numbers = random.Random(5)
    values = [numbers.randrange(options.count) for _ in range(options.count)]

    began = time.perf_counter()
    one_by_one = sequential(values)
    alone = time.perf_counter() - began
    with mpsteal.Pool(options.processes, context=options.start_method) as pool:
        pool.map(abs, range(100))  # all agents are there
        began = time.perf_counter()
        together = pool.apply(parallel, (values,))
        elapsed = time.perf_counter() - began
        agents = len(pool.stats().agents)
    print(f"sequential {alone:.2f} s, {agents} agents {elapsed:.2f} s: {alone / elapsed:.2f} times as fast")
    is_right = together == one_by_one == sorted(values)
    print(f"checked: {len(values)} numbers, " + ("sorted alike" if is_right else "NOT SORTED"))
    return 0 if is_right else 1


if __name__ == "__main__":
    raise SystemExit(main())
