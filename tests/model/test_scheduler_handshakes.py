"""What a scheduler's parent and its agents tell each other: held tasks, asking, the end of a task for its time (D5).

The agent's side is the real `Agent.find_work`, `ask` and `take` of `levels.py`, the parent's the real `Scheduling` and
`Urgent`, and below them the real `Limits`; only system calls are the model's. Nobody has a timer here: an agent that
asks waits until it is rung, so that what saves it is never the bound of that wait.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from scene import Scene, mutant, mutant_of
from test_handshakes import PARENT, ModelAgent
from world import READY, Actor, ModelLocks, Violation, World, explore, explore_randomly, seed

from mpsteal._engine import limits as limits_module
from mpsteal._engine.collect import Collector
from mpsteal._engine.schedule import GROUP_SHIFT, Scheduling
from mpsteal._engine.terms import NO_TERMS
from mpsteal._engine.urgent import Urgent
from mpsteal._policy.order import Aging
from mpsteal._policy.rules import Rules
from mpsteal._queue import layout as L
from mpsteal._queue import levels
from mpsteal._queue import results as R
from mpsteal._queue.arena import Page
from mpsteal._queue.deque import ASK, RETRY, STOLEN, Deques
from mpsteal.metrics import WorkStealingMetrics

Check = Callable[[], None]

PLAIN, URGENT, MORE_URGENT = 0, 1, 3
"""Levels of one priority or two. Even ones are plain: pushed to agents, and may be robbed."""


class AskingAgent(ModelAgent):
    """The real loop of a scheduler's agent."""

    def __init__(self, scene: Scene, slot: int) -> None:
        super().__init__(scene, slot)
        self.rules: Any = SimpleNamespace(
            steals=True, steal_levels=self.deques.steal_levels, ask_ms=1, levels_per_priority=2
        )
        self.take = levels.make_take(self.deques, slot, Aging(8, 2))

    def _wait(self, timeout_ms: int | None) -> bool:
        self.world.sleep(self.slot)
        return True

    def serve_chunks(self, endless: bool) -> None:
        """`Agent.serve` with chunks that only tell that they ran, or never end."""
        while True:
            self.world.attempt()
            chunk = self.take()
            if chunk < 0:
                if chunk == RETRY:
                    self.world.wait_news()
                if chunk != ASK:
                    if not self.find_work():
                        return
                elif self.words[L.STOP]:
                    return
                elif not self.ask():
                    chunk = self.take(True)
                if chunk < 0:
                    continue
            self.world.event("start", chunk)
            if endless:
                self.world.wait(lambda: False, "never", optional=True)


class UnansweredAgent(AskingAgent):
    """Its parent is in a long C call until it has looked once: before, asking is in vain."""

    def _wait(self, timeout_ms: int | None) -> bool:
        return (not timeout_ms or bool(self.words[L.LOOKED_NS])) and super()._wait(timeout_ms)


class ModelScheduling(Scheduling):
    """The real placing, holding, giving out and ringing, over agents that all can do the same."""

    def __init__(self, scene: Scene, tasks: dict[int, Any]) -> None:
        segment: Any = SimpleNamespace(
            words=scene.world.words, layout=scene.layout, blocks_base=lambda owner: 0, block_span=1 << 20
        )
        metrics = WorkStealingMetrics()
        super().__init__(segment, scene.locks, scene.deques, [], [], rules=Rules(), metrics=metrics)
        self.world = scene.world
        self.crew: Any = SimpleNamespace(leaving=set(), alive={}, add=lambda slot: None)
        self.pages: Any = SimpleNamespace(find=lambda chunk: None, sink_of=tasks.__getitem__, page_chunks=1 << 12)
        self.urgent = Urgent(self, Aging(8, 2), tuple(level for level in scene.deques.levels if level % 2))
        self.classes.number_of(frozenset(), protected=False)
        for slot in range(scene.slots):
            self.roster.add(str(slot), frozenset())

    def ring(self, agent: int) -> None:
        self.world.ring(agent)

    def submit(self, lo: int, hi: int, level: int) -> None:
        """What a turn of the engine does with tasks that have come in."""
        self.place_group(lo, hi, level << GROUP_SHIFT)
        self.announce()
        self.urgent.give_out()


