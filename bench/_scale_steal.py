"""Schemes in which agents steal: the package's own policy, random victims, and one in between.

    parent   deals ranges of chunks (`Way.deal`), one hand-off after the other, `assign_us` each
    agent    runs its own ranges, the first one first; takes from others when it has none
    thief    chooses a victim (`Way.choose`), takes the upper half of its last range, or one chunk (`Way.takes_half`)

How ranges are dealt, whom to steal from and how much is decided by `mpsteal._policy`: `split_range`, `split_evenly`,
`MapCutter`, `steal_point`; `victims`, with 10,000 agents too slow to be asked at each steal, has a twin here that gives
the same answers (`Queues.in_order`; a test compares them).

A chunk is a task, but where a `MapCutter` bundles them. Nothing happens at the start of a chunk: where an agent is
inside its range follows from the time, so a run takes as many events as there are ranges and steals.

    longest   as in `_agent/loop.py`: reads the lengths of all p queues (`look_us` each), goes through them from the
              longest on; when all are empty it parks, and is rung (`wake_us`) by the parent when that pushes, or by one
              that has found work and sees two chunks or more queued (another look at all, if any is parked)
    random    asks one victim after the other, each drawn from all others with equal chances (Blumofe and Leiserson,
              "Scheduling multithreaded computations by work stealing", 1999), `look_us` each; never parks
    sample    reads `SAMPLE` queues drawn at random, takes from the longest; looks at all if these are empty, and then
              goes on as `longest`. Rings without a look, when it has stolen two chunks or more

A steal takes `steal_us` and keeps the victim's lock for so long; whoever meets the lock pays `busy_us`. Lengths are
those at the end of a look, where real ones are read one after the other and are out of date by then: this favours
`longest`. Once nothing is queued anywhere and all is dealt, thieves that do not park are not followed any more.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal

from bench._des import FIRST_BATCH, LARGEST_BATCH, MS, US, Costs
from bench._scale import Books, Counts
from mpsteal._policy.chunking import MapCutter
from mpsteal._policy.placement import split_evenly, split_range
from mpsteal._policy.stealing import steal_point, steal_point_of

SAMPLE = 8
"""Queues that `sample` reads. Fewer: it more often misses the long ones; more: each steal takes longer."""


@dataclass(frozen=True)
class Way:
    """How work comes to agents.

    Attributes:
        deal: `rounds`: pieces of 1, 1, 2, 4, ... chunks to each (`split_range`); `evenly`: one piece each; `root`: all
            to agent 0; `fours`: as `rounds`, but of 1, 4, 16, ... chunks, which the package does not do; `map`: as
            `Pool.map` feeds its agents, bit by bit, from what the parent hears of their times, in turns of 32 to 1,024
            chunks. Here it pays for each chunk (`assign_us`), each result (`collect_us`), each turn (`batch_us`) and
            each length that it reads (`look_us`).
        choose: see above.
        takes_half: half of a range, or one chunk.
    """

    deal: Literal["rounds", "evenly", "root", "fours", "map"]
    choose: Literal["longest", "random", "sample"]
    takes_half: bool = True


def split_in_fours(n: int, agents: int) -> Iterator[tuple[int, int, int]]:
    """`split_range` for agents that have nothing, in rounds of 1, 4, 16, ... chunks: about half as many pieces."""
    lo, size = 0, 1
    while lo < n:
        for agent in range(min(agents, -(-(n - lo) // size))):
            yield agent, lo, min(n, lo + size)
            lo = min(n, lo + size)
        size *= 4


class Queues:
    """Agents by the number of chunks that can be stolen from them, which only falls unless `put` says otherwise.

    An agent stands in a bucket for a number that is at least its true one; whoever looks moves those that have less.
    """

    def __init__(self, agents: int) -> None:
        self._of = [0] * agents
        self._levels: list[int] = []
        self._buckets: dict[int, list[int]] = {}

    def put(self, agent: int, length: int) -> None:
        old = self._of[agent]
        if old == length:
            return
        if old:
            bucket = self._buckets[old]
            del bucket[bisect_left(bucket, agent)]
            if not bucket:
                del self._buckets[old]
                del self._levels[bisect_left(self._levels, old)]
        self._of[agent] = length
        if length:
            there = self._buckets.get(length)
            if there is None:
                self._buckets[length] = [agent]
                insort(self._levels, length)
            else:
                insort(there, agent)

    def in_order(self, thief: int, length_of: Callable[[int], int]) -> Iterator[int]:
        """As `mpsteal._policy.stealing.victims` over the lengths, one by one. Nothing may be put meanwhile.

        -1 in place of a thief: all, among equals the lowest number first.
        """
        levels, buckets = self._levels, self._buckets
        i = len(levels) - 1
        while i >= 0:
            level = levels[i]
            bucket, last = buckets[level], thief
            for _ in range(len(bucket)):
                k = bisect_right(bucket, last)
                agent = last = bucket[k if k < len(bucket) else 0]
                length = length_of(agent)
                if length < level:
                    self.put(agent, length)
                elif agent != thief:
                    yield agent
            i = bisect_left(levels, level) - 1


# Events, in the order in which those of one moment are handled.
_PUSH, _TURN, _END, _WAKE, _SCANNED, _TRY = range(6)
_KIND_BITS, _AGENT_BITS = 3, 20
_AGENT = (1 << _AGENT_BITS) - 1


class Stealing:
    """One run. An event is one integer, `time (ns) | kind | agent`."""

    def __init__(self, tasks: array[int], agents: int, way: Way, costs: Costs, seed: int = 1) -> None:
        if not 0 < agents <= _AGENT or not tasks:
            raise ValueError(f"{agents} agents and {len(tasks)} tasks: at least one of each, at most {_AGENT} agents")
        if way.deal == "map" and way.choose == "random":
            raise ValueError("thieves that do not park give up when nothing is queued, and a map's parent goes on")
        self.way, self.agents = way, agents
        self.books, self.counts = Books(tasks, agents), Counts()
        self._rng = random.Random(f"victims {way} {agents} {seed}")
        self._assign, self._collect, self._batch_ns = map(costs.ns, ("assign_us", "collect_us", "batch_us"))
        self._look, self._take, self._busy = map(costs.ns, ("look_us", "steal_us", "busy_us"))
        self._retry, self._wake, self._start_ns = map(costs.ns, ("retry_us", "wake_us", "start_us"))
        self._steal_point = steal_point if way.takes_half else steal_point_of(1)
        self._heap: list[int] = []

        # By chunk: its first task, and when it would begin if one agent did all from time 0; each with the end behind.
        self._first = array("q", [0])
        self._begins = array("q", [0])

        # By agent.
        self._ranges: list[deque[tuple[int, int]]] = [deque() for _ in range(agents)]
        self._waiting = [0] * agents
        """Chunks in those."""
        self._lo, self._hi, self._begun = [0] * agents, [0] * agents, [0] * agents
        """The range that it runs, the unstarted part of which can be stolen; empty: none."""
        self._ends = [-1] * agents
        self._locked_until, self._pause = [0] * agents, [0] * agents
        self._has_sampled = bytearray(agents)
        self._queues = Queues(agents)
        self._parked = list(range(agents)) if way.choose != "random" else []
        self._rung: set[int] = set()
        self._had_some = 0

        # The parent.
        self._pieces: Iterator[tuple[int, int, int]] = iter(())
        self._next: tuple[int, int, int] | None = None
        self._cutter: MapCutter | None = None
        self._left = len(tasks)
        """Tasks that are in no chunk yet."""
        self._batch, self._finished, self._is_turning = FIRST_BATCH, list[tuple[int, int]](), False

    def run(self) -> tuple[Books, Counts]:
        """Run to the end. Raises `WrongResult` if a task was lost or ran twice."""
        if self.way.deal == "map":
            self._cutter = MapCutter(self._left, self.agents)
            self._turn_begins(0)
        else:
            n = self._left
            self._cut([1] * n)
            deals = {
                "rounds": lambda: split_range(0, n, [0] * self.agents),
                "evenly": lambda: split_evenly(0, n, self.agents),
                "root": lambda: [(0, 0, n)],
                "fours": lambda: split_in_fours(n, self.agents),
            }
            self._pieces = iter(deals[self.way.deal]())
            self._next_piece(0)
        if self.way.choose == "random":
            for agent in range(self.agents):
                self._at(self._wake, _TRY, agent)
        handlers = [self._on_push, self._on_turn, self._on_end, self._on_wake, self._on_scanned, self._on_try]
        heap = self._heap
        while heap:
            event = heappop(heap)
            handlers[event >> _AGENT_BITS & 7](event >> _KIND_BITS + _AGENT_BITS, event & _AGENT)
        self.books.close()
        return self.books, self.counts

    def _at(self, when: int, kind: int, agent: int = 0) -> None:
        heappush(self._heap, (when << _KIND_BITS | kind) << _AGENT_BITS | agent)

    # -- the parent ---------------------------------------------------------------------------------------------------

    def _cut(self, sizes: Sequence[int]) -> None:
        """The next tasks become chunks of these sizes."""
        first, begins, sums = self._first, self._begins, self.books.sums
        task = first[-1]
        for size in sizes:
            task += size
            first.append(task)
            begins.append(sums[task] + (len(first) - 1) * self._start_ns)
        self._left -= sum(sizes)

    def _next_piece(self, now: int) -> None:
        self._next = next(self._pieces, None)
        if self._next is not None:
            self.counts.parent_ns += self._assign
            self._at(now + self._assign, _PUSH)
        elif self._is_queued(now, 1):
            for agent in self._parked:
                self._ring(now, agent)

    def _on_push(self, now: int, _: int) -> None:
        assert self._next is not None
        self._push(now, *self._next)
        self._next_piece(now)

    def _push(self, now: int, agent: int, lo: int, hi: int) -> None:
        self._ranges[agent].append((lo, hi))
        self._waiting[agent] += hi - lo
        self._queues.put(agent, self._length(agent, now))
        self.counts.messages += 1
        self._ring_one(now, agent)

    def _turn_begins(self, now: int) -> None:
        """Take in what has ended, cut as much as may be sent ahead, and be busy with it for a while."""
        assert self._cutter is not None
        self._is_turning = True
        for items, elapsed in self._finished:
            self._cutter.observe(items, elapsed)
        sizes: list[int] = []
        while len(sizes) < self._batch and (size := self._cutter.next_size()):
            sizes.append(size)
        cost = len(self._finished) * self._collect
        self._finished.clear()
        self._batch = min(2 * self._batch, LARGEST_BATCH) if len(sizes) == self._batch else FIRST_BATCH
        lo = len(self._first) - 1
        self._cut(sizes)
        hi = len(self._first) - 1
        if sizes:
            cost += self._batch_ns + len(sizes) * self._assign
            loads = [0] * self.agents
            if len(sizes) < 8 * self.agents:
                cost += self._look * self.agents
                loads = [self._length(a, now) + (self._hi[a] > self._lo[a]) for a in range(self.agents)]
            self._pieces = iter(split_range(lo, hi, loads))
        self.counts.parent_ns += cost
        self._at(now + cost, _TURN)

    def _on_turn(self, now: int, _: int) -> None:
        """The end of a turn: what it did can be seen now."""
        pushed = False
        for piece in self._pieces:
            self._push(now, *piece)
            pushed = True
        if self._finished or pushed:
            self._turn_begins(now)
        else:
            self._is_turning = False

    # -- agents -------------------------------------------------------------------------------------------------------

    def _length(self, agent: int, now: int) -> int:
        """Chunks that could be stolen from it."""
        lo, hi, waiting = self._lo[agent], self._hi[agent], self._waiting[agent]
        if hi - lo < 2:
            return waiting
        return waiting + hi - self._unstarted(agent, now)

    def _unstarted(self, agent: int, now: int) -> int:
        """The first chunk of the range it runs that it has not begun. What a thief is about to begin is its own: else
        two that look slowly steal the same chunk from each other for ever."""
        lo, begins = self._lo[agent], self._begins
        return bisect_right(begins, begins[lo] + max(0, now - self._begun[agent]), lo, self._hi[agent])

    def _go_on(self, now: int, agent: int) -> None:
        if self._ranges[agent]:
            lo, hi = self._ranges[agent].popleft()
            self._waiting[agent] -= hi - lo
            self._run_range(now, agent, lo, hi)
        elif self.way.choose == "random":
            self._on_try(now, agent)
        else:
            self._look_around(now, agent)

    def _run_range(self, at: int, agent: int, lo: int, hi: int) -> None:
        self._lo[agent], self._hi[agent], self._begun[agent] = lo, hi, at
        self._pause[agent] = 0
        self._queues.put(agent, self._length(agent, at))
        self._ends[agent] = at + self._begins[hi] - self._begins[lo]
        self._at(self._ends[agent], _END, agent)

    def _on_end(self, now: int, agent: int) -> None:
        if self._ends[agent] != now:
            return  # some of the range was stolen, so it ended sooner
        lo, hi, first, begun = self._lo[agent], self._hi[agent], self._first, self._begun[agent]
        self._ends[agent] = -1
        self._lo[agent] = self._hi[agent] = 0
        self.books.enter(agent, first[lo], first[hi], begun, now)
        if self._cutter is not None:
            for chunk in range(lo, hi):
                elapsed = self._begins[chunk + 1] - self._begins[chunk] - self._start_ns
                self._finished.append((first[chunk + 1] - first[chunk], elapsed))
            if not self._is_turning:
                self._turn_begins(now)
        self._go_on(now, agent)

    def _steal(self, at: int, now: int, thief: int, victim: int) -> int:
        """Take what the way allows, and begin it at `at`; returns how many chunks."""
        ranges = self._ranges[victim]
        lo, hi = ranges[-1] if ranges else (self._unstarted(victim, now), self._hi[victim])
        middle = self._steal_point(lo, hi)
        if ranges:
            self._waiting[victim] -= hi - middle
            if middle > lo:
                ranges[-1] = lo, middle
            else:
                ranges.pop()
        else:
            self._hi[victim] = middle
            self._ends[victim] = self._begun[victim] + self._begins[middle] - self._begins[self._lo[victim]]
            self._at(self._ends[victim], _END, victim)
        self._locked_until[victim] = self._locked_until[thief] = at
        self.counts.messages += 1
        self.counts.steals += 1
        self.counts.tasks_stolen += self._first[hi] - self._first[middle]
        self._queues.put(victim, self._length(victim, now))
        self._run_range(at, thief, middle, hi)
        return hi - middle

    # -- thieves that park --------------------------------------------------------------------------------------------

    def _look_around(self, now: int, agent: int) -> None:
        is_sample = self.way.choose == "sample" and self.agents > SAMPLE
        self._has_sampled[agent] = not is_sample
        self._at(now + self._look * (SAMPLE if is_sample else self.agents), _SCANNED, agent)

    def _on_scanned(self, now: int, agent: int) -> None:
        if self._ranges[agent]:  # came meanwhile
            self._go_on(now, agent)
            return
        is_sample = not self._has_sampled[agent]
        order: Iterator[int]
        if is_sample:
            lengths = {other: self._length(other, now) for other in self._draw(agent)}
            order = iter(sorted((other for other in lengths if lengths[other]), key=lambda a: (-lengths[a], a)))
        else:
            order = self._queues.in_order(agent, lambda a: self._length(a, now))
        at, met_lock = now, False
        for victim in order:
            if self._locked_until[victim] > at:
                at += self._busy
                met_lock = True
                continue
            self._steal_and_ring(at + self._take, now, agent, victim)
            return
        self.counts.failed += 1
        if met_lock:
            self._at(max(now + US, at + self._pause[agent]), _SCANNED, agent)
            self._pause[agent] = min(2 * MS, self._pause[agent] + self._retry)
        elif is_sample:
            self._has_sampled[agent] = 1
            self._at(now + self._look * self.agents, _SCANNED, agent)
        else:
            insort(self._parked, agent)

    def _draw(self, agent: int) -> list[int]:
        return [other + (other >= agent) for other in self._rng.sample(range(self.agents - 1), SAMPLE)]

    def _steal_and_ring(self, at: int, now: int, agent: int, victim: int) -> None:
        """Steal, and wake one more that could find something, before the first chunk begins."""
        rings = bool(self._parked)
        if rings and self.way.choose == "longest":
            at += self._look * self.agents
        taken = self._steal(at, now, agent, victim)
        if rings and (taken >= 2 or (self.way.choose == "longest" and self._is_queued(now, 2))):
            self._ring(at, self._parked[0])

    def _is_queued(self, now: int, chunks: int) -> bool:
        """Whether so many can be stolen, from all agents together."""
        for agent in self._queues.in_order(-1, lambda a: self._length(a, now)):
            chunks -= self._length(agent, now)
            if chunks <= 0:
                return True
        return False

    def _ring_one(self, now: int, agent: int) -> None:
        """The parent has pushed something to this agent: ring it, or another that could steal it."""
        if self._parked:
            k = bisect_left(self._parked, agent)
            is_parked = k < len(self._parked) and self._parked[k] == agent
            self._ring(now, agent if is_parked else self._parked[0])

    def _ring(self, at: int, agent: int) -> None:
        if agent not in self._rung:
            self._rung.add(agent)
            self._at(at + self._wake, _WAKE, agent)

    def _on_wake(self, now: int, agent: int) -> None:
        self._rung.discard(agent)
        del self._parked[bisect_left(self._parked, agent)]
        if self._ranges[agent] and self._parked and self._is_queued(now, 2):
            self._ring(now, self._parked[0])
        self._go_on(now, agent)

    # -- thieves that do not ------------------------------------------------------------------------------------------

    def _on_try(self, now: int, agent: int) -> None:
        if self._ranges[agent]:
            self._go_on(now, agent)
            return
        if self.agents == 1:
            victim = agent
        else:
            victim = int(self._rng.random() * (self.agents - 1))
            victim += victim >= agent
        at = now + self._look
        if not self._length(victim, now):
            self.counts.failed += 1
            if self._next is not None or self._is_any(now):
                self._at(max(now + US, at), _TRY, agent)  # or a price of 0 would keep it asking forever
        elif self._locked_until[victim] > at:
            self.counts.failed += 1
            self._at(max(now + US, at + self._busy), _TRY, agent)
        else:
            self._steal(at + self._take, now, agent, victim)

    def _is_any(self, now: int) -> bool:
        """Whether anything can be stolen; looks first at who had something the last time."""
        if self._length(self._had_some, now):
            return True
        self._had_some = next(self._queues.in_order(-1, lambda a: self._length(a, now)), 0)
        return self._length(self._had_some, now) > 0
