"""What only some tasks have: terms (deadline, time limit, tries, cost), and links to other tasks.

The front door makes them, the engine keeps them up to date. Calls of a Pool have a limit and tries at most.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .._policy.amounts import LONGEST_S, check_retries, check_seconds, limit_ns

if TYPE_CHECKING:
    import datetime


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
        self.timeout_ns = limit_ns(timeout)
        if cost is not None:
            check_seconds("cost", cost)
        check_retries(retries)
        if deadline is not None and not _is_time(deadline):
            seconds: Any = deadline
            check_seconds("deadline", seconds, may_be_past=True)
            if seconds > LONGEST_S:
                raise ValueError(
                    f"deadline counts seconds from the submission on, and {seconds!r} are {seconds / 31_557_600:.0f} "
                    "years; a point in time is a datetime"
                )
        self.deadline, self.timeout, self.retries, self.cost = deadline, timeout, retries, cost
        self.deadline_ns = 0
        self.tries_left = retries
        self.at_risk = self.missed = False

    def submitted(self, now_ns: int) -> None:
        """The clock of a relative deadline starts."""
        deadline: Any = self.deadline
        if _is_time(deadline):
            # Never 0: that is none.
            self.deadline_ns = int(deadline.timestamp() * 1e9) - (time.time_ns() - time.monotonic_ns()) or 1
        elif deadline is not None:
            self.deadline_ns = now_ns + int(deadline * 1e9) or 1


NO_TERMS = Terms()
"""Of all tasks without any: nobody writes to it."""


def terms_of(sink: Any) -> Terms:
    """The terms of whoever waits for a chunk: of a task, of a single call, or of the job that it belongs to."""
    terms: Terms = sink[0].terms if type(sink) is tuple else sink._terms
    return terms


def agents_lost(sink: Any) -> int:
    """How many agents have died so far while they ran this."""
    if type(sink) is tuple:
        job, index = sink
        deaths: dict[int, int] = job.deaths
        return deaths.get(index, 0)
    terms = terms_of(sink)
    return terms.retries - terms.tries_left


def may_run_again(sink: Any) -> bool:
    """Whether it has leave to run once more if its agent dies."""
    return agents_lost(sink) < terms_of(sink).retries


def spend_try(sink: Any) -> None:
    """It runs again."""
    if type(sink) is tuple:
        job, index = sink
        job.deaths[index] = job.deaths.get(index, 0) + 1
    else:
        terms_of(sink).tries_left -= 1


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


def _is_time(deadline: Any) -> bool:
    if deadline is None or type(deadline) in (int, float):
        return False
    import datetime  # here: a Pool needs none

    return isinstance(deadline, datetime.datetime)
