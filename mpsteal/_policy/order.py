"""What comes first: which level an agent takes from next, and what the parent holds back until somebody can run it.

Levels are small integers, a higher one is more urgent; `levels_per_priority` of them make a priority. Agents ask
`Aging` about the levels of their deque; the engine thread keeps one `Backlog`, with an `Aging` of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

FOREVER = 1 << 30
"""From `steady`: nothing waits that could ever come in between."""

HEAP_SLACK = 16
"""A heap is rebuilt when more than half of it, and so many entries, are cancelled. Smaller: short heaps are rebuilt at
each cancel; bigger: memory."""

NEVER = float("inf")


class Aging:
    """Strict priority that starves nobody: a level rises by one priority for each `aging_tasks` tasks that were taken
    from levels above it while it waited.

    The highest priority, so risen, is taken from. Where two are equal, the one of lower priority, which had to rise for
    it; within one priority, the higher level. A level taken from starts anew. Counting tasks and not seconds needs no
    clock, and ages nothing while nothing is taken (aging: Silberschatz and others, Operating System Concepts, "Priority
    Scheduling", by time there).

    A1  Let a level of priority p wait, `above` of all levels be higher, `highest` their priority, and aging_tasks be at
        least `above`. Then at most aging_tasks * max(1, highest - p) + above - 1 tasks are taken from higher levels
        before one of its own: the first term until it is equal to the highest, the second since each of the others may
        have risen before. (tests/unit/test_order.py has the bound for fewer aging_tasks, too.)
    """

    def __init__(self, aging_tasks: int, levels_per_priority: int) -> None:
        """
        Args:
            aging_tasks: too small: urgent work waits behind old work; too big: what is not urgent waits long.
            levels_per_priority: how many levels share a priority.
        """
        if aging_tasks < 1 or levels_per_priority < 1:
            raise ValueError(f"both must be at least 1: {aging_tasks=}, {levels_per_priority=}")
        self._aging_tasks = aging_tasks
        self._per_priority = levels_per_priority
        self._passed: dict[int, int] = {}
        """By level: tasks taken from above it while it waited. Absent: 0."""

    def choose(self, waiting: Collection[int]) -> int:
        """The level to take one task from, counted as taken; `waiting` are those that have any, at least one."""
        level = self.peek(waiting)
        self.took(waiting, level, 1)
        return level

    def peek(self, waiting: Collection[int]) -> int:
        """What `choose` would say, and nothing counted."""
        passed = self._passed
        if not passed:
            return max(waiting)
        aging_tasks, per_priority = self._aging_tasks, self._per_priority
        best = best_priority = best_risen = -1
        for level in waiting:
            priority = level // per_priority
            risen = priority + passed.get(level, 0) // aging_tasks
            if risen > best_risen or (
                risen == best_risen and (priority < best_priority or (priority == best_priority and level > best))
            ):
                best, best_priority, best_risen = level, priority, risen
        return best

    def steady(self, waiting: Collection[int], chosen: int) -> int:
        """How many more tasks `choose` would take from `chosen`, its last choice, if all of `waiting` keep waiting."""
        priority = chosen // self._per_priority
        passed = self._passed
        tasks = FOREVER
        for level in waiting:
            if level > chosen:
                return 0  # it rose above this one, and has started anew
            if level < chosen:
                rise = max(1, priority - level // self._per_priority)
                tasks = min(tasks, rise * self._aging_tasks - passed.get(level, 0))
        return max(0, tasks)

    def took(self, waiting: Collection[int], chosen: int, n: int) -> None:
        """n tasks were taken from `chosen` while all of `waiting` waited; any other level has nothing that waits."""
        before = self._passed
        if not before and len(waiting) == 1:
            return
        passed: dict[int, int] = {}
        for level in waiting:
            if level < chosen:
                passed[level] = before.get(level, 0) + n
            elif level > chosen and level in before:
                passed[level] = before[level]
        self._passed = passed

    def forget(self, level: int) -> None:
        """Nothing waits in this level any more."""
        self._passed.pop(level, None)


class _Queue(Generic[T]):
    """What waits of one class and level."""

    __slots__ = ("heap", "level", "live", "number")

    def __init__(self, number: int, level: int) -> None:
        self.number = number
        self.level = level
        self.heap: list[tuple[float, int, T, _Queue[T]]] = []
        """(deadline, seq, item, this queue); also entries of items that were cancelled, `live` not counting them."""
        self.live = 0


class Backlog(Generic[T]):
    """Items that wait for an agent, each of a class (a number), the most urgent first: by level as `Aging` has it, then
    by deadline (without one: last), then by `seq`, then by themselves.

    One heap per class and level, since each question is about some classes only: a single heap would be searched past
    all that nobody can run now. Every operation looks at levels and classes that have items (few), and at one heap.

    B1  `_entries` has exactly the items that are here; an entry in a heap is valid while it is the one found there.
    B2  a queue in `_levels` has at least one valid entry, and a level at least one queue.
    """

    def __init__(self, aging: Aging) -> None:
        self._aging = aging
        self._entries: dict[T, tuple[float, int, T, _Queue[T]]] = {}
        self._levels: dict[int, dict[int, _Queue[T]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: object) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[T]:
        """All items, in no order."""
        return iter(self._entries)

    def add(self, number: int, level: int, deadline: float | None, seq: int, item: T) -> None:
        """An item of class `number` waits; the earlier its deadline, in any unit, the earlier it goes."""
        if item in self._entries:
            raise ValueError(f"{item!r} is here already")
        queues = self._levels.get(level)
        if queues is None:
            queues = self._levels[level] = {}
        queue = queues.get(number)
        if queue is None:
            queue = queues[number] = _Queue(number, level)
        entry = (NEVER if deadline is None else deadline, seq, item, queue)
        heappush(queue.heap, entry)
        queue.live += 1
        self._entries[item] = entry

    def cancel(self, item: T) -> bool:
        """Take the item out, in O(1) on average; False: it is not here."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return False
        queue = entry[3]
        self._count_out(queue)
        if len(queue.heap) > 2 * queue.live + HEAP_SLACK:
            queue.heap = self._valid(queue)
            heapify(queue.heap)
        return True

    def first(self, numbers: Collection[int], skip: Collection[tuple[int, int]] = ()) -> _Queue[T] | None:
        """Where the most urgent item of these classes waits, as if nothing waited of the (level, class) in `skip`."""
        levels = self._levels_of(numbers)
        if skip:
            levels = [at for at in levels if any(n in self._levels[at] and (at, n) not in skip for n in numbers)]
        if not levels:
            return None
        level = self._aging.peek(levels)
        queues = self._levels[level]
        first: tuple[float, int, T, _Queue[T]] | None = None
        for number in numbers:
            queue = queues.get(number)
            if queue is None or (skip and (level, number) in skip):
                continue
            entry = self._front(queue)
            if first is None or entry < first:
                first = entry
        assert first is not None  # B2
        return first[3]

    def top(self, numbers: Collection[int]) -> tuple[int, int] | None:
        """(level, class) of the item that `pop` would give."""
        queue = self.first(numbers)
        return None if queue is None else (queue.level, queue.number)

    def pop(self, numbers: Collection[int]) -> T | None:
        """Take out the most urgent item of these classes. What waits in other classes ages, too."""
        queue = self.first(numbers)
        if queue is None:
            return None
        self._aging.took(self._levels, queue.level, 1)
        item = heappop(queue.heap)[2]
        del self._entries[item]
        self._count_out(queue)
        return item

    def look(self, queue: _Queue[T]) -> tuple[T, int]:
        """For items that stand for several tasks each: the first of what `first` gave, and how many of its tasks may go
        before another level's turn comes. One of them is taken as gone; `take` has to follow."""
        self._aging.took(self._levels, queue.level, 1)
        return self._front(queue)[2], 1 + self._aging.steady(self._levels, queue.level)

    def take(self, queue: _Queue[T], n: int, rest: tuple[int, T] | None) -> None:
        """n tasks of that item go; what is left of it, with its `seq`, is `rest`."""
        if n > 1:
            self._aging.took(self._levels, queue.level, n - 1)
        deadline, _, item, _ = queue.heap[0]
        del self._entries[item]
        if rest is None:
            heappop(queue.heap)
            self._count_out(queue)
        else:
            seq, item = rest
            self._entries[item] = entry = (deadline, seq, item, queue)
            heapreplace(queue.heap, entry)

    def drain(self, number: int) -> list[T]:
        """Take out all items of one class, the highest level first, as if none had aged."""
        items: list[T] = []
        for level in sorted(self._levels, reverse=True):
            queue = self._levels[level].get(number)
            if queue is None:
                continue
            drained = [entry[2] for entry in sorted(self._valid(queue))]
            for item in drained:
                del self._entries[item]
            items += drained
            queue.live = 1  # so that the last one drops it
            self._count_out(queue)
        return items

    def classes(self) -> list[int]:
        """Classes of which anything is here, in order."""
        return sorted({number for queues in self._levels.values() for number in queues})

    def highest(self, numbers: Collection[int]) -> int:
        """Highest level, not counting age, with anything of these classes; -1: none."""
        return max(self._levels_of(numbers), default=-1)

    def _levels_of(self, numbers: Collection[int]) -> list[int]:
        return [level for level, queues in self._levels.items() if not queues.keys().isdisjoint(numbers)]

    def _front(self, queue: _Queue[T]) -> tuple[float, int, T, _Queue[T]]:
        """Its first valid entry; what was cancelled before it is dropped."""
        heap, entries = queue.heap, self._entries
        entry = heap[0]
        while entries.get(entry[2]) is not entry:
            heappop(heap)
            entry = heap[0]
        return entry

    def _valid(self, queue: _Queue[T]) -> list[tuple[float, int, T, _Queue[T]]]:
        entries = self._entries
        return [entry for entry in queue.heap if entries.get(entry[2]) is entry]

    def _count_out(self, queue: _Queue[T]) -> None:
        queue.live -= 1
        if queue.live:
            return
        queue.heap.clear()
        queues = self._levels[queue.level]
        del queues[queue.number]
        if not queues:
            del self._levels[queue.level]
            self._aging.forget(queue.level)
