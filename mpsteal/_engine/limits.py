"""Time limits and deadlines of tasks, for `Scheduling`. Engine thread only.

A limit (`timeout`) counts from the start of a task and ends it together with its agent's process, and nothing else with
it. A deadline is a point in time that is only watched: a task that misses it goes on.
"""

from __future__ import annotations

import heapq
import logging
import time
from typing import TYPE_CHECKING, Any

from .._queue import layout as L

if TYPE_CHECKING:
    from .schedule import Scheduling

logger = logging.getLogger("mpsteal")

LOOK_S = 0.02
"""Time between two looks at who has started what, while tasks with a limit wait for their start: a limit is noticed
late by so much at most; shorter costs wakes. When all of them run, the next look is when the first is over."""

HEAP_SLACK = 64
"""Finished tasks that the heap of deadlines may hold beyond as many as are unfinished: fewer rebuild it often, more
keep arguments and results of tasks that are over."""

NEVER = float("inf")

RETRY_S = 0.001
"""Next try when the agent's lock was busy."""


class Limits:
    """Who has to be ended, and what is late."""

    def __init__(self, scheduling: Scheduling) -> None:
        self._scheduling = scheduling
        self.limited = 0
        """Unfinished tasks with a limit."""
        self.ending: dict[int, int] = {}
        """The chunk for which an agent was ended, by slot, until its death is settled."""
        self._seen_start: dict[int, tuple[int, int]] = {}
        self._look_at = 0.0
        self._deadlines: list[tuple[int, int, Any]] = []
        self.with_deadline = 0
        """Unfinished tasks in there."""

    def watch(self, task: Any) -> None:
        """A task has come in."""
        terms = task._terms
        if terms.timeout_ns:
            self.limited += 1
            self._look_at = 0.0
        if terms.deadline_ns:
            heapq.heappush(self._deadlines, (terms.deadline_ns, task.id, task))
            self.with_deadline += 1
            self._scheduling.metrics.deadlines_at_risk += terms.at_risk

    def finished(self, task: Any) -> None:
        """A task is over."""
        terms, was_watched = task._terms, task._seq > 0  # else it was over before it came in
        if terms.timeout_ns and was_watched:
            self.limited -= 1
        if not terms.deadline_ns:
            return
        if task._completed_ns > terms.deadline_ns:
            self._missed(task)
        if not was_watched:
            return
        self.with_deadline -= 1
        if len(self._deadlines) > 2 * self.with_deadline + HEAP_SLACK:
            self._deadlines = [entry for entry in self._deadlines if not entry[2]._is_finished]
            heapq.heapify(self._deadlines)

    def turn(self, now: float) -> None:
        """Look at what is due."""
        if self.limited:
            self._check_starts(now)
        else:
            self._seen_start.clear()
        deadlines = self._deadlines
        while deadlines and (deadlines[0][2]._is_finished or deadlines[0][0] <= time.monotonic_ns()):
            task = heapq.heappop(deadlines)[2]
            if not task._is_finished:
                self._missed(task)

    def due(self) -> list[float]:
        """When to look again (monotonic clock, s)."""
        times = []
        if self.limited and self._scheduling.inflight:
            times.append(self._look_at)
        if self._deadlines:
            times.append(self._deadlines[0][0] / 1e9)
        return times

    def _missed(self, task: Any) -> None:
        if not task._terms.missed:
            task._terms.missed = True
            self._scheduling.metrics.deadlines_missed += 1
            logger.warning("mpsteal: task %d (%r) missed its deadline", task.id, task.name)

    def _check_starts(self, now: float) -> None:
        scheduling = self._scheduling
        words, layout = scheduling.words, scheduling.segment.layout
        now_ns = time.monotonic_ns()
        running, look_at = 0, NEVER
        for slot in scheduling.slots:
            base = layout.agent(slot)
            chunk = words[base + L.CLAIM]
            task = scheduling.pages.sink_of(chunk) if chunk >= 0 else None
            if task is None or not task._terms.timeout_ns or slot in self.ending or slot not in scheduling.crew.alive:
                continue
            seen = self._seen_start.get(slot)
            if seen is None or seen[0] != chunk:
                seen = self._seen_start[slot] = (chunk, now_ns)
            # STARTED_NS is that of this chunk once it is loaded; before, the clock starts when we see the claim.
            started = seen[1]
            if words[base + L.LOADED] == chunk:
                started = words[base + L.STARTED_NS]
                running += 1
            due_ns = started + task._terms.timeout_ns
            if due_ns > now_ns:
                look_at = min(look_at, now + (due_ns - now_ns) / 1e9)
            elif not self._end(slot, chunk):
                look_at = min(look_at, now + RETRY_S)
        # Nobody tells when one of the others starts; when an agent dies, one of these may have to wait again.
        if running != self.limited or look_at == NEVER:
            look_at = min(look_at, now + LOOK_S)
        self._look_at = look_at

    def _end(self, slot: int, chunk: int) -> bool:
        """Kill the agent if it still runs that chunk. False: come again.

        Its lock and a mark keep it from starting the next one meanwhile; both are left for who settles its death, which
        finds the mark of the parent and clears it.
        """
        scheduling = self._scheduling
        words, locks, deques = scheduling.words, scheduling.locks, scheduling.deques
        base = scheduling.segment.layout.agent(slot)
        if not deques.hold(slot):
            return False
        scheduling.collector.collect(slot)
        if words[base + L.CLAIM] == chunk and scheduling.pages.sink_of(chunk) is not None:
            self.ending[slot] = chunk
            scheduling.crew.alive[slot].kill_group()
            return True
        words[base + L.MARK] = 0
        locks.unlock(slot)
        return True

    def death_settled(self, slot: int) -> bool:
        """The death of an agent is settled; whether it was ended for a limit."""
        self._seen_start.pop(slot, None)
        self._look_at = 0.0
        return self.ending.pop(slot, None) is not None