def submit(
    world: World,
    batches: list[tuple[int, int, int]],
    *,
    agents: int = 1,
    endless: bool = False,
    fence_works: bool = True,
    asker: type[AskingAgent] = AskingAgent,
    cancel: int = L.NONE,
    is_silent: bool = False,
    stops: bool = False,
) -> Check:
    """Agents that look for work, and a parent that gets `batches` of `(lo, hi, level)` and then serves those that ask.

    Args:
        agents, endless: how many there are, and whether their tasks never end.
        fence_works: whether a fence is one.
        asker: how they ask.
        cancel: a chunk that the parent then withdraws, if it still can.
        is_silent: whether the parent, once it holds the last batch, is in a long C call for a while.
        stops: whether it then ends the pool.
    """
    count = 2 + 2 * any(level > URGENT for _, _, level in batches)
    scene = Scene(
        world,
        agents,
        levels=count,
        entries=4,
        classes=1,
        steal_levels=tuple(range(0, count, 2)),
        locks=ModelLocks(world, fence_works=fence_works),
    )
    made = []
    for slot in range(agents):
        agent = asker(scene, slot)
        world.cells[agent.base + L.STATE] = L.READY
        world.actor(f"agent {slot}", lambda a=agent: a.serve_chunks(endless))
        made.append(agent)
    tasks = {
        chunk: SimpleNamespace(_terms=NO_TERMS, _seq=chunk, _group=level << GROUP_SHIFT, _assigned_ns=0, _agent="")
        for lo, hi, level in batches
        for chunk in range(lo, hi)
    }
    scheduling = ModelScheduling(scene, tasks)

    def engine() -> None:
        for batch in batches[: len(batches) - is_silent]:
            scheduling.submit(*batch)
        if is_silent:
            lo, hi, level = batches[-1]
            scheduling.place_group(lo, hi, level << GROUP_SHIFT)
            scheduling.urgent.tell()
            world.words[L.LOOKED_NS] = 1
            scheduling.urgent.give_out()
            world.event("is back")
        if cancel != L.NONE and scheduling._remove(cancel) is not None:
            world.event("cancelled", cancel)
            scheduling.urgent.give_out()
        if stops:
            world.words[L.STOP] = 1
            for slot in scheduling.slots:
                scheduling.ring(slot)
        while True:
            world.sleep(PARENT)
            scheduling.urgent.give_out()

    world.actor("parent", engine)

    def check() -> None:
        started = [chunk for _, what, chunk in world.log if what == "start"]
        if stops:
            asleep = [actor.name for actor in world.actors if actor.state == READY and actor.name != "parent"]
            assert not asleep, f"{asleep} sleep through the end"
            return
        if is_silent:
            log = [(what, chunk) for _, what, chunk in world.log]
            late = log[log.index(("is back", 0)) : log.index(("start", batches[-1][0]))][1:]
            assert len(late) <= 1, f"asked once and never again: {late} first"
        assert len(started) == len(set(started)), f"{started}"
        left = set(tasks) - {chunk for _, what, chunk in world.log if what == "cancelled"}
        assert set(started) <= left, "cancelled, and yet it ran"
        wanted = min(len(left), agents) if endless else len(left)
        assert len(started) == wanted, f"all sleep or are busy, and of {sorted(left)} only {started} ran"
        scene.deques.validate()

    return check


Batches = list[tuple[int, int, int]]

ONE: Batches = [(0, 1, URGENT)]
SMALL: list[Batches] = [
    ONE,
    [(0, 2, URGENT)],
    [(0, 2, PLAIN), (2, 3, URGENT)],
    [(0, 1, URGENT), (1, 2, MORE_URGENT)],
]
LARGE: list[tuple[int, Batches]] = [
    (1, [(0, 2, PLAIN), (2, 3, URGENT), (3, 4, MORE_URGENT)]),
    (2, [(0, 3, PLAIN), (3, 5, URGENT)]),
    (2, [(0, 2, URGENT), (2, 3, MORE_URGENT), (3, 5, PLAIN)]),
    (3, [(0, 1, PLAIN), (1, 3, URGENT), (3, 4, MORE_URGENT)]),
]
"""Agents, and what the parent gets."""


