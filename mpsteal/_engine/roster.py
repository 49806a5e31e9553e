"""The agents of a scheduler: they come and go, for `Scheduling`. Engine thread only, but where it says so.

    add: a slot, a process --> record --> remove (others get its queue; it finishes, or is ended) --> gone
                                     '--> dies: replaced in its slot, or gone as well

Processes are the crew's (`crew.py`); here is what differs from a pool, whose agents are all alike and all replaced.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from .._queue import layout as L
from .._queue.manager import agent_status
from .events import facts
from .records import AgentLook, AgentRecord

if TYPE_CHECKING:
    from .health import AgentProcess
    from .schedule import Scheduling

logger = logging.getLogger("mpsteal")

MOVE_RETRY_S = 0.001
"""Next try to take back what a dead or leaving agent has queued, when its lock was busy."""


class Roster:
    """Who is registered, and in which slot."""

    def __init__(self, scheduling: Scheduling) -> None:
        self._scheduling = scheduling
        self.records: dict[int, AgentRecord] = {}
        """The registered agents, by slot. Callers look here."""
        self._registered = 0
        self.moving: set[int] = set()
        """Slots whose queue has to be given to others."""
        self._hurried: set[int] = set()
        """Slots of agents that leave at once, whatever is queued there."""

    def add(self, name: str, capabilities: frozenset[str]) -> tuple[int, int]:
        """Start an agent in a free slot, and place what has waited for one like it.

        Returns the slot and a number that no other registration has.

        Raises ValueError when every slot is taken, and what starting a process raises.
        """
        scheduling = self._scheduling
        layout, words, classes = scheduling.segment.layout, scheduling.words, scheduling.classes
        # What the agent before has queued there may not be moved away yet, and this one may lack the skills for it.
        free = (s for s in range(layout.geometry.slots) if s not in self.records and s not in self.moving)
        slot = next(free, None)
        if slot is None:
            raise ValueError(
                f"there are {len(self.records)} agents already, and agents.max_agents (or the limit of open files, "
                "ulimit -n) allows no more; agents that were removed count until they are gone"
            )
        words[layout.agent(slot) + L.LEAVE] = words[layout.agent(slot) + L.HELD] = 0
        words[L.SLOTS_USED] = max(words[L.SLOTS_USED], slot + 1)
        self._registered += 1
        earlier = agent_status(scheduling.segment, slot)
        self.records[slot] = AgentRecord(name, capabilities, self._registered, earlier)
        try:
            scheduling.crew.add(slot)
        except BaseException:
            del self.records[slot]
            raise
        scheduling.slots.append(slot)
        classes.placement.add_agent(slot, capabilities)
        self._changed(is_new=True)
        # It may have looked around, and gone to sleep, before it was written anywhere what it can run.
        scheduling.locks.fence()
        scheduling.ring(slot)
        scheduling.place_waiting(slot)
        return slot, self._registered

    def _changed(self, *, is_new: bool) -> None:
        scheduling = self._scheduling
        scheduling.classes.agents_changed(is_new=is_new)
        scheduling.balancer.look_soon()
        scheduling.lengths_due = 0.0
        scheduling.urgent.changed = True

    def remove(self, slot: int, *, drain: bool) -> None:
        """Let an agent go: others get what is queued there. With `drain` it finishes what it runs and what nobody else
        can run; without, its process is ended."""
        scheduling = self._scheduling
        crew = scheduling.crew
        self._retire(slot)
        scheduling.urgent.tell()
        if not drain:
            self._hurried.add(slot)
        if crew.forget(slot):
            self._hurried.add(slot)
            self.gone(slot, for_good=True)
            crew.leaving.discard(slot)
            return
        self.moving.add(slot)
        self.move_away()
        if not drain and slot in crew.alive:
            scheduling.why_ended[slot] = "it was removed"
            crew.alive[slot].kill_group()

    def _retire(self, slot: int) -> None:
        """It gets nothing more."""
        scheduling = self._scheduling
        classes = scheduling.classes
        if slot in scheduling.crew.leaving:
            return
        scheduling.crew.leaving.add(slot)
        classes.placement.remove_agent(slot)
        self._changed(is_new=False)
        for lo, _ in scheduling.urgent:
            number = classes.class_of(lo)
            if not classes.has_agents(number):
                classes.tell_unmatched(number, scheduling.tasks_of(lo, lo + 1)[0])

    def gone(
        self,
        slot: int,
        agent: AgentProcess | None = None,
        *,
        for_good: bool,
        is_end: bool = False,
        has_left: bool = False,
    ) -> None:
        """See `Losses.gone`: others get its queue, unless only one task's time was over, or it has a successor."""
        scheduling = self._scheduling
        was_sent = scheduling.limits.death_settled(slot) or has_left
        scheduling.urgent.changed = True
        if for_good and not is_end and (was_sent or scheduling.rules.agents.replace_dead) and self._has_more(slot):
            for_good = False  # a successor finishes that, and leaves then
        if for_good or is_end:
            scheduling.why_ended.pop(slot, None)
        if is_end and not for_good:
            return  # all agents leave
        if not for_good and not was_sent and not scheduling.rules.agents.replace_dead:
            if agent is not None:
                pid, exitcode, name = agent.process.pid, agent.exitcode, self.records[slot].name
                logger.warning(
                    "mpsteal: %s; it is not replaced",
                    scheduling.obituary(slot, pid, exitcode),
                    extra=facts("agent_lost", agent=name, agent_pid=pid, task=agent.lost_task, exitcode=exitcode),
                )
            self._retire(slot)
            for_good = True
        if for_good:
            self._hurried.discard(slot)
            scheduling.slots.remove(slot)
            base = scheduling.segment.layout.agent(slot)
            scheduling.words[base + L.LEAVE] = scheduling.words[base + L.HELD] = 0
            scheduling.metrics.agent_left(self.records.pop(slot).name)
        if for_good or not was_sent:
            self.moving.add(slot)
            self.move_away()

    def _has_more(self, slot: int) -> bool:
        """Whether a removed agent that is gone was to finish more: what nobody else can run."""
        if slot in self._hurried:
            return False
        classes, ranges = self._scheduling.classes, self._scheduling.deques.ranges(slot)
        return not all(classes.has_agents(classes.class_of(lo)) for lo, _ in ranges)

    def move_away(self) -> None:
        """Give what is queued at agents that left or died to others. Some may stay in `moving`: call it again."""
        scheduling = self._scheduling
        classes, deques = scheduling.classes, scheduling.deques
        for slot in list(self.moving):
            is_there = slot in self.records and slot in scheduling.crew.leaving
            # What nobody else can run stays with an agent that is still there: it finishes that before it leaves.
            fits = (lambda chunk: classes.has_agents(classes.class_of(chunk))) if is_there else None
            taken = deques.take_back(slot, 1 << 62, deques.levels, fits=fits)
            if taken is None:
                continue  # its lock was busy
            self.moving.discard(slot)
            chunks = sorted(chunk for _, lo, hi in taken for chunk in range(lo, hi))
            if is_there:
                # Only now: it leaves when it has nothing.
                scheduling.words[scheduling.segment.layout.agent(slot) + L.LEAVE] = L.LEAVE_WHEN_IDLE
                scheduling.locks.fence()
                scheduling.ring(slot)
            scheduling.metrics.redistributed += len(chunks)
            scheduling.place_again(chunks)

    def relieve(self, slot: int) -> None:
        """Give what is queued at an agent that does not get on to others, as far as any of them gets on."""
        scheduling = self._scheduling
        classes, deques, frozen = scheduling.classes, scheduling.deques, scheduling.frozen

        def fits(chunk: int) -> bool:
            return any(other not in frozen for other in classes.placement.agents_of(classes.class_of(chunk)))

        taken = deques.take_back(slot, 1 << 62, deques.levels, fits=fits)
        if taken:
            chunks = sorted(chunk for _, lo, hi in taken for chunk in range(lo, hi))
            scheduling.metrics.redistributed += len(chunks)
            scheduling.place_again(chunks)

    def tell_success(self, slot: int) -> None:
        """The share of its tasks that ended well has changed."""
        if slot not in self._scheduling.crew.leaving:
            self._scheduling.classes.placement.set_success(slot, self.records[slot].success_rate)

    # -- any thread -------------------------------------------------------------------------------------------------

    def record_of(self, slot: int, registration: int) -> AgentRecord | None:
        """That of a registration; None when it is gone."""
        record = self.records.get(slot)
        return record if record is not None and record.registration == registration else None

    def look(self, slot: int, registration: int) -> AgentLook | None:
        """One look at an agent; None when it is gone."""
        record, scheduling = self.record_of(slot, registration), self._scheduling
        if record is None:
            return None
        words, base = scheduling.words, scheduling.segment.layout.agent(slot)
        try:
            parked, code, pid = words[base + L.PARKED], words[base + L.STATE], words[base + L.PID]
            chunk, started = words[base + L.CLAIM], words[base + L.STARTED_NS]
            busy_ns = words[base + L.BUSY_NS] - round(record.earlier["busy_s"] * 1e9)
            task = scheduling.pages.sink_of(chunk) if chunk >= 0 and not parked else None
            length = scheduling.deques.queued(slot)
            # The word comes later, where a thief holds the lock that is needed to take back what is queued.
            leaving = slot in scheduling.crew.leaving or words[base + L.LEAVE]
        except ValueError:  # the segment is gone
            return None
        if chunk >= L.CHILDREN and task is not None:
            # Of what its tasks submit, the one of the user's that is at the bottom.
            below = next(iter(scheduling.children.suspended(slot)), L.NONE)
            task = scheduling.pages.sink_of(below) or task
        if task is not None:
            busy_ns += max(0, time.monotonic_ns() - started)
        if code != L.READY:
            state = "leaving" if code == L.LEAVING else "starting"
        elif leaving:
            state = "leaving"
        else:
            state = "idle" if task is None else "running"
        return AgentLook(length, pid or None, state, task, record.success_rate, busy_ns)
