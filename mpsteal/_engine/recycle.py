"""Recycling: agents that have done enough, are old or have grown are replaced by fresh ones. Engine thread only.

    over a limit --> a spare gets ready --> LEAVE: the agent ends after the task it runs --> the spare has its slot,
                                                                                             and its queue

The number of tasks is counted by the agent itself, so it is exact; here the spare is started in time. Age and memory
are looked at between tasks: a task that outgrows its machine meanwhile is the system's to end.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from .._queue import layout as L
from .events import facts

if TYPE_CHECKING:
    from .crew import Crew
    from .dispatch import Dispatcher
    from .health import AgentProcess

logger = logging.getLogger("mpsteal")

LOOK_S = 1.0
"""Time between two looks at ages and memory, while there is work (at most a quarter of the age): shorter costs (0.05 ms
an agent), longer lets an agent grow on."""

AHEAD_SHARE = 8
"""The spare is started when the 1 / so many of an agent's tasks are left: fewer has it wait for long, and take memory;
more has it come late where tasks are short (chosen by hand)."""

SPARE_PAUSE_FIRST_S, SPARE_PAUSE_LAST_S = 0.5, 30.0
"""Pause before a spare is tried again where none could be started, or it died; doubled each time: shorter costs tries
that the system refuses, longer keeps an agent that is over its limit."""


class AgentLimits(NamedTuple):
    """When an agent is replaced; None: never.

    Attributes:
        max_tasks: chunks it runs.
        max_age_s: from its start (seconds).
        max_rss_bytes: resident memory.
    """

    max_tasks: int | None = None
    max_age_s: float | None = None
    max_rss_bytes: int | None = None


class Recycler:
    """Sees to it that agents within limits do the work."""

    def __init__(self, dispatcher: Dispatcher, crew: Crew, limits: AgentLimits) -> None:
        self._dispatcher, self._crew, self._limits = dispatcher, crew, limits
        self._looks = limits.max_age_s is not None or limits.max_rss_bytes is not None
        self._every_s = min(LOOK_S, (limits.max_age_s or 4 * LOOK_S) / 4)
        self._look_at = 0.0
        self._told: dict[int, AgentProcess] = {}
        """Agents that are over a limit, by slot, until their spares are up."""
        self._has_warned = False

    @property
    def is_needed(self) -> bool:
        """Whether there is any limit."""
        return self._looks or self._limits.max_tasks is not None

    def turn(self, now: float) -> None:
        """Start spares in time, look at ages and memory, send away."""
        crew = self._crew
        most = self._limits.max_tasks
        if most is not None and most > 1:
            ahead = max(1, most // AHEAD_SHARE)
            for slot, agent in list(crew.alive.items()):
                done = self._dispatcher.collector.collected[slot] - agent.done_before
                if 0 < most - done <= ahead and self._may_go(slot, agent) and not agent.spare_at:
                    agent.spare_at = now + SPARE_PAUSE_FIRST_S
                    crew.spares.start(slot)
        if self._looks:
            if self._dispatcher.inflight and not self._look_at:
                self._look_at = now + self._every_s
            elif self._look_at and now >= self._look_at:
                self._look_at = now + self._every_s if self._dispatcher.inflight else 0.0
                self._look(now)
        for slot, agent in list(self._told.items()):
            if crew.alive.get(slot) is not agent or not self._may_go(slot, agent):
                del self._told[slot]
            elif slot not in crew.spares:
                # None could be started, or it died: this agent is better than none.
                if now >= agent.spare_at:
                    agent.spare_pause_s = min(SPARE_PAUSE_LAST_S, max(SPARE_PAUSE_FIRST_S, 2 * agent.spare_pause_s))
                    agent.spare_at = now + agent.spare_pause_s
                    crew.spares.start(slot)
            elif crew.spares.is_up(slot):
                del self._told[slot]
                self._send_away(slot)

    def due(self) -> list[float]:
        """When to look again (monotonic clock, s)."""
        times = [agent.spare_at for slot, agent in self._told.items() if slot not in self._crew.spares]
        return times + ([self._look_at] if self._look_at else [])

    def _may_go(self, slot: int, agent: AgentProcess) -> bool:
        words, base = self._dispatcher.words, self._dispatcher.segment.layout.agent(slot)
        return (
            words[base + L.STATE] == L.READY
            and not words[base + L.LEAVE]
            and slot not in self._crew.leaving
            and slot not in self._dispatcher.limits.ending
            and agent.watch_fd >= 0
        )

    def _look(self, now: float) -> None:
        for slot, agent in list(self._crew.alive.items()):
            if slot in self._told or not self._may_go(slot, agent):
                continue
            done = self._dispatcher.collector.collected[slot] - agent.done_before
            why = self._why(agent, done, now)
            if why:
                agent.why_recycled = why
                self._told[slot] = agent

    def _why(self, agent: AgentProcess, done: int, now: float) -> str:
        """Why an agent has to go, in words; empty if it need not."""
        _, max_age_s, max_rss_bytes = self._limits
        if max_age_s is not None and now - agent.started >= max_age_s:
            return f"it is {now - agent.started:.0f} s old, and {max_age_s:g} s are allowed"
        if max_rss_bytes is None or not done:
            return ""
        rss = agent.rss_bytes()
        if rss <= max_rss_bytes:
            return ""
        if done == 1 and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "mpsteal: an agent takes %d MiB after its first task, and %d MiB are allowed: it is replaced again and "
                "again (a forked agent's memory counts what it shares with this process)",
                rss >> 20,
                max_rss_bytes >> 20,
                extra=facts(
                    "max_rss_too_low", agent=self._dispatcher.agent_id(agent.slot), agent_pid=agent.process.pid
                ),
            )
        return f"it takes {rss >> 20} MiB, and {max_rss_bytes >> 20} MiB are allowed"

    def _send_away(self, slot: int) -> None:
        dispatcher = self._dispatcher
        dispatcher.words[dispatcher.segment.layout.agent(slot) + L.LEAVE] = L.LEAVE_NOW
        dispatcher.locks.fence()
        dispatcher.ring(slot)
