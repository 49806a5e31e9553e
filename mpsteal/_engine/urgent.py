"""Urgent tasks, which the parent holds until an agent is free for them, for `Scheduling`. Engine thread only.

    hold --> backlog, ordered by priority, deadline, submission --give_out--> an agent that is parked (it asks for them)
                 '-- HELD: agents see that there is something, and ask before they start anything less urgent

The agent's side, and why it is done so, is in `_queue/levels.py`; the handshake in `_queue/README.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._policy.matching import score, skill_match, tier
from .._policy.order import Aging, Backlog
from .._queue import layout as L

if TYPE_CHECKING:
    from .schedule import Scheduling


class Urgent:
    """What is held, and who gets it."""

    def __init__(self, scheduling: Scheduling, aging: Aging, levels: tuple[int, ...]) -> None:
        self._scheduling = scheduling
        self._levels = levels
        self.held: Backlog[int] = Backlog(aging)
        """Chunks, by class and level."""
        self.changed = False
        """Whether anything has changed since `give_out`: what is held, or the agents."""

    def hold(self, lo: int, hi: int, number: int, level: int) -> None:
        """Keep chunks of one class and level back."""
        add = self.held.add
        for chunk, task in enumerate(self._scheduling.tasks_of(lo, hi), lo):
            add(number, level, task._deadline_ns or None, task._seq, chunk)
        self.changed = True

    def cancel(self, chunk: int) -> bool:
        """Forget a chunk; False if it is not held."""
        found = self.held.cancel(chunk)
        self.changed = self.changed or found
        return found

    def _room(self, slot: int) -> int:
        """How many urgent tasks an agent may be handed now: one if it is free for it, more if its tasks are short."""
        scheduling = self._scheduling
        words, base = scheduling.words, scheduling.segment.layout.agent(slot)
        if words[base + L.STATE] != L.READY or slot in scheduling.crew.leaving:
            return 0
        order, mean = scheduling.rules.order, scheduling.mean_ns.get(slot)
        ahead = 0
        if mean is not None and mean <= order.short_s * 1e9:
            ahead = min(order.ahead_tasks, int(order.ahead_s * 1e9 / max(1.0, mean)))
        elif not words[base + L.PARKED]:
            return 0
        queued = scheduling.deques.queued_at(slot, self._levels)
        if words[base + L.PARKED] and not queued:
            return max(1, ahead)
        return max(0, ahead - queued)

    def give_out(self) -> None:
        """Hand what is most urgent to the agents that are free for it."""
        held, scheduling = self.held, self._scheduling
        if not len(held):
            if self.changed:
                self.changed = False
                self.tell()
            return
        self.changed = False
        self.tell()
        scheduling.locks.fence()  # who parks from here on has seen HELD, and rings
        rooms = {slot: room for slot in scheduling.slots if (room := self._room(slot))}
        given = False
        while rooms and len(held):
            numbers = {n for n in held.classes() if any(scheduling.can_get(n, slot) for slot in rooms)}
            top = held.top(numbers) if numbers else None
            if top is None:
                break
            level, number = top
            slot = self._best_of(number, rooms)
            # A run for one agent is one range; what is left is for the others, while they are free.
            most = max(1, min(rooms[slot], len(held) // len(rooms)))
            run = held.pop_run([n for n in numbers if scheduling.can_get(n, slot)], most)
            self._assign_run(slot, level, run)
            given = True
            rooms[slot] -= len(run)
            if rooms[slot] <= 0:
                del rooms[slot]
        if given:
            self.tell()
            scheduling.announce()

    def _assign_run(self, slot: int, level: int, chunks: list[int]) -> None:
        at = 0
        while at < len(chunks):
            end = at + 1
            while end < len(chunks) and chunks[end] == chunks[end - 1] + 1:
                end += 1
            self._scheduling.assign(slot, level, chunks[at], chunks[end - 1] + 1)
            at = end

    def _best_of(self, number: int, rooms: dict[int, int]) -> int:
        """The agent with room that fits best; ties go to the one with most room."""
        scheduling = self._scheduling
        required, matching = scheduling.skills[number], scheduling.rules.matching

        def rank(slot: int) -> tuple[int, float, int]:
            has, (succeeded, failed) = scheduling.capabilities[slot], scheduling.outcomes[slot]
            rate = succeeded / (succeeded + failed) if failed else 1.0
            points = score(skill_match(required, has), 0, rate, matching.queue_weight, matching.success_weight)
            return -(tier(required, has, matching.wildcard) or 0), points, rooms[slot]

        return max((slot for slot in rooms if scheduling.can_get(number, slot)), key=rank)

    def tell(self) -> None:
        """Write into `HELD` what is held for each agent, and ring those that wait for what is gone."""
        scheduling, held = self._scheduling, self.held
        words, layout = scheduling.words, scheduling.segment.layout
        numbers = held.classes() if len(held) else []
        for slot in scheduling.slots:
            base = layout.agent(slot)
            mine = [n for n in numbers if scheduling.can_get(n, slot)]
            value = 1 + held.highest(mine) if mine else 0
            before = words[base + L.HELD]
            if value != before:
                words[base + L.HELD] = value
                words[base + L.NEWS] = words[base + L.NEWS] + 1
                if value < before:
                    scheduling.locks.fence()
                    if words[base + L.PARKED]:
                        scheduling.ring(slot)
