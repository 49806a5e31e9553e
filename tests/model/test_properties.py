"""Take, steal, cancel, take back and repair in scenes and under schedules that hypothesis makes up (D2, D4-D6).

A `Case` is plain data: a scene (two or three actors at a time, rings of 2 to 4 entries, a page table that may wrap) and a
schedule with its deaths. The property, which `scene.py` and `LevelScene` check after every run: each chunk is settled exactly
once (committed, cancelled, or lost with the agent that ran it, at most one for each death); `validate` finds nothing; no
lock stays held; nobody waits for ever, nor until somebody happens to be killed.

What is exhaustive, and what is random:

- Every interleaving of two actors, with a death before any store, lock call or event: `FEW`, for rings of 2, 3 and 4
  entries that are full or wrap. With locks in place of the fence, and where stores land late: `-m stress`, and for rings
  of 2 also in the scenes of `test_deque_schedules.py`.
- Every interleaving of three actors in which nobody is interrupted more than once (twice with `-m stress`): `MANY`, with
  the same rings and deaths. Without that bound the scenes of three actors in `test_deque_schedules.py`, rings of 2.
- Random: everything else, that is all that `cases` can draw.

A failure prints the shortest case that hypothesis finds, and its story step by step. To see it again, in `tests/model`:

    PYTHONPATH=.. python -c "from test_properties import *; print(replay(Case(...)))"
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scene import TAKE, mutant, steal
from test_deque_schedules import MUTANTS
from test_levels import DEQUE_MUTANTS, PLAIN, LevelScene
from world import READY, Actor, ModelLocks, Violation, World, explore

from mpsteal._queue import layout as L
from mpsteal._queue import levels
from mpsteal._queue.deque import Deques

Check = Callable[[], None]
Choose = Callable[[list[Any], bool], int]

CHUNKS = 16
"""All that a segment of `scene.py` has room for."""


class Case(NamedTuple):
    """A scene and a schedule. Its `repr` makes it again."""

    slots: int = 2
    entries: int = 2
    """Ranges that a ring holds."""
    turned: int = 0
    """Entries that every ring has used up before, so that it wraps."""
    first: int = 0
    """Number of the first chunk, so that the page table wraps."""
    levels: int = 1
    """1: owners take as in a Pool; 2: as in a scheduler, whose upper level nobody robs."""
    memory: str = "sc"
    fenced: bool = True
    """Whether owners start chunks without their locks."""
    able: tuple[int, ...] = ()
    """Slots that can run class 1. All can run class 0."""
    loot: tuple[tuple[int, int], ...] = ()
    """What lies in loot registers: slot, chunks."""
    queued: tuple[tuple[int, int, int, int], ...] = ()
    """What lies in rings: slot, level, class, chunks."""
    agents: tuple[tuple[int, tuple[tuple[str, int], ...]], ...] = ()
    """Who lives where: slot, steps ("take", 0) and ("steal", victim)."""
    parent: tuple[tuple[Any, ...], ...] = ()
    """Its steps: ("push", slot, level, class, chunks), ("remove", n-th chunk), ("move", from, to, limit), ("hold", slot)."""
    burial: tuple[int, int] | None = None
    """Its last step: when the agent of this slot has died, settle it, and move what it has queued to another slot; -1:
    leave that to its heir."""
    heir: tuple[tuple[str, int], ...] = ()
    """What a new agent in that slot does then."""
    parent_dies: bool = False
    """Whether the parent may die, too, and the pool with it."""
    order: tuple[str, ...] = ()
    """Who comes first, where nobody is at it: names of actors. Whoever is at it goes on, unless the schedule says otherwise."""
    schedule: tuple[tuple[int, str, str], ...] = ()
    """What interrupts them, one after the other: (n, actor, what). When it could for the n-th time (from 0), the actor takes
    over ("goes"), "dies", or a store of it "lands" (the first that may) or "overtakes" (the last)."""

    @property
    def deaths(self) -> int:
        return sum(what == "dies" for _, _, what in self.schedule)

    @property
    def limits(self) -> dict[str, Any]:
        return {"memory": self.memory, "fenced": self.fenced}


def take_of_a_pool(deques: Deques, slot: int, turns: Any) -> Callable[[], int]:
    return deques.make_take(slot)


class CaseScene(LevelScene):
    """The scene of a case in a world."""

    def __init__(self, world: World, case: Case, deques: type[Deques] = Deques, locks: ModelLocks | None = None) -> None:
        super().__init__(
            world,
            case.slots,
            levels=case.levels,
            entries=case.entries,
            classes=2 if case.able else 0,
            make_take=take_of_a_pool if case.levels == 1 else levels.make_take,
            deques=deques,
            locks=locks,
        )
        self.free = case.first
        self.allow(1, *case.able)
        for slot in range(case.slots):
            for level in range(case.levels):
                head = self.layout.head(slot, level)
                world.cells[head] = world.cells[head + 1] = case.turned
        for slot, size in case.loot:
            self.loot(slot, *self.number(size))
        for slot, level, number, size in case.queued:
            self.preload(slot, self.number(size), level=level, number=number)
        for slot, steps in case.agents:
            self.agent(slot, *steps)
        if case.parent or case.burial:
            self.make_parent(case)

    def number(self, size: int) -> tuple[int, int]:
        """The next chunks."""
        lo, self.free = self.free, self.free + size
        return lo, self.free

    def make_parent(self, case: Case) -> None:
        made: list[Callable[[], None]] = []
        chunks = self.free - case.first + sum(step[4] for step in case.parent if step[0] == "push")
        for what, *numbers in case.parent:
            if what == "push":
                slot, level, number, size = numbers
                made.append(self.push(slot, level, *self.number(size), number=number))
            elif what == "remove":
                if chunks:
                    made.append(self.remove(case.first + numbers[0] % chunks))
            elif what == "move":
                made.append(self.move(*numbers))
            else:
                made.append(self.keep_out(numbers[0]))
        settled: list[int] = []
        if case.burial:
            slot, target = case.burial
            occupant = self.occupant[slot]
            made.append(self.bury(occupant, target) if target >= 0 else partial(self.settle_death, occupant))
            made.append(lambda: settled.append(slot))
        self.parent(*made, mortal=case.parent_dies)
        if case.burial and case.heir:
            self.make_heir(case.burial[0], case.heir, settled)

    def settle_death(self, actor: Actor) -> None:
        """What a Pool does: the heir inherits what is queued."""
        self.world.wait(lambda: actor.is_dead, f"{actor.name} is dead", optional=True)
        self.settle(self.slot_of[actor.name])

    def make_heir(self, slot: int, steps: tuple[tuple[str, int], ...], settled: list[int]) -> None:
        """The new agent in a slot: it starts when the parent has settled the death of the one before."""
        if any(what == "steal" for what, _ in steps):
            self.robbers.add(slot)

        def body() -> None:
            self.world.wait(lambda: bool(settled), "its slot is free", optional=True)
            actor.mortal = True
            self.occupant[slot] = actor
            self.do(slot, steps)

        actor = self.world.actor(f"heir of {slot}", body)
        self.slot_of[actor.name] = slot

    def balance(self, dead: set[str]) -> None:
        super().balance(dead)
        log = self.world.log
        lost = {c for _, what, c in log if what.startswith("report")} - {c for _, what, c in log if what == "commit"}
        assert len(lost) <= len(dead), f"{len(dead)} have died, and with them {sorted(lost)}"

    def _check_told(self) -> None:
        if not any(actor.is_dead for actor in self.world.actors):  # else it may have been lost before it was started
            super()._check_told()


class Schedule:
    """Chooses as a case says; where it says nothing, who is at it goes on."""

    KINDS = {"goes": ("go",), "dies": ("kill", "doom"), "lands": ("land",), "overtakes": ("land",)}  # noqa: RUF012

    def __init__(self, world: World, case: Case) -> None:
        self.actors = {actor.name: actor for actor in world.actors}
        self.order = {name: i for i, name in enumerate(case.order)}
        self.left = deque(case.schedule)
        self.passed = self.interruptions = 0

    def __call__(self, options: list[Any], forced: bool) -> int:
        while self.left:
            n, name, what = self.left[0]
            actor = self.actors.get(name)
            # Who is at it comes first, and does not interrupt itself.
            found = [i for i, o in enumerate(options) if o[1] is actor and o[0] in self.KINDS[what] and (i or o[0] != "go")]
            if found:
                self.passed += 1
                if self.passed <= n:
                    break
            elif actor is not None and (actor.state == READY or actor.buffer):
                break
            self.left.popleft()
            self.passed = 0
            if found:
                self.interruptions += 1
                return found[-1 if what == "overtakes" else 0]
        return min(range(len(options)), key=lambda i: self.rank(i, options[i]))

    def rank(self, i: int, option: Any) -> tuple[int, int]:
        """Less for what comes first where the schedule says nothing."""
        what, actor, *_ = option
        if what == "go":
            return (0, -1) if actor is actor.world.current else (1, self.order.get(actor.name, i))
        return (2 if what == "land" else 3, i)


def hold_property(case: Case, deques: type[Deques] = Deques) -> int:
    """Run a case. Raises Violation, with the case and its story, when the account does not balance.

    Returns how many of its interruptions came before everything was over.
    """
    world = World(lambda world: CaseScene(world, case, deques).check, deaths=case.deaths, **case.limits)
    schedule = Schedule(world, case)
    try:
        world.run(schedule)
    except Exception as error:
        story = replay(case, deques)
        raise Violation(f"{error}\nTo see it again: replay({case!r})\nThe schedule:\n{story}") from error
    return schedule.interruptions


def hold_property_wherever_it_is_interrupted(case: Case, deques: type[Deques] = Deques) -> None:
    """The same with the first interruption at every point where it may come."""
    (_, who, what), *others = case.schedule
    for n in range(POINTS):
        if not hold_property(case._replace(schedule=((n, who, what), *others)), deques):
            break


POINTS = 300


def replay(case: Case, deques: type[Deques] = Deques) -> str:
    """The story of a case, one step a line, and how it ended."""
    world = World(lambda world: CaseScene(world, case, deques).check, deaths=case.deaths, tracing=True, **case.limits)
    try:
        world.run(Schedule(world, case))
        ending = "and all is well"
    except Exception as error:
        ending = f"{type(error).__name__}: {error}"
    return "\n".join([*world.trace, ending])


# -- what hypothesis makes up ---------------------------------------------------------------------------------------

between = cache(st.integers)
one_of = lru_cache(None, typed=True)(lambda *values: st.sampled_from(values))  # typed: False is not 0 in a `repr`

OWNERS = one_of("take", "take take", "take take", "take take take", "take steal take")
THIEVES = one_of("steal", "steal take", "steal take", "steal take take", "steal take steal", "take steal take")


@st.composite
def cases(draw: Callable[[Any], Any]) -> Case:
    """Two or three actors at a time; an heir comes when another has died."""
    actors, has_parent = draw(between(2, 3)), draw(st.booleans())
    agents = actors - has_parent
    slots = draw(one_of(agents, agents, agents + 1)) if agents > 1 else 2
    memory, fenced = draw(one_of(("sc", True), ("tso", True), ("sc", False), ("pso", False)))
    level_count, entries = draw(one_of(1, 1, 2)), draw(between(2, 4))
    able = draw(one_of((), (), (0,), (0, 1)))
    room = CHUNKS

    def size() -> int:
        nonlocal room
        found: int = min(room, draw(one_of(1, 2, 3)))
        room -= found
        return found

    def place() -> tuple[int, int, int]:
        slot = draw(one_of(0, 0, 0, slots - 1))
        return slot, draw(between(0, level_count - 1)), draw(between(0, 1)) if slot in able else 0

    def steps(slot: int) -> tuple[tuple[str, int], ...]:
        others = one_of(*[steal(other) for other in (0, 0, *range(slots)) if other != slot])
        what = draw(OWNERS if slot == 0 else THIEVES)
        return tuple(TAKE if one == "take" else draw(others) for one in what.split())

    loot = tuple((slot, size()) for slot in range(slots) if draw(one_of(False, False, False, True)))
    queued: list[tuple[int, int, int, int]] = []
    for _ in range(draw(one_of(1, 1, 2, 3, 4))):
        where = place()
        if sum(other[:2] == where[:2] for other in queued) < entries:
            queued.append((*where, size()))
    work = tuple((slot, steps(slot)) for slot in range(agents))
    parent: list[tuple[Any, ...]] = []
    burial, heir = None, ()
    if has_parent:
        for what in draw(one_of("", "push", "push push", "remove", "move", "hold", "push move", "remove push")).split():
            if what == "push":
                parent.append((what, *place(), size()))
            elif what == "remove":
                parent.append((what, draw(between(0, 7))))
            elif what == "move":
                source = draw(one_of(0, 0, slots - 1))
                parent.append((what, source, 1 if source == 0 else 0, draw(between(1, 4))))
            else:
                parent.append((what, draw(one_of(0, 0, slots - 1))))
        if not parent or draw(st.booleans()):
            slot = draw(between(0, agents - 1))
            burial = (slot, draw(one_of(-1, (slot + 1) % slots)))
            heir = steps(slot) if draw(st.booleans()) else ()
    names = [f"agent {slot}" for slot, _ in work] + ["parent"] * has_parent
    names += [f"heir of {burial[0]}"] if burial and heir else []
    deeds = ["goes", "dies"] + ["lands"] * (memory != "sc") + ["overtakes"] * (memory == "pso")
    interruption = st.tuples(between(0, 15), one_of(*names), one_of(*deeds))
    return Case(
        slots,
        entries,
        turned=draw(between(0, 3)),
        first=draw(one_of(0, 10)),
        levels=level_count,
        memory=memory,
        fenced=fenced,
        able=able,
        loot=loot,
        queued=tuple(queued),
        agents=work,
        parent=tuple(parent),
        burial=burial,
        heir=heir,
        parent_dies=has_parent and draw(one_of(False, False, False, True)),
        order=tuple(draw(st.permutations(names))),
        schedule=tuple(draw(st.lists(interruption, min_size=1, max_size=4))),
    )