@pytest.mark.parametrize("batches", SMALL, ids=str)
def test_held_tasks_are_handed_out_and_nobody_sleeps_beside_work(batches: Batches) -> None:
    """What it has found: an agent that asked for what was handed out just before it was parked, and waited in vain."""
    explore(lambda world: submit(world, batches), preemptions=2 if batches == ONE else 1)


def test_the_same_where_stores_land_late() -> None:
    explore(lambda world: submit(world, ONE), memory="tso", preemptions=1)


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_held_tasks_are_handed_out_in_random_schedules(memory: str) -> None:
    """A failure names its seed; MPSTEAL_SEED=<seed> runs that schedule again."""
    for agents, batches in LARGE:
        explore_randomly(
            lambda w, n=agents, b=batches: submit(w, b, agents=n),
            rounds=30,
            seed=seed(),
            memory=memory,
        )


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_held_tasks_are_handed_out_at_length(memory: str) -> None:
    explore(lambda world: submit(world, ONE), memory=memory)
    for batches in SMALL:
        explore(lambda world, b=batches: submit(world, b), memory=memory, preemptions=2, runs_limit=2_000_000)
    for agents, batches in LARGE:
        explore_randomly(
            lambda w, n=agents, b=batches: submit(w, b, agents=n), rounds=20_000, seed=seed(), memory=memory
        )


def test_cancelled_task_keeps_nobody_waiting() -> None:
    """Who asked for it goes on with what it has."""
    for chunk in (1, 2):
        explore(lambda w, c=chunk: submit(w, [(0, 2, PLAIN), (2, 3, URGENT)], cancel=c), preemptions=1)
        explore_randomly(
            lambda w, c=chunk: submit(w, [(0, 2, PLAIN), (2, 3, URGENT)], agents=2, cancel=c),
            rounds=50,
            seed=seed(),
            memory="tso",
        )


def test_as_many_tasks_run_as_there_are_agents() -> None:
    """None is a hostage of one that never ends, while another agent is free.

    What it has found: a task that was handed to an agent between its look at its own ranges and the one at HELD; and
    one that was handed to an agent that was parked, and had taken its last one before its queue was looked at.
    """
    for batches in (
        [(0, 2, PLAIN)],
        [(0, 1, PLAIN), (1, 2, PLAIN)],
        [(0, 1, PLAIN), (1, 2, URGENT)],
        [(0, 1, URGENT), (1, 2, URGENT)],
    ):
        explore_randomly(
            lambda w, b=batches: submit(w, b, agents=2, endless=True), rounds=200, seed=seed(), memory="tso"
        )


@pytest.mark.parametrize("fenced", [True, False])
def test_agent_asks_again_once_its_silent_parent_has_looked(fenced: bool) -> None:
    """Meanwhile it goes on, with or without its lock; then it starts one plain task more at most."""
    explore_randomly(
        lambda w: submit(w, [(0, 4, PLAIN), (4, 5, URGENT)], asker=UnansweredAgent, is_silent=True),
        rounds=400,
        seed=seed(),
        fenced=fenced,
    )


def test_what_was_handed_over_is_not_held_up_by_what_is_less_urgent() -> None:
    """Its turn has come by age, the parent is silent, and others that were more urgent when they came are here."""

    def scene(world: World) -> Check:
        scene = Scene(world, 1, levels=4, classes=1, steal_levels=(0, 2))
        scene.preload(0, (0, 4), level=MORE_URGENT)
        agent = AskingAgent(scene, 0)
        agent.take = levels.make_take(scene.deques, 0, Aging(1, 2))
        world.cells[agent.base + L.HELD] = 1 + URGENT
        world.actor("agent", lambda: agent.serve_chunks(False))

        def check() -> None:
            assert [chunk for _, what, chunk in world.log if what == "start"] == [0, 1, 2, 3]

        return check

    explore(scene)


