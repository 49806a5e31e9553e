"""What is sent to agents. In a module of its own, so that agents of every start method can import it.

The stand-ins take the place of the user's function while the pools are calibrated: they compute or wait for a length of
time and give back one of the user's results. Which, and how long, is told to each agent as it starts, so that a
stand-in travels by its name as the user's function does: a `partial` is pickled with each chunk of the stock pool.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

_results: Iterator[Any] = itertools.repeat(None)
_lengths_s: tuple[float, ...] = ()
_waits = False

MOST_LENGTHS = 5
"""Stand-ins that there are; the first does nothing."""

MOST_COPIES, MOST_BYTES = 4096, 8 << 20
"""Results that a stand-in gives in turn, and what their pickles may take together. Fewer: the same object twice in one
chunk is pickled once; more: memory, and time at the start."""


class Star:
    """Calls a function with the parts of its item, as `starmap` does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)

    def __call__(self, item: Any) -> Any:
        return self.function(*item)


def prepare(results: bytes, lengths_s: tuple[float, ...], waits: bool) -> None:
    """Tell the stand-ins of this process what to do.

    Args:
        results: a pickled list of the user's results.
        lengths_s: of each stand-in (s).
        waits: whether they wait in place of computing.
    """
    global _results, _lengths_s, _waits
    several = pickle.loads(results)
    copies = max(1, min(MOST_COPIES // max(1, len(several)), MOST_BYTES // max(1, len(results))))
    ring = [result for _ in range(copies) for result in pickle.loads(results)]
    _results, _lengths_s, _waits = itertools.cycle(ring), lengths_s, waits


def _spend(length_s: float) -> None:
    """Compute that long by the clock of the CPU time of this thread: who loses its core has that still to do."""
    if _waits:
        time.sleep(length_s)
        return
    until = time.thread_time_ns() + int(length_s * 1e9)
    while time.thread_time_ns() < until:
        pass


def stand_in_0(_item: Any) -> Any:
    """Do nothing."""
    return next(_results)


def stand_in_1(_item: Any) -> Any:
    """Take the second length."""
    _spend(_lengths_s[1])
    return next(_results)


def stand_in_2(_item: Any) -> Any:
    """Take the third length."""
    _spend(_lengths_s[2])
    return next(_results)


def stand_in_3(_item: Any) -> Any:
    """Take the fourth length."""
    _spend(_lengths_s[3])
    return next(_results)


def stand_in_4(_item: Any) -> Any:
    """Take the fifth length."""
    _spend(_lengths_s[4])
    return next(_results)


STAND_INS = (stand_in_0, stand_in_1, stand_in_2, stand_in_3, stand_in_4)


def drop(_item: Any) -> None:
    """Take bytes, and give nothing back."""


def run_slice(function: Callable[[Any], Any], items: list[Any], times: int) -> float:
    """Call the user's function on `items`, all of them `times` times; how long that took (s)."""
    began = time.perf_counter()
    for _ in range(times):
        for item in items:
            function(item)
    return time.perf_counter() - began
