"""Where the parent puts new chunks."""

from __future__ import annotations

from collections.abc import Sequence


def split_range(lo: int, hi: int, loads: Sequence[int]) -> list[tuple[int, int, int]]:
    """Deal the chunks [lo, hi) to agents.

    Args:
        lo, hi: chunk numbers, half open.
        loads: per agent, how many chunks a new one would have to wait for.

    Returns:
        `(agent, lo, hi)` pieces in chunk order: rounds of one piece per agent, the least loaded first, of 1, 1, 2, 4,
        8 ... chunks. The front is dealt one by one, so that what was submitted first starts first (the second of two
        long tasks must not stand behind the first); the rest in few pieces. Stealing mends what this gets wrong.
    """
    order = sorted(range(len(loads)), key=loads.__getitem__)
    pieces: list[tuple[int, int, int]] = []
    at, size, first_round = lo, 1, True
    while at < hi:
        for agent in order:
            if at >= hi:
                break
            end = min(hi, at + size)
            pieces.append((agent, at, end))
            at = end
        if not first_round:
            size *= 2
        first_round = False
    return pieces


def split_evenly(lo: int, hi: int, agents: int) -> list[tuple[int, int, int]]:
    """Deal the chunks [lo, hi) in one piece per agent: for what queued so long that its order matters little."""
    n, k = hi - lo, min(agents, hi - lo)
    return [(i, lo + n * i // k, lo + n * (i + 1) // k) for i in range(k)]