def test_no_agent_sleeps_through_the_end() -> None:
    """Also not when it asks for what will not come any more."""
    explore(lambda world: submit(world, ONE, stops=True), preemptions=2)
    explore(lambda world: submit(world, [(0, 2, PLAIN), (2, 3, URGENT)], stops=True), preemptions=1)


def test_model_finds_the_missing_fence() -> None:
    """Both sides store, then look: the parent sees nobody parked, the agent nothing held."""

    def scene(world: World) -> Check:
        return submit(world, ONE, fence_works=False)

    explore(scene, memory="sc", preemptions=2)  # no fence is needed where stores land at once
    with pytest.raises(Violation, match="all sleep"):
        explore(scene, memory="tso", preemptions=2)


class Hasty(AskingAgent):
    """Does not look again once it is parked."""

    def ask(self) -> bool:
        self.words[self.base + L.PARKED] = 1
        self.locks.fence()
        self.ring_parent()
        self._wait(1)
        self._unpark()
        return True


def test_model_finds_a_look_at_the_ranges_before_the_one_at_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    late = mutant_of(
        levels,
        (
            "        seen, level = w[news], w[held] - 1\n        found = first_ranges()\n",
            "        seen = w[news]\n        found = first_ranges()\n        level = w[held] - 1\n",
        ),
    )
    monkeypatch.setattr(levels, "make_take", late["make_take"])
    with pytest.raises(Violation, match="all sleep or are busy"):
        explore_randomly(
            lambda w: submit(w, [(0, 1, PLAIN), (1, 2, URGENT)], agents=2, endless=True), rounds=5_000, seed=1
        )


def test_model_finds_the_agent_that_does_not_look_again() -> None:
    with pytest.raises(Violation, match="all sleep"):
        explore(lambda world: submit(world, ONE, asker=Hasty), preemptions=3)


# -- the end of a task for its time ---------------------------------------------------------------------------------


class RecordLocks(ModelLocks):
    """Locks as the kernel gives them: again and again to who has them."""

    def try_lock(self, slot: int) -> bool:
        holder = self.world.holder.get(slot)
        return (holder is not None and holder is self.world.current) or super().try_lock(slot)


class Sink:
    """Who waits for a chunk, and perhaps not for ever."""

    _callbacks: Any = ()

    def __init__(self, world: World, chunk: int, *, is_limited: bool) -> None:
        self.world, self.chunk = world, chunk
        self._terms = SimpleNamespace(timeout_ns=-1 if is_limited else 0)  # due as soon as somebody looks

    def _resolve(self, ok: bool, value: Any) -> None:
        self.world.event("delivered", self.chunk)


