"""What `stats()` of a pool or an executor gives."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ._engine.counts import Counts
from ._engine.loop import Engine


@dataclass(frozen=True)
class AgentStats:
    """What one agent has done so far (all processes that have held its slot together).

    Attributes:
        slot: number of the agent.
        pid: its process now; None: none.
        state: "starting", "ready", "leaving" (it was told to, and may still run something), "failed" or "empty".
        tasks_done: chunks finished.
        busy_s: seconds spent in tasks (unpickling and calling).
        steals, steals_failed: rounds of stealing that found something, or nothing.
        chunks_stolen, chunks_lost: chunks taken from others, taken by others.
        repairs: half-done steals of dead agents that this one mended.
        parked: whether it waits for work.
        running_s: seconds since it started what it runs; 0.0: nothing.
        health: "starting", "idle", "busy", "stuck" (for a while neither a result nor any CPU time), "stopped" (by a
            signal) or "dead" (its process is being replaced).
    """

    slot: int
    pid: int | None
    state: str
    tasks_done: int
    busy_s: float
    steals: int
    steals_failed: int
    chunks_stolen: int
    chunks_lost: int
    repairs: int
    parked: bool
    running_s: float
    health: str


@dataclass(frozen=True)
class PoolStats:
    """What a pool has done so far.

    Attributes:
        agents: by slot, of every slot that ever had an agent.
        agent_deaths: agents lost while they ran a task.
        agents_replaced: started in the place of one that died, whatever it did then.
        agents_recycled: started in the place of one that left by rule (`maxtasksperchild`, `max_age`, `max_rss`).
        agents_stuck: times that an agent came to be seen as stuck.
        timeouts: calls (or chunks) ended by their `timeout`.
        retried: times that one ran again, by its `retries`.
    """

    agents: tuple[AgentStats, ...]
    agent_deaths: int = 0
    agents_replaced: int = 0
    agents_recycled: int = 0
    agents_stuck: int = 0
    timeouts: int = 0
    retried: int = 0

    @property
    def tasks_done(self) -> int:
        """Chunks finished by all agents."""
        return sum(a.tasks_done for a in self.agents)

    @property
    def steals(self) -> int:
        """Successful rounds of stealing."""
        return sum(a.steals for a in self.agents)


def stats_of(engine: Engine) -> PoolStats:
    """What the agents of an engine have done so far, and what has gone wrong. Its counters may be a scheduler's, which
    are more."""
    counts = {field.name: getattr(engine.dispatcher.counts, field.name) for field in fields(Counts)}
    return PoolStats(tuple(AgentStats(**row) for row in engine.status()), **counts)
