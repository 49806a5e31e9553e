"""Recursive tree search: in how many ways can N queens stand on a board of N by N?

    python examples/tree_search.py [--queens N] [--processes N] [--start-method METHOD]

Each task places a queen in every free column of one row, and submits what follows from it, down to a few rows; below,
it searches by itself. How large a part of the tree is shows only when it is searched, so the parts are uneven: agents
that are free take what the others have submitted. The sequential twin is the same search without the pool.
"""

from __future__ import annotations

import argparse
import time

import mpsteal

ROWS_IN_TASKS = 3
"""Rows whose placements are tasks of their own: fewer leaves agents idle at the end, more cost more to send."""

KNOWN = {1: 1, 2: 0, 3: 0, 4: 2, 5: 10, 6: 4, 7: 40, 8: 92, 9: 352, 10: 724, 11: 2680, 12: 14200, 13: 73712}
"""Solutions by number of queens (OEIS A000170)."""


def free_columns(queens: int, columns: int, left: int, right: int) -> list[int]:
    """Bits of the columns that no queen above attacks, straight or by a diagonal."""
    free = ~(columns | left | right) & (1 << queens) - 1
    return [1 << at for at in range(queens) if free & 1 << at]


def sequential(queens: int, row: int = 0, columns: int = 0, left: int = 0, right: int = 0) -> int:
    """Ways to fill the rows from this one on, counted in this process."""
    if row == queens:
        return 1
    return sum(
        sequential(queens, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
        for bit in free_columns(queens, columns, left, right)
    )


def parallel(queens: int, row: int = 0, columns: int = 0, left: int = 0, right: int = 0) -> int:
    """The same over the agents of the pool that runs this."""
    if row == min(ROWS_IN_TASKS, queens):
        return sequential(queens, row, columns, left, right)
    pool = mpsteal.current_pool()
    parts = [
        pool.apply_async(parallel, (queens, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1))
        for bit in free_columns(queens, columns, left, right)
    ]
    return sum(part.get() for part in parts)


def main() -> int:
    """Count both ways; 0 if all agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queens", type=int, default=10, choices=sorted(KNOWN), help="size of the board")
    parser.add_argument("--processes", type=int, default=None, help="agents; default: one per CPU")
    parser.add_argument("--start-method", default=None)
    options = parser.parse_args()

    began = time.perf_counter()
    one_by_one = sequential(options.queens)
    alone = time.perf_counter() - began
    with mpsteal.Pool(options.processes, context=options.start_method) as pool:
        pool.map(abs, range(100))  # all agents are there
        began = time.perf_counter()
        together = pool.apply(parallel, (options.queens,))
        elapsed = time.perf_counter() - began
        agents = len(pool.stats().agents)
    print(f"sequential {alone:.2f} s, {agents} agents {elapsed:.2f} s: {alone / elapsed:.2f} times as fast")
    is_right = together == one_by_one == KNOWN[options.queens]
    print(f"checked: {together} solutions, " + ("as known" if is_right else "NOT AS KNOWN"))
    return 0 if is_right else 1


if __name__ == "__main__":
    raise SystemExit(main())
