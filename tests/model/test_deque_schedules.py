"""Take, steal, push, cancel and repair under every schedule, with a death at every point (D2, D4-D6).

Most runs have an owner that starts chunks without its lock while thieves fence for both; some have the locks instead,
as where there is no `membarrier`, and some land stores late, as x86 does. Each scene is explored exhaustively: all
interleavings of its actors, and in each of them every way for up to `deaths` of the mortal ones to die. `scene.py` has
the account that every run must balance; a failure prints the schedule step by step. The mutants show that the account
can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scene import TAKE, Scene, mutant, steal
from world import ModelLocks, Violation, World, explore, explore_randomly, seed

from mpsteal._queue import layout as L
from mpsteal._queue.deque import RETRY, Deques

Check = Callable[[], None]
SceneMaker = Callable[[World, type[Deques]], Check]


def owner_takes_what_a_thief_steals(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 1))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def owner_and_thief_share_a_range(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 3))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE, TAKE)
    return scene.check


def owner_and_thief_want_the_same_chunk(world: World, deques: type[Deques]) -> Check:
    """The owner starts the second chunk of its range without the lock."""
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 2))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def two_thieves_one_victim(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, 3, deques=deques)
    scene.preload(0, (0, 2))
    scene.agent(1, steal(0), TAKE)
    scene.agent(2, steal(0), TAKE)
    return scene.check


def thief_dies_and_another_comes(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, 3, deques=deques)
    scene.preload(0, (0, 2))
    scene.agent(1, steal(0))
    scene.agent(2, steal(0), steal(1), TAKE, mortal=False)
    return scene.check


def thief_dies_and_the_owner_goes_on(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 2), (2, 3))
    scene.agent(0, TAKE, TAKE, TAKE, mortal=False)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def thief_dies_and_is_settled(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 2))
    scene.agent(0, TAKE, mortal=False)
    thief = scene.agent(1, steal(0), TAKE)
    scene.successor(thief, TAKE, steal(0), TAKE)
    return scene.check


def thief_dies_and_its_slot_is_used_unsettled(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 2))
    scene.agent(0, TAKE, mortal=False)
    thief = scene.agent(1, steal(0))
    scene.successor(thief, steal(0), TAKE, repaired=False)
    return scene.check


def heir_robs_another_and_dies_too(world: World, deques: type[Deques]) -> Check:
    """The first victim may still bear the mark while the heir, in the same slot, robs a second."""
    scene = Scene(world, 3, deques=deques)
    scene.preload(0, (0, 2))
    scene.preload(2, (2, 4))
    thief = scene.agent(1, steal(0))
    scene.successor(thief, steal(2), mortal=True)
    return scene.check


def thief_steals_twice(world: World, deques: type[Deques]) -> Check:
    """The journal of the first theft is still there, cleared but for its last word."""
    scene = Scene(world, 3, deques=deques)
    scene.preload(0, (0, 2))
    scene.preload(2, (2, 4))
    scene.agent(1, steal(0), TAKE, steal(2), TAKE)
    scene.agent(2, TAKE, mortal=False)
    return scene.check


def owner_dies_and_its_next_chunk_is_stolen(world: World, deques: type[Deques]) -> Check:
    """Between claim and commit too: the claim of a chunk that is stolen then must not count."""
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 1))
    owner = scene.agent(0, TAKE)
    scene.agent(1, steal(0), TAKE, mortal=False)
    scene.successor(owner, TAKE)
    return scene.check


def chain_of_thieves(world: World, deques: type[Deques]) -> Check:
    """2 steals from 1 while 1, which may be dead, has a journal to 0."""
    scene = Scene(world, 3, deques=deques)
    scene.preload(0, (0, 2))
    scene.agent(1, steal(0))
    scene.agent(2, steal(1), TAKE)
    return scene.check


def thieves_in_a_circle(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, 2, deques=deques)
    scene.preload(0, (0, 1))
    scene.preload(1, (1, 2))
    scene.agent(0, TAKE, steal(1), TAKE)
    scene.agent(1, TAKE, steal(0), TAKE)
    return scene.check


def loot_is_robbed(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.loot(0, 0, 3)
    scene.preload(0, (5, 6))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE, steal(0), TAKE)
    return scene.check


def loot_register_is_used_again(world: World, deques: type[Deques]) -> Check:
    """Old loot is worn out, not gone: its `hi` is still there when the next loot is written."""
    scene = Scene(world, deques=deques)
    scene.loot(1, 7, 8)
    scene.preload(0, (0, 2))
    scene.agent(0, TAKE)
    scene.agent(1, TAKE, steal(0), TAKE)
    return scene.check


def two_levels(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, levels=2, deques=deques)
    scene.preload(0, (0, 2), level=0)
    scene.preload(0, (2, 3), level=1)
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE)
    return scene.check


def parent_pushes_to_a_busy_ring(world: World, deques: type[Deques]) -> Check:
    """Two entries, four ranges: it wraps, and it is full unless the owner is quick."""
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 1))
    scene.pusher((0, 1, 2), (0, 2, 4), (0, 4, 5))
    scene.agent(0, TAKE, TAKE, TAKE)
    return scene.check


def last_entry_is_used_again(world: World, deques: type[Deques]) -> Check:
    """A thief empties the entry that the owner looks at, and the parent is about to write a new range there."""
    scene = Scene(world, entries=1, deques=deques)
    scene.preload(0, (0, 2))
    scene.pusher((0, 5, 6))
    scene.agent(0, TAKE, TAKE, mortal=False)
    scene.agent(1, steal(0), TAKE, steal(0), mortal=False)
    return scene.check


def claim_of_a_stolen_chunk(world: World, deques: type[Deques]) -> Check:
    """The owner claims a chunk that was stolen, goes away empty, and its entry is used again before it dies."""
    scene = Scene(world, entries=1, deques=deques)
    scene.preload(0, (0, 2))
    scene.pusher((0, 5, 6))
    scene.agent(0, TAKE, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE, mortal=False)
    return scene.check


def parent_pushes_while_a_thief_steals(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 1), (1, 2))
    scene.pusher((0, 2, 4), (1, 4, 5))
    scene.agent(1, steal(0), TAKE, TAKE)
    return scene.check


def parent_cancels_what_is_taken(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 3))
    scene.agent(0, TAKE, TAKE, TAKE)
    scene.canceller(1)
    return scene.check


def parent_cancels_what_is_stolen(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 4))
    scene.agent(1, steal(0), TAKE, TAKE)
    scene.canceller(2)
    return scene.check


def parent_cancels_the_claim_of_a_dead_owner(world: World, deques: type[Deques]) -> Check:
    scene = Scene(world, deques=deques)
    scene.preload(0, (0, 2))
    scene.agent(0, TAKE)
    scene.canceller(0)
    return scene.check


def everybody(world: World, deques: type[Deques]) -> Check:
    """An owner, two thieves that also rob each other, and the parent's push."""
    scene = Scene(world, 3, deques=deques)
    scene.preload(0, (0, 3))
    scene.pusher((0, 3, 5), (1, 5, 6))
    scene.agent(0, TAKE, TAKE)
    scene.agent(1, steal(0), TAKE, steal(2), TAKE)
    scene.agent(2, steal(0), TAKE, steal(1), TAKE)
    return scene.check


