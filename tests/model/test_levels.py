"""What a scheduler adds to the queue, under every schedule: levels, classes, moves by the parent, held tasks, time limits.

The owner's `take` is the one of `levels.py`, with the real `Aging`; the thieves are those of `deque.py`, which may rob
some levels only; the parent pushes, moves, holds and removes. Further down the real `Agent.find_work` and `ask` meet the
real `Urgent.give_out`, and the real `Limits` end an agent. As beside this file, a failure prints its schedule, and
mutants show that the rules can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from scene import TAKE, TRIES, Scene, mutant, mutant_of, steal
from world import Actor, ModelLocks, Violation, World, explore, explore_randomly, seed

from mpsteal._policy.order import FOREVER, Aging
from mpsteal._queue import layout as L
from mpsteal._queue import levels
from mpsteal._queue.deque import ASK, Deques

Check = Callable[[], None]
Step = Callable[[], None]

PLAIN, URGENT = 0, 1
"""Levels: thieves may rob the first only."""


class LevelScene(Scene):
    """A scheduler's deques, and what every run must keep beside the account of `Scene`:

    1. a chunk runs where its class may run (I5), and lies in its own level;
    2. a protected chunk runs where the parent has pushed it;
    3. who robs nobody starts the chunks of a level in the order in which they were pushed;
    4. once the parent has told of an urgent chunk, at most one that is less urgent is started before it.
    """

    def __init__(
        self,
        world: World,
        slots: int = 2,
        *,
        levels: int = 2,
        aging_tasks: int = FOREVER,
        make_take: Any = levels.make_take,
        **others: Any,
    ) -> None:
        super().__init__(world, slots, levels=levels, **{"steal_levels": (PLAIN,), **others})
        self.aging_tasks, self._make_take = aging_tasks, make_take
        self.level_of: dict[int, int] = {}
        self.class_of: dict[int, int] = {}
        self.homes: dict[int, set[int]] = {}
        self.moved: set[int] = set()
        """Chunks whose order the parent has changed."""
        self.robbers: set[int] = set()

    # -- set up -----------------------------------------------------------------------------------

    def preload(self, slot: int, *ranges: tuple[int, int], level: int = PLAIN, number: int = 0) -> None:
        """Ranges of one class that are queued before the run begins."""
        super().preload(slot, *ranges, level=level)
        for lo, hi in ranges:
            self._know(slot, level, lo, hi, number)

    def loot(self, slot: int, lo: int, hi: int, level: int = PLAIN) -> None:
        super().loot(slot, lo, hi, level)
        self._know(slot, level, lo, hi, 0)

    def _know(self, slot: int, level: int, lo: int, hi: int, number: int) -> None:
        for chunk in range(lo, hi):
            self.level_of[chunk], self.class_of[chunk], self.homes[chunk] = level, number, {slot}
            self.world.cells[self.layout.chunk(chunk) + L.SLOT_FLAGS] = number << L.CLASS_SHIFT

    def allow(self, number: int, *slots: int) -> None:
        """Who can run a class."""
        for slot in slots:
            at, bit = self.layout.class_mask(number, slot)
            self.world.cells[at] |= bit

    def agent(self, slot: int, *steps: tuple[str, int], mortal: bool = True, name: str | None = None) -> Actor:
        if any(what == "steal" for what, _ in steps):
            self.robbers.add(slot)
        return super().agent(slot, *steps, mortal=mortal, name=name)

    def parent(self, *steps: Step, mortal: bool = False) -> Actor:
        """The parent, which does the steps."""

        def body() -> None:
            for step in steps:
                step()

        actor = self.world.actor("parent", body, mortal=mortal)
        self.slot_of[actor.name] = L.NONE
        return actor

    # -- what the parent does ---------------------------------------------------------------------

    def push(self, slot: int, level: int, lo: int, hi: int, *, number: int = 0, news_first: bool = False) -> Step:
        """Step: push, then tell its owner, as `Scheduling.announce` does."""
        self.chunks += range(lo, hi)
        self._know(slot, level, lo, hi, number)
        return partial(self._push, slot, level, lo, hi, news_first)

    def _push(self, slot: int, level: int, lo: int, hi: int, news_first: bool = False) -> None:
        if news_first:
            self._tell(slot)
        for chunk in range(lo, hi):
            self.homes[chunk].add(slot)
        if not self.deques.push(slot, level, lo, hi):
            self.refused.append((slot, lo, hi))
            self.world.event(f"refused {slot}", lo)
            return
        if not news_first:
            self._tell(slot)
        self.locks.fence()
        self.world.event(f"told {slot}", lo)

    def _tell(self, slot: int) -> None:
        at = self.layout.agent(slot) + L.NEWS
        self.world.words[at] = self.world.words[at] + 1

    def held(self, slot: int, value: int) -> Step:
        """Step: hold something back for an agent, or nothing any more, as `Urgent.tell` does."""

        def step() -> None:
            self.world.event(f"{'holds' if value else 'frees'} {slot}")
            self.world.words[self.layout.agent(slot) + L.HELD] = value
            self._tell(slot)
            self.locks.fence()
            if value:
                self.world.event(f"held {slot}", value)

        return step

    def move(self, source: int, target: int, limit: int, among: Iterable[int] = (PLAIN,)) -> Step:
        """Step: rebalance, as `Balancer` does."""
        return partial(self._move, source, target, limit, tuple(among))

    def _move(self, source: int, target: int, limit: int, among: tuple[int, ...]) -> None:
        for _ in range(TRIES):
            self.world.attempt()
            taken = self.deques.take_back(source, limit, among, target)
            if taken is not None:
                break
            self.world.wait_news()
        for level, lo, hi in taken or ():
            self.moved.update(range(lo, hi))
            self._push(target, level, lo, hi)

    def remove(self, chunk: int) -> Step:
        """Step: cancel, as `Dispatcher._remove` does."""

        def step() -> None:
            for slot in (*range(self.slots), *range(self.slots)):
                rest = self.deques.remove(slot, chunk)
                if rest is None:
                    continue
                self.world.event("removed", chunk)
                if rest[0] < rest[1]:
                    self.moved.update(range(*rest))
                    self._push(slot, self.level_of[chunk], *rest)
                return

        return step

    def bury(self, actor: Actor, target: int) -> Step:
        """Last step: when that agent dies, settle it, and give what it has queued to another, as `gone` does."""

        def step() -> None:
            self.world.wait(lambda: actor.is_dead, f"{actor.name} is dead", optional=True)
            slot = self.slot_of[actor.name]
            self.settle(slot)
            self._move(slot, target, 1 << 62, self.deques.levels)

        return step

    def keep_out(self, slot: int) -> Step:
        """Step: hold an agent for a while. It may finish the start that it was at, and start nothing else."""

        def step() -> None:
            words, base = self.world.words, self.layout.agent(slot)
            if not self.deques.hold(slot):
                return
            places = list(self.deques._range_words(slot))
            claim = words[base + L.CLAIM]
            before = [(words[at], words[at + 1]) for at in places]
            self.world.event("holds", slot)
            after = [(words[at], words[at + 1]) for at in places]
            words[base + L.MARK] = 0
            self.locks.unlock(slot)
            for was, now in zip(before, after, strict=True):
                assert now == was or (was[0] == claim and now == (claim + 1, was[1])), f"held, and yet {was} is {now}"

        return step

    # -- what agents do ---------------------------------------------------------------------------

    def make_take(self, slot: int) -> Callable[[], int]:
        """`take` of `levels.py`; where it would ask and nobody answers, it goes on with what it has."""
        take = self._make_take(self.deques, slot, Aging(self.aging_tasks, 1))

        def take_or_ask() -> int:
            chunk: int = take()
            if chunk == ASK:
                self.world.event(f"asks {slot}")
                chunk = take(True)
            return chunk

        return take_or_ask

    # -- the end ----------------------------------------------------------------------------------

    def check(self) -> None:
        super().check()
        self._check_places()
        self._check_order()
        self._check_told()
        self._check_asked()

    def check_hidden(self) -> None:
        """Also that everything lies where it may."""
        super().check_hidden()
        cells, deques = self.world.cells, self.deques
        for slot in range(self.slots):
            for level in deques.levels:
                for at in deques._from_the_end(slot, level):
                    for chunk in range(cells[at], cells[at + 1]):
                        assert self.level_of[chunk] == level, f"chunk {chunk} lies in level {level}"
                        self._check_place(chunk, slot)

    def balance(self, dead: set[str]) -> None:
        if "parent" in dead:
            # The pool dies with it: what it had in its hands is lost.
            settled = {chunk for _, what, chunk in self.world.log if what in ("commit", "removed")}
            settled |= {chunk for _, what, chunk in self.world.log if what.startswith("report")}
            lost = set(self.chunks) - settled
            self.refused = [(L.NONE, chunk, chunk + 1) for chunk in sorted(lost)]
        super().balance(dead)

    def _check_place(self, chunk: int, slot: int) -> None:
        number = self.class_of[chunk]
        at, bit = self.layout.class_mask(number, slot)
        assert not number or self.world.cells[at] & bit, f"chunk {chunk}: agent {slot} cannot run its class"
        if self.level_of[chunk] not in self.deques.steal_levels:
            assert slot in self.homes[chunk], f"chunk {chunk} was stolen from a protected level"

    def _starts(self, slot: int) -> list[int]:
        mine = {name for name, s in self.slot_of.items() if s == slot}
        return [chunk for name, what, chunk in self.world.log if what == "start" and name in mine]

    def _check_places(self) -> None:
        for slot in range(self.slots):
            for chunk in self._starts(slot):
                self._check_place(chunk, slot)

    def _check_order(self) -> None:
        for slot in set(range(self.slots)) - self.robbers:
            for level in self.deques.levels:
                mine = [c for c in self._starts(slot) if self.level_of[c] == level and c not in self.moved]
                assert mine == sorted(mine), f"agent {slot} starts {mine} in this order"

    def _check_told(self) -> None:
        if self.aging_tasks < FOREVER:
            return
        for i, (_, what, chunk) in enumerate(self.world.log):
            if what.startswith("told") and chunk not in self.moved:
                slot = int(what.split()[1])
                over = {("start", chunk), ("removed", chunk)}
                before = self._lower_starts(0, i, slot, self.level_of[chunk], over)
                assert len(before) <= 1, f"told of {chunk}, the owner starts {before} first"

    def _check_asked(self) -> None:
        began = 0
        for i, (_, what, value) in enumerate(self.world.log):
            if what.startswith("holds"):
                began = i
            elif what.startswith("held"):
                slot = int(what.split()[1])
                before = self._lower_starts(began, i, slot, value - 1, {(f"asks {slot}", 0), (f"frees {slot}", 0)})
                assert len(before) <= 1, f"told of what is held, the owner starts {before} and does not ask"

    def _lower_starts(self, began: int, told: int, slot: int, level: int, over: set[tuple[str, int]]) -> list[int]:
        """What agents of a slot start below a level once they are told, until one of `over`; none if that came first."""
        before: list[int] = []
        for i, (name, what, chunk) in enumerate(self.world.log[began:], began):
            if (what, chunk) in over or name == "after":
                break
            if i > told and what == "start" and self.slot_of[name] == slot and self.level_of[chunk] < level:
                before.append(chunk)
        return before


# -- every chunk is settled once, in its place and in its turn ------------------------------------------------------


def higher_level_is_pushed(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, 1, **parts)
    scene.preload(0, (0, 3))
    scene.parent(scene.push(0, URGENT, 3, 4))
    scene.agent(0, TAKE, TAKE, TAKE, TAKE)
    return scene.check


def higher_level_is_pushed_while_a_thief_steals(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 3))
    scene.parent(scene.push(0, URGENT, 3, 4))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def thief_wants_what_is_protected(world: World, **parts: Any) -> Check:
    """The owner is in one level, the thief in the other."""
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 2))
    scene.preload(0, (2, 4), level=URGENT)
    scene.agent(0, TAKE, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def levels_take_turns(world: World, **parts: Any) -> Check:
    """The owner changes between two ranges, of which one is robbed meanwhile."""
    scene = LevelScene(world, aging_tasks=1, **parts)
    scene.preload(0, (0, 3))
    scene.preload(0, (3, 6), level=URGENT)
    scene.agent(0, TAKE, TAKE, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def thief_robs_two_levels(world: World, **parts: Any) -> Check:
    """The loot register is used for one level, then for the other; its owner takes from it and from its rings."""
    scene = LevelScene(world, steal_levels=(PLAIN, URGENT), **parts)
    scene.preload(0, (0, 2))
    scene.preload(0, (2, 4), level=URGENT)
    scene.agent(1, steal(0), TAKE, steal(0), TAKE)
    scene.agent(0, TAKE, mortal=False)
    return scene.check


def loot_lies_between_levels(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, levels=3, steal_levels=(0, 1), **parts)
    scene.loot(0, 0, 2, level=1)
    scene.preload(0, (2, 3), level=0)
    scene.parent(scene.push(0, 2, 3, 4))
    scene.agent(0, TAKE, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def ranges_have_classes(world: World, **parts: Any) -> Check:
    """The thief can run the first range only, the owner both."""
    scene = LevelScene(world, classes=3, **parts)
    scene.allow(1, 0, 1)
    scene.allow(2, 0)
    scene.preload(0, (0, 3), number=1)
    scene.preload(0, (3, 5), number=2)
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def parent_pushes_a_class(world: World, **parts: Any) -> Check:
    """The class of a chunk is there before the chunk can be seen; here the ring is used for the second time."""
    scene = LevelScene(world, entries=1, classes=3, **parts)
    scene.allow(1, 0)
    scene.allow(2, 0, 1)
    scene.preload(0, (0, 1), number=2)
    scene.parent(scene.push(0, PLAIN, 1, 3, number=1))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def last_entry_is_used_again(world: World, **parts: Any) -> Check:
    """A thief empties the entry that the owner looks at, and the parent is about to write a new range there."""
    scene = LevelScene(world, entries=1, **parts)
    scene.preload(0, (0, 2))
    scene.parent(scene.push(0, PLAIN, 5, 6))
    scene.agent(0, TAKE, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE, mortal=False)
    return scene.check


def owner_robs_after_it_was_robbed(world: World, **parts: Any) -> Check:
    """Its loot register is emptied by a thief, and filled by a steal of its own."""
    scene = LevelScene(world, **parts)
    scene.loot(0, 0, 2)
    scene.preload(1, (2, 4))
    scene.agent(0, TAKE, TAKE, steal(1), TAKE)
    scene.agent(1, steal(0), TAKE)
    scene.robbers.add(1)
    return scene.check


def parent_takes_back(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 3))
    scene.parent(scene.move(0, 1, 2))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, TAKE, mortal=False)
    return scene.check


def parent_takes_back_from_two_ranges(world: World, **parts: Any) -> Check:
    """Of the last range all, of the first, where the owner is, what is not claimed."""
    scene = LevelScene(world, 2, **parts)
    scene.preload(0, (0, 2), (2, 3))
    scene.parent(scene.move(0, 1, 3))
    scene.agent(0, TAKE, TAKE, TAKE)
    return scene.check


def parent_takes_back_what_is_stolen(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 4))
    scene.parent(scene.move(0, 1, 2))
    scene.agent(0, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def parent_takes_back_what_the_target_can_run(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, classes=3, **parts)
    scene.allow(1, 0, 1)
    scene.allow(2, 0)
    scene.preload(0, (0, 2), number=1)
    scene.preload(0, (2, 4), number=2)
    scene.parent(scene.move(0, 1, 4))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, TAKE, mortal=False)
    return scene.check


def parent_cancels(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 3))
    scene.parent(scene.remove(1))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def parent_keeps_the_owner_out(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, 1, **parts)
    scene.preload(0, (0, 3))
    scene.preload(0, (3, 4), level=URGENT)
    scene.parent(scene.keep_out(0))
    scene.agent(0, TAKE, TAKE, TAKE)
    return scene.check


def parent_dies_with_an_agent_held(world: World, **parts: Any) -> Check:
    """The pool ends with it, but nobody may hang, and nothing run twice."""
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 4))
    scene.parent(scene.move(0, 1, 2), mortal=True)
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def dead_agents_queue_is_moved(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 2))
    scene.preload(0, (2, 3), level=URGENT)
    owner = scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    scene.parent(scene.bury(owner, 1))
    return scene.check


def dead_thiefs_queue_is_moved(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 3))
    scene.agent(0, TAKE, TAKE, mortal=False)
    thief = scene.agent(1, steal(0), TAKE)
    scene.parent(scene.bury(thief, 0))
    return scene.check


def owner_asks(world: World, **parts: Any) -> Check:
    """Something is held for it, and later no more."""
    scene = LevelScene(world, 1, **parts)
    scene.preload(0, (0, 4))
    scene.parent(scene.held(0, 1 + URGENT), scene.held(0, 0))
    scene.agent(0, TAKE, TAKE, TAKE, TAKE)
    return scene.check
