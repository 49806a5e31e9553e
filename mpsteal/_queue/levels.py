"""How an owner takes from a deque of several levels: the start protocol of `deque.py`, with a choice before it.

    news?  --no-->  the next chunk of the range at hand, without the lock
      |yes, or the range is through, or another level's turn has come
      v
    lock --> which levels wait? --> choose --> does the parent hold something more urgent? --yes--> ASK
                                                                          '--no--> claim, commit, unlock

What is urgent and whose turn it is, is policy, and comes from outside (`Turns`). Two words of the agent, written by the
parent, tell what the owner cannot see in its own deque:

    NEWS  grows by one after every push to this agent and every change of HELD. While it stays the same, and others only
          take away, the range at hand is still the right one, so no lock is needed.
    HELD  0, or 1 + the highest level of what the parent holds back and would hand to this agent. Whoever is about to
          start something whose turn comes after that returns ASK in place of a chunk; the agent then parks for a while.

Both are hints: an owner that sees them late starts one chunk that it would not have started. So they need no fence of
their own. NEWS is written after the push it tells of; where it is seen before, the fence after both tells of the push.

Rejected: the parent hands urgent tasks to busy agents ahead. Each would be a hostage of whatever its agent runs, since
the protected are not stolen, and one that is more urgent could not overtake it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from . import layout as L
from .deque import ASK, EMPTY, RETRY, Deques


class Turns(Protocol):
    """Which of the waiting levels is next; see `_policy/order.py`."""

    def choose(self, waiting: Sequence[int]) -> int:
        """The level to take from, and account for it."""

    def peek(self, waiting: Sequence[int]) -> int:
        """The same without accounting."""

    def steady(self, waiting: Sequence[int], chosen: int) -> int:
        """How many more may be taken from there before the choice could be another."""

    def took(self, waiting: Sequence[int], chosen: int, n: int) -> None:
        """Account for `n` more."""


def make_take(deques: Deques, slot: int, turns: Turns, step: int = 2) -> Callable[[bool], int]:
    """The owner's `take` for several levels. The closure's argument says whether to ignore what the parent holds.

    Of every `step` levels the last is for what the parent has held and handed over.

    It returns a chunk number (claimed and committed), or `EMPTY`, `RETRY`, `ASK`.
    """
    w: Any = deques.words
    lay = deques.layout
    lock, unlock = deques.locks.of_owner(slot)
    repair = deques._repair
    base = lay.agent(slot)
    claim, claim_at, mark = base + L.CLAIM, base + L.CLAIM_AT, base + L.MARK
    news, held = base + L.NEWS, base + L.HELD
    loot_lo, loot_level = base + L.LOOT_LO, base + L.LOOT_LEVEL
    capacity = lay.geometry.entries
    rings = tuple((level, lay.head(slot, level), lay.entries(slot, level)) for level in deques.levels)
    without_lock = deques.locks.owner_is_fenced
    range_at, seen, left, taken = -1, 0, 0, 0
    waiting: list[int] = []
    chosen = -1

    def forget() -> None:
        nonlocal range_at
        range_at = -1

    deques.forget_place = forget

    def first_ranges() -> dict[int, int]:
        """Per waiting level the word of its first range that is not empty. Lock held."""
        found: dict[int, int] = {}
        loot = w[loot_level] if w[loot_lo] < w[loot_lo + 1] else -1
        for level, head_at, entries in rings:
            if level == loot:
                found[level] = loot_lo
                continue
            head, tail = w[head_at], w[head_at + 1]
            while head != tail:
                at = entries + 2 * (head % capacity)
                if w[at] < w[at + 1]:
                    found[level] = at
                    break
                head += 1
                w[head_at] = head
        return found

    def take(ignore_held: bool = False) -> int:
        nonlocal range_at, seen, left, taken, waiting, chosen
        if range_at >= 0 and taken < left and w[news] == seen:
            chunk: int = w[range_at]
            w[claim] = chunk
            if not w[mark] and chunk < w[range_at + 1]:
                w[range_at] = chunk + 1
                taken += 1
                return chunk
        lock()
        # First of all: where it points there may be another range once a head has moved, or a steal of our own.
        w[claim] = L.NONE
        range_at = -1
        if taken:
            turns.took(waiting, chosen, taken)
            taken = 0
        if w[mark] and not repair(slot):
            unlock()
            return RETRY
        # Both before the look at the ranges: what they tell of is there, and what is held no more was handed over.
        seen, level = w[news], w[held] - 1
        found = first_ranges()
        if not found:
            unlock()
            return EMPTY
        waiting = list(found)
        # What the parent holds waits, too, and rises with age as if it were here.
        asks = False
        if level >= 0 and level not in found:
            asks = turns.peek([*waiting, level]) == level
            # What the parent has handed over goes first: it came in the parent's order, and it gives no more before.
            if asks and not ignore_held and not any(at > level and at % step == step - 1 for at in waiting):
                unlock()
                return ASK
            waiting.append(level)
        if asks:
            chosen, left = turns.peek(list(found)), 0
            turns.took(waiting, chosen, 1)
        else:
            chosen = turns.choose(waiting)
            left = turns.steady(waiting, chosen)
        at = found[chosen]
        chunk = w[at]
        w[claim_at] = at
        w[claim] = chunk
        w[at] = chunk + 1
        if without_lock and not asks:
            range_at = at
        unlock()
        return chunk

    return take