def out_of_time(
    world: World,
    *ranges: tuple[int, int, int, int],
    agents: int = 1,
    limited: int = 1,
    looks: int = 2,
    meanwhile: Callable[[Deques], object] = id,
    limits: Any = limits_module,
    deques: type[Deques] = Deques,
    barrier_works: bool = True,
) -> Check:
    """Agents run chunks of `ranges` (slot, level, lo, hi), of which one is out of time whenever the parent looks.

    Args:
        ranges: by default agent 0 has three chunks.
        agents: the second one robs the first.
        looks: how often the parent looks.
        meanwhile: what the parent does between the kill and the death.
    """
    ranges = ranges or ((0, PLAIN, 0, 3),)
    scene = Scene(
        world,
        levels=2,
        entries=2,
        ring_bytes=24 * 8,
        steal_levels=(PLAIN,),
        deques=deques,
        locks=RecordLocks(world, barrier_works=barrier_works),
    )
    chunks = [chunk for _, _, lo, hi in ranges for chunk in range(lo, hi)]
    for slot, level, lo, hi in ranges:
        scene.preload(slot, (lo, hi), level=level)
    layout, words = scene.layout, world.words
    ring = memoryview(bytearray(layout.mapped_bytes))
    segment: Any = SimpleNamespace(
        layout=layout, words=words, data=ring, blocks_base=lambda owner: 0, block_span=1 << 20
    )
    page: Any = Page(0)
    page.sinks = [Sink(world, chunk, is_limited=chunk == limited) for chunk in range(1 + max(chunks))]
    page.left = len(chunks)
    pages: Any = SimpleNamespace(
        find=lambda chunk: page,
        page_chunks=len(page.sinks),
        sink_of=lambda chunk: page.sinks[chunk] if chunk < len(page.sinks) else None,
    )
    parent: Any = SimpleNamespace(
        words=words, locks=scene.locks, deques=scene.deques, segment=segment, pages=pages,
        blocks=SimpleNamespace(lent={}), slots=[0, 1],
        inflight=len(chunks), ring=world.ring,
    )  # fmt: skip
    parent.collector = Collector(segment, scene.locks, parent, 2, [])
    ender = limits.Limits(parent)

    def serve(slot: int) -> None:
        take = levels.make_take(scene.deques, slot, Aging(8, 1))
        write = R.ResultWriter(segment, slot, scene.locks, id).make_write_small()
        while True:
            world.attempt()
            chunk = take()
            if chunk >= 0:
                world.event("start", chunk)
                words[layout.agent(slot) + L.RESULT_TAIL]  # it may be stopped here, in the midst of its task
                write(chunk, R.VOID, 0)
            elif chunk == RETRY:
                world.wait_news()
            elif not slot or scene.deques.steal(slot, 0) != STOLEN:
                world.wait(lambda: False, "never", optional=True)  # so that it can still be killed

    actors = [world.actor(f"agent {slot}", partial(serve, slot)) for slot in range(agents)]

    def kill(actor: Actor) -> None:
        assert page.sinks[limited] is not None, "killed for a chunk that is over"
        world.kill(actor)

    parent.children = SimpleNamespace(suspended=lambda slot: {})
    parent.crew = SimpleNamespace(
        alive={slot: SimpleNamespace(kill_group=partial(kill, actor)) for slot, actor in enumerate(actors)}
    )

    def settle(slot: int) -> None:
        """What `Crew` does about a death."""
        while True:
            world.attempt()
            parent.collector.collect(slot)
            claim = scene.deques.repair_dead(slot)
            if claim is not None:
                break
            world.wait_news()
        parent.collector.collect(slot)
        if claim != L.NONE and page.sinks[claim] is not None:
            assert claim == ender.ending[slot] == limited, f"chunk {claim} dies with the agent that was ended"
            page.sinks[claim] = None
            world.event("timed out", claim)

    def watch() -> None:
        for _ in range(looks):
            world.wait(lambda: limited in [world.cells[at] for at in claims], "it runs", optional=True)
            ender._check_starts(0.0)
            if ender.ending:
                break
        for slot in list(ender.ending):
            meanwhile(scene.deques)
            world.wait(lambda slot=slot: actors[slot].is_dead, "it is dead")  # type: ignore[misc]
            settle(slot)

    claims = [layout.agent(slot) + L.CLAIM for slot in range(2)]
    world.actor("parent", watch)

    def check() -> None:
        scene.deques.validate()
        for slot in range(2):
            parent.collector.collect(slot)
            take = levels.make_take(scene.deques, slot, Aging(8, 1))
            while (chunk := take()) >= 0:
                world.event("start", chunk)
                world.event("delivered", chunk)
        assert not scene.deques.validate(), "taken to the end, and yet there is something"
        for chunk in chunks:
            told = [what for _, what, number in world.log if number == chunk]
            assert told.count("start") <= 1, f"chunk {chunk} ran twice"
            over = told.count("delivered") + told.count("timed out")
            assert over == 1, f"chunk {chunk} was settled {over} times"
            assert "timed out" not in told or chunk == limited

    return check


PAST: tuple[tuple[int, int, int, int], ...] = ((0, URGENT, 0, 1), (1, PLAIN, 1, 2), (0, PLAIN, 2, 3))
"""Agent 0 may claim chunk 1, which is at 1, for a moment, as it looks for the end of its range."""

