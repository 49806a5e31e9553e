"""Flags that one side sets and the other tests: park and submit, ring full and room again (D5).

The agent's side is the real `Agent.find_work` and `Agent._wait_for_room`, the parent's the real
`Dispatcher._place` and `Collector.collect`; only the system calls (doorbells, `time.sleep`) are the
model's. Stores may land late, as on x86 ("tso"), so a missing fence is found: two tests take it
away and expect that. Nobody has a timer here: what wakes an agent must be a doorbell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from scene import Scene
from world import ModelLocks, Violation, World, explore, explore_randomly, seed

from mpsteal._agent import loop
from mpsteal._engine.brake import Brake
from mpsteal._engine.collect import Collector
from mpsteal._engine.dispatch import Dispatcher
from mpsteal._engine.resize import Resizer
from mpsteal._queue import layout as L
from mpsteal._queue import results as R
from mpsteal._queue.deque import RETRY

Check = Callable[[], None]
PARENT = "the parent's bell"


class ModelAgent(loop.Agent):
    """The real loop without its process."""

    def __init__(self, scene: Scene, slot: int) -> None:
        self.world, self.slot = scene.world, slot
        self.words, self.locks, self.deques = scene.world.words, scene.locks, scene.deques
        self.segment: Any = SimpleNamespace(layout=scene.layout, words=self.words)
        self.spec: Any = SimpleNamespace(geometry=scene.layout.geometry)
        self.rules = None
        self.base = scene.layout.agent(slot)
        self.take = self.deques.make_take(slot)
        self.alone_until_ns = 0
        self.results: Any = SimpleNamespace(is_warm=False)

    def ring(self, slot: int) -> None:
        self.world.ring(slot)

    def ring_parent(self) -> None:
        self.world.ring(PARENT)

    def steal_round(self) -> int:
        self.world.attempt()
        return super().steal_round()

    def _wait(self, timeout_ms: int | None) -> None:
        self.world.sleep(self.slot)

    def serve_chunks(self, endless: bool) -> None:
        """`Agent.serve` with chunks that only tell that they ran, or never end."""
        while True:
            self.world.attempt()
            chunk = self.take()
            if chunk >= 0:
                self.world.event("start", chunk)
                if endless:
                    self.world.wait(lambda: False, "never", optional=True)
            elif chunk == RETRY:
                self.world.wait_news()
            elif not self.find_work():
                return


class Careless(ModelAgent):
    """Clears PARKED and goes on, without the fence."""

    def _unpark(self) -> None:
        self.words[self.base + L.PARKED] = 0


class ModelDispatcher(Dispatcher):
    """The real placing and ringing."""

    def __init__(self, scene: Scene) -> None:
        self.world = scene.world
        self.slots = self.staying = list(range(scene.slots))
        self.resizer = Resizer(self)
        self.words, self.locks, self.deques = scene.world.words, scene.locks, scene.deques
        self.segment: Any = SimpleNamespace(layout=scene.layout)
        self.backlog = deque()
        self._dealt = set()
        self.inflight = 0
        self.brake = Brake(self)
        self.frozen = {}

    def ring(self, agent: int) -> None:
        self.world.ring(agent)


def submit(
    world: World,
    *,
    agents: int,
    batches: Iterable[tuple[int, int]],
    endless: bool = False,
    cancel: int = L.NONE,
    fence_works: bool = True,
    made_by: type[ModelAgent] = ModelAgent,
) -> Check:
    """Agents that look for work, and a parent that submits `batches`, then cancels a chunk."""
    scene = Scene(world, agents, entries=4, locks=ModelLocks(world, fence_works=fence_works))
    for slot in range(agents):
        agent = made_by(scene, slot)
        world.cells[agent.base + L.STATE] = L.READY
        world.actor(f"agent {slot}", lambda a=agent: a.serve_chunks(endless))
    dispatcher = ModelDispatcher(scene)

    def parent() -> None:
        for lo, hi in batches:
            dispatcher._place(lo, hi)
        if cancel != L.NONE and dispatcher._remove(cancel) is not None:
            world.event("cancelled", cancel)

    world.actor("parent", parent)

    def check() -> None:
        started = sorted(chunk for _, what, chunk in world.log if what == "start")
        cancelled = {chunk for _, what, chunk in world.log if what == "cancelled"}
        assert not cancelled & set(started), "cancelled, and yet it ran"
        wanted = [c for lo, hi in batches for c in range(lo, hi) if c not in cancelled]
        assert started == wanted, f"all agents sleep or are busy, and of {wanted} only {started} ran"

    return check


def test_submit_wakes_a_parked_agent() -> None:
    explore(lambda world: submit(world, agents=1, batches=[(0, 1)]), memory="tso")
    explore(lambda world: submit(world, agents=1, batches=[(0, 1), (1, 2)]), memory="tso", preemptions=1)


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_submit_wakes_a_parked_agent_at_length() -> None:
    explore(lambda world: submit(world, agents=1, batches=[(0, 1), (1, 2)]), memory="tso", preemptions=2)


def test_model_finds_the_lost_wake_up_without_the_fence() -> None:
    def scene(world: World) -> Check:
        return submit(world, agents=1, batches=[(0, 1)], fence_works=False)

    explore(scene, memory="sc")  # no fence is needed where stores land at once
    with pytest.raises(Violation, match="all agents sleep"):
        explore(scene, memory="tso")


BATCHES: list[tuple[int, list[tuple[int, int]]]] = [
    (2, [(0, 2)]),
    (2, [(0, 1), (1, 2)]),
    (3, [(0, 1), (1, 2), (2, 3)]),
    (3, [(0, 2), (2, 3)]),
]
"""Agents, and what the parent submits: as many chunks as there are agents."""


@pytest.mark.parametrize("endless", [pytest.param(False, marks=pytest.mark.stress), True], ids=["short", "endless"])
def test_as_many_chunks_run_as_there_are_agents(endless: bool) -> None:
    """A task may wait for the one behind it (D2), so an endless one may not keep that from running."""
    agents, batches = BATCHES[0]
    explore(lambda w: submit(w, agents=agents, batches=batches, endless=endless), preemptions=1)


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_as_many_chunks_run_as_there_are_agents_in_random_schedules(memory: str) -> None:
    """A failure names its seed; MPSTEAL_SEED=<seed> runs that schedule again.

    What it has found: PARKED cleared without a fence. The parent then still sees it, rings the agent
    that is awake, and nobody comes for the chunk behind an endless one.
    """
    for agents, batches in BATCHES:
        explore_randomly(
            lambda w, n=agents, b=batches: submit(w, agents=n, batches=b, endless=True),
            rounds=75,
            seed=seed(),
            memory=memory,
        )


def inherited(world: World, made_by: type[ModelAgent] = ModelAgent) -> Check:
    """Two endless chunks come to the same agent, one after the other, and the parent rings for each: as when an agent
    inherits them. Nobody else was given any, so the parent has nothing to go by but the flags."""
    scene = Scene(world, 2, entries=4)
    for slot in range(2):
        agent = made_by(scene, slot)
        world.cells[agent.base + L.STATE] = L.READY
        world.actor(f"agent {slot}", lambda a=agent: a.serve_chunks(endless=True))
    dispatcher = ModelDispatcher(scene)

    def parent() -> None:
        for chunk in range(2):
            scene.deques.push(0, 0, chunk, chunk + 1)
            dispatcher.ring_parked(1)

    world.actor("parent", parent)

    def check() -> None:
        started = sorted(chunk for _, what, chunk in world.log if what == "start")
        assert started == [0, 1], f"all agents sleep or are busy, and only {started} ran"

    return check


def test_two_chunks_at_one_agent_are_run_by_two() -> None:
    explore(inherited, preemptions=1)
    explore_randomly(inherited, rounds=200, seed=seed(), memory="tso")


def test_model_finds_the_flag_cleared_without_a_fence() -> None:
    with pytest.raises(Violation, match="all agents sleep"):
        explore(lambda w: inherited(w, Careless), preemptions=2, memory="tso")


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_as_many_chunks_run_as_there_are_agents_at_length(memory: str) -> None:
    for endless in (False, True):
        explore(lambda w, e=endless: submit(w, agents=2, batches=BATCHES[1][1], endless=e), preemptions=1)
    for chunk in range(3):
        explore(lambda w, c=chunk: submit(w, agents=2, batches=[(0, 3)], cancel=c), preemptions=1)
    for agents, batches in BATCHES:
        explore_randomly(
            lambda w, n=agents, b=batches: submit(w, agents=n, batches=b, endless=True),
            rounds=30_000,
            seed=seed(),
            memory=memory,
        )


def test_cancelled_chunk_never_runs_and_the_others_do() -> None:
    """The real `Dispatcher._remove`; what lay behind the chunk is queued again and its agent rung."""
    for chunk in range(3):
        explore_randomly(
            lambda w, c=chunk: submit(w, agents=2, batches=[(0, 4)], cancel=c),
            rounds=60,
            seed=seed(),
            memory="tso",
        )


class Elder(ModelAgent):
    """Started when agent 0 was the only one: it has no other's doorbell."""

    def __init__(self, scene: Scene, slot: int) -> None:
        super().__init__(scene, slot)
        self.spec.bells = [None]

    ring = loop.Agent.ring


