"""Levels, classes and moves by the parent: what a scheduler adds to the deques, under every schedule (D2, D4-D6).

The owner's `take` is the one of `levels.py`, with the real `Aging`. Thieves may rob some levels only, and only what
they can run; the parent pushes to any level, takes back, holds and removes. Scenes are explored as in
`test_deque_schedules.py`, with a bound on preemptions where they are larger; mutants show that the rules can fail.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from scene import TAKE, TRIES, Scene, mutant, mutant_of, steal
from world import Actor, ModelLocks, Violation, World, explore, explore_randomly, seed

from mpsteal._policy.order import FOREVER, Aging
from mpsteal._policy.stealing import victims
from mpsteal._queue import layout as L
from mpsteal._queue import levels
from mpsteal._queue.deque import ASK, EMPTY, RETRY, STOLEN

Check = Callable[[], None]
Step = Callable[[], None]
SceneMaker = Callable[..., Check]

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
        """What agents of a slot start below a level once told, until one of `over`; nothing if that came first."""
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


def owner_and_thief_want_the_same_chunk(world: World, **parts: Any) -> Check:
    """The owner starts the second chunk of its range without the lock."""
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 2))
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
    scene.preload(0, (0, 3))
    scene.parent(scene.move(0, 1, 1), mortal=True)
    scene.agent(0, TAKE, TAKE, mortal=False)
    return scene.check


def parent_or_a_thief_dies(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 3))
    scene.parent(scene.move(0, 1, 1), mortal=True)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def dead_agents_queue_is_moved(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 2))
    scene.preload(0, (2, 3), level=URGENT)
    owner = scene.agent(0, TAKE, TAKE)
    scene.agent(1, TAKE, mortal=False)
    scene.parent(scene.bury(owner, 1))
    return scene.check


def dead_thiefs_queue_is_moved(world: World, **parts: Any) -> Check:
    scene = LevelScene(world, **parts)
    scene.preload(0, (0, 3))
    scene.agent(0, TAKE, mortal=False)
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


SCENES: dict[SceneMaker, tuple[int, int]] = {
    higher_level_is_pushed: (1, 1),
    higher_level_is_pushed_while_a_thief_steals: (0, 1),
    owner_and_thief_want_the_same_chunk: (1, 1),
    thief_wants_what_is_protected: (0, 2),
    levels_take_turns: (0, 2),
    thief_robs_two_levels: (1, 1),
    loot_lies_between_levels: (0, 1),
    ranges_have_classes: (0, 2),
    parent_pushes_a_class: (0, 1),
    last_entry_is_used_again: (0, 1),
    owner_robs_after_it_was_robbed: (0, 2),
    parent_takes_back: (0, 1),
    parent_takes_back_from_two_ranges: (1, 1),
    parent_takes_back_what_is_stolen: (0, 1),
    parent_takes_back_what_the_target_can_run: (0, 1),
    parent_cancels: (0, 1),
    parent_keeps_the_owner_out: (1, 2),
    parent_dies_with_an_agent_held: (1, 2),
    parent_or_a_thief_dies: (1, 1),
    dead_agents_queue_is_moved: (1, 0),
    dead_thiefs_queue_is_moved: (1, 0),
    owner_asks: (1, 1),
}
"""How many die, and how often one is interrupted by another, in the run of every day."""


@pytest.mark.parametrize(("scene", "limits"), SCENES.items(), ids=[scene.__name__ for scene in SCENES])
def test_every_chunk_is_settled_once_in_its_place_and_turn(scene: SceneMaker, limits: tuple[int, int]) -> None:
    explored = explore(scene, deaths=limits[0], preemptions=limits[1])
    assert explored.schedules > 20, "the scene is too small to say anything"


SMALL = [owner_and_thief_want_the_same_chunk, parent_takes_back_from_two_ranges, parent_keeps_the_owner_out]
"""Scenes around the owner's two ways of starting a chunk, and what keeps it from either."""


@pytest.mark.parametrize("limits", [{"memory": "tso"}, {"fenced": False}, {"fenced": False, "memory": "pso"}], ids=str)
@pytest.mark.parametrize("scene", SMALL)
def test_the_same_where_stores_land_late_or_owners_lock(scene: SceneMaker, limits: dict[str, Any]) -> None:
    """Where stores may overtake each other there is no `membarrier`, so owners lock (barrier.py)."""
    explore(scene, preemptions=2, **limits)


def test_random_schedules() -> None:
    """Up to three deaths. A failure names its seed; MPSTEAL_SEED=<seed> runs that schedule again."""
    for limits in MEMORIES:
        for scene in SCENES:
            explore_randomly(scene, rounds=15, seed=seed(), deaths=3, **limits)


