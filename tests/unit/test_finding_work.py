"""What an agent reads of shared memory to find work, or to learn that there is none: counted, since time cannot be
tested. The same with 64 agents as with 16, but for what one copy of a word of every agent holds."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mpsteal._agent import loop
from mpsteal._policy.stealing import LOOKS, steal_point
from mpsteal._queue import layout as L
from mpsteal._queue.deque import EMPTY, STOLEN, Deques


class CountedWords:
    """Shared words, and how often any was read, alone or with those of all others."""

    def __init__(self, count: int) -> None:
        self.cells = memoryview(bytearray(8 * count)).cast("q")
        self.reads = 0

    def __getitem__(self, at: Any) -> Any:
        self.reads += 1
        return self.cells[at]

    def __setitem__(self, at: int, value: int) -> None:
        self.cells[at] = value

    def count(self, call: Callable[[], Any]) -> tuple[Any, int]:
        """What a call gives, and how often it has read."""
        before = self.reads
        return call(), self.reads - before


class NoLocks:
    """Nobody else is there."""

    owner_is_fenced = False

    def of_owner(self, slot: int) -> tuple[Callable[[], None], Callable[[], None]]:
        return lambda: None, lambda: None

    def lock(self, slot: int) -> None: ...
    def try_lock(self, slot: int) -> bool:
        return True

    def unlock(self, slot: int) -> None: ...
    def order(self) -> None: ...
    def fence(self) -> None: ...
    def fence_owners(self) -> None: ...


class Thief(loop.Agent):
    """Agent 0 without its process."""

    def __init__(self, slots: int) -> None:
        layout = L.Layout(L.Geometry(slots, entries=8, page_chunks=4, page_bytes=64, pages=1, ring_bytes=64))
        self.words: Any = CountedWords(layout.slots_word)
        self.words[L.SLOTS_USED] = slots
        for slot in range(slots):
            self.words[layout.agent(slot) + L.CLAIM] = L.NONE
        self.locks: Any = NoLocks()
        self.deques = Deques(self.words, layout, self.locks, steal_point)
        self.segment: Any = SimpleNamespace(layout=layout)
        self.slot, self.base, self.rules = 0, layout.agent(0), None
        self.rung: list[int] = []

    def ring(self, slot: int) -> None:
        self.rung.append(slot)

    def park(self, slot: int) -> None:
        self.words[self.segment.layout.agent(slot) + L.PARKED] = 1


def deal(thief: Thief, slots: range, chunks: int) -> None:
    """So many chunks to each, in ranges of one."""
    for slot in slots:
        for i in range(chunks):
            at = slot * chunks + i
            assert thief.deques.push(slot, 0, at, at + 1)


READS_TO_STEAL = 120
"""With 8 queues of 3 entries each to compare, and the steal itself."""


@pytest.mark.parametrize("slots", [16, 64, 256])
def test_reads_to_steal_do_not_grow_with_the_agents(slots: int) -> None:
    thief = Thief(slots)
    deal(thief, range(1, slots), 3)
    found, reads = thief.words.count(thief.steal_round)
    assert found == STOLEN
    assert reads <= READS_TO_STEAL, f"{reads} reads for a steal beside {slots} agents"


@pytest.mark.parametrize("slots", [16, 64, 256])
def test_reads_before_parking_do_not_grow_with_the_agents(slots: int) -> None:
    """All have had something, and all of it was taken: by owners, from the front, or by thieves."""
    thief = Thief(slots)
    deal(thief, range(1, slots), 3)
    for slot in range(1, slots):
        take = thief.deques.make_take(slot)
        assert [take() >= 0 for _ in range(4)] == [True] * 3 + [False]
    found, reads = thief.words.count(thief.steal_round)
    assert found == EMPTY
    assert reads <= 16, f"{reads} reads to find nothing beside {slots} agents"
    found, reads = thief.words.count(thief._is_work_anywhere)
    assert not found
    assert reads <= 8, f"{reads} reads before the sleep beside {slots} agents"


@pytest.mark.parametrize("slots", [16, 64, 256])
def test_reads_before_a_ring_do_not_grow_with_the_agents(slots: int) -> None:
    thief = Thief(slots)
    deal(thief, range(1, 4), 3)
    for slot in range(4, slots):
        thief.park(slot)
    _, reads = thief.words.count(thief.ring_next)
    assert thief.rung == [4], "the nearest of those that sleep"
    assert reads <= 32, f"{reads} reads to ring beside {slots} agents"


def test_what_lies_at_those_that_sleep_rings_nobody() -> None:
    """They were rung for it."""
    thief = Thief(8)
    deal(thief, range(4, 6), 2)
    for slot in range(4, 8):
        thief.park(slot)
    thief.ring_next()
    assert not thief.rung
    deal(thief, range(1, 3), 1)
    thief.ring_next()
    assert thief.rung == [4]


def test_braked_agent_rings_nobody() -> None:
    thief = Thief(8)
    deal(thief, range(1, 3), 2)
    thief.park(4)
    thief.words[L.FEW] = 1
    thief.ring_next()
    assert not thief.rung
    thief.words[L.FEW] = 0
    thief.ring_next()
    assert thief.rung == [4]


def test_a_range_that_a_thief_has_emptied_is_looked_at_no_more() -> None:
    thief = Thief(3)
    deal(thief, range(1, 2), 1)
    assert thief.deques.may_have_work() == [1]
    assert thief.deques.steal(0, 1) == STOLEN
    assert thief.deques.may_have_work() == [0], "its loot"
    thief.deques.validate()
    deal(thief, range(1, 2), 1)
    assert thief.deques.may_have_work() == [0, 1], "what comes later counts again"


def test_thief_finds_the_only_queue_among_many() -> None:
    thief = Thief(64)
    assert thief.deques.push(40, 0, 0, 4)
    assert LOOKS < 40
    assert thief.steal_round() == STOLEN
    assert thief.deques.ranges(0) == [(2, 4)]