class Mute(Elder):
    """Does not ask the parent either."""

    def ring_parent(self) -> None:
        pass


def grown(world: World, made_by: type[ModelAgent] = Elder) -> Check:
    """Agent 0 gets two endless chunks behind the back of agent 1, which came when it was there, as by a steal that
    agent 1 looked into the middle of; the parent does what it does when it is rung."""
    scene = Scene(world, 2, entries=4)
    for slot, kind in enumerate((made_by, ModelAgent)):
        agent = kind(scene, slot)
        world.cells[agent.base + L.STATE] = L.READY
        world.actor(f"agent {slot}", lambda a=agent: a.serve_chunks(endless=True))
    dispatcher = ModelDispatcher(scene)

    def parent() -> None:
        world.wait(lambda: bool(world.cells[scene.layout.agent(0) + L.PARKED]), "agent 0 is parked")
        scene.deques.push(0, 0, 0, 2)
        scene.locks.fence()
        world.ring(0)
        while True:
            world.sleep(PARENT)
            dispatcher.wake_idle()

    world.actor("parent", parent)

    def check() -> None:
        started = sorted(chunk for _, what, chunk in world.log if what == "start")
        assert started == [0, 1], f"all agents sleep or are busy, and only {started} ran"

    return check


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_agent_that_came_later_is_rung_by_the_parent(memory: str) -> None:
    explore(grown, memory=memory, preemptions=1)
    explore_randomly(grown, rounds=300, seed=seed(), memory=memory)


