"""How the parent moves queued tasks between agents (push), for `Scheduling`. Engine thread only.

Agents take from each other by themselves (pull); the parent steps in every `balancing.interval_s`, and at once when
some queue is far longer than another. Which tasks, and how many, is `_policy/rebalance.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .._policy.rebalance import is_severe, plan

if TYPE_CHECKING:
    from .schedule import Scheduling


@dataclass(frozen=True)
class Rebalancing:
    """What one cycle of rebalancing did.

    Attributes:
        moves: `(source, target, tasks)` by agent id.
        moved, failed: tasks that were moved; tasks that should have been, and could not (a lock was busy, or they had
            been started meanwhile).
        before, after: tasks queued at each agent.
        took_s: how long it took (seconds).
    """

    moves: tuple[tuple[str, str, int], ...]
    moved: int
    failed: int
    before: dict[str, int]
    after: dict[str, int]
    took_s: float


class Balancer:
    """Cycles of rebalancing, by time and on demand."""

    def __init__(self, scheduling: Scheduling, movable_levels: tuple[int, ...]) -> None:
        self._scheduling = scheduling
        self._movable_levels = movable_levels
        self._next_cycle: float | None = None
        self._next_check = 0.0
        self._pause_s = 0.0
        """Time from the last look for severe imbalance to the next."""
        self._is_queued = False

    def lengths(self) -> dict[int, int]:
        """Tasks queued at each agent, by slot."""
        scheduling = self._scheduling
        return {slot: scheduling.deques.queued(slot) for slot in scheduling.slots}

    def cycle(self) -> Rebalancing:
        """One cycle, whatever the strategy."""
        began = time.perf_counter()
        rules, deques = self._scheduling.rules, self._scheduling.deques
        before = self.lengths()
        movable = {slot: deques.queued_at(slot, self._movable_levels) if n else 0 for slot, n in before.items()}
        moves = plan(
            before,
            movable,
            self._may_go,
            max_tasks=rules.balancing.max_tasks,
            busy_above=rules.agents.busy_above,
            idle_below=rules.agents.idle_below,
            severe_ratio=rules.balancing.severe_ratio,
        )
        return self._carry_out(moves, before, began)

    def feed(self, slot: int) -> Rebalancing:
        """An agent asks for work: up to `balancing.max_tasks` from the busiest that has more, and something for it.

        What is queued there and it cannot run is no failure.
        """
        began = time.perf_counter()
        before = self.lengths()
        wanted = self._scheduling.rules.balancing.max_tasks
        mine, failed = before.get(slot, 0), 0
        for source in sorted((s for s in before if before[s] > mine), key=lambda s: -before[s]):
            if self._may_go(source, slot):
                count = min(wanted, self._scheduling.deques.queued_at(source, self._movable_levels))
                report = self._carry_out([(source, slot, count)], before, began, exact=False)
                failed += report.failed
                if report.moved:
                    return replace(report, failed=failed)
        return replace(self._carry_out([], before, began), failed=failed)

    def _may_go(self, source: int, target: int) -> bool:
        """Whether the target could run something that may move from the source; looked up without a lock: a hint."""
        scheduling = self._scheduling
        if target in scheduling.crew.leaving or target not in scheduling.crew.alive:
            return False
        return any(scheduling.deques.last_range(source, level, target) >= 0 for level in self._movable_levels)

    def _carry_out(
        self, moves: Iterable[tuple[int, int, int]], before: dict[int, int], began: float, *, exact: bool = True
    ) -> Rebalancing:
        scheduling = self._scheduling
        done: list[tuple[str, str, int]] = []
        failed = 0
        for source, target, count in moves:
            moved = 0
            for level, lo, hi in scheduling.deques.take_back(source, count, self._movable_levels, target) or ():
                scheduling.assign(target, level, lo, hi)
                moved += hi - lo
            if exact or not moved:
                failed += count - moved
            if moved:
                done.append((scheduling.roster.records[source].name, scheduling.roster.records[target].name, moved))
        scheduling.announce()
        moved = sum(count for _, _, count in done)
        scheduling.metrics.migrations += moved
        scheduling.metrics.migrations_failed += failed
        names = {slot: record.name for slot, record in scheduling.roster.records.items()}
        return Rebalancing(
            tuple(done),
            moved,
            failed,
            {names[s]: n for s, n in before.items()},
            {names[s]: n for s, n in self.lengths().items()},
            time.perf_counter() - began,
        )

    def turn(self, now: float) -> None:
        """Rebalance if its time has come, or at once if the imbalance is severe."""
        scheduling = self._scheduling
        rules = scheduling.rules
        if rules.strategy == "pull" or len(scheduling.slots) < 2 or not scheduling.inflight:
            self._next_cycle = None
            return
        if self._next_cycle is None:
            self._next_cycle = now + rules.balancing.interval_s
        is_due = now >= self._next_cycle
        if not is_due and now < self._next_check:
            return
        lengths = self.lengths().values()
        self._is_queued = any(lengths)
        pause_s = rules.balancing.check_s
        if is_due or is_severe(lengths, rules.balancing.severe_ratio, rules.agents.busy_above):
            self._next_cycle = now + rules.balancing.interval_s
            scheduling.metrics.rebalance_cycles += 1
            if not self.cycle().moved:
                # Nobody who is idle can run what is queued, say: look less and less often.
                pause_s = min(rules.balancing.interval_s, max(pause_s, 2 * self._pause_s))
        self._pause_s = pause_s
        self._next_check = now + pause_s

    def look_soon(self) -> None:
        """The agents have changed: what could not move before may move now."""
        self._pause_s = self._next_check = 0.0

    def due(self) -> list[float]:
        """When `turn` has something to do (monotonic clock, s); never while nothing is in flight."""
        if self._next_cycle is None or not self._scheduling.inflight:
            return []
        return [self._next_cycle, self._next_check] if self._is_queued else [self._next_cycle]
