"""Checks of what callers give as seconds and as tries, for the parent and for tasks that submit tasks."""

from __future__ import annotations

import math

# 30 years. More seconds than that are a point in time that was given by mistake, or a limit that is none.
LONGEST_S = 1e9


def check_seconds(name: str, value: float, *, may_be_past: bool = False) -> None:
    """Raise TypeError or ValueError unless it is a finite number of seconds above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        or_a_time = " or a datetime" if may_be_past else ""
        raise TypeError(f"{name} must be a number of seconds{or_a_time}, not {value!r}")
    if not math.isfinite(value) or (value <= 0 and not may_be_past):
        least = "" if may_be_past else " above 0"
        raise ValueError(f"{name} must be a finite number of seconds{least}, not {value!r}; None means none")


def check_retries(retries: int) -> None:
    """Raise ValueError unless it is a whole number from 0 on."""
    if type(retries) is not int or retries < 0:
        raise ValueError(f"retries must be a whole number from 0 on, not {retries!r}")


def limit_ns(timeout: float | None) -> int:
    """A time limit in ns; 0: none. Raises what `check_seconds` does."""
    if timeout is None:
        return 0
    check_seconds("timeout", timeout)
    return max(1, int(min(timeout, LONGEST_S) * 1e9))