SCENES: dict[SceneMaker, int] = {
    owner_takes_what_a_thief_steals: 2,
    owner_and_thief_share_a_range: 1,
    owner_and_thief_want_the_same_chunk: 1,
    two_thieves_one_victim: 1,
    thief_dies_and_another_comes: 1,
    thief_dies_and_the_owner_goes_on: 1,
    thief_dies_and_is_settled: 1,
    thief_dies_and_its_slot_is_used_unsettled: 1,
    heir_robs_another_and_dies_too: 2,
    thief_steals_twice: 1,
    owner_dies_and_its_next_chunk_is_stolen: 1,
    chain_of_thieves: 1,
    thieves_in_a_circle: 1,
    loot_is_robbed: 1,
    loot_register_is_used_again: 1,
    two_levels: 1,
    parent_pushes_to_a_busy_ring: 1,
    last_entry_is_used_again: 0,
    parent_pushes_while_a_thief_steals: 1,
    parent_cancels_what_is_taken: 1,
    parent_cancels_what_is_stolen: 1,
    parent_cancels_the_claim_of_a_dead_owner: 1,
}
"""How many of the mortal actors die in the run of every day."""

PREEMPTIONS = 1
"""Times that an actor is stopped which could go on, in the run of every day; any number of them in `-m stress`. Most
faults need one or two (Musuvathi and Qadeer, "Iterative context bounding", 2007): of the mutants below all are found
with two, all but two with one."""

TWO_PREEMPTIONS: set[SceneMaker] = {owner_and_thief_want_the_same_chunk, parent_cancels_what_is_taken}
"""Scenes of the mutants that need them."""

