"""In how many ways do N queens stand on a board of N x N without attacking each other?

One task for each way to place the first three, the first of them in the left half, since the other half is its mirror
image. Some of these trees end soon, others go deep, and nobody knows which beforehand. All the work is integers in
Python. A result is one number.
"""

from __future__ import annotations

Start = tuple[int, int, int, int, int]
"""How many times its ways count, size of the board, and three sets of columns as bits: taken; attacked from the left,
and from the right, in the next row."""
DEPTH = 3


def count(size: int, taken: int, left: int, right: int) -> int:
    """The ways to fill the rows that are left."""
    full = (1 << size) - 1
    if taken == full:
        return 1
    found, free = 0, full & ~(taken | left | right)
    while free:
        queen = free & -free
        free ^= queen
        found += count(size, taken | queen, (left | queen) << 1, (right | queen) >> 1)
    return found


def starts(size: int, depth: int) -> list[Start]:
    """Every way to place the first `depth` queens, up to reflection."""
    reached: list[Start] = []
    for column in range((size + 1) // 2):
        times = 1 if 2 * column + 1 == size else 2  # the middle column is its own image
        reached.append((times, size, 1 << column, 1 << column + 1, 1 << column >> 1))
    for _ in range(depth - 1):
        further: list[Start] = []
        for times, _, taken, left, right in reached:
            for column in range(size):
                queen = 1 << column
                if not queen & (taken | left | right):
                    further.append((times, size, taken | queen, (left | queen) << 1, (right | queen) >> 1))
        reached = further
    return reached


def items(scale: float) -> list[Start]:
    return starts(13 if scale >= 1 else 12, DEPTH)


def task(start: Start) -> int:
    times, size, taken, left, right = start
    return times * count(size, taken, left, right)


def merge(results: list[int]) -> int:
    return sum(results)


def twin(all_starts: list[Start]) -> int:
    size = all_starts[0][1]
    found = sum(2 * count(size, 1 << c, 1 << c + 1, 1 << c >> 1) for c in range(size // 2))
    if size % 2:
        c = size // 2
        found += count(size, 1 << c, 1 << c + 1, 1 << c >> 1)
    return found
