"""Question: how close to the best possible schedule does a plain ``map`` come when items differ in
length?

8 agents, 2,000 tasks that sleep 8 s in all, ``map`` without ``chunksize``. No schedule can end
before max(sum / 8, longest task); the figure is the makespan over that bound, of the nominal
lengths. Sleeping keeps cores out of it, so 8 agents fit a small machine. Peer: the stock Pool. The
lengths, always the same ones (fixed seeds):

    first   lognormal (sigma 1.33, seed 1), sorted, longest first; longest 0.22 s, and 3 % of the
            tasks hold 30 % of the time
    block   all equal, but tasks 900 to 999 are ten times as long as the others (28 ms and 2.8 ms)
    tail    Pareto (alpha 1.4, seed 3), in the order drawn; longest 0.30 s
    late    Pareto (alpha 1.2, seed 4), in the order drawn; longest 0.37 s, and it comes late: whoever does not know
            the lengths beforehand starts it late, and handing items out one by one in order gives 1.26. No target.
    modes   bimodal: one task in ten is thirty times as long as the others (31 ms and 1 ms), in random order (seed 5)
    last    adversarial: all equal, but the very last is 0.25 s; in order no schedule ends before 1.22. No target.

Parameters were chosen so that the stock Pool's 32 chunks of 63 fall as they do in practice: a
computed schedule gives 2.39, 1.72 and 1.29.

Not told: anything about CPU-bound tasks competing for cores. A sleep ends some 0.06 to 0.1 ms
late; with 250 tasks per agent that alone is 1.5 to 2 % of the bound and every pool pays it.
``over_slept`` is the makespan over the bound of the lengths as slept, without that.
"""

from __future__ import annotations

import random
import time
from functools import partial

from bench._model import Figure, Row, Setup, at_most, check
from bench._targets import MAP, warm
from bench._tasks import nap

SLEEPERS = 8
TASKS = 2_000
TOTAL_S = 8.0


def lengths(kind: str) -> list[float]:
    """Seconds that each of the 2,000 tasks sleeps; they sum to 8."""
    if kind == "first":
        draw = random.Random(1).lognormvariate
        weights = sorted((draw(0, 1.33) for _ in range(TASKS)), reverse=True)
    elif kind == "block":
        weights = [10.0 if 900 <= i < 1000 else 1.0 for i in range(TASKS)]
    elif kind == "modes":
        draw_mode = random.Random(5).random
        weights = [30.0 if draw_mode() < 0.1 else 1.0 for _ in range(TASKS)]
    elif kind == "last":
        weights = [1.0] * (TASKS - 1)
        weights.append(sum(weights) * 0.25 / (TOTAL_S - 0.25))
    else:
        alpha, seed = (1.4, 3) if kind == "tail" else (1.2, 4)
        pareto = random.Random(seed).paretovariate
        weights = [pareto(alpha) for _ in range(TASKS)]
    total = sum(weights)
    return [w * TOTAL_S / total for w in weights]


def bound(seconds: list[float]) -> float:
    return max(sum(seconds) / SLEEPERS, max(seconds))


def measure(setup: Setup, kind: str) -> dict[str, float]:
    seconds = lengths(kind)
    if setup.quick:
        seconds = [s / 4 for s in seconds]
    with setup.open(SLEEPERS) as pool:
        warm(pool, SLEEPERS)
        began = time.perf_counter()
        results = pool.map(nap, list(enumerate(seconds)))
        makespan_s = time.perf_counter() - began
    check([i for i, _ in results], list(range(TASKS)), "skew")
    slept = [s for _, s in results]
    if any(s < planned - 1e-3 for s, planned in zip(slept, seconds, strict=True)):
        raise AssertionError("a sleep ended early")
    return {
        "over_bound": makespan_s / bound(seconds),
        "over_slept": makespan_s / bound(slept),
        "makespan_s": makespan_s,
    }


def _row(kind: str, words: str) -> Row:
    figures = (
        Figure("over_bound", "makespan / bound", "x", None if kind in ("late", "last") else at_most(1.05, "value")),
        Figure("over_slept", "same, lengths as slept", "x"),
    )
    return Row(
        f"skew-{kind}",
        f"8 agents, {words}, map",
        partial(measure, kind=kind),
        figures,
        needs=frozenset({MAP}),
        best_chunk=1,
        not_for=frozenset({"serial"}),
    )


ROWS = (
    _row("first", "heaviest first"),
    _row("block", "one hot block"),
    _row("tail", "heavy tail"),
    _row("late", "heavy tail, the longest late"),
    _row("modes", "two lengths, mixed"),
    _row("last", "the longest at the very end"),
)
