"""Does the job for real, in all ways, in turns, several times, and compares what comes out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from . import MPSTEAL_MAP, SERIAL, STOCK_IMAP, AdviceError
from .calibrate import Setup, results_of
from .load import traceback_of
from .measure import forget, fresh, same

MOST_MATCHED = 1000
"""Results of unlike pickles that are compared one with another; more would take the square of it."""


class Trial(NamedTuple):
    """What came of it.

    Attributes:
        items: how many of the inputs.
        seconds: of each way, each time, with the start and the end of the pool.
        differ: ways whose results were not those of the loop.
    """

    items: int
    seconds: dict[str, list[float]]
    differ: list[str]


def run_trial(
    function: Callable[[Any], Any],
    items: list[Any],
    ways: list[str],
    setup: Setup,
    times: int,
    *,
    changes_argument: bool = False,
) -> Trial:
    """Run each way `times` times, A B C D, A B C D.

    Args:
        function: the user's.
        items: the job.
        ways: which, `SERIAL` first.
        setup: how pools are opened.
        times: how often.
        changes_argument: the loop then gets copies, as a pool's workers do.

    Raises:
        AdviceError: the function fails in an agent.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    differ = []
    expected: list[Any] = []
    for turn in range(times):
        for way in ways:
            job = fresh(items) if changes_argument else items
            forget(function)
            try:
                began = time.perf_counter()
                if way == SERIAL:
                    results = [function(item) for item in job]
                else:
                    with (setup.open_mpsteal if way == MPSTEAL_MAP else setup.open_stock)() as pool:
                        results = results_of(pool, way, function, job)
                seconds[way].append(time.perf_counter() - began)
            except Exception as error:
                raise AdviceError(f"the function failed ({way}):\n{traceback_of(error)}", 1) from error
            if turn == 0 and way == SERIAL:
                expected = results
            elif not equal(expected, results, ordered=way != STOCK_IMAP) and way not in differ:
                differ.append(way)
    return Trial(len(items), seconds, differ)


def equal(expected: list[Any], results: list[Any], *, ordered: bool = True) -> bool:
    """Whether two lists hold the same results, in order or in any."""
    if len(expected) != len(results):
        return False
    if ordered:
        return same(expected, results) or all(map(same, expected, results))
    try:
        if Counter(expected) == Counter(results):
            return True
    except TypeError:  # unhashable
        pass
    # By their pickles, in numbers; equal objects may pickle to unlike bytes, so the rest is compared by hand.
    left: dict[bytes, list[Any]] = {}
    for result in results:
        left.setdefault(bytes(ForkingPickler.dumps(result)), []).append(result)
    unmatched = []
    for result in expected:
        candidates = left.get(bytes(ForkingPickler.dumps(result)))
        if candidates:
            candidates.pop()
        else:
            unmatched.append(result)
    rest = [result for several in left.values() for result in several]
    if len(rest) > MOST_MATCHED:
        return False
    for result in unmatched:
        place = next((i for i, other in enumerate(rest) if same(result, other)), None)
        if place is None:
            return False
        del rest[place]
    return True