LARGE: dict[SceneMaker, int] = {
    owner_and_thief_want_the_same_chunk: 2,
    owner_takes_what_a_thief_steals: 2,
    owner_and_thief_share_a_range: 2,
    two_thieves_one_victim: 2,
    chain_of_thieves: 2,
    thieves_in_a_circle: 2,
    loot_is_robbed: 2,
    heir_robs_another_and_dies_too: 2,
    two_levels: 2,
    claim_of_a_stolen_chunk: 1,
}
"""The same for `-m stress`: minutes."""


@pytest.mark.parametrize(("scene", "deaths"), SCENES.items(), ids=lambda x: getattr(x, "__name__", x))
def test_every_chunk_is_settled_once(scene: SceneMaker, deaths: int) -> None:
    preemptions = 2 if scene in TWO_PREEMPTIONS else PREEMPTIONS
    explored = explore(lambda world: scene(world, Deques), deaths=deaths, preemptions=preemptions)
    assert explored.schedules > 50, "the scene is too small to say anything"


SMALL = [
    owner_and_thief_want_the_same_chunk,
    owner_takes_what_a_thief_steals,
    owner_and_thief_share_a_range,
    thief_dies_and_the_owner_goes_on,
    parent_pushes_to_a_busy_ring,
    parent_cancels_what_is_taken,
]
"""Scenes around the owner's two ways of starting a chunk."""


@pytest.mark.parametrize("scene", [scene for scene in SMALL if scene is not owner_and_thief_share_a_range])
def test_every_chunk_is_settled_once_where_stores_land_late(scene: SceneMaker) -> None:
    explore(lambda world: scene(world, Deques), deaths=1, memory="tso", preemptions=PREEMPTIONS)


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scene", SMALL)
def test_every_chunk_is_settled_once_where_stores_land_late_at_length(scene: SceneMaker) -> None:
    explore(lambda world: scene(world, Deques), deaths=1, memory="tso", runs_limit=2_000_000)


LOCKED = [*SMALL, last_entry_is_used_again, loot_register_is_used_again, chain_of_thieves]
"""Scenes that are looked at where owners take their locks."""


@pytest.mark.parametrize("scene", LOCKED)
def test_every_chunk_is_settled_once_under_locks(scene: SceneMaker) -> None:
    deaths = min(1, SCENES[scene])
    explore(lambda world: scene(world, Deques), deaths=deaths, fenced=False, preemptions=PREEMPTIONS)


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scene", LOCKED)
def test_every_chunk_is_settled_once_under_locks_at_length(scene: SceneMaker) -> None:
    explore(lambda world: scene(world, Deques), deaths=min(1, SCENES[scene]), fenced=False, runs_limit=2_000_000)


def test_model_finds_the_missing_fence() -> None:
    """Owner and thief both store, then both look: each may miss the other, and the chunk runs twice."""

    def scene(world: World) -> Check:
        scene = Scene(world, locks=ModelLocks(world, barrier_works=False))
        scene.preload(0, (0, 2))
        scene.agent(0, TAKE, TAKE, mortal=False)
        scene.agent(1, steal(0), TAKE, TAKE, mortal=False)
        return scene.check

    explore(scene, memory="sc")  # no fence is needed where stores land at once
    with pytest.raises(Violation, match="ran twice"):
        explore(scene, memory="tso")


def test_refused_owner_claims_nothing() -> None:
    """Its own steal may write a new range where the claim would point, and then the claim would count."""
    world = World(lambda world: lambda: None)
    scene = Scene(world, 3)
    scene.loot(0, 1, 3)
    take = scene.deques.make_take(0)
    assert take() == 1
    thief, victim = scene.layout.agent(2), scene.layout.agent(0)
    world.cells[victim + L.MARK] = world.cells[thief + L.MARK] = 2 + 1  # it died there
    world.cells[thief + L.J_VICTIM] = 0 + 1
    scene.locks.try_lock = lambda slot: False  # type: ignore[method-assign]  # and somebody else is at its lock
    assert take() == RETRY
    assert world.cells[victim + L.CLAIM] == L.NONE