MEMORIES: list[dict[str, Any]] = [{"memory": "sc"}, {"memory": "tso"}, {"fenced": False, "memory": "pso"}]


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("limits", MEMORIES, ids=str)
@pytest.mark.parametrize("scene", SCENES)
def test_every_chunk_is_settled_once_at_length(scene: SceneMaker, limits: dict[str, Any]) -> None:
    explore(scene, deaths=1, preemptions=2, runs_limit=2_000_000, **limits)
    explore_randomly(scene, rounds=5_000, seed=seed(), deaths=3, **limits)


# -- the model finds ------------------------------------------------------------------------------------------------

LEVELS_MUTANTS: dict[str, tuple[tuple[str, str], SceneMaker]] = {
    "owner does not look for news": (
        (" and w[news] == seen", ""),
        higher_level_is_pushed,
    ),
    "owner reads the news after what it tells of": (
        (
            "        seen, level = w[news], w[held] - 1\n        found = first_ranges()\n",
            "        level = w[held] - 1\n        found = first_ranges()\n        seen = w[news]\n",
        ),
        higher_level_is_pushed,
    ),
    "owner does not look for a mark": (
        ("if not w[mark] and chunk < w[range_at + 1]", "if chunk < w[range_at + 1]"),
        parent_keeps_the_owner_out,
    ),
    "owner claims after it has looked for a mark": (
        (
            "            w[claim] = chunk\n            if not w[mark] and chunk < w[range_at + 1]:\n",
            "            if not w[mark] and chunk < w[range_at + 1]:\n                w[claim] = chunk\n",
        ),
        parent_takes_back_from_two_ranges,
    ),
    "range at hand is kept over a steal and a head that moves": (
        ("        w[claim] = L.NONE\n        range_at = -1\n", "        w[claim] = L.NONE\n"),
        last_entry_is_used_again,
    ),
    "claim is kept over a steal and a head that moves": (
        ("        w[claim] = L.NONE\n        range_at", "        range_at"),
        higher_level_is_pushed,
    ),
    "owner does not ask": (
        ("asks = turns.peek([*waiting, level]) == level", "asks = False"),
        owner_asks,
    ),
}
"""Bugs that the model must find: what is changed in levels.py, and a scene that shows it."""


@pytest.mark.parametrize("bug", LEVELS_MUTANTS)
def test_model_finds_in_levels(bug: str) -> None:
    change, scene = LEVELS_MUTANTS[bug]
    make_take = mutant_of(levels, change)["make_take"]
    with pytest.raises(Violation, match="The schedule:"):
        explore(lambda world: scene(world, make_take=make_take), deaths=1, preemptions=1)
        explore(lambda world: scene(world, make_take=make_take), deaths=1, preemptions=2)


DEQUE_MUTANTS: dict[str, tuple[tuple[str, str], SceneMaker]] = {
    "thief robs every level": (
        ("in self.steal_levels:\n            at = self.last", "in self.levels:\n            at = self.last"),
        thief_wants_what_is_protected,
    ),
    "thief does not look at classes": (
        ("        if not self._has_classes:\n", "        if True:\n"),
        ranges_have_classes,
    ),
    "journal without its level": (
        ("            w[me + L.J_LEVEL] = level\n", ""),
        thief_robs_two_levels,
    ),
    "parent takes back what is claimed": (
        (
            "                if claim == lo:\n"
            "                    lo += 1  # its owner may be about to commit it, as in a steal\n",
            "",
        ),
        parent_takes_back_from_two_ranges,
    ),
    "parent takes back what its target cannot run": (
        ("(runner is None or self.can_run(lo, runner))", "True"),
        parent_takes_back_what_the_target_can_run,
    ),
    "parent holds without a mark": (
        ("        w[base + L.MARK] = self._parent + 1\n", ""),
        parent_keeps_the_owner_out,
    ),
    "mark of a dead parent is nobody's to clear": (
        (
            "            w[self.layout.agent(slot) + L.MARK] = 0\n            return True\n        me",
            "            return False\n        me",
        ),
        parent_dies_with_an_agent_held,
    ),
}
"""The same for deque.py."""


@pytest.mark.parametrize("bug", DEQUE_MUTANTS)
def test_model_finds_in_deques(bug: str) -> None:
    change, scene = DEQUE_MUTANTS[bug]
    deques = mutant(change)
    with pytest.raises(Violation, match="The schedule:"):
        explore(lambda world: scene(world, deques=deques), deaths=1, preemptions=1)
        explore(lambda world: scene(world, deques=deques), deaths=1, preemptions=2)


def test_model_finds_the_missing_fence_of_the_parent() -> None:
    """It marks, and looks at what the owner has claimed: without a fence each may miss the other."""

    def scene(world: World) -> Check:
        return parent_takes_back_from_two_ranges(world, locks=ModelLocks(world, barrier_works=False))

    explore(scene, memory="sc", preemptions=1)
    with pytest.raises(Violation, match="ran twice"):
        explore(scene, memory="tso", preemptions=1)


