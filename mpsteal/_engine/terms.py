"""What only some tasks have: terms (deadline, time limit, tries, cost), and links to other tasks.

The front door makes them, the engine keeps them up to date.
"""

from __future__ import annotations

import datetime
import math
import time
from typing import Any

_EPOCH_S = 1e9
"""A deadline of more seconds is taken for a point in time that was given by mistake (30 years)."""


class Terms:
    """When a task has to be over, how long it may take, and how often it may be tried.

    Attributes:
        deadline, timeout, retries, cost: as given.
        deadline_ns: on the monotonic clock; 0: none. Known once it is submitted.
        timeout_ns: 0: none.
        tries_left: how often it may run again.
        at_risk: whether the deadline could not be met when it was submitted.
        missed: whether it has missed its deadline.
    """

    __slots__ = (
        "at_risk",
        "cost",
        "deadline",
        "deadline_ns",
        "missed",
        "retries",
        "timeout",
        "timeout_ns",
        "tries_left",
    )

    def __init__(
        self,
        deadline: float | datetime.datetime | None = None,
        timeout: float | None = None,
        retries: int = 0,
        cost: float | None = None,
    ) -> None:
        if timeout is not None:
            _check_seconds("timeout", timeout)
        if cost is not None:
            _check_seconds("cost", cost)
        if type(retries) is not int or retries < 0:
            raise ValueError(f"retries must be a whole number from 0 on, not {retries!r}")
        if deadline is not None and not isinstance(deadline, datetime.datetime):
            _check_seconds("deadline", deadline, may_be_past=True)
            if deadline > _EPOCH_S:
                raise ValueError(
                    f"deadline counts seconds from the submission on, and {deadline!r} are {deadline / 31_557_600:.0f} "
                    "years; a point in time is a datetime"
                )
        self.deadline, self.timeout, self.retries, self.cost = deadline, timeout, retries, cost
        self.timeout_ns = max(1, int(timeout * 1e9)) if timeout is not None else 0
        self.deadline_ns = 0
        self.tries_left = retries
        self.at_risk = self.missed = False

    def submitted(self, now_ns: int) -> None:
        """The clock of a relative deadline starts."""
        if isinstance(self.deadline, datetime.datetime):
            # Never 0: that is none.
            self.deadline_ns = int(self.deadline.timestamp() * 1e9) - (time.time_ns() - time.monotonic_ns()) or 1
        elif self.deadline is not None:
            self.deadline_ns = now_ns + int(self.deadline * 1e9) or 1


NO_TERMS = Terms()
"""Of all tasks without any: nobody writes to it."""


class Links:
    """What a task depends on, and what depends on it.

    Attributes:
        named: the dependencies, as given.
        waits_for: those to wait for, until their results have been put in place.
        waits: how many of them are not over; counted by the engine.
        dependents: tasks that wait for this one; the engine's.
    """

    __slots__ = ("dependents", "named", "waits", "waits_for")

    def __init__(self, named: tuple[Any, ...] = ()) -> None:
        self.named = named
        self.waits_for: tuple[Any, ...] = ()
        self.waits = 0
        self.dependents: list[Any] = []


def _check_seconds(name: str, value: float, *, may_be_past: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        or_a_time = " or a datetime" if may_be_past else ""
        raise TypeError(f"{name} must be a number of seconds{or_a_time}, not {value!r}")
    if not math.isfinite(value) or (value <= 0 and not may_be_past):
        least = "" if may_be_past else " above 0"
        raise ValueError(f"{name} must be a finite number of seconds{least}, not {value!r}; None means none")