def test_higher_level_comes_first_whatever_came_last() -> None:
    """Also when the owner is half-way through a range of a lower level."""

    def scene(world: World) -> Check:
        scene = Scene(world, levels=2)
        scene.preload(0, (0, 2), level=0)
        order: list[int] = []

        def owner() -> None:
            take = scene.deques.make_take(0)
            order.append(take())
            assert scene.deques.push(0, 1, 2, 3)
            order.extend((take(), take()))

        def check() -> None:
            assert order == [0, 2, 1]

        world.actor("owner and parent", owner, mortal=False)
        return check

    explore(scene)


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("scene", "deaths"),
    (SCENES | LARGE).items(),
    ids=lambda x: getattr(x, "__name__", x),
)
def test_every_chunk_is_settled_once_at_length(scene: SceneMaker, deaths: int) -> None:
    explore(lambda world: scene(world, Deques), deaths=deaths, runs_limit=2_000_000)


def test_random_schedules() -> None:
    """Up to three deaths. A failure names its seed; MPSTEAL_SEED=<seed> runs that schedule again."""
    for limits in ({"memory": "sc"}, {"memory": "tso"}, {"fenced": False}):
        for scene in (*SCENES, claim_of_a_stolen_chunk, everybody):
            explore_randomly(lambda w, s=scene: s(w, Deques), rounds=30, seed=seed(), deaths=3, **limits)


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("limits", [{"memory": "sc"}, {"memory": "tso"}, {"fenced": False}], ids=str)
def test_random_schedules_at_length(limits: dict[str, Any]) -> None:
    explore_randomly(lambda w: everybody(w, Deques), rounds=30_000, seed=seed(), deaths=3, **limits)


def test_pushed_range_is_whole_where_stores_overtake() -> None:
    """`order()` before the tail: without it a thief can see an entry that is not there yet."""

    def scene(world: World, order_works: bool = True) -> Check:
        scene = Scene(world, locks=ModelLocks(world, order_works=order_works))
        scene.pusher((0, 3, 4))
        scene.agent(0, TAKE, mortal=False)
        scene.agent(1, steal(0), TAKE, mortal=False)
        return scene.check

    explore(scene, memory="pso")
    explore(scene, memory="tso")
    explore(lambda world: scene(world, order_works=False), memory="tso")
    with pytest.raises(Violation):
        explore(lambda world: scene(world, order_works=False), memory="pso")


