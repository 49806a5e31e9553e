"""What a scheduler's parent and its agents tell each other: held tasks, asking, the end of a task for its time (D5).

The agent's side is the real `Agent.find_work`, `ask` and `take` of `levels.py`, the parent's the real `Scheduling` and
`Urgent`, and below them the real `Limits`; only system calls are the model's. Nobody has a timer here: an agent that
asks waits until it is rung, so that what saves it is never the bound of that wait.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from scene import Scene
from test_handshakes import PARENT, ModelAgent
from world import ModelLocks, Violation, World, explore, explore_randomly, seed

from mpsteal._engine.schedule import GROUP_SHIFT, Scheduling
from mpsteal._engine.urgent import Urgent
from mpsteal._policy.order import Aging
from mpsteal._policy.rules import Rules
from mpsteal._queue import layout as L
from mpsteal._queue import levels
from mpsteal._queue.deque import ASK, RETRY

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