def test_model_finds_news_told_before_the_push() -> None:
    def scene(world: World) -> Check:
        scene = LevelScene(world, 1)
        scene.preload(0, (0, 3))
        scene.parent(scene.push(0, URGENT, 3, 4, news_first=True))
        scene.agent(0, TAKE, TAKE, TAKE, mortal=False)
        return scene.check

    with pytest.raises(Violation, match="told of 3"):
        explore(scene, preemptions=2)


# -- one after the other --------------------------------------------------------------------------------------------


def still_scene(slots: int, **geometry: Any) -> Scene:
    """Deques at which nobody else is: every access goes through at once."""
    return Scene(World(lambda world: lambda: None), slots, **geometry)


@pytest.mark.parametrize("aging_tasks", [1, 2, 5])
def test_owner_without_its_lock_takes_in_the_same_order_as_with_it(aging_tasks: int) -> None:
    """Pushes, what is held, and turns of levels fall anywhere; `steady` and `took` stand for as many `choose`."""
    first = seed()
    for own in range(first, first + 150):
        orders = []
        for fenced in (False, True):
            chance = random.Random(own)
            world = World(lambda world: lambda: None, fenced=fenced)
            scene = Scene(world, 1, levels=4, entries=64)
            take = levels.make_take(scene.deques, 0, Aging(aging_tasks, 2))
            base, cells, at = scene.layout.agent(0), world.cells, 0
            order: list[int] = []
            for _ in range(60):
                if chance.random() < 0.3:
                    if chance.random() < 0.7:
                        size = chance.randint(1, 6)
                        assert scene.deques.push(0, chance.randrange(4), at, at + size)
                        at += size
                    else:
                        cells[base + L.HELD] = chance.randrange(6)
                    cells[base + L.NEWS] += 1
                chunk = take()
                order.append(chunk)
                if chunk == ASK:
                    order.append(take(True))
            orders.append(order)
        assert orders[0] == orders[1], f"MPSTEAL_SEED={own}"


def test_who_can_get_work_gets_it_and_nobody_else() -> None:
    """`can_get_work` is what an agent looks at before it parks: wrong, it sleeps beside work, or never sleeps.

    A chunk that its owner has claimed and not committed is work, too: who wants it has to come again.
    """
    first = seed()
    answers = Counter[str]()
    for own in range(first, first + 1500):
        chance = random.Random(own)
        scene, thief = some_deques(chance)
        deques = scene.deques
        had, can = deques.has_work(thief), deques.can_get_work(thief)
        lengths = [deques.queued_at(slot, deques.steal_levels) for slot in range(scene.slots)]
        found = [] if had else [deques.steal(thief, victim) for victim in victims(lengths, thief)]
        verdict = STOLEN if had or STOLEN in found else RETRY if RETRY in found else EMPTY
        assert can == (verdict != EMPTY), f"MPSTEAL_SEED={own}"
        assert (verdict == STOLEN) == deques.has_work(thief), f"MPSTEAL_SEED={own}"
        deques.validate()
        answers["had" if had else str(verdict)] += 1
    assert len(answers) == 4 and min(answers.values()) > 0, f"the deques are all alike: {answers}"


def some_deques(chance: random.Random) -> tuple[Scene, int]:
    """Deques with empty ranges, classes, loot and claims in them, and a thief."""
    slots, count = chance.randint(2, 4), chance.randint(1, 3)
    robbed = tuple(level for level in range(count) if chance.random() < 0.6)
    scene = still_scene(slots, levels=count, entries=2, classes=3, steal_levels=robbed)
    cells, layout, deques = scene.world.cells, scene.layout, scene.deques
    for number in (1, 2):
        for slot in range(slots):
            at, bit = layout.class_mask(number, slot)
            cells[at] |= bit * chance.randrange(2)
    chunk = 0
    for slot in range(slots):
        base = layout.agent(slot)
        for level in range(count):
            for place in chance.choice(("", "", "", "loot", "ring", "ring ring")).split():
                size, flags = chance.choice((0, 1, 1, 2)), chance.randrange(3) << L.CLASS_SHIFT
                for at in range(chunk, chunk + size):
                    cells[layout.chunk(at) + L.SLOT_FLAGS] = flags
                if place == "ring":
                    assert deques.push(slot, level, chunk, chunk + size)
                else:
                    cells[base + L.LOOT_LO], cells[base + L.LOOT_HI] = chunk, chunk + size
                    cells[base + L.LOOT_LEVEL] = level
                chunk += size
        level = chance.randrange(count)
        firsts = [cells[at] for at in deques._from_the_end(slot, level) if cells[at] < cells[at + 1]]
        if firsts and chance.random() < 0.3:
            cells[base + L.CLAIM] = firsts[-1]
    return scene, chance.randrange(slots)
