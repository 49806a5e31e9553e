"""What a scenario file hands to the harness: rows, the figures in a row, and the target of a
figure.

A scenario file ends with ``ROWS``; each row has a function that runs in a fresh process, receives
a `Setup`, and returns one number per figure. Nothing here starts a process or reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from bench._targets import Session, Target

AGENTS = 2  # the tables are defined for two agents on two cores (skew rows: eight agents that sleep)


CHUNKS_PER_AGENT = 4
"""At least, where a chunk size is chosen; as many as the stock pool's `map` makes by itself."""


class WrongResult(Exception):
    """A pool returned something other than the serial answer; no figure of that run counts."""


@dataclass(frozen=True)
class Setup:
    """What one measurement runs with: the pool under test, the size, the cores it was given.

    Attributes:
        target: who is measured.
        quick: the smallest sizes, to try the harness.
        cores: what the process may really use.
        share: of the full size, for rows whose figure is per task: the suite takes less than the tables of goals.
        chunk: the number of items sent together that somebody who knows the items would choose; None: the target's
            default. This is what `+best` stands for.
    """

    target: Target
    quick: bool
    cores: int
    share: float = 1.0
    chunk: int | None = None

    def size(self, full: int, quick: int, suite: int | None = None) -> int:
        """A size that is the same for all targets: `quick` if that was asked for, in the suite `suite` where it
        differs from `full`."""
        if self.quick:
            return quick
        return full if self.share == 1 or suite is None else suite

    def tasks(self, full: int, quick: int, *, never_more: bool = False) -> int:
        """How many tasks, where the figure is per task: as `size`, but the suite takes its share of them, and gives
        slow targets fewer and fast ones more, so that each is measured for about as long; at least 200. `never_more`:
        fast ones no more, where a task costs less the more there are."""
        size = quick if self.quick else int(full * self.share)
        weight = max(1, self.target.weight) if never_more else self.target.weight
        return size if self.share == 1 else max(200, int(size / weight))

    def open(self, agents: int, method: str | None = None, *, items: int | None = None) -> Session:
        """A new pool of the target.

        Args:
            agents: how many.
            method: of starting them; None: the target's default.
            items: how many the row will send, where `tasks` says it: a target that gets fewer also gets smaller chunks,
                four for each agent at least, as nobody who knows the items would give all to one agent.
        """
        chunk = self.chunk
        if chunk is not None and items is not None:
            chunk = min(chunk, -(-items // (CHUNKS_PER_AGENT * agents)))
        return self.target.open(agents, method, chunk)


@dataclass(frozen=True)
class Goal:
    """What a figure must reach.

    ``of="ratio"`` compares ours / stock of the same run, ``of="value"`` our figure alone.
    """

    of: Literal["ratio", "value"]
    op: Literal["<=", "<", ">="]
    bound: float

    def met(self, value: float) -> bool:
        if self.op == "<=":
            return value <= self.bound
        return value < self.bound if self.op == "<" else value >= self.bound

    def __str__(self) -> str:
        return f"{'ratio ' if self.of == 'ratio' else ''}{self.op} {self.bound:.3g}"


@dataclass(frozen=True)
class Figure:
    """One number of a row: its key in what the measurement returns, its words, unit and goal."""

    key: str
    label: str
    unit: str
    goal: Goal | None = None
    has_ratio: bool = True  # False where ours / stock says nothing (a share, or a growth near zero)
    better: Literal["lower", "higher"] = "lower"


@dataclass(frozen=True)
class Row:
    """One line of the table: a workload and its figures, one of which stands for it.

    Attributes:
        name, title: what it is called, and in words.
        measure: runs it, in a process of its own.
        figures: what it returns.
        limit_s: a deadlock alarm, far above any honest run.
        of: which table of goals it belongs to.
        needs: what a target must have (`bench._targets`), else it is left out of this row.
        main: the key of the figure that stands for the row in the suite; empty: the first.
        best_chunk: how many items somebody who knows them would send together; None: the default is best.
        not_for: targets of which the row tells nothing.
        package: what the row itself imports; without it there is no row. Empty: nothing.
    """

    name: str
    title: str
    measure: Callable[[Setup], Mapping[str, float]]
    figures: tuple[Figure, ...]
    limit_s: float = 120.0
    of: Literal["pool", "executor"] = "pool"  # what is measured beside its stock twin
    needs: frozenset[str] = frozenset({"submit"})
    main: str = ""
    best_chunk: int | None = None
    not_for: frozenset[str] = frozenset()
    package: str = ""


def at_most(bound: float, of: Literal["ratio", "value"] = "ratio") -> Goal:
    return Goal(of, "<=", bound)


def check(got: Any, expected: Any, what: str) -> None:
    """Raise `WrongResult` unless both are equal; the message stays short whatever their size."""
    if got == expected:
        return
    detail = f"{got!r:.60} instead of {expected!r:.60}"
    if isinstance(got, list) and isinstance(expected, list):
        pairs = zip(got, expected, strict=False)
        first = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(got), len(expected)))
        detail = f"{len(got)} results for {len(expected)} tasks, first difference at {first}"
    raise WrongResult(f"{what}: {detail}")
