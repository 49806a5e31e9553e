"""Which queued tasks the parent moves from busy agents to idle ones in one cycle (a push, as stealing is a pull)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Move(NamedTuple):
    """`count` queued tasks go from one agent to another."""

    source: int
    target: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks a move for


def is_severe(lengths: Iterable[int], ratio: float, busy_above: int) -> bool:
    """Does the longest queue exceed `ratio` times the shortest? An empty one counts once the longest is busy: by ratio,
    one task here and none there would be the worst of all. False of fewer than two agents."""
    queues = list(lengths)
    if len(queues) < 2:
        return False
    longest, shortest = max(queues), min(queues)
    return longest > ratio * shortest if shortest > 0 else longest > busy_above


def plan(
    lengths: dict[int, int],
    movable: dict[int, int],
    may_go: Callable[[int, int], bool],
    *,
    max_tasks: int,
    busy_above: int,
    idle_below: int,
    severe_ratio: float,
) -> list[Move]:
    """The moves of one cycle: task by task from the longest queue that may give one to the shortest that may take it.

    A task moves only while that narrows the gap: from a busy agent to an idle one, or, when no such pair is left and
    the imbalance is severe, from any to any. One that has moved stays for the rest of the cycle.

    Args:
        lengths: queued tasks by agent.
        movable: by agent, how many of those may move at all (protected ones may not).
        may_go: (source, target): can the target run what the source would give? Asked for each busy agent about each
            idle one when nothing fits, so it should be cheap.
        max_tasks: at most so many in all. Small: slow to mend; big: acts on lengths that are no longer true.
        busy_above, idle_below: an agent with more queued is busy, one with fewer is idle.
        severe_ratio: as in `is_severe`, decided anew after each task.

    Returns:
        Moves in the order decided, one per pair of agents. Ties go to the smaller number.
    """
    queued, left = dict(lengths), dict(movable)
    moves: dict[tuple[int, int], int] = {}
    for _ in range(max_tasks):
        pair = _next_pair(queued, left, may_go, busy_above, idle_below)
        if pair is None and is_severe(queued.values(), severe_ratio, busy_above):
            pair = _next_pair(queued, left, may_go, 0, max(queued.values()))  # whoever has more, whoever has less
        if pair is None:
            break
        source, target = pair
        queued[source] -= 1
        queued[target] += 1
        left[source] -= 1
        moves[pair] = moves.get(pair, 0) + 1
    return [Move(source, target, count) for (source, target), count in moves.items()]


def _next_pair(
    queued: dict[int, int],
    left: dict[int, int],
    may_go: Callable[[int, int], bool],
    busy_above: int,
    idle_below: int,
) -> tuple[int, int] | None:
    """Whose task moves next, and where to."""
    if not queued:
        return None
    targets = sorted(queued, key=lambda agent: (queued[agent], agent))
    for source in sorted(queued, key=lambda agent: (-queued[agent], agent)):
        length = queued[source]
        # The sources to come are shorter still, and so are the targets to come longer: what ends one ends all.
        if length <= busy_above or length - queued[targets[0]] < 2:
            return None
        if left.get(source, 0) <= 0:
            continue
        for target in targets:
            if queued[target] >= idle_below or length - queued[target] < 2:
                break
            if may_go(source, target):
                return source, target
    return None