def test_model_finds_an_agent_that_nobody_can_ring() -> None:
    with pytest.raises(Violation, match="all agents sleep"):
        explore(lambda world: grown(world, Mute), preemptions=1)


def braked(world: World, agents: int, *, looks: bool = True) -> Check:
    """The brake is on, so one agent is rung for many chunks, none of which ever ends; and the parent looks whenever
    anything has changed. Nobody stamps the start of a chunk here, so all that are awake count as stuck."""
    scene = Scene(world, agents, entries=4)
    world.cells[L.FEW] = 1
    for slot in range(agents):
        agent = ModelAgent(scene, slot)
        world.cells[agent.base + L.STATE] = L.READY
        world.actor(f"agent {slot}", lambda a=agent: a.serve_chunks(endless=True))
    dispatcher = ModelDispatcher(scene)
    brake = dispatcher.brake
    brake.is_on, brake._enough = True, 1

    def parent() -> None:
        me = world.current
        assert me is not None
        dispatcher._place(0, agents)
        while looks:
            world.attempt()
            brake._look_at = 0.0
            brake.turn(1.0)
            world.wait(lambda: me.news, "something changed", optional=True)

    world.actor("parent", parent)

    def check() -> None:
        started = sorted(chunk for _, what, chunk in world.log if what == "start")
        assert started == list(range(agents)), f"all agents sleep or are busy, and only {started} ran"

    return check


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_braked_chunks_behind_endless_ones_are_run_by_others(memory: str) -> None:
    for agents in (2, 3):
        explore_randomly(lambda world, n=agents: braked(world, n), rounds=100, seed=seed(), memory=memory)


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_braked_chunks_behind_endless_ones_are_run_by_others_at_length() -> None:
    explore(lambda world: braked(world, 2), preemptions=1)


def test_model_finds_a_brake_that_nobody_lets_go() -> None:
    with pytest.raises(Violation, match="all agents sleep"):
        explore(lambda world: braked(world, 2, looks=False), preemptions=1)


def full_ring(world: World, results: int, *, fence_works: bool = True) -> Check:
    """An agent that commits more results than its ring holds (two), and the parent."""
    scene = Scene(world, 1, locks=ModelLocks(world, fence_works=fence_works))
    ring = memoryview(bytearray(scene.layout.mapped_bytes))
    segment: Any = SimpleNamespace(
        layout=scene.layout, words=world.words, data=ring, blocks_base=lambda owner: 0, block_span=1 << 20
    )
    agent = ModelAgent(scene, 0)
    writer = R.ResultWriter(segment, 0, scene.locks, agent._wait_for_room)  # type: ignore[arg-type]
    page = SimpleNamespace(first=0, used=results, left=results, closed=False, blocks={}, sinks=[None] * results)
    dispatcher: Any = ModelDispatcher(scene)
    dispatcher.blocks, dispatcher.inflight = SimpleNamespace(lent={}), results
    dispatcher.pages = SimpleNamespace(find=lambda _: page, page_chunks=results)
    collector = Collector(segment, scene.locks, dispatcher, 1, [])  # type: ignore[arg-type]
    got: list[int] = []

    def agent_body() -> None:
        write_small = writer.make_write_small()
        for chunk in range(results):
            write_small(chunk, R.VOID, 0)
        agent.ring_parent()

    def parent() -> None:
        while sum(got) < results:
            world.sleep(PARENT)
            got.append(collector.collect(0))

    world.actor("agent", agent_body)
    world.actor("parent", parent)

    def check() -> None:
        full = world.cells[agent.base + L.RING_FULL]
        assert sum(got) == results, f"{sum(got)} of {results} results, RING_FULL={full}"

    return check


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_agent_with_a_full_ring_is_woken(memory: str) -> None:
    """The parent may empty the ring just before the agent says that it is full.

    The doorbell that follows finds no record then, and still the agent has to be rung.
    """
    explore(lambda world: full_ring(world, 5), memory=memory)
    explore_randomly(lambda world: full_ring(world, 12), rounds=500, seed=seed(), memory=memory)


def test_results_wait_for_no_flag() -> None:
    """The ring's indices need no fence on x86: one writer each, and the reader looks at both."""
    explore(lambda world: full_ring(world, 2, fence_works=False), memory="tso")
