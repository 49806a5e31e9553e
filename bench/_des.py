"""Question: how well do the scheduler's rules share work among far more agents than this machine could run?

A discrete-event simulation: agents, parent and tasks are numbers, time is a number, and every decision is made by the
package's own code, unchanged: `Placement` says who gets a task, `Aging` and `Backlog` what comes first, `victims` and
`steal_point_of` whom a thief turns to and how much it takes, `is_severe` and `plan` what the parent moves. What stands
here in place of the engine is who asks them when:

    parent   one turn after the other: takes in what was submitted (32 tasks, 64 ... 1,024), places it, looks at the
             balance every `balancing.check_s`, hands protected tasks to agents that are free; each has its price
    agent    takes what `Aging` says; asks the parent first when that holds something more urgent; steals when it has
             nothing, a range at a time; parks when there is nothing; wakes `wake_us` after somebody has rung

Not told: what the engine does with memory, locks and crashes; the contention of a machine with fewer cores than agents;
agents that fail tasks, deadlines and dependencies; short tasks being handed out ahead (`order.ahead_s`), and rings of
64 ranges (they are endless here). Prices are constants, where real ones have tails; a turn of the parent takes effect
at its end, a steal at its beginning. Peers: the lower bound of any schedule, and the same rules with one of the two
ways to move work left out (`strategy`).
"""

from __future__ import annotations

import random
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from itertools import groupby
from typing import Any

from bench._model import WrongResult
from mpsteal._engine.schedule import LENGTHS_STALE, LEVELS_PER_PRIORITY
from mpsteal._policy.histogram import Histogram
from mpsteal._policy.matching import TIERS, Placement, score, skill_match, tier
from mpsteal._policy.order import Aging, Backlog
from mpsteal._policy.rebalance import is_severe, plan
from mpsteal._policy.rules import Rules, build
from mpsteal._policy.stealing import steal_point_of, victims

US, MS, S = 1_000, 1_000_000, 1_000_000_000  # ns
PRIORITIES = (1, 2, 3, 4, 5)
FIRST_BATCH, LARGEST_BATCH = 32, 1024  # as in `_engine/dispatch.py`
LATE = -1
"""In place of the time at which an agent joins: once everything has been handed out."""


@dataclass(frozen=True)
class Costs:
    """What each action takes (us). Defaults: measured by `python -m bench scheduler` on the 2-core reference machine,
    rounded up; those marked * chosen by hand.

    Attributes:
        assign_us: parent, per task: submit, number, place, push.
        collect_us: parent, per result.
        give_us: parent, per protected task handed out.
        scan_us*: parent, per agent, in each turn that hands out: has it room, what is held for it.
        batch_us*: parent, per batch: fence, look at who is parked.
        look_us: parent or thief, per agent whose queue it looks at.
        move_us: parent, per agent that it moves tasks from.
        steal_us, miss_us, busy_us*: thief, per victim: it took something; nothing there for it; the lock was taken.
        retry_us*: thief, pause after a round in which it met only locks; grows by as much, up to 2 ms.
        wake_us*: from a ring to the first look.
        start_us: agent, per task, outside of the task.
    """

    assign_us: float = 8.0
    collect_us: float = 3.0
    give_us: float = 25.0
    scan_us: float = 3.0
    batch_us: float = 30.0
    look_us: float = 4.0
    move_us: float = 60.0
    steal_us: float = 30.0
    miss_us: float = 15.0
    busy_us: float = 5.0
    retry_us: float = 50.0
    wake_us: float = 60.0
    start_us: float = 3.0

    def ns(self, name: str) -> int:
        return int(getattr(self, name) * US)


@dataclass
class Workload:
    """Agents and tasks, as plain lists.

    Attributes:
        capabilities, joins: by agent; when it joins (ns), 0: it is there from the start, or `LATE`.
        skill_sets: what tasks ask for; tasks name one by its index.
        releases (ns, ascending), durations (ns), priorities, skills: by task.
    """

    name: str
    capabilities: list[frozenset[str]]
    joins: list[int]
    skill_sets: list[frozenset[str]]
    releases: array[int]
    durations: array[int]
    priorities: bytearray
    skills: array[int]


def _uniform(rng: random.Random) -> float:
    return 0.5 + rng.random()


def _heavy(rng: random.Random) -> float:
    """Pareto with exponent 1.5 and mean 1, cut at 100: a tenth of the tasks are over half of the work."""
    return min(100.0, rng.paretovariate(1.5) / 3)


