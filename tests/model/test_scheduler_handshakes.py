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
from scene import Scene
from test_handshakes import PARENT, ModelAgent
from world import Actor, ModelLocks, Violation, World, explore, explore_randomly, seed

from mpsteal._engine import limits as limits_module
from mpsteal._engine.collect import Collector
from mpsteal._engine.schedule import GROUP_SHIFT, Scheduling
from mpsteal._engine.urgent import Urgent
from mpsteal._policy.order import Aging
from mpsteal._policy.rules import Rules
from mpsteal._queue import layout as L
from mpsteal._queue import levels
from mpsteal._queue import results as R
from mpsteal._queue.arena import Page
from mpsteal._queue.deque import ASK, RETRY, STOLEN, Deques

Check = Callable[[], None]

PLAIN, URGENT, MORE_URGENT = 0, 1, 3
"""Levels of one priority or two. Even ones are plain: pushed to agents, and may be robbed."""


class AskingAgent(ModelAgent):
    """The real loop of a scheduler's agent."""

    def __init__(self, scene: Scene, slot: int) -> None:
        super().__init__(scene, slot)
        self.rules: Any = SimpleNamespace(steals=True, steal_levels=self.deques.steal_levels, ask_ms=0)
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
                elif not self.ask():
                    chunk = self.take(True)
                if chunk < 0:
                    continue
            self.world.event("start", chunk)
            if endless:
                self.world.wait(lambda: False, "never", optional=True)


class ModelScheduling(Scheduling):
    """The real placing, holding, giving out and ringing, over agents that all can do the same."""

    def __init__(self, scene: Scene, tasks: dict[int, Any]) -> None:
        segment: Any = SimpleNamespace(
            words=scene.world.words, layout=scene.layout, blocks_base=lambda owner: 0, block_span=1 << 20
        )
        super().__init__(segment, scene.locks, scene.deques, [], [], rules=Rules(), metrics=None)  # type: ignore[arg-type]
        self.world = scene.world
        self.crew: Any = SimpleNamespace(leaving=set(), alive={})
        self.pages: Any = SimpleNamespace(find=lambda chunk: None, sink_of=tasks.__getitem__)
        self.urgent = Urgent(self, Aging(8, 2), tuple(level for level in scene.deques.levels if level % 2))
        self.number_of(frozenset(), protected=False)
        for slot in range(scene.slots):
            self.slots.append(slot)
            self.names_of[slot], self.capabilities[slot], self.outcomes[slot] = str(slot), frozenset(), [0, 0]
            self.placement.add_agent(slot, frozenset())

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
    parent: type[ModelScheduling] = ModelScheduling,
) -> Check:
    """Agents that look for work, and a parent that gets `batches` of `(lo, hi, level)` and then serves those that ask."""
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
        chunk: SimpleNamespace(_deadline_ns=0, _seq=chunk, _group=level << GROUP_SHIFT, _assigned_ns=0, _agent="")
        for lo, hi, level in batches
        for chunk in range(lo, hi)
    }
    scheduling = parent(scene, tasks)

    def engine() -> None:
        for batch in batches:
            scheduling.submit(*batch)
        while True:
            world.sleep(PARENT)
            scheduling.urgent.give_out()

    world.actor("parent", engine)

    def check() -> None:
        started = [chunk for _, what, chunk in world.log if what == "start"]
        assert len(started) == len(set(started)), f"{started}"
        wanted = min(len(tasks), agents) if endless else len(tasks)
        assert len(started) == wanted, f"all sleep or are busy, and of {sorted(tasks)} only {started} ran"
        scene.deques.validate()

    return check


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
        self._timeout_ns = -1 if is_limited else 0  # due as soon as somebody looks

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
        words=words, locks=scene.locks, deques=scene.deques, segment=segment, pages=pages, blocks=None, slots=[0, 1],
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
                write(chunk, R.VOID, 0)
            elif chunk == RETRY:
                world.wait_news()
            elif not slot or scene.deques.steal(slot, 0) != STOLEN:
                world.wait(lambda: False, "never", optional=True)  # so that it can still be killed

    actors = [world.actor(f"agent {slot}", partial(serve, slot)) for slot in range(agents)]

    def kill(actor: Actor) -> None:
        assert page.sinks[limited] is not None, "killed for a chunk that is over"
        world.kill(actor)

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
