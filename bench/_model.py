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
    from bench._pools import Target

AGENTS = 2  # the table is defined for two agents on two cores (skew rows: eight agents that sleep)


class WrongResult(Exception):
    """A pool returned something other than the serial answer; no figure of that run counts."""


@dataclass(frozen=True)
class Setup:
    """What one measurement runs with: the pool under test, the size, the cores it was given."""

    target: Target
    quick: bool
    cores: int

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


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


@dataclass(frozen=True)
class Row:
    """One line of the table; ``limit_s`` is a deadlock alarm, far above any honest run."""

    name: str
    title: str
    measure: Callable[[Setup], Mapping[str, float]]
    figures: tuple[Figure, ...]
    limit_s: float = 120.0
    of: Literal["pool", "executor"] = "pool"  # what is measured beside its stock twin


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