def make_load(name: str, *, agents: int, tasks: int, mean_ms: float, seed: int) -> Workload:
    """One of `LOADS`, from a fixed seed. Priorities 1 to 5 come equally often in all of them.

    uniform      durations between half and three halves of the mean, all there from the start
    heavy-tail   durations up to 100 times the mean, by a power law
    hot-spot     uniform, but 1 % of the agents (at least one) get everything; the others join when it is handed out
    skills       each agent has 2 of 8 skills (1 in 50: any, "*"), tasks ask for 1 or 2, some far more often than others
    bursts       uniform, in 20 equal bursts at intervals in which all agents could do 1.25 of them
    """
    if name not in LOADS:
        raise ValueError(f"no load called {name!r}; there are: {', '.join(LOADS)}")
    rng = random.Random(f"{name} {seed}")
    draw = _heavy if name == "heavy-tail" else _uniform
    durations = array("q", (max(1, int(draw(rng) * mean_ms * MS)) for _ in range(tasks)))
    priorities = bytearray(rng.choices(PRIORITIES, k=tasks))
    releases, skills = array("q", bytes(8 * tasks)), array("i", bytes(4 * tasks))
    capabilities, joins = [frozenset({"python"})] * agents, [0] * agents
    skill_sets = [frozenset({"python"})]
    if name == "hot-spot":
        first = max(1, agents // 100)
        joins[first:] = [LATE] * (agents - first)
    elif name == "bursts":
        bursts = min(20, tasks)
        gap = int(1.25 * mean_ms * MS * tasks / bursts / agents)
        releases = array("q", (i * bursts // tasks * gap for i in range(tasks)))
    elif name == "skills":
        words = [f"skill_{k}" for k in range(8)]
        capabilities = [
            frozenset(rng.sample(words, 2)) | ({"*"} if rng.random() < 0.02 else set()) for _ in range(agents)
        ]
        named = sorted({w for has in capabilities for w in has} - {"*"})
        wanted: dict[frozenset[str], float] = {frozenset({w}): 1 / (k + 1) for k, w in enumerate(named)}
        for has in sorted(capabilities, key=sorted)[:: max(1, agents // 12)]:
            wanted.setdefault(has - {"*"}, 0.1)  # so that somebody has both
        skill_sets = list(wanted)
        skills = array("i", rng.choices(range(len(skill_sets)), weights=list(wanted.values()), k=tasks))
    return Workload(name, capabilities, joins, skill_sets, releases, durations, priorities, skills)


LOADS = ("uniform", "heavy-tail", "hot-spot", "skills", "bursts")


@dataclass
class Outcome:
    """What a run came to; times in seconds of the simulation, but for `wall_s` and `events_per_s`."""

    load: str
    agents: int
    tasks: int
    makespan_s: float
    bound_s: float
    over_bound: float
    steals_attempted: int
    steals_successful: int
    tasks_stolen: int
    victims_missed: int
    locks_busy: int
    migrations: int
    migrations_failed: int
    cycles: int
    handed_out: int
    asks: int
    asks_unanswered: int
    wakes: int
    jain: float
    busiest_over_mean: float
    idlest_over_mean: float
    parent_busy: float
    waits: dict[int, dict[str, float]]
    events: int
    wall_s: float
    events_per_s: float

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


# Events, in the order in which those of one moment are handled.
_RELEASE, _JOIN, _TURN, _KICK, _CHECK, _WAKE, _LATE_ANSWER, _GO_ON = range(8)
_KIND_BITS, _AGENT_BITS = 3, 20
_AGENT = (1 << _AGENT_BITS) - 1
_KIND = (1 << _KIND_BITS) - 1
_TIME_SHIFT = _KIND_BITS + _AGENT_BITS
MAX_AGENTS = _AGENT


class Simulation:
    """One run over one workload. An event is one integer, `time (ns) | kind | agent`, so the heap compares integers.

    What must hold is checked by `verify` after the run, from what happened and not from what the queues say.
    """

    def __init__(self, workload: Workload, rules: Rules | None = None, costs: Costs | None = None) -> None:
        self.load, self.rules, self.costs = workload, rules or build({}), costs or Costs()
        rules, costs, agents, tasks = self.rules, self.costs, len(workload.capabilities), len(workload.durations)
        if not 0 < agents <= MAX_AGENTS or not tasks:
            raise ValueError(f"{agents} agents and {tasks} tasks: at least one of each, at most {MAX_AGENTS} agents")
        self._heap: list[int] = []
        self._steals = rules.strategy != "push"
        self._pushes = rules.strategy != "pull"
        self._steal_point = steal_point_of(rules.stealing.max_tasks)
        self._protected_level = LEVELS_PER_PRIORITY * (rules.order.protected_from - 1)
        self._movable = tuple(reversed(range(self._protected_level)))
        self._assign_ns, self._collect_ns, self._give_ns = map(costs.ns, ("assign_us", "collect_us", "give_us"))
        self._scan_ns, self._batch_ns, self._look_ns = map(costs.ns, ("scan_us", "batch_us", "look_us"))
        self._move_ns, self._retry_ns = map(costs.ns, ("move_us", "retry_us"))
        self._steal_ns, self._miss_ns, self._busy_ns = map(costs.ns, ("steal_us", "miss_us", "busy_us"))
        self._wake_ns, self._start_ns = map(costs.ns, ("wake_us", "start_us"))
        self._ask_ns = int(rules.order.ask_s * S)
        self._check_ns = int(rules.balancing.check_s * S)

        # Classes and kinds of agents.
        matching = rules.matching
        self.placement = Placement(matching.queue_weight, matching.success_weight, matching.wildcard)
        tiers = [tuple(TIERS[name] for name in names) for names in (matching.normal, matching.protected)]
        self._required: list[frozenset[str]] = []
        numbers: dict[tuple[int, bool], int] = {}
        for index, required in enumerate(workload.skill_sets):
            for protected in (False, True):
                number = numbers[index, protected] = len(self._required)
                self._required.append(required)
                self.placement.add_class(number, required, tiers[protected])
        self._groups: list[int] = []
        """By task: level and class, negative, so that the most urgent sorts first."""
        for priority, index in zip(workload.priorities, workload.skills, strict=True):
            protected = priority >= rules.order.protected_from
            level = LEVELS_PER_PRIORITY * (priority - 1) + protected
            self._groups.append(-(level << 32 | numbers[index, protected]))
        kinds = {has: kind for kind, has in enumerate(dict.fromkeys(workload.capabilities))}
        self._kind_of = [kinds[has] for has in workload.capabilities]
        self._runs_classes: list[frozenset[int]] = []
        """By kind: the classes that it can run."""
        self._ranks: list[dict[int, tuple[int, float]]] = []
        """By kind: for each of those, how well it fits; as the engine ranks agents for a protected task."""
        for has in kinds:
            ranks = {}
            for number, required in enumerate(self._required):
                fit = tier(required, has, matching.wildcard)
                if fit is not None and fit in tiers[number % 2]:
                    match = skill_match(required, has)
                    points = score(match, 0, 1.0, matching.queue_weight, matching.success_weight)
                    ranks[number] = (-fit, points)
            self._ranks.append(ranks)
            self._runs_classes.append(frozenset(ranks))
        masks = [sum(1 << number for number in runs) for runs in self._runs_classes]

        # Agents, by number.
        self._can = [masks[kind] for kind in self._kind_of]
        self._queues: list[dict[int, deque[list[int]]]] = [{} for _ in range(agents)]
        """Level -> ranges `[lo, hi, class]`, the next to run first; no empty ones."""
        self._queued, self._stealable = [0] * agents, [0] * agents
        self._present = [0] * agents
        """A bit for each class of which there is anything to steal; `_counts` has how much."""
        self._counts = [[0] * len(self._required) for _ in range(agents)]
        self._anywhere, self._anywhere_count = 0, [0] * len(self._required)
        """The same over all agents."""
        self._aging = [Aging(rules.order.aging_tasks, LEVELS_PER_PRIORITY) for _ in range(agents)]
        self._running = bytearray(agents)
        self._busy = [0] * agents
        self._lock_until, self._pause = [0] * agents, [0] * agents
        self._asked = [-1] * agents
        """While it waits for an answer: the highest level that was held for it when it asked; -1: it does not wait."""
        self._asked_until = [0] * agents
        self._parked: set[int] = set()
        self._asking: set[int] = set()
        self._rung: set[int] = set()
        self._slots: list[int] = []
        self._joined = array("q", [-1]) * agents

        # The parent.
        self._released = self._taken = 0
        self._task_of = array("q")
        """Chunk -> task."""
        self._batch = FIRST_BATCH
        self._turn_tasks = 0
        self._is_turning = self._is_kicked = self._kick_comes = self._check_is_due = False
        self._free_at = self._to_collect = self._lengths_due = self._parent_ns = 0
        self._is_idle = False
        """Whether nothing else was to come at the last look at the balance."""
        self._next_cycle = int(rules.balancing.interval_s * S)
        self._pushed: set[int] = set()
        self._held: Backlog[int] = Backlog(Aging(rules.order.aging_tasks, LEVELS_PER_PRIORITY))
        self._tops: dict[int, int] = {}
        """By kind: the highest level held for it; emptied when what is held changes."""
        self._unmatched: dict[int, list[tuple[int, int, int]]] = {}

        # What happened, by chunk.
        self.started = bytearray(tasks)
        self.ran_on = array("i", [-1]) * tasks
        self.was_stolen, self.was_moved = bytearray(tasks), bytearray(tasks)
        self.waits = {priority: Histogram() for priority in PRIORITIES}
        self.counts = dict.fromkeys(
            ("attempted", "successful", "stolen", "missed", "busy", "moved", "failed", "cycles", "given", "asks")
            + ("unanswered", "wakes"),
            0,
        )

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run to the end and verify. Raises `WrongResult` if a task was lost, ran twice, or where it may not."""
        began = time.perf_counter()
        tasks, heap, done = len(self.load.durations), self._heap, 0
        handlers: list[Callable[[int, int], None]] = [
            self._on_release, self._on_join, self._on_turn, self._on_kick,
            self._on_check, self._on_wake, self._on_late_answer, self._go_on,
        ]  # fmt: skip
        for at in sorted(set(self.load.releases)):
            self._at(at, _RELEASE)
        for agent, at in enumerate(self.load.joins):
            if at != LATE:
                self._at(at, _JOIN, agent)
        if self._pushes:
            self._at(self._check_ns, _CHECK)
        events = now = 0
        running = self._running
        while done < tasks:
            if not heap:
                raise WrongResult(f"{self.load.name}: nothing goes on any more, and {tasks - done} tasks are not done")
            event = heappop(heap)
            events += 1
            now, kind, agent = event >> _TIME_SHIFT, event >> _AGENT_BITS & _KIND, event & _AGENT
            if kind == _GO_ON and running[agent]:
                running[agent] = 0
                done += 1
                self._to_collect += 1
            handlers[kind](now, agent)
        self.verify()
        return self._outcome(now, events, time.perf_counter() - began)

    def _at(self, when: int, kind: int, agent: int = 0) -> None:
        heappush(self._heap, (when << _KIND_BITS | kind) << _AGENT_BITS | agent)

    # -- agents -------------------------------------------------------------------------------------------------------

    def _go_on(self, now: int, agent: int) -> None:
        """An agent looks for its next task (`_agent/loop.py`, `_queue/levels.py`)."""
        queues = self._queues[agent]
        if self._held:
            top = self._top(agent)
            if top > (max(queues) if queues else -1):
                self._ask(now, agent, top)
                return
        if queues:
            self._start(now, agent)
        else:
            self._seek(now, agent)

    def _start(self, now: int, agent: int) -> None:
        queues = self._queues[agent]
        level = self._aging[agent].choose(queues)
        ranges = queues[level]
        first = ranges[0]
        chunk = first[0]
        self._drop(agent, level, first[2], 1)
        first[0] = chunk + 1
        if first[0] == first[1]:
            ranges.popleft()
            if not ranges:
                del queues[level]
        task = self._task_of[chunk]
        duration = self.load.durations[task]
        begun = now + self._start_ns
        self.waits[self.load.priorities[task]].add([begun - self.load.releases[task]])
        self.started[chunk] += 1
        self.ran_on[chunk] = agent
        self._busy[agent] += duration
        self._running[agent] = 1
        self._pause[agent] = 0
        heappush(self._heap, ((begun + duration) << _KIND_BITS | _GO_ON) << _AGENT_BITS | agent)

    def _seek(self, now: int, agent: int) -> None:
        """One round of stealing, then on, or a pause, or to bed."""
        counts = self.counts
        if not self._steals:
            self._parked.add(agent)
            return
        can, at, met_lock = self._can[agent], now + self._look_ns * len(self._slots), False
        if self._anywhere & can:
            present, lock_until = self._present, self._lock_until
            for victim in victims(self._stealable, agent):
                if lock_until[victim] > at:
                    at += self._busy_ns
                    counts["busy"] += 1
                    met_lock = True
                elif present[victim] & can:
                    at += self._steal_ns
                    lock_until[victim] = at
                    self._steal(agent, victim)
                    counts["attempted"] += 1
                    counts["successful"] += 1
                    self._ring_next(at)
                    self._go_on(at, agent)
                    return
                else:
                    at += self._miss_ns
                    counts["missed"] += 1
        counts["attempted"] += 1
        if met_lock:
            self._at(at + self._pause[agent], _GO_ON, agent)
            self._pause[agent] = min(2 * MS, self._pause[agent] + self._retry_ns)
        else:
            self._pause[agent] = 0
            self._parked.add(agent)

    def _steal(self, thief: int, victim: int) -> None:
        can, queues = self._can[thief], self._queues[victim]
        for level in self._movable:
            ranges = queues.get(level, ())
            for i in range(len(ranges) - 1, -1, -1):
                lo, hi, number = ranges[i]
                if can >> number & 1:
                    middle = self._steal_point(lo, hi)
                    self._cut(victim, level, i, middle)
                    self._add(thief, level, middle, hi, number)
                    self.was_stolen[middle:hi] = b"\1" * (hi - middle)
                    self.counts["stolen"] += hi - middle
                    return
        raise WrongResult(f"agent {thief} found nothing at agent {victim}, though the counts say so")

    def _ring_next(self, at: int) -> None:
        """Who has found work wakes one more that could find some."""
        if self._parked and self._anywhere and self._steals:
            anywhere, can = self._anywhere, self._can
            other = min((a for a in self._parked if anywhere & can[a]), default=-1)
            if other >= 0:
                self._ring(at, other)

    def _ring(self, at: int, agent: int) -> None:
        if agent not in self._rung:
            self._rung.add(agent)
            self._at(at + self._wake_ns, _WAKE, agent)

    def _on_wake(self, now: int, agent: int) -> None:
        self._rung.discard(agent)
        if agent in self._parked:
            self._parked.discard(agent)
            if self._queues[agent]:
                self._ring_next(now)
        elif self._asked[agent] >= 0:
            self._end_ask(agent)
        else:
            return  # its question was answered by time
        self.counts["wakes"] += 1
        self._go_on(now, agent)

    def _ask(self, now: int, agent: int, top: int) -> None:
        """The parent holds something more urgent: tell it that we are free, and wait."""
        self.counts["asks"] += 1
        self._asked[agent], self._asked_until[agent] = top, now + self._ask_ns
        self._asking.add(agent)
        self._at(now + self._ask_ns, _LATE_ANSWER, agent)
        self._kick(now + self._wake_ns)

    def _end_ask(self, agent: int) -> None:
        self._asked[agent] = -1
        self._asking.discard(agent)

    def _on_late_answer(self, now: int, agent: int) -> None:
        if self._asked[agent] < 0 or self._asked_until[agent] != now:
            return
        self.counts["unanswered"] += 1
        self._end_ask(agent)
        if self._queues[agent]:
            self._start(now, agent)
        else:
            self._seek(now, agent)

    # -- queues -------------------------------------------------------------------------------------------------------

    def _add(self, agent: int, level: int, lo: int, hi: int, number: int) -> None:
        """A range goes to the end of an agent's level."""
        queues = self._queues[agent]
        ranges = queues.get(level)
        if ranges is None:
            ranges = queues[level] = deque()
        ranges.append([lo, hi, number])
        self._queued[agent] += hi - lo
        if level < self._protected_level:
            self._stealable[agent] += hi - lo
            self._counts[agent][number] += hi - lo
            self._present[agent] |= 1 << number
            self._anywhere_count[number] += hi - lo
            self._anywhere |= 1 << number

    def _cut(self, agent: int, level: int, index: int, middle: int) -> None:
        """All from `middle` on leaves one of an agent's ranges."""
        ranges = self._queues[agent][level]
        lo, hi, number = ranges[index]
        self._drop(agent, level, number, hi - middle)
        if middle > lo:
            ranges[index][1] = middle
            return
        del ranges[index]
        if not ranges:
            del self._queues[agent][level]

    def _drop(self, agent: int, level: int, number: int, n: int) -> None:
        """Account for n tasks that are not queued there any more."""
        self._queued[agent] -= n
        if level < self._protected_level:
            self._stealable[agent] -= n
            counts, everywhere = self._counts[agent], self._anywhere_count
            counts[number] -= n
            if not counts[number]:
                self._present[agent] &= ~(1 << number)
            everywhere[number] -= n
            if not everywhere[number]:
                self._anywhere &= ~(1 << number)

    # -- the parent ---------------------------------------------------------------------------------------------------

    def _on_release(self, now: int, _: int) -> None:
        releases = self.load.releases
        self._released = bisect_left(releases, now + 1, lo=self._released)
        self._kick(now)

    def _on_join(self, now: int, agent: int) -> None:
        self.placement.add_agent(agent, self.load.capabilities[agent])
        self._slots.append(agent)
        self._joined[agent] = now
        self._lengths_due = 0
        for number in [n for n in self._unmatched if self.placement.can_run(n, agent)]:
            for lo, hi, level in self._unmatched.pop(number):
                self._place(lo, hi, level, number)
        self._announce(now)
        self._tops.clear()
        self._go_on(now, agent)

    def _on_check(self, now: int, _: int) -> None:
        was_idle, self._is_idle = self._is_idle, not self._heap
        self._check_is_due = True
        self._kick(now)
        if not (was_idle and self._is_idle):  # else the last look started nothing, nor will the next
            self._at(now + self._check_ns, _CHECK)

    def _kick(self, at: int) -> None:
        """The parent has something to do, if it is not at it."""
        if self._is_turning:
            self._is_kicked = True
        elif not self._kick_comes:
            self._kick_comes = True
            self._at(at, _KICK)

    def _on_kick(self, now: int, _: int) -> None:
        self._kick_comes = False
        if self._is_turning:
            self._is_kicked = True
        else:
            # What it has collected while there was nothing else to do delays nothing.
            idle = max(0, now - self._free_at) // self._collect_ns if self._collect_ns else self._to_collect
            collected = min(self._to_collect, idle)
            self._to_collect -= collected
            self._parent_ns += collected * self._collect_ns
            self._begin_turn(now)

    def _begin_turn(self, now: int) -> None:
        self._is_turning, self._is_kicked = True, False
        n = self._turn_tasks = min(self._batch, self._released - self._taken)
        cost = self._to_collect * self._collect_ns + n * self._assign_ns + (self._batch_ns if n else 0)
        self._to_collect = 0
        self._parent_ns += cost
        self._at(now + cost, _TURN)

    def _on_turn(self, now: int, _: int) -> None:
        """The end of a turn: what it did can be seen now."""
        at = now
        if self._turn_tasks:
            at += self._read_lengths(now)
            self._take_in(self._turn_tasks)
            self._batch = min(LARGEST_BATCH, 2 * self._batch)
        self._announce(at)
        if self._check_is_due:
            self._check_is_due = False
            at = self._balance(at)
        at = self._give_out(at)
        self._parent_ns += at - now
        self._free_at = at
        if self._taken == len(self.load.durations) and self._turn_tasks:
            for agent, join in enumerate(self.load.joins):
                if join == LATE:
                    self._at(at, _JOIN, agent)
        if self._released > self._taken or self._is_kicked:
            self._begin_turn(at)
        else:
            self._is_turning = False
        if self._released == self._taken:
            self._batch = FIRST_BATCH

    def _read_lengths(self, now: int) -> int:
        if now < self._lengths_due:
            return 0
        set_queue, queued, running = self.placement.set_queue, self._queued, self._running
        for agent in self._slots:
            set_queue(agent, queued[agent] + running[agent])
        took = self._look_ns * len(self._slots)
        self._lengths_due = now + (LENGTHS_STALE + 1) * took
        return took

    def _take_in(self, n: int) -> None:
        tasks, groups = range(self._taken, self._taken + n), self._groups
        self._taken += n
        at = len(self._task_of)
        in_order = sorted(tasks, key=groups.__getitem__)
        self._task_of.extend(in_order)
        for group, members in groupby(in_order, key=groups.__getitem__):
            end = at + sum(1 for _ in members)
            self._place(at, end, -group >> 32, -group & 0xFFFF_FFFF)
            at = end

    def _place(self, lo: int, hi: int, level: int, number: int) -> None:
        """Chunks of one level and class: to agents, or held, as in `_engine/schedule.py`."""
        if level % LEVELS_PER_PRIORITY:
            for chunk in range(lo, hi):
                self._held.add(number, level, None, self._task_of[chunk], chunk)
            self._tops.clear()
            return
        at = lo
        for agent, count in self.placement.place_many(number, hi - lo):
            self._push(agent, level, at, at + count, number)
            at += count
        if at < hi:
            self._unmatched.setdefault(number, []).append((at, hi, level))

    def _push(self, agent: int, level: int, lo: int, hi: int, number: int) -> None:
        self._add(agent, level, lo, hi, number)
        self._pushed.add(agent)

    def _announce(self, at: int) -> None:
        """Ring who was given something, and who could steal some of it."""
        pushed = self._pushed
        if pushed:
            anywhere = self._anywhere if self._steals else 0
            for agent in self._parked:
                if agent in pushed or anywhere & self._can[agent]:
                    self._ring(at, agent)
            for agent in self._asking:  # to others they look as if they were parked
                if self._queues[agent] or anywhere & self._can[agent]:
                    self._ring(at, agent)
            pushed.clear()

    # -- urgent tasks (`_engine/urgent.py`) ---------------------------------------------------------------------------

    def _top(self, agent: int) -> int:
        """The highest level that is held for an agent; -1: nothing."""
        kind = self._kind_of[agent]
        top = self._tops.get(kind)
        if top is None:
            top = self._tops[kind] = self._held.highest(self._runs_classes[kind])
        return top

    def _has_room(self, agent: int) -> bool:
        """Whether it may be given one: nothing urgent is queued there, or nothing as urgent as what it asks for."""
        top = self._asked[agent] if self._asked[agent] >= 0 else 0
        return not any(level % LEVELS_PER_PRIORITY and level >= top for level in self._queues[agent])

    def _give_out(self, at: int) -> int:
        """Hand what is most urgent to the agents that are free; returns when that is done."""
        held = self._held
        if not held and not self._asking:
            return at
        at += self._scan_ns * len(self._slots)
        rooms: dict[int, list[int]] = {}  # by kind, the smallest number last
        for agent in sorted(self._parked | self._asking, reverse=True):
            if self._has_room(agent):
                rooms.setdefault(self._kind_of[agent], []).append(agent)
        given: set[int] = set()
        runs = self._runs_classes
        while rooms and held:
            numbers = frozenset[int]().union(*[runs[kind] for kind in rooms]).intersection(held.classes())
            top = held.top(numbers) if numbers else None
            if top is None:
                break
            level, number = top
            chunk = held.pop(numbers)
            assert chunk is not None
            fitting = [kind for kind in rooms if number in runs[kind]]
            kind = max(fitting, key=lambda kind: (self._ranks[kind][number], -rooms[kind][-1]))
            agent = rooms[kind].pop()
            if not rooms[kind]:
                del rooms[kind]
            self._push(agent, level, chunk, chunk + 1, number)
            at += self._give_ns
            given.add(agent)
        self.counts["given"] += len(given)
        self._announce(at)
        self._tops.clear()
        for agent in self._asking - given:
            if self._top(agent) < self._asked[agent]:
                self._ring(at, agent)
        return at

    # -- moves (`_engine/balance.py`) ---------------------------------------------------------------------------------

    def _balance(self, at: int) -> int:
        """Look at the balance, and mend it if it is bad or has not been looked at for long; returns when done."""
        rules, slots, queued = self.rules.balancing, self._slots, self._queued
        at += self._look_ns * len(slots)
        is_due = at >= self._next_cycle
        lengths = [queued[a] for a in slots]
        if len(slots) < 2 or not (is_due or is_severe(lengths, rules.severe_ratio, self.rules.agents.busy_above)):
            return at
        self._next_cycle = at + int(rules.interval_s * S)
        self.counts["cycles"] += 1
        at += 2 * self._look_ns * len(slots)
        moves = plan(
            dict(zip(slots, lengths, strict=True)),
            {a: self._stealable[a] for a in slots},
            self._may_go,
            max_tasks=rules.max_tasks,
            busy_above=self.rules.agents.busy_above,
            idle_below=self.rules.agents.idle_below,
            severe_ratio=rules.severe_ratio,
        )
        for source, target, count in moves:
            moved = self._move(source, target, count)
            self.counts["moved"] += moved
            self.counts["failed"] += count - moved
            at += self._move_ns
        self._announce(at)
        return at

    def _may_go(self, source: int, target: int) -> bool:
        return bool(self._present[source] & self._can[target])

    def _move(self, source: int, target: int, count: int) -> int:
        """Take up to `count` tasks that the target can run from the far end of the source's ranges."""
        can, left = self._can[target], count
        for level in self._movable:
            i = len(self._queues[source].get(level, ())) - 1
            while i >= 0 and left:
                lo, hi, number = self._queues[source][level][i]
                if can >> number & 1:
                    middle = max(lo, hi - left)
                    self._cut(source, level, i, middle)
                    self._push(target, level, middle, hi, number)
                    left -= hi - middle
                    self.was_moved[middle:hi] = b"\1" * (hi - middle)
                i -= 1
        return count - left

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Raise `WrongResult` unless each task ran once (I1), on an agent with its skills, no protected task was stolen
        or moved (I5), and nothing is left anywhere (I6)."""
        load, rules, wildcard = self.load, self.rules, self.rules.matching.wildcard
        tasks = len(load.durations)
        if len(self._task_of) != tasks or self.started.count(1) != tasks or sorted(self._task_of) != list(range(tasks)):
            raise WrongResult(f"{load.name}: {self.started.count(1)} of {tasks} tasks ran once")
        fits: dict[tuple[int, int, bool], bool] = {}
        for chunk, task in enumerate(self._task_of):
            agent, priority, index = self.ran_on[chunk], load.priorities[task], load.skills[task]
            protected = priority >= rules.order.protected_from
            if protected and (self.was_stolen[chunk] or self.was_moved[chunk]):
                raise WrongResult(f"{load.name}: task {task} of priority {priority} was stolen or moved")
            key = index, self._kind_of[agent], protected
            if key not in fits:
                fit = tier(load.skill_sets[index], load.capabilities[agent], wildcard)
                names = rules.matching.protected if protected else rules.matching.normal
                fits[key] = fit is not None and fit in [TIERS[name] for name in names]
            if not fits[key]:
                raise WrongResult(f"{load.name}: agent {agent} ran task {task}, which it cannot run")
        left = [sum(self._queued), sum(self._stealable), sum(self._anywhere_count), self._anywhere, len(self._held)]
        left += [len(self._unmatched), *map(len, filter(None, self._queues))]
        if any(left):
            raise WrongResult(f"{load.name}: all is done, and yet queues and counts have {left}")

    def _outcome(self, makespan: int, events: int, wall_s: float) -> Outcome:
        counts, busy = self.counts, self._busy
        total, mean = sum(busy), sum(busy) / len(busy)
        bound = self.bound()
        return Outcome(
            load=self.load.name,
            agents=len(busy),
            tasks=len(self.load.durations),
            makespan_s=makespan / S,
            bound_s=bound / S,
            over_bound=makespan / bound,
            steals_attempted=counts["attempted"],
            steals_successful=counts["successful"],
            tasks_stolen=counts["stolen"],
            victims_missed=counts["missed"],
            locks_busy=counts["busy"],
            migrations=counts["moved"],
            migrations_failed=counts["failed"],
            cycles=counts["cycles"],
            handed_out=counts["given"],
            asks=counts["asks"],
            asks_unanswered=counts["unanswered"],
            wakes=counts["wakes"],
            jain=total * total / (len(busy) * sum(b * b for b in busy)),
            busiest_over_mean=max(busy) / mean,
            idlest_over_mean=min(busy) / mean,
            parent_busy=self._parent_ns / makespan,
            waits={priority: waits.snapshot() for priority, waits in self.waits.items()},
            events=events,
            wall_s=wall_s,
            events_per_s=events / wall_s,
        )

    def bound(self) -> float:
        """No schedule ends sooner (ns), even if all else is free: tasks cannot be divided, agents not be used before
        they join, and whatever only some agents can run has only those.

        For each set of agents and each release: the work released from then on that only these agents can run, spread
        evenly over them from when they are there.
        """
        load, rules = self.load, self.rules
        longest = max(map(int.__add__, load.releases, load.durations))
        able: dict[tuple[int, bool], frozenset[int]] = {}
        for index in range(len(load.skill_sets)):
            for protected in (False, True):
                number = 2 * index + protected
                able[index, protected] = frozenset(k for k, runs in enumerate(self._runs_classes) if number in runs)
        work: dict[frozenset[int], dict[int, int]] = {}
        for release, duration, priority, index in zip(
            load.releases, load.durations, load.priorities, load.skills, strict=True
        ):
            by_release = work.setdefault(able[index, priority >= rules.order.protected_from], {})
            by_release[release] = by_release.get(release, 0) + duration
        best = float(longest)
        everyone = frozenset(self._kind_of)
        for kinds in {*work, everyone}:
            inside: dict[int, int] = {}
            for others, by_release in work.items():
                if others <= kinds:
                    for release, duration in by_release.items():
                        inside[release] = inside.get(release, 0) + duration
            joins = [self._joined[a] for a, kind in enumerate(self._kind_of) if kind in kinds]
            left = 0
            for release in sorted(inside, reverse=True):
                left += inside[release]
                best = max(best, _earliest_end(left, [max(release, join) for join in joins]))
        return best


def _earliest_end(work: int, starts: Iterable[int]) -> float:
    """When `work` can be done by agents that begin at `starts`, if it can be divided at will."""
    capacity, used, now = 0, 0, 0
    for start in sorted(starts):
        if capacity and used + capacity * (start - now) >= work:
            break
        used += capacity * (start - now)
        capacity, now = capacity + 1, start
    return now + (work - used) / capacity
