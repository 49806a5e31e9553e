"""Waits that no lost signal outlasts.

A signal that comes while the interpreter hands its lock to another thread, on the way into a wait, is not noticed
before the waiting thread runs again: a Ctrl-C just as `map` began to wait was lost for ever (once in 120 runs, Python
3.10), and one that came just as the second of two parts began, once in 300 (3.11). So who waits for results or for the
end waits in parts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

FIRST_S = 0.1
"""First part of a wait (s); each is twice as long as the one before. Shorter wakes for nothing, longer notices a lost
signal later."""

LONGEST_S = 1.0
"""No part is longer (s). Shorter wakes for nothing, longer notices a signal later that was lost in a long wait."""


def in_parts(timeout: float | None) -> Iterator[float]:
    """How long to wait at a time (s), until `timeout` seconds are over; None: without end. At least one part, which is
    0 where nothing is left."""
    until = None if timeout is None else time.monotonic() + timeout
    left, part = timeout, FIRST_S
    while left is None or left > part:
        yield part
        part = min(2 * part, LONGEST_S)
        if until is not None:
            left = until - time.monotonic()
    yield max(0.0, left)


def acquire(lock: Any, timeout: float | None = None) -> bool:
    """Wait for a lock that another thread releases; False when `timeout` seconds passed first."""
    return any(lock.acquire(timeout=part) for part in in_parts(timeout))
