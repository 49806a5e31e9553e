"""Whom to steal from, and how much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

LOOKS = 8
"""Queues that a thief compares before it chooses one. Fewer: it finds a long queue later, and steals more often; more:
a look at each costs 1 to 6 us. In simulations of up to 10,000 agents 8 do as well as all (`bench.simulate`)."""


def around(slots: Sequence[int], thief: int) -> list[int]:
    """The others among these, which are in order: those after the thief first, so that thieves spread."""
    return [a for a in slots if a > thief] + [a for a in slots if a < thief]


def choose_victims(slots: Iterable[int], length: Callable[[int], int], looks: int = LOOKS) -> list[int]:
    """Of the first `looks` of these agents that have a queue, the longest first; ties keep their order."""
    lengths: dict[int, int] = {}
    for a in slots:
        n = length(a)
        if n > 0:
            lengths[a] = n
            if len(lengths) == looks:
                break
    return sorted(lengths, key=lengths.__getitem__, reverse=True)


def victims(lengths: Sequence[int], thief: int) -> list[int]:
    """Agents worth a steal, the longest queue first; ties go to the nearest after the thief. What a thief chooses that
    looks at all, as it does with up to `LOOKS` others."""
    return choose_victims(around(range(len(lengths)), thief), lengths.__getitem__, len(lengths))


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
