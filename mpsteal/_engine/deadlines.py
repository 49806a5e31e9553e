"""Deadlines of tasks, for `Scheduling`. Engine thread only.

A deadline is a point in time that is only watched: a task that misses it goes on. (What ends a task is its `timeout`:
`limits.py`.)
"""

from __future__ import annotations

import heapq
import logging
import time
from typing import TYPE_CHECKING, Any

from .events import facts

if TYPE_CHECKING:
    from .schedule import Scheduling

logger = logging.getLogger("mpsteal")

HEAP_SLACK = 64
"""Finished tasks that the heap of deadlines may hold beyond as many as are unfinished: fewer rebuild it often, more
keep arguments and results of tasks that are over."""


class Deadlines:
    """What is late, and what will be next."""

    def __init__(self, scheduling: Scheduling) -> None:
        self._scheduling = scheduling
        self._heap: list[tuple[int, int, Any]] = []
        self.unfinished = 0
        """Unfinished tasks in there."""

    def watch(self, task: Any) -> None:
        """A task has come in."""
        terms = task._terms
        if terms.deadline_ns:
            heapq.heappush(self._heap, (terms.deadline_ns, task.id, task))
            self.unfinished += 1
            self._scheduling.metrics.deadlines_at_risk += terms.at_risk

    def finished(self, task: Any) -> None:
        """A task is over."""
        terms = task._terms
        if not terms.deadline_ns:
            return
        if task._completed_ns > terms.deadline_ns:
            self._missed(task)
        if task._seq <= 0:
            return  # it was over before it came in
        self.unfinished -= 1
        if len(self._heap) > 2 * self.unfinished + HEAP_SLACK:
            self._heap = [entry for entry in self._heap if not entry[2]._is_finished]
            heapq.heapify(self._heap)

    def turn(self) -> None:
        """Look at what is due."""
        heap = self._heap
        while heap and (heap[0][2]._is_finished or heap[0][0] <= time.monotonic_ns()):
            task = heapq.heappop(heap)[2]
            if not task._is_finished:
                self._missed(task)

    def due(self) -> list[float]:
        """When to look again (monotonic clock, s)."""
        return [self._heap[0][0] / 1e9] if self._heap else []

    def _missed(self, task: Any) -> None:
        if not task._terms.missed:
            task._terms.missed = True
            self._scheduling.metrics.deadlines_missed += 1
            logger.warning(
                "mpsteal: task %d (%r) missed its deadline",
                task.id,
                task.name,
                extra=facts("deadline_missed", task=task.id),
            )
