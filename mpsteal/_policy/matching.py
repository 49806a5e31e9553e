"""Which agent gets a task: who can run it at all, and who of those runs it best.

    class (skills)  -->  tier: exact, best fit, fallback  -->  score within the tier  -->  agent

Run by the engine thread for each task that it hands out, and by the simulator; neither asks twice, so `Placement` keeps
what it needs to answer at once. Left to others: what waits while nobody can run it (order.py), what to do about queues
that turn out wrong (stealing.py, rebalance.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from operator import itemgetter

EXACT, BEST_FIT, FALLBACK = 0, 1, 2
TIERS = {"exact": EXACT, "best_fit": BEST_FIT, "fallback": FALLBACK}

QUEUE_WEIGHT, SUCCESS_WEIGHT = 0.1, 0.3
"""What one queued task takes from a score, and what a success rate of 1 adds (DESIGN, the rules). Queue weight too
small: all goes to the best fit while others idle; too big: one queued task outweighs every skill."""

WILDCARD = "*"
"""The capability that stands for every skill."""

UNIT = 10**9
"""Scores are kept as whole billionths: equal scores are equal then, in whatever order they were added up, and decimal
weights are exact."""

AGENT_BITS, QUEUE_BITS = 24, 40
"""Room for an agent's number and for a queue length below the score, in the one integer that ranks an agent."""

AGENT = (1 << AGENT_BITS) - 1
QUEUE = (1 << QUEUE_BITS) - 1
SCORE_SHIFT = AGENT_BITS + QUEUE_BITS

HEAP_SLACK = 4
"""A heap is rebuilt when it holds more than so many entries per agent. Fewer: rebuilt all the time; more: memory."""


def skill_match(required: frozenset[str], capabilities: frozenset[str]) -> float:
    """Share of the required skills that are there by name; 1.0 when none are required."""
    return len(required & capabilities) / len(required) if required else 1.0


def tier(required: frozenset[str], capabilities: frozenset[str], wildcard: str = WILDCARD) -> int | None:
    """How an agent fits a task: EXACT (has every skill by name), BEST_FIT (has the wildcard and some of them by name),
    FALLBACK (has the wildcard and none by name), None: it cannot run it (DESIGN, I5)."""
    if required <= capabilities:
        return EXACT
    if wildcard not in capabilities:
        return None
    return FALLBACK if required.isdisjoint(capabilities) else BEST_FIT


def score(
    match: float,
    queue_length: int,
    success_rate: float,
    queue_weight: float = QUEUE_WEIGHT,
    success_weight: float = SUCCESS_WEIGHT,
) -> float:
    """How well an agent suits a task; the higher, the better (DESIGN, the rules)."""
    return match - queue_length * queue_weight + success_weight * success_rate


class _Class:
    """Tasks that ask for the same. `groups` and `kinds` are None and stale until somebody asks (`Placement._fresh`)."""

    __slots__ = ("groups", "kinds", "required", "tiers")

    def __init__(self, required: frozenset[str], tiers: tuple[int, ...]) -> None:
        self.required = required
        self.tiers = tiers
        self.groups: list[tuple[int, Callable[[Sequence[int]], Sequence[int]]]] | None = None
        """Of the tier in use: (skill match, shifted; what picks the tops of the kinds that match so well)."""
        self.kinds: frozenset[int] = frozenset()
        """Kinds in any allowed tier."""


