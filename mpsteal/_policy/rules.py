"""The scheduler's rules: every number and choice that decides where a task goes, as frozen plain data.

    field(default, metadata)  ->  KEYS: dotted name -> Key  ->  loader, documentation, tests
    dotted name -> value      ->  build()                   ->  Rules, which the other policies read

This file is the one home of defaults, meanings, units and ranges. Making a `Rules` by hand checks nothing;
`mpsteal.config.load_config` checks, and says what is wrong and where.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from .matching import QUEUE_WEIGHT, SUCCESS_WEIGHT, WILDCARD

LONGEST_S = 1e6
"""Longest time that any rule takes (11 days): system calls that wait take no more than some weeks."""

MATCHES = ("exact", "best_fit", "fallback")
"""Ways to match a task's skills with an agent's, the preferred first."""


def _says(
    meaning: str,
    unit: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Metadata of a field, for its `Key`."""
    return {"meaning": meaning, "unit": unit, "least": least, "above": above, "most": most, "choices": choices}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRules:
    """How many agents there may be, and when one counts as busy or idle."""

    max_agents: int = field(
        default=64,
        metadata=_says("Slots for agents, prepared before the first of them starts", "agents", least=1, most=4096),
    )
    busy_above: int = field(default=5, metadata=_says("An agent with more tasks queued is busy", "tasks", least=0))
    idle_below: int = field(
        default=2,
        metadata=_says(
            "An agent with fewer tasks queued is idle; at most one more than `agents.busy_above`", "tasks", least=1
        ),
    )
    replace_dead: bool = field(
        default=True, metadata=_says("Whether an agent that died is replaced by a fresh one", "switch")
    )
    stuck_after_s: float = field(
        default=60.0,
        metadata=_says(
            "An agent that for so long has neither finished anything nor used CPU time is seen as stuck",
            "seconds",
            above=0,
            most=LONGEST_S,
        ),
    )
    max_tasks: int = field(
        default=0,
        metadata=_says("Tasks after which an agent's process is replaced by a fresh one; 0: never", "tasks", least=0),
    )
    max_age_s: float = field(
        default=0.0,
        metadata=_says(
            "Age from which an agent's process is replaced between two tasks; 0: never",
            "seconds",
            least=0,
            most=LONGEST_S,
        ),
    )
    max_rss_bytes: int = field(
        default=0,
        metadata=_says(
            "Resident memory from which an agent's process is replaced between two tasks; 0: never", "bytes", least=0
        ),
    )
    inner_threads: int = field(
        default=0,
        metadata=_says(
            "Threads that numpy and others may use within one agent; 0: the CPUs divided by the agents, where the"
            " environment does not say otherwise; -1: as many as they like",
            "threads",
            least=-1,
        ),
    )
    logs: bool = field(
        default=True,
        metadata=_says("Whether what agents log goes to the `logging` of the scheduler's program", "switch"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancingRules:
    """When the parent moves queued tasks between agents, and how many."""

    interval_s: float = field(
        default=30.0, metadata=_says("Time between two cycles of balancing", "seconds", above=0, most=LONGEST_S)
    )
    severe_ratio: float = field(
        default=3.0,
        metadata=_says(
            "Longest queue / shortest queue above which a cycle starts at once; an empty queue counts as that once"
            " another agent is busy",
            "ratio",
            least=1,
        ),
    )
    check_s: float = field(
        default=0.05,
        metadata=_says("Least time between two looks for such an imbalance", "seconds", above=0, most=LONGEST_S),
    )
    max_tasks: int = field(default=3, metadata=_says("Tasks moved in one cycle, at most", "tasks", least=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class StealingRules:
    """How much an agent takes from another."""

    max_tasks: int = field(
        default=3,
        metadata=_says("Tasks that one steal takes, at most; 0: no bound but half of a range", "tasks", least=0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRules:
    """Which task comes first, and what is handed out ahead of time."""

    protected_from: int = field(
        default=4,
        metadata=_says(
            "Priorities from here on are protected: not stolen, and kept in the parent until a fitting agent has room;"
            " 6: none",
            "priority",
            least=1,
            most=6,
        ),
    )
    aging_tasks: int = field(
        default=8,
        metadata=_says("Tasks passed over by which a waiting priority level rises by one", "tasks", least=1),
    )
    ahead_s: float = field(
        default=0.002,
        metadata=_says(
            "Work of protected tasks and tasks with a deadline that a busy agent is handed ahead, when they are known"
            " to be short",
            "seconds",
            least=0,
        ),
    )
    ahead_tasks: int = field(default=1024, metadata=_says("The same in tasks, at most", "tasks", least=1))
    short_s: float = field(
        default=0.0005, metadata=_says("Mean run time up to which tasks count as short", "seconds", least=0)
    )
    ask_s: float = field(
        default=0.05,
        metadata=_says(
            "How long an agent waits for the parent to hand it a more urgent task before it goes on with its own",
            "seconds",
            above=0,
            most=LONGEST_S,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingRules:
    """Which agent fits a task."""

    protected: tuple[str, ...] = field(
        default=("exact",),
        metadata=_says("Ways to find an agent for a protected task, the preferred first", "words", choices=MATCHES),
    )
    normal: tuple[str, ...] = field(
        default=MATCHES,
        metadata=_says("Ways to find an agent for any other task, the preferred first", "words", choices=MATCHES),
    )
    wildcard: str = field(default=WILDCARD, metadata=_says("The capability that stands for every skill", "word"))
    queue_weight: float = field(
        default=QUEUE_WEIGHT, metadata=_says("What each task in an agent's queue takes off its score", "score", least=0)
    )
    success_weight: float = field(
        default=SUCCESS_WEIGHT, metadata=_says("What a success rate of 1 adds to an agent's score", "score", least=0)
    )
    on_unmatched: str = field(
        default="wait",
        metadata=_says("What happens to a task that no agent can run", "word", choices=("wait", "error")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRules:
    """What is measured and remembered."""

    sample_s: float = field(
        default=5.0, metadata=_says("Time between two samples of the metrics", "seconds", above=0, most=LONGEST_S)
    )
    keep_finished: int = field(
        default=10_000,
        metadata=_says("Finished tasks that remain known by their id, as dependencies for one", "tasks", least=0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All rules of a scheduler."""

    strategy: str = field(
        default="hybrid",
        metadata=_says("Who moves queued tasks between agents", "word", choices=("hybrid", "pull", "push")),
    )
    agents: AgentRules = field(default_factory=AgentRules)
    balancing: BalancingRules = field(default_factory=BalancingRules)
    stealing: StealingRules = field(default_factory=StealingRules)
    order: OrderRules = field(default_factory=OrderRules)
    matching: MatchingRules = field(default_factory=MatchingRules)
    metrics: MetricsRules = field(default_factory=MetricsRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One rule: what it means and which values it takes.

    Attributes:
        default: its type is the type of every value.
        meaning, unit: in words.
        least, above, most: limits of a number; None: no limit.
        choices: the words allowed; (): any that is not empty.
    """

    default: Any
    meaning: str
    unit: str
    least: float | None
    above: float | None
    most: float | None
    choices: tuple[str, ...]

    @property
    def range(self) -> str:
        """The values allowed, in words, without their type."""
        if self.choices:
            words = ", ".join(self.choices[:-1])
            if isinstance(self.default, tuple):
                return f"one or more of {words} and {self.choices[-1]}, in this order"
            return f"{words} or {self.choices[-1]}"
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return "not empty"
        if self.above is not None:
            return f"above {self.above}"
        return f"{self.least} or more" if self.most is None else f"{self.least} to {self.most}"

    @property
    def allowed(self) -> str:
        """The same with type and unit, for an error."""
        if isinstance(self.default, tuple):
            return f"a list of {self.range}"
        if self.choices or isinstance(self.default, bool):
            return self.range
        if isinstance(self.default, str):
            return f"a text, {self.range}"
        number = "a whole number" if isinstance(self.default, int) else "a finite number"
        return f"{number}, {self.range} ({self.unit})"

    def convert(self, value: Any) -> Any:
        """The value as a rule holds it: an int becomes a float where that is meant, a list a tuple.

        Raises:
            ValueError: its type is wrong, or it is out of range.
        """
        kind = type(self.default)
        is_int = isinstance(value, int) and not isinstance(value, bool)  # a bool is an int to Python, not to us
        if kind is float and is_int:
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
        elif kind is tuple and isinstance(value, list):
            value = tuple(value)
        if is_int if kind is int else isinstance(value, kind):
            if kind is tuple:
                is_allowed = bool(value) and value == tuple(word for word in self.choices if word in value)
            elif kind is str:
                is_allowed = value in self.choices if self.choices else bool(value)
            else:
                is_allowed = kind is bool or self._is_inside(value)
            if is_allowed:
                return value
        raise ValueError(value)

    def _is_inside(self, number: Any) -> bool:
        return (
            number < math.inf  # no NaN either; isfinite would refuse a long int
            and (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
        )


SECTIONS: dict[str, Any] = {f.name: f.default_factory for f in fields(Rules) if f.default_factory is not MISSING}
"""Section -> its class."""


def _keys() -> Iterator[tuple[str, Key]]:
    for top in fields(Rules):
        if top.name in SECTIONS:
            for inner in fields(SECTIONS[top.name]):
                yield f"{top.name}.{inner.name}", Key(default=inner.default, **inner.metadata)
        else:
            yield top.name, Key(default=top.default, **top.metadata)


KEYS: dict[str, Key] = dict(_keys())
"""Dotted name -> rule, in the order of the classes."""


def build(values: Mapping[str, Any]) -> Rules:
    """Rules from values by dotted name; what is not given has its default."""
    top: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (inner[section] if section else top)[name] = value
    return Rules(**top, **{section: SECTIONS[section](**values) for section, values in inner.items()})


def conflicts(rules: Rules) -> Iterator[dict[str, str]]:
    """Groups of keys whose values are allowed, but not together: key -> what it may be while the others stay."""
    idle, busy = rules.agents.idle_below, rules.agents.busy_above
    if idle > busy + 1:  # an agent would be busy and idle at once
        yield {
            "agents.idle_below": f"{busy + 1} or less while agents.busy_above is {busy}",
            "agents.busy_above": f"{idle - 1} or more while agents.idle_below is {idle}",
        }
