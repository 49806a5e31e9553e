"""Heartbeats: which agents are busy, stuck, stopped or dead, and what is done about it. Engine thread only.

    every `LOOK_S` while work is in flight: the claim, its start, the count of what is done --the same as before-->
        stopped by a signal? any CPU time since? --> busy | stuck | stopped --> metrics, log; others get its queue

An agent has one thread, which runs the user's code, so it cannot say that it lives: what it does is looked at instead.
A task that computes uses CPU time; one that waits for anything else for longer than `stuck_after_s` looks like one that
hangs, and is called stuck. Nothing is ended for it: that is what `timeout` is for.

One thing is ended: an agent that a signal stopped inside a critical section, since all who need that lock would wait as
long as it stands there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from .._queue import layout as L
from .events import facts

if TYPE_CHECKING:
    from .dispatch import Dispatcher
    from .health import AgentProcess

logger = logging.getLogger("mpsteal")

LOOK_S = 1.0
"""Time between two looks at the agents, at most a quarter of `stuck_after_s`: shorter costs (0.2 ms for each agent that
is inside a long task; 5 ms, once it has been silent for half of `stuck_after_s`), longer notices later."""

STUCK_AFTER_S = 60.0
"""An agent that for so long has neither finished anything nor used CPU time is stuck, unless told otherwise (chosen by
hand): shorter cries wolf over tasks that wait for a network, longer is late."""

_STOPPED, _STUCK = "stopped", "stuck"


class _Seen(NamedTuple):
    """What an agent was doing."""

    doing: tuple[int, int, int]
    cpu_s: float
    children_s: float
    since: float


class Vitals:
    """How each agent does.

    Args:
        stuck_after_s: see `STUCK_AFTER_S`.
    """

    def __init__(self, dispatcher: Dispatcher, stuck_after_s: float) -> None:
        self._dispatcher = dispatcher
        self.stuck_after_s = stuck_after_s
        self._every_s = min(LOOK_S, stuck_after_s / 4)
        self._look_at = 0.0
        self._seen: dict[int, _Seen] = {}
        self._holders: dict[int, int] = {}

    def turn(self, now: float) -> None:
        """Look, if it is time."""
        if not self._dispatcher.inflight:
            self._seen.clear()
            self._look_at = 0.0
            if self._dispatcher.frozen:
                # One that a signal has stopped is so still, for all we know.
                for slot in [slot for slot, how in self._dispatcher.frozen.items() if how == _STUCK]:
                    self._recovered(slot)
        elif not self._look_at:
            self._look_at = now + self._every_s  # most tasks are over by then
        elif now >= self._look_at:
            self._look_at = now + self._every_s
            self._look(now)

    def due(self) -> list[float]:
        """When to look again (monotonic clock, s)."""
        return [self._look_at] if self._look_at and self._dispatcher.inflight else []

    def _look(self, now: float) -> None:
        dispatcher = self._dispatcher
        words, layout, crew = dispatcher.words, dispatcher.segment.layout, dispatcher.crew
        self._free_locks()
        for slot in {*self._seen, *dispatcher.frozen} - crew.alive.keys():
            self._forget(slot)
        for slot, agent in list(crew.alive.items()):
            base = layout.agent(slot)
            # One that is parked beside its own queue has been rung, and does not come.
            is_idle = words[base + L.PARKED] and not dispatcher.deques.has_work(slot)
            is_idle = is_idle or (words[base + L.WAITS] and not words[base + L.PARKED])  # in a task, for others
            if words[base + L.STATE] == L.STARTING and agent.is_stopped():
                self._tell(slot, agent, _STOPPED, 0.0)
                continue
            if words[base + L.STATE] != L.READY or is_idle:
                if slot not in dispatcher.frozen or not agent.is_stopped():
                    self._forget(slot)
                continue
            doing = words[base + L.CLAIM], words[base + L.STARTED_NS], words[base + L.RESULT_TAIL]
            seen = self._seen.get(slot)
            if seen is None or seen.doing != doing:
                self._forget(slot)
                self._seen[slot] = _Seen(doing, -1.0, -1.0, now)
                continue
            cpu_s = agent.cpu_s()
            if cpu_s <= seen.cpu_s and now - seen.since >= self.stuck_after_s / 2:
                # Only now, since it is dear: it may wait for a process of its own that computes.
                cpu_s, children_s = seen.cpu_s, agent.children_cpu_s()
            else:
                children_s = -1.0
            moves = cpu_s > seen.cpu_s >= 0 or children_s > seen.children_s >= 0
            self._seen[slot] = _Seen(doing, cpu_s, children_s, now if moves else seen.since)
            since = self._seen[slot].since
            if agent.is_stopped():
                self._tell(slot, agent, _STOPPED, now - since)
            elif now - since >= self.stuck_after_s and seen.children_s >= 0:  # they were looked at twice, too
                self._tell(slot, agent, _STUCK, now - since)
            elif slot in dispatcher.frozen:
                self._recovered(slot)

    def _forget(self, slot: int) -> None:
        self._seen.pop(slot, None)
        if slot in self._dispatcher.frozen:
            self._recovered(slot)

    def _recovered(self, slot: int) -> None:
        dispatcher = self._dispatcher
        del dispatcher.frozen[slot]
        dispatcher.thawed()
        if slot in dispatcher.crew.alive:
            name = dispatcher.agent_id(slot)
            logger.info(
                "mpsteal: agent %r goes on",
                name,
                extra=facts("agent_goes_on", agent=name, agent_pid=dispatcher.crew.alive[slot].process.pid),
            )

    def _tell(self, slot: int, agent: Any, verdict: str, silent_s: float) -> None:
        """An agent does not get on: say so once, and let others have what is queued there."""
        dispatcher = self._dispatcher
        before = dispatcher.frozen.get(slot)
        dispatcher.frozen[slot] = verdict
        if before is None:
            dispatcher.counts.agents_stuck += 1
            chunk = dispatcher.words[dispatcher.segment.layout.agent(slot) + L.CLAIM]
            is_running = dispatcher.pages.sink_of(chunk) is not None if chunk >= 0 else False
            name = dispatcher.agent_id(slot)
            logger.warning(
                "mpsteal: agent %r (pid %d) %s%s",
                name,
                agent.process.pid,
                "was stopped by a signal"
                if verdict == _STOPPED
                else f"is stuck: for {silent_s:.3g} s neither a result nor any CPU time",
                f", in {dispatcher.describe(chunk)}" if is_running else "",
                extra=facts(
                    f"agent_{verdict}",
                    agent=name,
                    agent_pid=agent.process.pid,
                    task=dispatcher.id_of(chunk) if is_running else None,
                ),
            )
        dispatcher.help_out(slot)

    def _free_locks(self) -> None:
        """End who was stopped while it held a lock: all others who need it would wait for as long."""
        dispatcher = self._dispatcher
        locks, alive = dispatcher.locks, dispatcher.crew.alive
        holders: dict[int, int] = {}
        for slot in (*dispatcher.slots, locks.fence_slot):
            pid = locks.holder(slot)
            if pid:
                holders[slot] = pid
            if not pid or self._holders.get(slot) != pid:
                continue  # at the next look it may be gone
            for other, agent in alive.items():
                if agent.process.pid == pid and other not in dispatcher.limits.ending and agent.is_stopped():
                    dispatcher.why_ended[other] = "it was stopped by a signal with a lock that others wait for"
                    agent.kill_group()
        self._holders = holders


def health_of(row: dict[str, Any], verdict: str | None, agent: AgentProcess | None) -> str:
    """One agent's health in a word, from its row of `all_status` and what was found at the last look. Any thread."""
    if agent is None:
        return "dead"
    if verdict == _STOPPED and not agent.is_stopped():
        verdict = None  # it goes on, and nobody has looked since
    if row["state"] == "starting":
        return _STOPPED if verdict == _STOPPED else "starting"
    if not row["pid"]:
        return "dead"
    return verdict or ("idle" if row["parked"] else "busy")