MEMORIES: list[dict[str, Any]] = [{"memory": "sc"}, {"memory": "tso"}, {"memory": "sc", "fenced": False}]


@pytest.mark.parametrize("limits", MEMORIES, ids=str)
def test_only_what_ran_out_of_time_dies(limits: dict[str, Any]) -> None:
    """The agent may end the chunk and start the next at any moment, before and after the kill."""
    explore(lambda world: out_of_time(world), **limits)
    if limits["memory"] == "sc":
        explore(lambda world: out_of_time(world, limited=0), **limits)
        explore(lambda world: out_of_time(world, (0, PLAIN, 0, 2), (0, URGENT, 2, 3), limited=2), **limits)
        explore(lambda world: out_of_time(world, *PAST), **limits)
    explore_randomly(
        lambda world: out_of_time(world, (0, PLAIN, 0, 4), (0, PLAIN, 4, 6), agents=2),
        rounds=150,
        seed=seed(),
        **limits,
    )


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("limits", MEMORIES, ids=str)
def test_only_what_ran_out_of_time_dies_at_length(limits: dict[str, Any]) -> None:
    for limited in (0, 1):
        explore(lambda world, chunk=limited: out_of_time(world, limited=chunk), **limits)
    explore(lambda world: out_of_time(world, agents=2), preemptions=2, runs_limit=2_000_000, **limits)
    explore_randomly(
        lambda world: out_of_time(world, (0, PLAIN, 0, 4), (0, PLAIN, 4, 6), agents=2),
        rounds=20_000,
        seed=seed(),
        **limits,
    )


def test_ended_agent_is_kept_out_until_it_is_dead() -> None:
    """Whatever the parent does meanwhile: the kernel would give it the lock once more, and one unlock takes it away."""
    for meanwhile in (lambda deques: deques.take_back(0, 1, (PLAIN,)), lambda deques: deques.remove(0, 7)):
        explore(lambda world, do=meanwhile: out_of_time(world, limited=0, meanwhile=do))


LIMITS_MUTANTS: dict[str, tuple[tuple[str, str], tuple[tuple[int, int, int, int], ...]]] = {
    "next chunk may start before the kill": (
        (
            "        if not deques.hold(slot):\n            return False\n",
            "        if not deques.hold(slot):\n            return False\n"
            "        words[dispatcher.segment.layout.agent(slot) + L.MARK] = 0\n",
        ),
        (),
    ),
    "lock and mark are given back before the death": (
        (
            "            dispatcher.crew.alive[slot].kill_group()\n            return True\n",
            "            dispatcher.crew.alive[slot].kill_group()\n",
        ),
        (),
    ),
    "claim is not looked at again": (
        ("return claim == chunk and ", "return "),
        PAST,
    ),
    "whether it is over is not looked at": (
        (" and dispatcher.pages.sink_of(chunk) is not None", ""),
        (),
    ),
}
"""Bugs that the model must find: what is changed in limits.py, and the ranges that show it."""


@pytest.mark.parametrize("bug", LIMITS_MUTANTS)
def test_model_finds_in_limits(bug: str) -> None:
    change, ranges = LIMITS_MUTANTS[bug]
    limits = SimpleNamespace(**mutant_of(limits_module, change))
    with pytest.raises(Violation, match="The schedule:"):
        explore(lambda world: out_of_time(world, *ranges, limits=limits))


def test_model_finds_that_the_hold_has_no_fence() -> None:
    with pytest.raises(Violation, match="dies with the agent"):
        explore(lambda world: out_of_time(world, limited=0, barrier_works=False), memory="tso", preemptions=2)


def test_model_finds_a_hold_that_takes_the_lock_twice() -> None:
    deques = mutant(("if w[base + L.MARK] == self._parent + 1:", "if False:"))
    with pytest.raises(Violation, match="dies with the agent"):
        explore(lambda world: out_of_time(world, limited=0, deques=deques, meanwhile=lambda d: d.remove(0, 7)))
