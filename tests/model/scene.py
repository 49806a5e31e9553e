"""Agents, thieves and a parent over the real `Deques`, and the account that every run must balance.

    scene = Scene(world, slots=2, entries=2)        scene.preload(0, (0, 2))
    scene.agent(0, TAKE)                            scene.agent(1, steal(0), TAKE)
    return scene.check

The check that ends a run does what the engine would do: it settles every death with `repair_dead`,
lets a fresh agent in each slot take what is left, and then asks for (I1, I2)

1. every chunk committed once, or removed once by cancel and never started, or reported once by `repair_dead` as
   what a dead agent had claimed, and then nobody else has touched it;
2. no lock, mark or journal left, and no range (`Deques.validate`).
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from world import Actor, ModelLocks, World, name_words

from mpsteal._policy.stealing import steal_point
from mpsteal._queue import deque as deque_module
from mpsteal._queue import layout as L
from mpsteal._queue.deque import EMPTY, RETRY, STOLEN, Deques

TAKE = ("take", 0)
TRIES = 3
"""How often an actor tries again before it goes on without; what it leaves, the check drains."""


def steal(victim: int) -> tuple[str, int]:
    """Step: steal from `victim`, once."""
    return ("steal", victim)


@cache
def _layout(
    slots: int, levels: int, entries: int, classes: int, ring_bytes: int
) -> tuple[L.Layout, tuple[int, ...], Any]:
    layout = L.Layout(
        L.Geometry(
            slots,
            levels=levels,
            entries=entries,
            page_chunks=4,
            page_bytes=64,
            pages=4,
            ring_bytes=ring_bytes,
            functions=1,
            classes=classes,
        )
    )
    cells = [0] * (layout.slots_word + layout.chunks * L.SLOT_WORDS)
    cells[L.SLOTS_USED] = slots
    for slot in range(slots):
        cells[layout.agent(slot) + L.CLAIM] = L.NONE
    return layout, tuple(cells), name_words(layout)


class Scene:
    """One world with deques in it. `deques` may be a mutant, see `mutant`."""

    def __init__(
        self,
        world: World,
        slots: int = 2,
        *,
        levels: int = 1,
        entries: int = 2,
        classes: int = 0,
        ring_bytes: int = 64,
        steal_levels: tuple[int, ...] | None = None,
        deques: type[Deques] = Deques,
        locks: ModelLocks | None = None,
    ) -> None:
        self.world, self.slots = world, slots
        self.layout, cells, world.names = _layout(slots, levels, entries, classes, ring_bytes)
        world.cells = list(cells)
        self.locks = locks or ModelLocks(world)
        self.deques = deques(world.words, self.layout, self.locks, steal_point, steal_levels)
        self.chunks: list[int] = []
        self.slot_of: dict[str, int] = {}
        self.occupant: dict[int, Actor] = {}
        """Who lives in a slot, or did last."""
        self.refused: list[tuple[int, int, int]] = []

    # -- set up -----------------------------------------------------------------------------------

    def preload(self, slot: int, *ranges: tuple[int, int], level: int = 0) -> None:
        """Ranges that are queued before the run begins."""
        for lo, hi in ranges:
            assert self.deques.push(slot, level, lo, hi)
            self.chunks += range(lo, hi)

    def loot(self, slot: int, lo: int, hi: int, level: int = 0) -> None:
        """A range in the loot register of `slot`, as after an earlier steal."""
        base, cells = self.layout.agent(slot), self.world.cells
        cells[base + L.LOOT_LO], cells[base + L.LOOT_HI] = lo, hi
        cells[base + L.LOOT_LEVEL] = level
        self.chunks += range(lo, hi)

    def agent(self, slot: int, *steps: tuple[str, int], mortal: bool = True, name: str | None = None) -> Actor:
        """An agent in `slot` that does the steps and leaves."""
        actor = self.world.actor(name or f"agent {slot}", lambda: self.do(slot, steps), mortal=mortal)
        self.slot_of[actor.name] = slot
        self.occupant[slot] = actor
        return actor

    def successor(self, dead: Actor, *steps: tuple[str, int], repaired: bool = True, mortal: bool = False) -> Actor:
        """The engine after the death of `dead`: settle it, then a new agent in its slot.

        With `repaired=False` the new agent finds everything as it was left.
        """
        slot = self.slot_of[dead.name]

        def body() -> None:
            self.world.wait(lambda: dead.is_dead, f"{dead.name} is dead", optional=True)
            if repaired:
                self.settle(slot)
            self.occupant[slot] = actor
            self.do(slot, steps)

        actor = self.world.actor(f"heir of {slot}", body, mortal=mortal)
        self.slot_of[actor.name] = slot
        return actor

    def pusher(self, *pushes: tuple[int, int, int], level: int = 0) -> Actor:
        """The parent that pushes `(slot, lo, hi)`, and keeps back what finds no room."""
        for _, lo, hi in pushes:
            self.chunks += range(lo, hi)

        def body() -> None:
            for slot, lo, hi in pushes:
                if not self.deques.push(slot, level, lo, hi):
                    self.refused.append((slot, lo, hi))
                    self.world.event(f"refused {slot}", lo)

        return self.world.actor("parent", body)

    def canceller(self, chunk: int) -> Actor:
        """The parent that cancels `chunk` as D13 says: over all deques, and once more if not found."""

        def body() -> None:
            for slot in (*range(self.slots), *range(self.slots)):
                rest = self.deques.remove(slot, chunk)
                if rest is None:
                    continue
                self.world.event("removed", chunk)
                if rest[0] < rest[1] and not self.deques.push(slot, 0, *rest):
                    self.refused.append((slot, *rest))
                    self.world.event(f"refused {slot}", rest[0])
                return

        return self.world.actor("parent", body)

    # -- what agents do ---------------------------------------------------------------------------

    def make_take(self, slot: int) -> Callable[[], int]:
        """How the owner of a slot takes."""
        return self.deques.make_take(slot)

    def do(self, slot: int, steps: tuple[tuple[str, int], ...]) -> None:
        """The steps of one agent."""
        take = self.make_take(slot)
        for what, other in steps:
            for _ in range(TRIES):
                self.world.attempt()
                if what == "take":
                    found = self.take(take)
                else:
                    found = self.deques.steal(slot, other)
                    assert found in (EMPTY, RETRY, STOLEN)
                if found != RETRY:
                    break
                self.world.wait_news()

    def take(self, take: Callable[[], int]) -> int:
        """Take a chunk, run it and commit its result."""
        chunk = take()
        if chunk >= 0:
            self.world.event("start", chunk)
            self.world.event("commit", chunk)
        return chunk

    def settle(self, slot: int) -> None:
        """What the engine does about a death: until no lock is in the way."""
        while True:
            self.world.attempt()
            claim = self.deques.repair_dead(slot)
            if claim is not None:
                break
            self.world.wait_news()
        if claim != L.NONE:
            self.world.event(f"report {slot}", claim)

    # -- the end ----------------------------------------------------------------------------------

    def check(self) -> None:
        """The account of a run."""
        world = self.world
        dead = {actor.name for actor in world.actors if actor.is_dead}
        for slot, actor in self.occupant.items():
            if actor.is_dead:
                self.settle(slot)
        self.check_hidden()
        for slot in range(self.slots):
            take = self.make_take(slot)
            while True:
                found = self.take(take)
                if found == EMPTY:
                    break
                assert found != RETRY, f"agent {slot} is refused, and nobody is there"
        left = self.deques.validate()
        assert not left, f"taken to the end, and yet there is {left}"
        self.balance(dead)

    def check_hidden(self) -> None:
        """With all deaths settled, what is queued, finished or kept back is everything there is."""
        queued = [c for s in range(self.slots) for r in self.deques.ranges(s) for c in range(*r)]
        assert len(queued) == len(set(queued)), f"queued twice: {sorted(queued)}"

    def balance(self, dead: set[str]) -> None:
        """Every chunk is settled exactly once."""
        log = self.world.log
        starts = Counter(chunk for _, what, chunk in log if what == "start")
        commits = Counter(chunk for _, what, chunk in log if what == "commit")
        removed = Counter(chunk for _, what, chunk in log if what == "removed")
        reports = Counter(chunk for _, what, chunk in log if what.startswith("report"))
        kept = {c for _, lo, hi in self.refused for c in range(lo, hi)}
        for chunk in self.chunks:
            assert starts[chunk] <= 1, f"chunk {chunk} ran twice"
            assert reports[chunk] <= 1, f"chunk {chunk} was reported twice"
            for _, what, number in log:
                if number == chunk and what.startswith("report"):
                    slot = int(what.split()[1])
                    for actor, did, other in log:
                        if other == chunk and did in ("start", "commit"):
                            assert actor in dead, f"chunk {chunk}: reported dead, but {actor} did it"
                            assert self.slot_of[actor] == slot
            assert not (removed[chunk] and starts[chunk]), f"chunk {chunk}: cancelled, yet it ran"
            assert not (removed[chunk] and reports[chunk]), f"chunk {chunk}: cancelled, yet it died"
            settled = commits[chunk] + removed[chunk]
            if reports[chunk] and not settled:
                settled = 1
            wanted = 0 if chunk in kept else 1
            assert settled == wanted, f"chunk {chunk} was settled {settled} times, not {wanted}"
        strange = (set(starts) | set(removed) | set(reports)) - set(self.chunks)
        assert not strange, f"chunks that nobody pushed: {strange}"


@cache
def mutant_of(module: ModuleType, *changes: tuple[str, str]) -> dict[str, Any]:
    """The names of a module with `(old, new)` replaced in its source: a bug for the model to find."""
    source = inspect.getsource(module)
    for old, new in changes:
        assert source.count(old) == 1, f"{source.count(old)} times in {module.__name__}: {old!r}"
        source = source.replace(old, new)
    names: dict[str, Any] = {"__name__": module.__name__, "__package__": module.__package__}
    exec(compile(source, f"<mutant of {module.__name__}>", "exec"), names)
    return names


def mutant(*changes: tuple[str, str]) -> type[Deques]:
    """The class `Deques` of such a mutant."""
    made: type[Deques] = mutant_of(deque_module, *changes)["Deques"]
    return made
