"""What has gone wrong in an engine so far, and what was done about it: plain data. Engine thread writes, any reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """Counters since the start; a scheduler has the same ones among its metrics.

    Attributes:
        agent_deaths: agents lost while they ran a task.
        agents_replaced: started in the place of one that died, whatever it did then.
        agents_recycled: started in the place of one that left by rule (number of tasks, age, memory).
        agents_stuck: times that an agent came to be seen as stuck, see `vitals.py`.
        timeouts: tasks ended by their limit.
        retried: times that a task ran again.
    """

    agent_deaths: int = 0
    agents_replaced: int = 0
    agents_recycled: int = 0
    agents_stuck: int = 0
    timeouts: int = 0
    retried: int = 0
