"""Whom to steal from, and how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def victims(lengths: Sequence[int], thief: int) -> list[int]:
    """Agents worth a steal, the longest queue first; ties go to the nearest after the thief, to spread thieves."""
    k = len(lengths)
    return sorted(
        (a for a in range(k) if a != thief and lengths[a] > 0),
        key=lambda a: (-lengths[a], (a - thief) % k),
    )


def steal_point(lo: int, hi: int) -> int:
    """First chunk that moves when [lo, hi) is stolen from: the upper half, rounded up (steal-half: Hendler and
    Shavit, "Non-blocking steal-half work queues", 2002)."""
    return lo + (hi - lo) // 2


def steal_point_of(max_tasks: int) -> Callable[[int, int], int]:
    """`steal_point` for thieves that take at most `max_tasks` chunks at a time (0: no bound).

    Bounded, a thief that turns out slow keeps few; but a long queue needs many steals to spread, where half needs few.
    """
    if not max_tasks:
        return steal_point

    def bounded(lo: int, hi: int) -> int:
        return max(steal_point(lo, hi), hi - max_tasks)

    return bounded
