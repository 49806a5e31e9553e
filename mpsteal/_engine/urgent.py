"""Urgent tasks, which the parent holds until an agent is free for them, for `Scheduling`. Engine thread only.

    hold --> backlog, ordered by priority, deadline, submission --give_out--> an agent that is parked (it asks for them)
                 '-- HELD: agents see that there is something, and ask before they start anything less urgent

The agent's side, and why it is done so, is in `_queue/levels.py`; the handshake in `_queue/README.md`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .._policy.matching import score, skill_match, tier
from .._policy.order import Aging, Backlog
from .._queue import layout as L

if TYPE_CHECKING:
    from .schedule import Scheduling


GROUP_SHIFT = 32
"""`_group` of a task is its level and, in the low bits, its class: equal where tasks may share a range."""

URGENT = 1 << GROUP_SHIFT  # set in groups of urgent tasks: of the two levels of a priority, theirs is the odd one

LONG_NS = 10_000_000
"""An agent that is inside one task for longer is not busy with short ones now, whatever its mean says (ns). Shorter:
one that has lost its core for a moment is handed nothing ahead; longer: urgent tasks become hostages of a long one."""


def _has_deadline(task: Any) -> bool:
    return bool(task._terms.deadline_ns)


class Urgent:
    """What is held, and who gets it."""

    def __init__(self, scheduling: Scheduling, aging: Aging, levels: tuple[int, ...]) -> None:
        self._scheduling = scheduling
        self._levels = levels
        self._held: Backlog[tuple[int, int]] = Backlog(aging)
        """Ranges of chunks [lo, hi), by class and level; one chunk each where tasks have a deadline."""
        self.count = 0
        """Chunks that are held."""
        self.changed = False
        """Whether anything has changed since `give_out`: what is held, or the agents."""

    def hold(self, lo: int, hi: int, number: int, level: int) -> None:
        """Keep chunks of one class and level back."""
        tasks = self._scheduling.tasks_of(lo, hi)
        assert len(tasks) == hi - lo, f"S3 [{lo}, {hi}) is not within one page"
        self.count += hi - lo
        self.changed = True
        if not self._scheduling.deadlines.unfinished:  # of all tasks; the usual case
            self._held.add(number, level, None, tasks[0]._seq, (lo, hi))
            return
        for has_deadline, run in groupby(tasks, _has_deadline):
            size = sum(1 for _ in run) if not has_deadline else 0
            if size:
                self._held.add(number, level, None, tasks[0]._seq, (lo, lo + size))
            else:
                for task in run:
                    self._held.add(number, level, task._terms.deadline_ns, task._seq, (lo + size, lo + size + 1))
                    size += 1
            lo += size
            tasks = tasks[size:]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """All ranges that are held, in no order."""
        return iter(self._held)

    def cancel(self, chunk: int) -> bool:
        """Forget a chunk; False if it is not held."""
        alone = (chunk, chunk + 1)  # as those with a deadline are
        found = alone if alone in self._held else next((r for r in self._held if r[0] <= chunk < r[1]), None)
        if found is None:
            return False
        self._held.cancel(found)
        self.count -= found[1] - found[0]
        group = self._scheduling.tasks_of(chunk, chunk + 1)[0]._group
        for lo, hi in ((found[0], chunk), (chunk + 1, found[1])):
            if lo < hi:
                self._scheduling.place_group(lo, hi, group)
        self.changed = True
        return True

    def drain(self, *, of: Iterable[int] | None = None) -> list[tuple[int, int]]:
        """Hold nothing any more, or nothing of these classes; returns what was held."""
        ranges = [r for number in (self._held.classes() if of is None else of) for r in self._held.drain(number)]
        self.count -= sum(hi - lo for lo, hi in ranges)
        self.changed = True
        return ranges

    def classes(self) -> list[int]:
        """Classes of which anything is held."""
        return self._held.classes()

    def _room(self, slot: int) -> int:
        """How many urgent tasks an agent may be handed now: one if it is free for it, more if its tasks are short."""
        scheduling = self._scheduling
        words, base = scheduling.words, scheduling.segment.layout.agent(slot)
        if words[base + L.STATE] != L.READY or slot in scheduling.crew.leaving or slot in scheduling.frozen:
            return 0
        order, mean = scheduling.rules.order, scheduling.roster.records[slot].mean_ns
        ahead, parked = 0, words[base + L.PARKED]
        if not parked and time.monotonic_ns() - words[base + L.STARTED_NS] > LONG_NS:
            return 0
        if mean and mean <= order.short_s * 1e9:
            ahead = min(order.ahead_tasks, int(order.ahead_s * 1e9 / max(1.0, mean)))
        elif not parked:
            return 0
        queued = scheduling.deques.queued_at(slot, self._levels)
        # Parked still, after the look at its queue: else it may have taken that, and what it gets now is a hostage.
        if parked and (not queued or self._waits_for_more_urgent(slot)) and words[base + L.PARKED]:
            return max(1, ahead - queued)
        return max(0, ahead - queued)

    def _waits_for_more_urgent(self, slot: int) -> bool:
        """Whether a parked agent has nothing queued as urgent as what is held for it: it starts nothing before that."""
        scheduling = self._scheduling
        level = scheduling.words[scheduling.segment.layout.agent(slot) + L.HELD] - 1
        return not scheduling.deques.queued_at(slot, [at for at in self._levels if at >= level])

    def give_out(self) -> None:
        """Hand what is most urgent to the agents that are free for it."""
        held, scheduling = self._held, self._scheduling
        if not self.count:
            if self.changed:
                self.changed = False
                self.tell()
            return
        self.changed = False
        self.tell()
        scheduling.locks.fence()  # who parks from here on has seen HELD, and rings
        rooms = {slot: room for slot in scheduling.slots if (room := self._room(slot))}
        gifts = _Gifts(scheduling.pages.page_chunks)
        can_get = scheduling.classes.can_get
        able = {n: [slot for slot in rooms if can_get(n, slot)] for n in held.classes()} if rooms else {}
        ranks: dict[tuple[int, int], tuple[int, float]] = {}
        skip: set[tuple[int, int]] = set()
        while self.count:
            numbers = [n for n, slots in able.items() if slots]
            first = held.first(numbers, skip) if numbers else None
            if first is None:
                break
            level, number = first.level, first.number
            slot = self._best_of(number, able[number], rooms, ranks)
            if not self._has_room(slot, level, gifts):
                others = [other for other in able[number] if self._has_room(other, level, gifts)]
                if not others:
                    # Only this level is full there. If nothing else were handed over either, an agent that wants
                    # something more urgent would ask in vain before each task.
                    skip.add((level, number))
                    continue
                slot = self._best_of(number, others, rooms, ranks)
            # What is left is for the others, while they are free.
            most = max(1, min(rooms[slot], self.count // len(rooms)))
            (lo, hi), turns = held.look(first)
            end = lo + min(hi - lo, most, turns)
            rest = (scheduling.tasks_of(end, end + 1)[0]._seq, (end, hi)) if end < hi else None
            held.take(first, end - lo, rest)
            self.count -= end - lo
            gifts.add(slot, level, number, lo, end)
            rooms[slot] -= end - lo
            if rooms[slot] <= 0:
                del rooms[slot]
                for slots in able.values():
                    if slot in slots:
                        slots.remove(slot)
        if gifts.by_place:
            for (slot, level), ranges in gifts.by_place.items():
                for lo, hi, _ in ranges:
                    scheduling.assign(slot, level, lo, hi)
            self.tell()
            scheduling.announce()

    def _has_room(self, slot: int, level: int, gifts: _Gifts) -> bool:
        return self._scheduling.deques.has_room(slot, level, len(gifts.by_place.get((slot, level), ())) + 1)

    def _best_of(
        self, number: int, slots: list[int], rooms: dict[int, int], ranks: dict[tuple[int, int], tuple[int, float]]
    ) -> int:
        """The agent with room that fits best: by tier, then those that are free, then by score, then by room.

        Args:
            ranks: what was found out before, by class and slot.
        """
        scheduling = self._scheduling
        words, layout = scheduling.words, scheduling.segment.layout

        def rank(slot: int) -> tuple[int, int, float, int]:
            if (number, slot) not in ranks:
                ranks[number, slot] = self._fit(number, slot)
            its_tier, points = ranks[number, slot]
            return its_tier, words[layout.agent(slot) + L.PARKED], points, rooms[slot]

        return slots[0] if len(slots) == 1 else max(slots, key=rank)

    def _fit(self, number: int, slot: int) -> tuple[int, float]:
        """How well an agent fits a class, its queue apart: the tier first, then the score."""
        scheduling = self._scheduling
        required, matching = scheduling.classes.skills[number], scheduling.rules.matching
        record = scheduling.roster.records[slot]
        has, rate = record.capabilities, record.success_rate
        points = score(skill_match(required, has), 0, rate, matching.queue_weight, matching.success_weight)
        return -(tier(required, has, matching.wildcard) or 0), points

    def tell(self) -> None:
        """Write into `HELD` what is held for each agent, and ring those that wait for what is gone."""
        scheduling, held = self._scheduling, self._held
        words, layout = scheduling.words, scheduling.segment.layout
        numbers = held.classes()
        for slot in scheduling.slots:
            base = layout.agent(slot)
            mine = [n for n in numbers if scheduling.classes.can_get(n, slot)]
            value = 1 + held.highest(mine)
            before = words[base + L.HELD]
            if value != before:
                words[base + L.HELD] = value
                words[base + L.NEWS] = words[base + L.NEWS] + 1
                if value < before:
                    scheduling.locks.fence()
                    if words[base + L.PARKED]:
                        scheduling.ring(slot)


class _Gifts:
    """What is about to be handed over: few ranges, though levels and agents take turns."""

    def __init__(self, page_chunks: int) -> None:
        self._page_chunks = page_chunks
        self.by_place: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        """By agent and level: chunks [lo, hi), class."""

    def add(self, slot: int, level: int, number: int, lo: int, hi: int) -> None:
        """Give chunks [lo, hi) of a class. A range is of one class and within one page (S3)."""
        ranges = self.by_place.setdefault((slot, level), [])
        if ranges and ranges[-1][1:] == (lo, number) and lo % self._page_chunks:
            lo = ranges.pop()[0]
        ranges.append((lo, hi, number))