class Placement:
    """Chooses agents for tasks, and counts what it gave to whom.

    Each agent has a cost, one integer; the least wins. The skill match is apart, since it depends on the class:

        (queue * queue_weight - success) in billionths | queue (40 bits) | agent (24 bits)

    P1  costs differ, so ties need no rule of their own: equal score, then shorter queue, then smaller number.
    P2  one more task adds the same step to any cost. So `place` is one addition, and `place_many` a division.
    P3  agents with equal capabilities (a kind) rank the same in every class. So each kind has one heap, whose first
        entry is its best agent (`_tops`), and a class compares kinds, of which there are few, not agents.

    A heap may hold outdated entries (one is valid while it equals the agent's cost), never as its first.

    Rejected: one list of scores per class, kept up to date or not: max() over 1,000 agents takes longer than all this.
    """

    def __init__(
        self, queue_weight: float = QUEUE_WEIGHT, success_weight: float = SUCCESS_WEIGHT, wildcard: str = WILDCARD
    ) -> None:
        if queue_weight < 0:
            raise ValueError(f"queue_weight must not be negative: {queue_weight}")  # P2 needs costs that rise
        self._step = (round(queue_weight * UNIT) << SCORE_SHIFT) + (1 << AGENT_BITS)
        self._success_weight = success_weight
        self._wildcard = wildcard
        self._classes: dict[int, _Class] = {}
        self._costs: dict[int, int] = {}
        self._bases: dict[int, int] = {}  # the cost of an empty queue
        self._kind_of: dict[int, int] = {}
        self._kinds: dict[frozenset[str], int] = {}  # none without an agent
        self._free_kinds: list[int] = []
        # By kind:
        self._members: list[set[int]] = []
        self._heaps: list[list[int]] = []
        self._tops: list[int] = []

    # Who there is.

    def add_agent(self, agent: int, capabilities: frozenset[str]) -> None:
        """A new agent with an empty queue, and a success rate of 1 until `set_success` says otherwise."""
        if not 0 <= agent <= AGENT:
            raise ValueError(f"agent {agent} is not within 0..{AGENT}")
        if agent in self._costs:
            raise ValueError(f"agent {agent} is there already")
        kind = self._kinds.get(capabilities)
        if kind is None:
            kind = self._new_kind(capabilities)
        self._kind_of[agent] = kind
        self._members[kind].add(agent)
        self._costs[agent] = self._bases[agent] = self._base(agent, 1.0)
        self._rebuild(kind)

    def remove_agent(self, agent: int) -> None:
        """It gets nothing more, and its number may be used again."""
        kind = self._kind_of.pop(agent)
        del self._costs[agent], self._bases[agent]
        members = self._members[kind]
        members.discard(agent)
        if members:
            self._rebuild(kind)  # at once: an entry left behind could look valid when the number comes back
            return
        self._heaps[kind].clear()
        self._free_kinds.append(kind)
        self._kinds = {c: k for c, k in self._kinds.items() if k != kind}
        self._forget_groups()

    def add_class(self, number: int, required: frozenset[str], tiers: tuple[int, ...]) -> None:
        """Tasks of class `number` need `required`, and may go to agents of `tiers`, the preferred first."""
        self._classes[number] = _Class(required, tiers)

    def set_queue(self, agent: int, length: int) -> None:
        """`length` tasks wait for this agent now."""
        if length < 0:
            raise ValueError(f"negative queue length of agent {agent}: {length}")
        self._set_cost(agent, self._bases[agent] + length * self._step)

    def set_success(self, agent: int, rate: float) -> None:
        """Share (0..1) of this agent's tasks that ended well."""
        base = self._base(agent, rate)
        shift = base - self._bases[agent]
        self._bases[agent] = base
        self._set_cost(agent, self._costs[agent] + shift)

    # What it decides.

    def can_run(self, number: int, agent: int) -> bool:
        """Is this agent in a tier that the class allows?"""
        return self._kind_of[agent] in self._fresh(number).kinds

    def has_agents(self, number: int) -> bool:
        """Is any agent in a tier that the class allows?"""
        return bool(self._fresh(number).kinds)

    def agents_of(self, number: int) -> list[int]:
        """All agents in tiers that the class allows, in order."""
        return sorted(agent for kind in self._fresh(number).kinds for agent in self._members[kind])

    def best(self, number: int) -> int | None:
        """The agent with the highest score in the first tier that has any agent; None: nobody can run it."""
        groups = self._classes[number].groups
        if groups is None:
            groups = self._fresh(number).groups
        if not groups:
            return None
        tops = self._tops
        if len(groups) == 1:
            return min(groups[0][1](tops)) & AGENT
        return min([min(pick(tops)) - match for match, pick in groups]) & AGENT

    def place(self, number: int) -> int | None:
        """`best`, and one more task in that agent's queue."""
        agent = self.best(number)
        if agent is None:
            return None
        kind = self._kind_of[agent]
        costs, heap = self._costs, self._heaps[kind]
        costs[agent] = cost = heap[0] + self._step  # the first entry is this agent's: that made it the best
        heapreplace(heap, cost)
        first = heap[0]
        while costs[first & AGENT] != first:
            heappop(heap)
            first = heap[0]
        self._tops[kind] = first
        return agent

    def place_many(self, number: int, n: int) -> list[tuple[int, int]]:
        """What `place` would do n times: (agent, count) pairs, in the order in which agents get their first."""
        if n <= len(self._costs):  # filling looks at each agent, so that few are faster one by one
            counts: dict[int, int] = {}
            for _ in range(n):
                agent = self.place(number)
                if agent is None:
                    break
                counts[agent] = counts.get(agent, 0) + 1
            return list(counts.items())
        candidates = self._candidates(number)
        pairs = _fill(candidates, n, self._step) if candidates else []
        costs, kinds = self._costs, set()
        for agent, count in pairs:
            costs[agent] += count * self._step
            kinds.add(self._kind_of[agent])
        for kind in kinds:
            self._rebuild(kind)
        return pairs

    def queue(self, agent: int) -> int:
        """Tasks in this agent's queue, as set and placed."""
        return self._costs[agent] >> AGENT_BITS & QUEUE

    def missing(self, number: int) -> frozenset[str]:
        """Skills that the nearest agent lacks by name: what to say of a class that nobody can run."""
        required = self._classes[number].required
        lacks = [required - capabilities for capabilities in self._kinds]
        return min(lacks, key=lambda skills: (len(skills), sorted(skills)), default=required)

    # How it keeps what it knows.

    def _base(self, agent: int, rate: float) -> int:
        return agent - (round(self._success_weight * rate * UNIT) << SCORE_SHIFT)

    def _set_cost(self, agent: int, cost: int) -> None:
        costs = self._costs
        before = costs[agent]
        if cost == before:
            return
        costs[agent] = cost
        kind = self._kind_of[agent]
        heap = self._heaps[kind]
        if heap[0] == before:
            heapreplace(heap, cost)
        else:
            heappush(heap, cost)
            if len(heap) > HEAP_SLACK * (len(self._members[kind]) + 1):
                self._rebuild(kind)
        first = heap[0]
        while costs[first & AGENT] != first:
            heappop(heap)
            first = heap[0]
        self._tops[kind] = first

    def _rebuild(self, kind: int) -> None:
        costs, heap = self._costs, self._heaps[kind]
        heap[:] = [costs[agent] for agent in self._members[kind]]
        heapify(heap)
        self._tops[kind] = heap[0]

    def _new_kind(self, capabilities: frozenset[str]) -> int:
        if self._free_kinds:
            kind = self._free_kinds.pop()
        else:
            kind = len(self._heaps)
            self._members.append(set())
            self._heaps.append([])
            self._tops.append(0)
        self._kinds[capabilities] = kind
        self._forget_groups()
        return kind

    def _forget_groups(self) -> None:
        """A kind has come or gone, and may have opened or closed a tier."""
        for wanted in self._classes.values():
            wanted.groups = None

    def _fresh(self, number: int) -> _Class:
        """The class, with its groups and kinds up to date."""
        wanted = self._classes[number]
        if wanted.groups is not None:
            return wanted
        required = wanted.required
        fits = [(tier(required, has, self._wildcard), has, kind) for has, kind in self._kinds.items()]
        wanted.kinds = frozenset(kind for fit, _, kind in fits if fit in wanted.tiers)
        matches: dict[int, list[int]] = {}
        for preferred in wanted.tiers:
            for fit, has, kind in fits:
                if fit == preferred:
                    matches.setdefault(round(skill_match(required, has) * UNIT), []).append(kind)
            if matches:
                break
        # The first kind twice: asked for a single one, itemgetter would give no tuple.
        wanted.groups = [(match << SCORE_SHIFT, itemgetter(kinds[0], *kinds)) for match, kinds in matches.items()]
        return wanted

    def _candidates(self, number: int) -> list[int]:
        """Costs, skill match included, of all agents in the tier in use, the least first."""
        everyone = range(len(self._members))
        costs: list[int] = []
        for match, pick in self._fresh(number).groups or ():
            kinds = set(pick(everyone))
            costs.extend(self._costs[agent] - match for kind in kinds for agent in self._members[kind])
        costs.sort()
        return costs


def _fill(costs: Sequence[int], n: int, step: int) -> list[tuple[int, int]]:
    """How n tasks go to agents when each goes to the least cost, and adds `step` to it: water filling.

    Args:
        costs: all different, sorted, not empty; the agent is in the lowest bits.
        n: at least 1.
    """

    def before(i: int) -> int:
        """Tasks that go to cheaper agents before agent i gets its first."""
        level = costs[i]
        return sum((level - cost + step - 1) // step for cost in costs[:i])

    used = bisect_left(range(len(costs)), n, key=before)  # so many get any
    level = costs[used - 1]
    counts = [(level - cost + step - 1) // step for cost in costs[:used]]
    # All stand within one step now: from here on it goes round, the least first.
    rounds, rest = divmod(n - sum(counts), used)
    now = sorted(range(used), key=lambda i: costs[i] + counts[i] * step)
    for i in now[:rest]:
        counts[i] += 1
    return [(cost & AGENT, count + rounds) for cost, count in zip(costs, counts, strict=False)]