MUTANTS: dict[str, tuple[tuple[tuple[str, str], ...], SceneMaker]] = {
    "commit before claim": (
        (
            (
                "w[claim] = chunk\n                w[at] = chunk + 1",
                "w[at] = chunk + 1\n                w[claim] = chunk",
            ),
        ),
        owner_takes_what_a_thief_steals,
    ),
    "no journal": (
        (("            w[me + L.J_VICTIM] = victim + 1\n", ""),),
        thief_dies_and_the_owner_goes_on,
    ),
    "owner claims after it has looked for a mark": (
        (
            (
                "                w[claim] = chunk\n                if not w[mark] and",
                "                if not w[mark] and",
            ),
            (
                "                    w[range_at] = chunk + 1\n",
                "                    w[claim] = chunk\n                    w[range_at] = chunk + 1\n",
            ),
        ),
        owner_and_thief_want_the_same_chunk,
    ),
    "owner without its lock does not look for a mark": (
        (("if not w[mark] and chunk < w[range_at + 1]", "if chunk < w[range_at + 1]"),),
        owner_and_thief_want_the_same_chunk,
    ),
    "owner looks at the end of its range first": (
        (
            (
                "                w[claim] = chunk\n                if not",
                "                end = w[range_at + 1]\n                w[claim] = chunk\n                if not",
            ),
            ("and chunk < w[range_at + 1]", "and chunk < end"),
        ),
        owner_and_thief_want_the_same_chunk,
    ),
    "thief takes what is claimed": (
        (("            if claim == lo:\n                # Its", "            if False:\n                # Its"),),
        owner_and_thief_want_the_same_chunk,
    ),
    "cancel takes what is claimed": (
        (("if not chunk == lo == claim", "if True"),),
        parent_cancels_what_is_taken,
    ),
    "cancel does not mark": (
        (("        w[base + L.MARK] = self._parent + 1\n", ""),),
        parent_cancels_what_is_taken,
    ),
    "thief gives an entry back that its owner looks at": (
        (
            (
                "        while tail != head:\n            tail -= 1",
                "        while head != tail and w[at := entries + 2 * (head % capacity)] >= w[at + 1]:\n"
                "            head += 1\n            w[head_at] = head\n"
                "        while tail != head:\n            tail -= 1",
            ),
        ),
        last_entry_is_used_again,
    ),
    "claim of a stolen chunk is kept": (
        (("            w[claim] = L.NONE\n            range_at = -1\n", "            range_at = -1\n"),),
        claim_of_a_stolen_chunk,
    ),
    "journal announced before it is written": (
        (
            ("            w[me + L.J_VICTIM] = victim + 1\n", ""),
            (
                "            w[me + L.J_ENTRY] = at\n",
                "            w[me + L.J_VICTIM] = victim + 1\n            w[me + L.J_ENTRY] = at\n",
            ),
        ),
        thief_steals_twice,
    ),
    "loot before the commit": (
        (
            (
                "            w[at + 1] = mid\n            self._finish(thief, victim)\n",
                "            self._finish(thief, victim)\n            w[at + 1] = mid\n",
            ),
        ),
        thief_dies_and_the_owner_goes_on,
    ),
    "journal cleared before the loot is written": (
        (
            (
                "        w[me + L.LOOT_LEVEL] = w[me + L.J_LEVEL]\n",
                "        w[me + L.J_VICTIM] = 0\n        w[me + L.LOOT_LEVEL] = w[me + L.J_LEVEL]\n",
            ),
        ),
        thief_dies_and_the_owner_goes_on,
    ),
    "victim not marked": (
        (("w[him + L.MARK] = w[me + L.MARK] = thief + 1", "w[me + L.MARK] = thief + 1"),),
        thief_dies_and_the_owner_goes_on,
    ),
    "thief not marked": (
        (("w[him + L.MARK] = w[me + L.MARK] = thief + 1", "w[him + L.MARK] = thief + 1"),),
        thief_dies_and_its_slot_is_used_unsettled,
    ),
    "owner starts a range without its lock": (
        (
            ("            lock()\n            # First", "            # First"),
            ("                    range_at = at\n                unlock()\n", "                    range_at = at\n"),
            ("            unlock()\n            return EMPTY", "            return EMPTY"),
        ),
        owner_takes_what_a_thief_steals,
    ),
    "owner does not look for marks": (
        (("if w[mark] and not repair(slot)", "if False"),),
        thief_dies_and_its_slot_is_used_unsettled,
    ),
    "thief does not look for the victim's mark": (
        (("if not w[him + L.MARK] or self._repair(victim, also_held=thief)", "if True"),),
        thief_dies_and_another_comes,
    ),
    "repair takes a lock its caller holds": (
        (("        tried = other != also_held\n", "        tried = True\n"),),
        thief_dies_and_is_settled,
    ),
    "repair always rolls back": (
        (("if w[w[me + L.J_ENTRY] + 1] == w[me + L.J_MID]", "if False"),),
        thief_dies_and_the_owner_goes_on,
    ),
    "repair always rolls forward": (
        (("if w[w[me + L.J_ENTRY] + 1] == w[me + L.J_MID]", "if True"),),
        thief_dies_and_the_owner_goes_on,
    ),
    "claim of a chunk still queued is reported": (
        (("if claim != L.NONE and w[w[base + L.CLAIM_AT]] == claim", "if False"),),
        owner_takes_what_a_thief_steals,
    ),
    "cancel without the lock": (
        (
            (
                "        if not locks.try_lock(slot):\n            return False\n"
                "        if w[base + L.MARK] and not self._repair(slot):\n            locks.unlock(slot)\n",
                "        if w[base + L.MARK] and not self._repair(slot):\n",
            ),
            ("        self.locks.unlock(slot)\n        return rest", "        return rest"),
        ),
        parent_cancels_what_is_stolen,
    ),
    "push to a full ring": (
        (("if tail - w[head] >= lay.geometry.entries", "if False"),),
        parent_pushes_to_a_busy_ring,
    ),
    "tail before the entry": (
        (
            ("        w[at] = lo\n        w[at + 1] = hi\n        self.locks.order()\n", ""),
            (
                "        w[head + 1] = tail + 1\n",
                "        w[head + 1] = tail + 1\n        w[at] = lo\n        w[at + 1] = hi\n",
            ),
        ),
        parent_pushes_to_a_busy_ring,
    ),
}
"""Bugs that the model must find: what is changed in deque.py, and a scene that shows it."""


@pytest.mark.parametrize("bug", MUTANTS)
def test_model_finds(bug: str) -> None:
    changes, scene = MUTANTS[bug]
    with pytest.raises(Violation, match="The schedule:"):
        explore(lambda world: scene(world, mutant(*changes)), deaths=SCENES.get(scene, 1), preemptions=2)
